"""The objects in an image: boxes, classes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.codes import decoded, encoded


class Objects(NamedTuple):
    """The n objects in an image, in the order of its annotations.

    Attributes:
        boxes: float32 (n, 4), (left, top, right, bottom) in pixels of the upright image, clipped to it. A box that lies
            outside has no area.
        labels: int64 (n,), indices into the classes of the data set.
        masks: bool (n, H, W); None if only boxes are known, or masks were left out.
        crowd: bool (n,), whether it is a group of objects in one annotation.
        area: float32 (n,), in pixels, as COCO's evaluation sorts objects by: that of the annotation, if it states one.
        ids: int64 (n,), of the annotations; without such, numbers from 0.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None
    crowd: Tensor
    area: Tensor
    ids: Tensor

    def where(self, which: Tensor) -> Objects:
        """Those of the objects for which `which`, bool (n,), is true."""
        if which.all():  # masks are not copied
            return self
        kept: dict[str, Any] = {name: None if part is None else part[which] for name, part in self._asdict().items()}
        return Objects(**kept)


class Instances(NamedTuple):
    """The n objects in an image as COCO's format has them, unclipped and with masks as codes, for the evaluation.

    Attributes:
        size: (width, height) of the upright image.
        labels: int64 (n,), indices into the classes of the data set.
        boxes: float64 (n, 4), left, top, width and height in pixels of the upright image.
        area: float64 (n,), in pixels.
        crowd: bool (n,).
        ids: int64 (n,).
        counts: the compressed run-length code of each mask; None without masks.
    """

    size: tuple[int, int]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    ids: NDArray[np.int64]
    counts: tuple[bytes, ...] | None

    @classmethod
    def of(cls, objects: Objects, size: tuple[int, int]) -> Instances:
        """Those of the objects of an image of (width, height)."""
        masks = None if objects.masks is None else encoded(objects.masks.numpy())
        boxes = objects.boxes.double().numpy()
        return cls(
            size,
            objects.labels.numpy(),
            np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
            objects.area.double().numpy(),
            objects.crowd.numpy(),
            objects.ids.numpy(),
            None if masks is None else tuple(code["counts"] for code in masks),
        )

    def objects(self) -> Objects:
        width, height = self.size
        masks = None
        if self.counts is not None:
            masks = np.zeros((len(self.counts), height, width), dtype=np.bool_)
            for mask, counts in zip(masks, self.counts, strict=True):
                mask[:] = decoded([{"size": [height, width], "counts": counts}])[0]
        corners = np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)
        return objects_of(corners, self.labels, masks, size=self.size, crowd=self.crowd, area=self.area, ids=self.ids)


def objects_of(
    boxes: NDArray[np.float64],
    labels: Sequence[int] | NDArray[np.int64],
    masks: NDArray[np.bool_] | None = None,
    *,
    size: tuple[int, int],
    crowd: NDArray[np.bool_] | None = None,
    area: NDArray[np.float64] | None = None,
    ids: NDArray[np.int64] | None = None,
) -> Objects:
    """`Objects` of an image of (width, height), with boxes clipped. Without areas, those of masks or boxes."""
    n = len(labels)
    clipped = torch.from_numpy(np.clip(boxes.reshape(n, 4), 0, (*size, *size)).astype(np.float32))
    if area is not None:
        areas = torch.from_numpy(area.astype(np.float32))
    elif masks is not None:
        areas = areas_of(torch.from_numpy(masks))
    else:
        areas = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0).prod(1)
    return Objects(
        clipped,
        torch.from_numpy(np.array(labels, dtype=np.int64)),
        None if masks is None else torch.from_numpy(masks),
        torch.from_numpy(np.zeros(n, dtype=np.bool_) if crowd is None else crowd.copy()),
        areas,
        torch.arange(n) if ids is None else torch.from_numpy(ids.astype(np.int64)),
    )


def areas_of(masks: Tensor) -> Tensor:
    """The areas of masks on the CPU, bool (n, H, W) -> float32 (n,), in pixels."""
    # Far faster than the sum of a tensor of booleans.
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.float32)


def boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The boxes around masks, bool (n, H, W) -> (n, 4), left, top, right, bottom; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4))
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
