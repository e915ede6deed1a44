"""Objects or detections of many images, and the numbers of COCO's evaluation over them, by faster-coco-eval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regard.data.codes import encoded, library
from regard.data.objects import Instances

Kind = Literal["boxes", "masks"]

MEASURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers, 0 to 1, NaN where there is no object to find."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of the intersection over union."""

RECALLS = np.linspace(0, 1, 101)
RANGES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
"""Of the area of objects, in pixels."""

_MOST = (1, 10, 100)  # detections in an image and of a class


@dataclass(frozen=True, eq=False)
class Table:
    """N objects or detections of many images, those of an image in a row.

    Attributes:
        image: int64 (N,), number of the image, from 0, increasing.
        label: int64 (N,), class index.
        box: float64 (N, 4), left, top, width and height in pixels.
        score: float64 (N,); 1 for objects.
        crowd: bool (N,).
        area: float64 (N,), in pixels, by which objects are small, medium or large; NaN for detections, of which that
            of the box or mask counts.
        counts: the compressed run-length code of each mask, (N,); None without masks.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    box: NDArray[np.float64]
    score: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    counts: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def of_objects(cls, objects: Instances) -> Table:
        """The objects of one image."""
        n = len(objects.labels)
        image, score = np.zeros(n, dtype=np.int64), np.ones(n)
        return cls(image, objects.labels, objects.boxes, score, objects.crowd, objects.area, objects.counts)

    @classmethod
    def of_detections(
        cls,
        labels: NDArray[np.int64],
        boxes: NDArray[np.float64],
        scores: NDArray[np.float64],
        masks: NDArray[np.bool_] | None = None,
    ) -> Table:
        """The detections of one image: labels (n,), boxes (n, 4) xyxy, scores (n,), masks (n, H, W)."""
        n = len(labels)
        box = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        counts = None if masks is None else tuple(code["counts"] for code in encoded(masks))
        crowd, area = np.zeros(n, dtype=np.bool_), np.full(n, math.nan)
        return cls(np.zeros(n, dtype=np.int64), labels, box, scores, crowd, area, counts)

    @classmethod
    def joined(cls, images: Sequence[Table]) -> Table:
        """Those of many images, each a table of its own, numbered in turn."""
        columns = {
            one.name: np.concatenate([getattr(image, one.name) for image in images])
            for one in fields(cls)
            if one.name not in ("image", "counts")
        }
        number = np.repeat(np.arange(len(images)), [len(image) for image in images])
        codes = [image.counts for image in images]
        counts = None if None in codes else tuple(code for several in codes for code in several or ())
        return cls(number, **columns, counts=counts)

    def where(self, which: NDArray[Any]) -> Table:
        """Those for which `which`, bool (N,), is true, or those at these places, int."""
        places = np.arange(len(self))[which]
        kept = {one.name: getattr(self, one.name)[places] for one in fields(self) if one.name != "counts"}
        return replace(self, **kept, counts=self.counts and tuple(self.counts[i] for i in places.tolist()))

    def codes(self, sizes: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The run-length codes, of images of sizes (width, height), int (images, 2)."""
        assert self.counts is not None
        dimensions = sizes[self.image].tolist()
        return [
            {"size": [height, width], "counts": code}
            for (width, height), code in zip(dimensions, self.counts, strict=True)
        ]

    def areas(self, sizes: NDArray[np.int64], kind: Kind) -> NDArray[np.float64]:
        """The areas, of detections that of the box or the mask, (N,)."""
        if not np.isnan(self.area).any():
            return self.area
        if kind == "boxes":
            return self.box[:, 2:].prod(1)
        return np.asarray(library().area(self.codes(sizes)), dtype=np.float64)


def evaluated(
    truth: Table, detections: Table, sizes: NDArray[np.int64], classes: int, kind: Kind
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """COCO's twelve numbers over all classes, and of each.

    Args:
        truth: objects.
        detections: of the same images.
        sizes: (width, height) of each image, int (images, 2).
        classes: number of classes.
        kind: what has to overlap.
    """
    library()  # raises if it is not installed
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": i, "width": width, "height": height} for i, (width, height) in enumerate(sizes.tolist())]
    categories = [{"id": label, "name": str(label)} for label in range(classes)]

    def content(table: Table) -> Any:
        return COCO({"images": images, "categories": categories, "annotations": _annotations(table, sizes, kind)})

    scoring = COCOeval_faster(content(truth), content(detections), "bbox" if kind == "boxes" else "segm")
    scoring.params.maxDets = list(_MOST)
    scoring.evaluate()
    scoring.accumulate()
    precision, recall = (np.asarray(scoring.eval[name]) for name in ("precision", "recall"))
    return _numbers(precision, recall), [
        _numbers(precision[:, :, [label]], recall[:, [label]]) for label in range(classes)
    ]


def _annotations(table: Table, sizes: NDArray[np.int64], kind: Kind) -> list[dict[str, Any]]:
    columns = zip(table.image.tolist(), table.label.tolist(), table.box.tolist(), table.score.tolist(), strict=True)
    # Numbers from 1: in the evaluation 0 means no match.
    records = [
        {"id": i, "image_id": image, "category_id": label, "bbox": box, "score": score}
        for i, (image, label, box, score) in enumerate(columns, 1)
    ]
    for record, area, crowd in zip(records, table.areas(sizes, kind).tolist(), table.crowd.tolist(), strict=True):
        record |= {"area": area, "iscrowd": int(crowd)}
    if kind == "masks":
        for record, code in zip(records, table.codes(sizes), strict=True):
            record["segmentation"] = code
    return records


def _numbers(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> dict[str, float]:
    """The twelve numbers of precision (thresholds, recalls, classes, ranges, most) and recall (without recalls)."""
    arrays = [
        *(precision[..., 0, 2], precision[0, ..., 0, 2], precision[5, ..., 0, 2]),
        *(precision[..., size, 2] for size in (1, 2, 3)),
        *(recall[..., 0, most] for most in (0, 1, 2)),
        *(recall[..., size, 2] for size in (1, 2, 3)),
    ]
    known = [array[array > -1] for array in arrays]
    return {name: float(one.mean()) if one.size else math.nan for name, one in zip(MEASURES, known, strict=True)}
