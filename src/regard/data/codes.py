"""Conversion of COCO's annotations (polygons, run-length codes and boxes) to run-length codes."""

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

# Limits, because faster-coco-eval needs memory for every pixel along an edge.
_MAX_LENGTH = 2**21  # pixels along all edges of an annotation
_MAX_COORDINATE = 2**20

Size = tuple[int, int]  # width and height
Annotation = dict[str, Any]
Mask = NDArray[np.bool_]
Code = dict[str, Any]  # COCO's run-length code: {"size": [height, width], "counts": …}


class MalformedAnnotation(Unreadable, InputError):
    """The shape or the box of an annotation is malformed; raised when the file is opened or when the image is read."""

    def __init__(self, annotation: Annotation, path: Path, error: ValueError) -> None:
        super().__init__(
            f"annotation {annotation.get('id')!r:.60} of image {annotation['image_id']!r:.60} in {show(path)} cannot "
            f"be used: {first_line(error)}"
        )


def encode_annotations(annotations: Sequence[Annotation], size: Size, path: Path) -> list[Code]:
    """The run-length codes of the annotations of an image with this size. Raises MalformedAnnotation."""
    codes = []
    for annotation in annotations:
        try:
            codes.append(_code(annotation, *size))
        except ValueError as error:
            raise MalformedAnnotation(annotation, path, error) from error
    return codes


def _code(annotation: Annotation, width: int, height: int) -> Code:
    """The run-length code of an annotation. Raises ValueError if its shape is missing or malformed."""
    shape, box = annotation.get("segmentation"), annotation.get("bbox")
    codes: list[Code] = []
    if isinstance(shape, dict) and shape:
        codes = [_run_lengths(shape, width, height)]
    elif isinstance(shape, list) and shape:
        polygons = [polygon for polygon in (_numbers(ring, "polygon") for ring in shape) if len(polygon) > 4]
        steps = (np.diff(polygon.reshape(-1, 2), axis=0) for polygon in polygons)
        if sum(float(np.abs(step).max(axis=1).sum()) for step in steps) > _MAX_LENGTH:
            raise ValueError(f"its polygons are more than {_MAX_LENGTH:,} pixels long")
        codes = library().frPoly([polygon.tolist() for polygon in polygons], height, width) if polygons else []
    elif shape or box is None:
        raise ValueError("it has neither a segmentation nor a bbox")
    if box is not None and not any(map(code_area, codes)):  # a segmentation without area is replaced by the box
        x, y, *sides = parse_box(box)
        left, right = (min(max(edge, 0.0), width) for edge in (x, x + sides[0]))
        top, bottom = (min(max(edge, 0.0), height) for edge in (y, y + sides[1]))
        codes = library().frBbox([[left, top, right - left, bottom - top]], height, width)
    return codes[0] if len(codes) == 1 else merge_codes(codes, height, width)


def parse_box(values: object) -> list[float]:
    """Checks the box [left, top, width, height] of an annotation. Raises ValueError if it is malformed."""
    box: list[float] = _numbers(values, "bbox", 4).tolist()
    if min(box[2:]) < 0:
        raise ValueError(f"its bbox is {box[2]:g} wide and {box[3]:g} high; expected at least 0")
    return box


def _run_lengths(shape: dict[str, Any], width: int, height: int) -> Code:
    """Checks a run-length code for the stored or the upright image. Raises ValueError if its size differs, or it is
    malformed."""
    size, counts = shape.get("size"), shape.get("counts")
    if size == [width, height]:
        height, width = width, height
    elif size != [height, width]:
        raise ValueError(f"its run-length code has the size {size!r:.60}, its image {width} x {height} pixels")
    if counts in ([], ""):
        return merge_codes([], height, width)
    try:
        code = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
        code = library().frUncompressedRLE([code])[0] if isinstance(counts, list) else code
        total = sum(library().toUncompressedRLE([code])[0]["counts"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError("its run-length code is malformed") from error
    if total != width * height:
        raise ValueError(f"its run-length code does not add up to {width} x {height} pixels")
    return code


def merge_codes(codes: Sequence[Code], height: int, width: int) -> Code:
    """The union of run-length codes."""
    empty = {"size": [height, width], "counts": [height * width]}
    return library().merge(codes or library().frUncompressedRLE([empty]))


def decoded(codes: Sequence[Code]) -> Mask:
    """Decodes one or more codes of the same size to masks, bool (n, H, W)."""
    return library().decode(codes).astype(np.bool_).transpose(2, 0, 1)


def encoded(masks: Mask) -> list[Code]:
    """Encodes masks, bool (n, H, W)."""
    if not len(masks):
        return []
    codes: list[Code] = library().encode(np.asfortranarray(masks.transpose(1, 2, 0).view(np.uint8)))
    return codes


def code_box(code: Code) -> NDArray[np.float64]:
    """The bounding box of a code: left, top, width, height; zeros for an empty mask."""
    return np.asarray(library().toBbox([code])[0], dtype=np.float64)


def code_area(code: Code) -> float:
    return float(library().area([code])[0])


def _numbers(values: object, field: str, count: int | None = None) -> NDArray[Any]:
    if not isinstance(values, list) or not values and count:
        raise ValueError(f"its {field} is {values!r:.60}, not a list of numbers")
    try:
        numbers = np.array(values or np.zeros(0))
    except (ValueError, OverflowError):  # nested lists, or integers too large for a float
        numbers = np.array("")
    is_vector = numbers.dtype.kind in "iuf" and numbers.ndim == 1
    if not (is_vector and (np.abs(numbers.astype(float)) < _MAX_COORDINATE).all()):
        raise ValueError(f"its {field} has a coordinate that is not a number below {_MAX_COORDINATE:,} in size")
    if len(numbers) % 2 or count not in (None, len(numbers)):
        raise ValueError(f"its {field} has {len(numbers)} numbers; expected {count or 'an x and a y for each corner'}")
    return numbers


@functools.cache
def library() -> Any:
    """The mask API of faster-coco-eval. Raises InputError if it is not installed."""
    require("reading masks of COCO and evaluating detectors", "faster_coco_eval")
    from faster_coco_eval import mask_api_new_cpp

    return mask_api_new_cpp
