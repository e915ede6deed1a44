"""COCO: objects as polygons and run-length codes, in one JSON file a split (Lin et al. 2014, arXiv 1405.0312)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from regard.data.dataset import Mask
from regard.data.decode import Frame, Unreadable, frame_of
from regard.data.listing import read_bytes, show, unique
from regard.data.regions.fileset import FileSet
from regard.data.regions.kind import Choices, Kind, chosen
from regard.data.regions.shapes import polygon_mask, run_mask, runs_of
from regard.data.regions.tree import Tree, check_all_there, check_inside
from regard.errors import InputError, first_line, unknown

_PREFIX = "instances_"
_PREFERRED = ("val", "test", "train")

Points = NDArray[np.float32]
Runs = NDArray[np.uint32]

_LEAST_AREA = 1e-6  # of a polygon, in pixels

_NO_POINTS: Points = np.zeros((0, 2), dtype=np.float32)
_NO_RUNS: Runs = np.zeros(0, dtype=np.uint32)


@dataclass(frozen=True, eq=False)
class _Object:
    """One annotation: polygons (n, 2) each, or a run-length code with the width and height that it is for behind it;
    these two; its category, -1 for none, and its area in pixels."""

    rings: list[Points]
    runs: Runs | None
    frame: tuple[int, int] | None
    category: int
    area: float


class _Packed:
    """Arrays of different lengths, some for each image, end to end: a few large arrays, which processes can share."""

    def __init__(self, by_image: Sequence[Sequence[NDArray[Any]]], empty: NDArray[Any]) -> None:
        arrays = [array for several in by_image for array in several]
        self._values = np.concatenate([empty, *arrays])
        self._ends = np.cumsum([0, *map(len, arrays)])
        self._first = np.cumsum([0, *map(len, by_image)])

    def of(self, image: int) -> list[NDArray[Any]]:
        ends = self._ends[self._first[image] : self._first[image + 1] + 1]
        return [self._values[start:end] for start, end in zip(ends, ends[1:], strict=False)]

    def bytes(self) -> Iterator[bytes]:
        yield self._values.tobytes()
        yield self._ends.tobytes()
        yield self._first.tobytes()


class CocoSet(FileSet):
    """The images of one file of annotations; each region is the union of its objects, or of those of its label."""

    def __init__(
        self,
        split: str,
        folder: Path,
        keys: Sequence[str],
        classes: Sequence[str],
        labels: Sequence[int],
        sizes: NDArray[np.int32],
        objects: Sequence[Sequence[_Object]],
        source: Path,
    ) -> None:
        super().__init__("coco", split, folder, keys, labels, classes)
        self._sizes = sizes  # (N, 2), width and height, 0 where they are not given
        self._rings = _Packed([[ring for one in several for ring in one.rings] for several in objects], _NO_POINTS)
        self._runs = _Packed([[one.runs for one in several if one.runs is not None] for several in objects], _NO_RUNS)
        self._file = source

    def mask(self, index: int) -> Mask:
        frame = frame_of(self.path(index))
        mask = self._turned(index, frame, self._marked(index, frame))
        by_size: dict[tuple[int, int], list[Runs]] = {}
        for runs in self._runs.of(index):
            by_size.setdefault((int(runs[-2]), int(runs[-1])), []).append(runs[:-2])
        for size, codes in by_size.items():
            self._check_size(index, frame, size)
            mask = mask | self._turned(index, frame, run_mask(codes, *size))
        return mask

    def _marked(self, index: int, frame: Frame) -> Mask:
        """The polygons and boxes alone: each run-length code says itself what it is for."""
        width, height = map(int, self._sizes[index])
        if not width:
            width, height = frame.width, frame.height
        self._check_size(index, frame, (width, height))
        try:
            return polygon_mask(self._rings.of(index), width, height)
        except ValueError as error:
            raise Unreadable(
                f"{show(self.path(index))} cannot have its region: {self._source(index)}: {error}"
            ) from error

    def _source(self, index: int) -> str:
        return f"what {show(self._file)} says of it"

    def _marks(self) -> Iterator[bytes]:
        yield self._sizes.tobytes()
        yield from self._rings.bytes()
        yield from self._runs.bytes()


def _recognised(where: Path) -> bool:
    return where.suffix.lower() == ".json" or any((where / "annotations").glob(f"{_PREFIX}*.json"))


def _open(where: Path, choices: Choices) -> CocoSet:
    region = chosen("region", choices.region, ("all", "label"), "all")
    if where.is_file():
        if choices.split is not None:
            raise InputError(f"{show(where)} is one split (found split {choices.split!r}); leave the split out")
        name = where.stem.removeprefix(_PREFIX)
        split = next((word for word in _PREFERRED if name.startswith(word)), "")
        around = where.parent
        places = [
            around / "images",
            around,
            around.parent / name,
            around.parent / "images" / name,
            around.parent / "images",
        ]
    else:
        where, name = _split_file(where, choices.split)
        split = next((word for word in _PREFERRED if name.startswith(word)), name)
        root = where.parents[1]
        places = [root / name, root / "images" / name, root / "images", root]
    content = _read(where)
    keys, sizes, by_id = _images(content, where)
    tree = _images_tree([choices.images] if choices.images else places, keys)
    check_all_there(tree, keys, f"images that {where.name} names", "put them there, or say where they are (images)")
    categories, classes = _categories(content, where)
    objects = _objects(content, where, by_id, sizes, categories)
    del content
    labels = [_label(several) for several in objects]
    if region == "label":
        if not classes:
            raise InputError(f"{show(where)} has no categories, so that no image has a label; leave region='label' out")
        objects = [
            [one for one in several if one.category == label] for several, label in zip(objects, labels, strict=True)
        ]
    return CocoSet(split, tree.root, keys, classes, labels, sizes, objects, where)


def _split_file(root: Path, split: str | None) -> tuple[Path, str]:
    """The file of annotations of a split, and the name that it has there: "val2017" for "val"."""
    files = {path.stem.removeprefix(_PREFIX): path for path in sorted((root / "annotations").glob(f"{_PREFIX}*.json"))}
    if not files:
        raise InputError(f"no annotations/{_PREFIX}….json in {show(root)}; {KIND.layout}")
    names = list(files)
    if split is not None:
        found = [split] if split in files else [name for name in names if name.rstrip("0123456789") == split]
        if not found:
            raise unknown(f"split of {show(root)}", split, names)
    else:
        by_word = [[name for name in names if name.startswith(word)] for word in _PREFERRED]
        found = next((several for several in by_word if several), names)
    if len(found) > 1:
        raise InputError(f"{show(root)} has the splits {', '.join(found)}; say which (split)")
    return files[found[0]], found[0]


def _read(path: Path) -> dict[str, Any]:
    text = read_bytes(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{show(path)} is no JSON ({first_line(error)}); get it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list) or not content["images"]:
        raise InputError(f"{show(path)} has no list of images; expected COCO's format: images, annotations, categories")
    for name in ("annotations", "categories"):
        if not isinstance(content.setdefault(name, []), list):
            raise InputError(f"{name} in {show(path)} are no list; expected COCO's format")
    return content


def _images(content: dict[str, Any], path: Path) -> tuple[list[str], NDArray[np.int32], dict[int | str, int]]:
    """The file names, the sizes (N, 2), and the place of each image by its id."""
    keys: list[str] = []
    sizes = np.zeros((len(content["images"]), 2), dtype=np.int32)
    by_id: dict[int | str, int] = {}
    for place, image in enumerate(content["images"]):
        if not isinstance(image, dict) or not _is_id(image.get("id")):
            raise InputError(f"image {place} in {show(path)} has no id; expected a whole number, or a text")
        if image["id"] in by_id:
            raise InputError(f"two images in {show(path)} have the id {image['id']!r}; each needs its own")
        by_id[image["id"]] = place
        keys.append(check_inside(image.get("file_name"), path))
        width, height = image.get("width"), image.get("height")
        if width is not None or height is not None:
            if not all(_is_whole(n) and 0 < n < 2**31 for n in (width, height)):
                raise InputError(
                    f"image {keys[-1]!r} in {show(path)} has width {width!r} and height {height!r}; expected whole "
                    "numbers of pixels, or neither"
                )
            sizes[place] = np.array([width, height])
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise InputError(f"{show(path)} names the image {twice!r} twice; name each once")
    return keys, sizes, by_id


def _images_tree(places: Sequence[Path], keys: Sequence[str]) -> Tree:
    """The one of the folders where most of the images are."""
    trees = [Tree(place) for place in places]
    return min(trees, key=lambda tree: len(tree.missing(keys)))


def _categories(content: dict[str, Any], path: Path) -> tuple[dict[int | str, int], list[str]]:
    """The place of each category among the classes by its id, and the classes: in order of id.

    A category without annotations is left out where another has its name: exports of Roboflow begin with such a one.
    """
    names: dict[Any, str] = {}
    for category in content["categories"]:
        if (
            not isinstance(category, dict)
            or not _is_id(category.get("id"))
            or not isinstance(category.get("name"), str)
        ):
            raise InputError(f"a category in {show(path)} is {str(category)[:80]!r}; expected an id and a name")
        if category["id"] in names:
            raise InputError(f"two categories in {show(path)} have the id {category['id']!r}; each needs its own")
        names[category["id"]] = category["name"]
    order = sorted(names, key=lambda key: (isinstance(key, str), key))
    counts = Counter(names.values())
    if len(counts) < len(names):
        named = (one.get("category_id") for one in content["annotations"] if isinstance(one, dict))
        used = {key for key in named if isinstance(key, int | float | str)}
        order = [key for key in order if counts[names[key]] == 1 or key in used]
    classes = unique([names[key] for key in order], f"categories in {show(path)}")
    return {key: place for place, key in enumerate(order)}, list(classes)


def _objects(
    content: dict[str, Any],
    path: Path,
    by_id: dict[int | str, int],
    sizes: NDArray[np.int32],
    categories: dict[int | str, int],
) -> list[list[_Object]]:
    """The objects of each image."""
    objects: list[list[_Object]] = [[] for _ in by_id]
    strangers = []
    for place, annotation in enumerate(content["annotations"]):
        if not isinstance(annotation, dict) or not _is_id(annotation.get("image_id")):
            raise InputError(f"annotation {place} in {show(path)} has no image_id; expected the id of an image")
        image = by_id.get(annotation["image_id"])
        if image is None:
            strangers.append(annotation["image_id"])
            continue
        try:
            one = _object(annotation, sizes[image], categories)
        except ValueError as error:
            name = annotation.get("id", place)
            raise InputError(f"annotation {name!r} in {show(path)} cannot be used: {first_line(error)}") from error
        objects[image].append(one)
        if one.frame is not None and not sizes[image, 0]:
            sizes[image] = one.frame
    if strangers:
        raise InputError(
            f"{len(strangers)} annotations in {show(path)} are of images that it does not name "
            f"(image_id {', '.join(map(repr, strangers[:3]))}{', …' if len(strangers) > 3 else ''}); "
            "name the images, or take the annotations out"
        )
    return objects


def _object(annotation: dict[str, Any], size: NDArray[np.int32], categories: dict[int | str, int]) -> _Object:
    """Raises ValueError for what is no annotation."""
    category = -1
    if categories:
        found = annotation.get("category_id")
        if not _is_id(found) or found not in categories:
            raise ValueError(f"its category_id {found!r} is that of no category")
        category = categories[found]
    rings: list[Points] = []
    runs: Runs | None = None
    frame: tuple[int, int] | None = None
    shape, box = annotation.get("segmentation"), annotation.get("bbox")
    if isinstance(shape, dict) and shape:
        runs, frame = _runs(shape, size)
        runs = runs if runs[1::2].any() else None
    elif isinstance(shape, list) and shape:
        rings = [ring for ring in map(_ring, shape) if len(ring)]
    elif shape or box is None:
        raise ValueError("it has neither a segmentation nor a bbox")
    if not rings and runs is None and box is not None:  # what has no area is no shape
        rings = _box(box)
    area = annotation.get("area")
    if not (isinstance(area, int | float) and 0 < area < 2**62):
        area = sum(map(_area, rings)) if runs is None else runs[1::2].sum()
    if runs is not None:
        runs = np.append(runs, np.array(frame, dtype=np.uint32))
    return _Object(rings, runs, frame, category, float(area))


def _runs(shape: dict[str, Any], size: NDArray[np.int32]) -> tuple[Runs, tuple[int, int]]:
    """A run-length code, and the width and height that it is for: those of the image as it is stored or upright."""
    stated = shape.get("size")
    if (
        not isinstance(stated, list)
        or len(stated) != 2
        or not all(isinstance(n, int) and 0 < n < 2**31 for n in stated)
    ):
        raise ValueError(f"the size of its run-length code is {str(stated)[:60]}, not height and width")
    height, width = stated
    if size[0] and tuple(size) not in ((width, height), (height, width)):
        raise ValueError(f"its run-length code is for {width} x {height} pixels, the image has {size[0]} x {size[1]}")
    counts = shape.get("counts")
    if counts in ([], ""):
        return np.zeros(0, dtype=np.uint32), (width, height)
    return runs_of(counts, width, height).astype(np.uint32), (width, height)


def _ring(ring: object) -> Points:
    """The corners of a polygon; none if it encloses nothing."""
    numbers = _numbers(ring, "polygon")
    if len(numbers) % 2:
        raise ValueError(f"a polygon has {len(numbers)} numbers, not an x and a y for each corner")
    corners = numbers.reshape(-1, 2)
    return corners.astype(np.float32) if _encloses(corners) else _NO_POINTS


def _encloses(corners: NDArray[Any]) -> bool:
    if len(corners) < 3:
        return False
    if _area(corners) > _LEAST_AREA:
        return True
    # It may cross itself, so that its parts take each other away.
    low, high = corners.min(axis=0), corners.max(axis=0)
    if not (high > low).all():
        return False
    return bool(polygon_mask([(corners - low) / (high - low) * (59.3, 61.7) + (0.21, 0.37)], 64, 64).any())


def _box(box: object) -> list[Points]:
    """The corners of a box of x, y, width and height; none if it is empty."""
    numbers = _numbers(box, "bbox")
    if len(numbers) != 4:
        raise ValueError(f"its bbox has {len(numbers)} numbers, not x, y, width and height")
    left, top, width, height = map(float, numbers)
    if width < 0 or height < 0:
        raise ValueError(f"its bbox is {width:g} wide and {height:g} high; expected no less than 0")
    if not (width and height):
        return []
    corners = (left, top), (left + width, top), (left + width, top + height), (left, top + height)
    return [np.array(corners, dtype=np.float32)]


def _numbers(values: object, what: str) -> NDArray[Any]:
    if not isinstance(values, list):
        raise ValueError(f"its {what} is {str(values)[:60]}, not a list of numbers")
    try:
        numbers = np.array(values)
    except (ValueError, OverflowError):  # lists of different lengths, whole numbers that no float holds
        numbers = np.array("")
    if numbers.dtype.kind not in "iuf" or numbers.ndim != 1 or not (np.abs(numbers) < 1e9).all():
        raise ValueError(f"its {what} has a coordinate that is no number")
    return numbers


def _area(corners: NDArray[Any]) -> float:
    x, y = (corners - corners[0].astype(np.float64)).T
    return abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2


def _label(objects: Sequence[_Object]) -> int:
    """The category of the largest area in all, the first of several; -1 if there is none."""
    areas: dict[int, float] = {}
    for one in objects:
        if one.category >= 0:
            areas[one.category] = areas.get(one.category, 0.0) + one.area
    return max(sorted(areas), key=areas.__getitem__, default=-1)


def _is_id(value: object) -> bool:
    return isinstance(value, str) or _is_whole(value)


def _is_whole(value: object) -> TypeGuard[float]:
    """Whether it is a whole number; tables in which some are missing write them all as 7.0."""
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


KIND = Kind(
    "coco",
    "expected a folder with annotations/instances_val2017.json and val2017/, or a .json file in COCO's format",
    _recognised,
    _open,
    frozenset({"split", "images", "region"}),
)
