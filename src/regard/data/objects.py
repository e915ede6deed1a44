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
        boxes: float32 (n, 4), (left, top, right, bottom) in pixels of the upright image, clipped to it. A box outside
            the image has no area.
        labels: int64 (n,), indices into the classes of the data set.
        masks: bool (n, H, W); None if there are only boxes, or masks were left out.
        crowd: bool (n,), whether the annotation is a group of objects.
        area: float32 (n,), in pixels, for the size classes of COCO's evaluation; as in the annotation, if it has one.
        ids: int64 (n,), the ids of the annotations, or 0, 1, … without ids.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None
    crowd: Tensor
    area: Tensor
    ids: Tensor

    def where(self, which: Tensor) -> Objects:
        """The objects where `which`, bool (n,), is true."""
        if which.all():  # masks are not copied
            return self
        tensors: dict[str, Any] = {name: None if item is None else item[which] for name, item in self._asdict().items()}
        return Objects(**tensors)


class Instances(NamedTuple):
    """The n objects in an image in COCO's format, with unclipped boxes and encoded masks, for the evaluation.

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
        """Converts the objects of an image of size (width, height)."""
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
        """Converts the instances back, with clipped boxes and decoded masks."""
        width, height = self.size
        masks = None
        if self.counts is not None:
            masks = np.zeros((len(self.counts), height, width), dtype=np.bool_)
            for mask, counts in zip(masks, self.counts, strict=True):
                mask[:] = decoded([{"size": [height, width], "counts": counts}])[0]
        corners = np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)
        return create_objects(
            corners, self.labels, masks, size=self.size, crowd=self.crowd, area=self.area, ids=self.ids
        )


def create_objects(
    boxes: NDArray[np.float64],
    labels: Sequence[int] | NDArray[np.int64],
    masks: NDArray[np.bool_] | None = None,
    *,
    size: tuple[int, int],
    crowd: NDArray[np.bool_] | None = None,
    area: NDArray[np.float64] | None = None,
    ids: NDArray[np.int64] | None = None,
) -> Objects:
    """Creates the `Objects` of an image of size (width, height), with clipped boxes. Areas default to those of masks,
    or of boxes without masks."""
    n = len(labels)
    clipped = torch.from_numpy(np.clip(boxes.reshape(n, 4), 0, (*size, *size)).astype(np.float32))
    if area is not None:
        areas = torch.from_numpy(area.astype(np.float32))
    elif masks is not None:
        areas = mask_areas(torch.from_numpy(masks))
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


def mask_areas(masks: Tensor) -> Tensor:
    """The areas of masks on the CPU, bool (n, H, W) -> float32 (n,), in pixels."""
    # Far faster than the sum of a boolean tensor.
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.float32)


def mask_boxes(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The bounding boxes of masks: bool (n, H, W) -> (n, 4), left, top, right, bottom; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4))
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
