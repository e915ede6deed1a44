"""A table of the objects or detections of many images."""

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


@dataclass(frozen=True, eq=False)
class Table:
    """N objects or detections of many images, sorted by image.

    Attributes:
        image: int64 (N,), number of the image, from 0.
        label: int64 (N,), class index.
        box: float64 (N, 4), left, top, width and height in pixels.
        score: float64 (N,); 1 for objects.
        crowd: bool (N,), whether an object is a crowd.
        area: float64 (N,), area in pixels, which makes an object small, medium or large; NaN for detections, whose size
            is the area of their box or mask.
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
        """A table of the objects of one image."""
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
        """A table of the detections of one image: labels (n,), boxes (n, 4) xyxy, scores (n,), masks (n, H, W)."""
        n = len(labels)
        box = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        counts = None if masks is None else tuple(code["counts"] for code in encoded(masks))
        crowd, area = np.zeros(n, dtype=np.bool_), np.full(n, math.nan)
        return cls(np.zeros(n, dtype=np.int64), labels, box, scores, crowd, area, counts)

    @classmethod
    def joined(cls, images: Sequence[Table]) -> Table:
        """Joins the tables of single images, and numbers the images."""
        columns = {name: np.concatenate([getattr(image, name) for image in images]) for name in COLUMNS}
        columns["image"] = np.repeat(np.arange(len(images)), [len(image) for image in images])
        codes = [image.counts for image in images]
        counts = None if None in codes else tuple(code for image_codes in codes for code in image_codes or ())
        return cls(**columns, counts=counts)

    def where(self, which: NDArray[Any]) -> Table:
        """The rows where `which`, bool (N,), is true, or the rows with these indices, int."""
        rows = np.arange(len(self))[which]
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return replace(self, **columns, counts=self.counts and tuple(self.counts[row] for row in rows.tolist()))

    def codes(self, sizes: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The run-length codes of the masks; `sizes` are the image sizes (width, height), int (images, 2)."""
        assert self.counts is not None
        dimensions = sizes[self.image].tolist()
        return [
            {"size": [height, width], "counts": code}
            for (width, height), code in zip(dimensions, self.counts, strict=True)
        ]

    def areas(self, sizes: NDArray[np.int64], kind: Kind) -> NDArray[np.float64]:
        """The areas (N,); for detections, the areas of the boxes or masks."""
        if not np.isnan(self.area).any():
            return self.area
        if kind == "boxes":
            return self.box[:, 2:].prod(1)
        return np.asarray(library().area(self.codes(sizes)), dtype=np.float64)


COLUMNS = tuple(column.name for column in fields(Table) if column.name != "counts")
"""The attributes of `Table` that are arrays of N rows."""
