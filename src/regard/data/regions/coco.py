"""COCO: objects as polygons or run-length codes, in one JSON file per split (Lin et al. 2014, arXiv 1405.0312)."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from regard.data.codes import (
    Annotation,
    Code,
    MalformedAnnotation,
    Size,
    code_area,
    code_box,
    decoded,
    encode_annotations,
    encoded,
    library,
    merge_codes,
    parse_box,
)
from regard.data.dataset import Mask
from regard.data.decode import Frame, Unreadable, read_frame
from regard.data.file_dataset import FileDataset
from regard.data.listing import Tree, existing_folder, show
from regard.data.objects import Instances, Objects
from regard.data.registry import register
from regard.data.text_files import Strings, check_inside, read_json, unique
from regard.errors import DataWarning, InputError, unknown

_PREFIX = "instances_"
_PREFERRED = ("val", "test", "train")
_MAX_PIXELS = 2**28  # of an image
_FIELDS = ("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd")


class CocoDataset(FileDataset):
    """The images of the annotation file `source`. A region is the union of all objects, or with `label_only` of the
    objects of the image's label.

    `categories` are the class indices by category id. A record has the (width, height) of an image, or None if it is
    not given, and its annotations.
    """

    def __init__(
        self,
        split: str,
        folder: Path,
        keys: Sequence[str],
        labels: Sequence[int],
        classes: Sequence[str],
        categories: dict[int | str, int],
        image_ids: Sequence[int | str],
        records: Sequence[tuple[Size | None, Sequence[Annotation]]],
        source: Path,
        label_only: bool,
    ) -> None:
        super().__init__("coco", split, folder, keys, labels, classes)
        self._categories, self._image_ids, self._source = categories, tuple(image_ids), source
        self._label_only = label_only
        all_annotations = [annotation for _, annotations in records for annotation in annotations]
        self.has_masks = any(label >= 0 for label in labels) if label_only else bool(all_annotations)
        self.has_objects = bool(categories)
        self.has_object_masks = self.has_objects and any(item["segmentation"] for item in all_annotations)
        self._records = Strings(map(json.dumps, records))

    def mask(self, index: int) -> Mask:
        frame, size, annotations = self._record(index)
        if self._label_only:
            labels = [self._categories[annotation["category_id"]] for annotation in annotations]
            annotations = [annotations[i] for i, label in enumerate(labels) if label == self.labels[index]]
        mask = np.zeros(frame.upright[::-1], dtype=np.bool_)
        codes = encode_annotations(annotations, size, self._source)
        for shape in {tuple(code["size"]) for code in codes}:
            merged = merge_codes([code for code in codes if tuple(code["size"]) == shape], *shape)
            mask |= frame.turn(decoded([merged])[0], self._source)
        return mask

    def objects(self, index: int, masks: bool = True) -> Objects | None:
        instances = self.instances(index, masks)
        return None if instances is None else instances.objects()

    def instances(self, index: int, masks: bool = True) -> Instances | None:
        if not self.has_objects:
            return None
        frame, size, annotations = self._record(index)
        masks = masks and self.has_object_masks
        labels, boxes, areas, crowd, ids = [], [], [_stated_area(annotation) for annotation in annotations], [], []
        codes: list[Code] = []
        if masks or not all(areas) or any(annotation["bbox"] is None for annotation in annotations):
            codes = [self._upright(code, frame) for code in encode_annotations(annotations, size, self._source)]
        for i, annotation in enumerate(annotations):
            labels.append(self._categories[annotation["category_id"]])
            boxes.append(code_box(codes[i]) if annotation["bbox"] is None else self._box(annotation, frame, size))
            areas[i] = areas[i] or code_area(codes[i])
            crowd.append(bool(annotation["iscrowd"]))
            is_int64 = isinstance(annotation["id"], int) and abs(annotation["id"]) < 2**63
            ids.append(annotation["id"] if is_int64 else i)
        return Instances(
            frame.upright,
            np.array(labels, dtype=np.int64),
            np.array(boxes).reshape(-1, 4),
            np.array(areas, dtype=np.float64),
            np.array(crowd, dtype=np.bool_),
            np.array(ids, dtype=np.int64),
            tuple(code["counts"] for code in codes) if masks else None,
        )

    def dimensions(self, index: int) -> tuple[int, int]:
        size, _ = json.loads(self._records[index])
        return super().dimensions(index) if size is None else tuple(size)

    def image_id(self, index: int) -> int | str:
        return self._image_ids[index]

    @property
    def category_ids(self) -> tuple[int | str, ...]:
        return tuple(self._categories)

    def _record(self, index: int) -> tuple[Frame, Size, list[Annotation]]:
        """The frame of an image, the (width, height) of its annotations, and the annotations."""
        frame = self._frame(index)
        size, annotations = json.loads(self._records[index])
        size = frame.size if size is None else tuple(size)
        frame.check(size, self._source)
        return frame, size, annotations

    def _upright(self, code: Code, frame: Frame) -> Code:
        """The code for the upright image."""
        return code if frame.orientation == 1 else encoded(frame.turn(decoded([code])[0], self._source)[None])[0]

    def _box(self, annotation: Annotation, frame: Frame, size: Size) -> NDArray[np.float64]:
        """The box of an annotation in the upright image."""
        try:
            box = np.array(parse_box(annotation["bbox"]))
        except ValueError as error:
            raise MalformedAnnotation(annotation, self._source, error) from error
        if frame.orientation == 1 or size != frame.size:
            return box
        left, top, right, bottom = frame.turn_boxes(np.concatenate([box[:2], box[:2] + box[2:]])[None])[0]
        return np.array([left, top, right - left, bottom - top])

    def _regions_digest(self) -> bytes:
        digest = hashlib.sha256(repr((self.classes, self._label_only)).encode())
        for text in self._records:
            digest.update(text.encode())
        return digest.digest()


_LAYOUT = "expected a folder with annotations/instances_val2017.json and val2017/, or a .json file in COCO's format"


def _recognised(path: Path) -> bool:
    return path.suffix.lower() == ".json" or any((path / "annotations").glob(f"{_PREFIX}*.json"))


@register("coco", layout=_LAYOUT, recognised=_recognised, one_file=True)
def open_coco(
    path: Path, split: str | None = None, images: str | None = None, region: Literal["all", "label"] = "all"
) -> CocoDataset:
    """Opens an annotation file, or the annotation file of a split in a folder in COCO's layout.

    `split` is a name such as "val" or "val2017"; None for the first available of val, test and train. `images` is the
    folder of the images, if it differs from COCO's layout. `region` is the union of "all" objects, or only of the
    objects of the image's "label".
    """
    if path.is_file():
        if split is not None:
            raise InputError(f"{show(path)} is one split (found split {split!r}); leave the split out")
        name = path.stem.removeprefix(_PREFIX)
        split = next((prefix for prefix in _PREFERRED if name.startswith(prefix)), "")
        folder, root = path.parent, path.parent.parent
        folders = [folder / "images", folder, root / name, root / "images" / name, root / "images"]
    else:
        path, name = _split_file(path, split)
        split = next((prefix for prefix in _PREFERRED if name.startswith(prefix)), name)
        root = path.parents[1]
        folders = [root / name, root / "images" / name, root / "images", root]
    library()  # raises InputError now if it is not installed
    content = _read_tables(path)
    by_id = _by_id(content["images"], "image", path)
    keys = unique([check_inside(image.get("file_name"), path) for image in by_id.values()], f"images in {show(path)}")
    sizes = [_size(image, path) for image in by_id.values()]
    trees = [Tree(folder) for folder in ([existing_folder(images)] if images else folders)]
    tree = min(trees, key=lambda tree: len(tree.missing(keys)))
    tree.check(keys, f"images that {path.name} names", "add them, or give their folder (--images)")
    categories, classes = _categories(content, path)
    if region == "label" and not classes:
        raise InputError(f"{show(path)} has no categories, so images have no labels; leave region='label' out")
    records = list(zip(sizes, _group_by_image(content, path, by_id, categories), strict=True))
    labels = [
        _label(annotations, size, tree.root / key, path, categories)
        for key, (size, annotations) in zip(keys, records, strict=True)
    ]
    outside = [
        annotation
        for size, annotations in records
        for annotation in annotations
        if size is not None and _is_outside(annotation["bbox"], size)
    ]
    if outside:
        warnings.warn(
            f"{len(outside)} boxes in {show(path)} have a pixel or less inside their image, such as annotation "
            f"{outside[0]['id']!r:.60}: detectors do not learn them; a bbox is [left, top, width, height] in pixels",
            DataWarning,
            stacklevel=2,
        )
    label_only = region == "label"
    return CocoDataset(split, tree.root, keys, labels, classes, categories, list(by_id), records, path, label_only)


def _split_file(root: Path, split: str | None) -> tuple[Path, str]:
    """The annotation file of a split, and the full name of the split, such as "val2017" for "val"."""
    files = {path.stem.removeprefix(_PREFIX): path for path in sorted((root / "annotations").glob(f"{_PREFIX}*.json"))}
    if not files:
        raise InputError(f"no annotations/{_PREFIX}….json in {show(root)}; {_LAYOUT}")
    names = list(files)
    if split is not None:
        matches = [split] if split in files else [name for name in names if name.rstrip("0123456789") == split]
        if not matches:
            raise unknown(f"split of {show(root)}", split, names)
    else:
        by_prefix = [[name for name in names if name.startswith(prefix)] for prefix in _PREFERRED]
        matches = next((matches for matches in by_prefix if matches), names)
    if len(matches) > 1:
        raise InputError(f"{show(root)} has the splits {', '.join(matches)}; name one (split)")
    return files[matches[0]], matches[0]


def _read_tables(path: Path) -> dict[str, list[Annotation]]:
    content = read_json(path)
    if not isinstance(content, dict) or not content.get("images"):
        raise InputError(f"{show(path)} has no images; expected COCO's format: images, annotations, categories")
    tables = {name: content.get(name, []) for name in ("images", "annotations", "categories")}
    for name, records in tables.items():
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise InputError(f"{name} in {show(path)} are not a list of records; expected COCO's format")
    return tables


def _by_id(records: Sequence[dict[str, Any]], kind: str, path: Path) -> dict[Any, dict[str, Any]]:
    """The records of images or categories by id."""
    by_id = {}
    for i, record in enumerate(records):
        key = record.get("id")
        if not _is_id(key) or key in by_id:
            raise InputError(f"{kind} {i} in {show(path)} has the id {key!r:.60}; expected a unique number or text")
        by_id[key] = record
    return by_id


def _size(image: dict[str, Any], path: Path) -> Size | None:
    """(width, height) of an image, or None if the file does not give it."""
    width, height = image.get("width"), image.get("height")
    if width is None and height is None:
        return None
    if not (_is_whole(width) and _is_whole(height) and width > 0 and height > 0 and width * height < _MAX_PIXELS):
        raise InputError(
            f"image {image['file_name']!r} in {show(path)} has width {width!r} and height {height!r}; expected whole "
            "numbers of pixels, or neither"
        )
    return int(width), int(height)


def _categories(content: dict[str, list[Annotation]], path: Path) -> tuple[dict[int | str, int], list[str]]:
    """The class index of each category id, and the class names in order of id.

    A category without annotations is left out if another category has the same name: exports of Roboflow begin with
    such a category.
    """
    names = {key: record.get("name") for key, record in _by_id(content["categories"], "category", path).items()}
    for key, name in names.items():
        if not isinstance(name, str):
            raise InputError(f"category {key!r:.60} in {show(path)} has the name {name!r:.60}; expected a text")
    order = sorted(names, key=lambda key: (isinstance(key, str), key))
    counts = Counter(names.values())
    if len(counts) < len(names):
        used = {key for key in (item.get("category_id") for item in content["annotations"]) if _is_id(key)}
        order = [key for key in order if counts[names[key]] == 1 or key in used]
    classes = unique([str(names[key]) for key in order], f"categories in {show(path)}")
    return {key: label for label, key in enumerate(order)}, list(classes)


def _group_by_image(
    content: dict[str, list[Annotation]], path: Path, by_id: dict[Any, Any], categories: dict[int | str, int]
) -> list[list[Annotation]]:
    """The annotations of each image, reduced to `_FIELDS`. Raises InputError for an unknown image or category, or
    an `iscrowd` that is neither 0 nor 1."""
    annotations: dict[Any, list[Annotation]] = {key: [] for key in by_id}
    for i, annotation in enumerate(content["annotations"]):
        image, category = annotation.get("image_id"), annotation.get("category_id")
        image_exists = _is_id(image) and image in annotations
        if not image_exists or (categories and not (_is_id(category) and category in categories)):
            raise InputError(
                f"annotation {annotation.get('id', i)!r:.60} in {show(path)} has image_id {image!r:.60} and "
                f"category_id {category!r:.60}; expected the ids of an image and a category in the file"
            )
        crowd = annotation.get("iscrowd")
        if crowd not in (None, 0, 1):
            raise InputError(
                f"annotation {annotation.get('id', i)!r:.60} in {show(path)} has iscrowd {crowd!r:.60}; expected 0 or 1"
            )
        annotations[image].append({field: annotation.get(field) for field in _FIELDS})
    return list(annotations.values())


def _is_outside(box: object, size: Size) -> bool:
    """Whether at most one pixel of a box is inside an image of (width, height). Malformed boxes raise when read."""
    if not (isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)):
        return False
    left, top, width, height = box
    if min(width, height) < 0:
        return False
    inside_width = min(left + width, size[0]) - max(left, 0)
    inside_height = min(top + height, size[1]) - max(top, 0)
    return max(0, inside_width) * max(0, inside_height) <= 1


def _label(
    annotations: Sequence[dict[str, Any]], size: Size | None, image: Path, path: Path, categories: dict[int | str, int]
) -> int:
    """The class index with the largest total area; the lowest on a tie; -1 without annotations or if unreadable."""
    areas = [_stated_area(annotation) for annotation in annotations]
    if not all(areas):
        try:
            size = size or read_frame(image).size
        except Unreadable:
            return -1  # `mask` raises the error
        codes = encode_annotations(annotations, size, path)
        areas = [area or code_area(code) for area, code in zip(areas, codes, strict=True)]
    totals: dict[int, float] = {}
    for annotation, area in zip(annotations, areas, strict=True) if categories else ():
        category = categories[annotation["category_id"]]
        totals[category] = totals.get(category, 0.0) + area
    return max(sorted(totals), key=totals.__getitem__, default=-1)


def _stated_area(annotation: dict[str, Any]) -> float:
    """The area in pixels as given in the file; 0 if it is missing or invalid."""
    area = annotation.get("area")
    if isinstance(area, bool) or not isinstance(area, int | float) or not 0 < area < 2**62:
        return 0.0
    return area


def _is_id(value: object) -> bool:
    return isinstance(value, str) or _is_whole(value)


def _is_whole(value: object) -> TypeGuard[float]:
    """Whether the value is an int or a float such as 7.0, which tables with missing values use for integers."""
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
