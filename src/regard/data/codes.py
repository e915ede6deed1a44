"""The shapes of objects in COCO's format: polygons, run-length codes and boxes, as run-length codes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.data.decode import Unreadable
from regard.data.listing import show
from regard.errors import InputError, first_line
from regard.optional import require

# The library needs memory for each pixel along an edge.
_LONGEST = 2**21  # pixels along all edges of an annotation
_FARTHEST = 2**20  # coordinate

Size = tuple[int, int]  # width and height
Annotation = dict[str, Any]
Mask = NDArray[np.bool_]
Code = dict[str, Any]  # COCO's run-length code: {"size": [height, width], "counts": …}


class MalformedAnnotation(Unreadable, InputError):
    """The shape or the box of an annotation cannot be used: when the file is opened, or when the image is read."""

    def __init__(self, annotation: Annotation, path: Path, error: ValueError) -> None:
        super().__init__(
            f"annotation {annotation.get('id')!r:.60} of image {annotation['image_id']!r:.60} in {show(path)} cannot "
            f"be used: {first_line(error)}"
        )


def codes_of(annotations: Sequence[Annotation], size: Size, path: Path) -> list[Code]:
    """The run-length code of each annotation of an image of this size in the file. Raises MalformedAnnotation."""
    codes = []
    for annotation in annotations:
        try:
            codes.append(_code(annotation, *size))
        except ValueError as error:
            raise MalformedAnnotation(annotation, path, error) from error
    return codes


def _code(annotation: Annotation, width: int, height: int) -> Code:
    """The run-length code of an annotation. Raises ValueError: it has no shape, or a malformed one."""
    shape, box = annotation.get("segmentation"), annotation.get("bbox")
    codes: list[Code] = []
    if isinstance(shape, dict) and shape:
        codes = [_run_lengths(shape, width, height)]
    elif isinstance(shape, list) and shape:
        polygons = [polygon for polygon in (_numbers(ring, "polygon") for ring in shape) if len(polygon) > 4]
        steps = (np.diff(polygon.reshape(-1, 2), axis=0) for polygon in polygons)
        if sum(float(np.abs(step).max(axis=1).sum()) for step in steps) > _LONGEST:
            raise ValueError(f"its polygons are more than {_LONGEST:,} pixels long")
        codes = library().frPoly([polygon.tolist() for polygon in polygons], height, width) if polygons else []
    elif shape or box is None:
        raise ValueError("it has neither a segmentation nor a bbox")
    if box is not None and not any(map(area_of, codes)):  # the box replaces a segmentation without area
        x, y, *sides = box_of(box)
        left, right = (min(max(edge, 0.0), width) for edge in (x, x + sides[0]))
        top, bottom = (min(max(edge, 0.0), height) for edge in (y, y + sides[1]))
        codes = library().frBbox([[left, top, right - left, bottom - top]], height, width)
    return codes[0] if len(codes) == 1 else union(codes, height, width)


def box_of(values: object) -> list[float]:
    """[left, top, width, height] of an annotation. Raises ValueError if they are malformed."""
    box: list[float] = _numbers(values, "bbox", 4).tolist()
    if min(box[2:]) < 0:
        raise ValueError(f"its bbox is {box[2]:g} wide and {box[3]:g} high; expected no less than 0")
    return box


def _run_lengths(shape: dict[str, Any], width: int, height: int) -> Code:
    """The checked run-length code; its size must be that of the image as stored or upright.

    Raises:
        ValueError: the size differs, or the code is malformed.
    """
    size, counts = shape.get("size"), shape.get("counts")
    if size == [width, height]:
        height, width = width, height
    elif size != [height, width]:
        raise ValueError(f"its run-length code has the size {size!r:.60}, its image {width} x {height} pixels")
    if counts in ([], ""):
        return union([], height, width)
    try:
        code = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
        code = library().frUncompressedRLE([code])[0] if isinstance(counts, list) else code
        total = sum(library().toUncompressedRLE([code])[0]["counts"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError("its run-length code is malformed") from error
    if total != width * height:
        raise ValueError(f"its run-length code does not add up to {width} x {height} pixels")
    return code


def union(codes: Sequence[Code], height: int, width: int) -> Code:
    """The union of run-length codes."""
    empty = {"size": [height, width], "counts": [height * width]}
    return library().merge(codes or library().frUncompressedRLE([empty]))


def decoded(codes: Sequence[Code]) -> Mask:
    """Codes of one size, at least one, as masks, bool (n, H, W)."""
    return library().decode(codes).astype(np.bool_).transpose(2, 0, 1)


def encoded(masks: Mask) -> list[Code]:
    """Masks, bool (n, H, W), as codes."""
    if not len(masks):
        return []
    codes: list[Code] = library().encode(np.asfortranarray(masks.transpose(1, 2, 0).view(np.uint8)))
    return codes


def box_around(code: Code) -> NDArray[np.float64]:
    """The box around the pixels of a code: left, top, width, height; zeros if it has none."""
    return np.asarray(library().toBbox([code])[0], dtype=np.float64)


def area_of(code: Code) -> float:
    return float(library().area([code])[0])


def _numbers(values: object, field: str, count: int | None = None) -> NDArray[Any]:
    if not isinstance(values, list) or not values and count:
        raise ValueError(f"its {field} is {values!r:.60}, not a list of numbers")
    try:
        numbers = np.array(values or np.zeros(0))
    except (ValueError, OverflowError):  # lists of different lengths, or integers too large for a float
        numbers = np.array("")
    if numbers.dtype.kind not in "iuf" or numbers.ndim != 1 or not (np.abs(numbers.astype(float)) < _FARTHEST).all():
        raise ValueError(f"its {field} has a coordinate that is no number, or not below {_FARTHEST:,}")
    if len(numbers) % 2 or count not in (None, len(numbers)):
        raise ValueError(f"its {field} has {len(numbers)} numbers; expected {count or 'an x and a y for each corner'}")
    return numbers


@functools.cache
def library() -> Any:
    require("reading masks of COCO and evaluating detectors", "faster_coco_eval")
    from faster_coco_eval import mask_api_new_cpp

    return mask_api_new_cpp
