"""The objects in an image: boxes, classes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
        kept: dict[str, Any] = {name: None if part is None else part[which] for name, part in self._asdict().items()}
        return Objects(**kept)


def objects_of(
    boxes: Sequence[Sequence[float]] | NDArray[np.float64],
    labels: Sequence[int] | NDArray[np.int64],
    masks: NDArray[np.bool_] | None = None,
    *,
    size: tuple[int, int],
    crowd: Sequence[bool] | None = None,
    area: Sequence[float] | None = None,
    ids: Sequence[int] | None = None,
) -> Objects:
    """`Objects` of an image of (width, height), with boxes clipped. Without areas, those of masks or boxes."""
    n = len(labels)
    corners = np.asarray(boxes, dtype=np.float64).reshape(n, 4)
    clipped = torch.from_numpy(np.clip(corners, 0, (*size, *size)).astype(np.float32))
    if area is not None:
        areas = torch.tensor(area, dtype=torch.float32)
    elif masks is not None:
        areas = torch.from_numpy(masks.sum((1, 2)).astype(np.float32))
    else:
        areas = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0).prod(1)
    return Objects(
        clipped,
        torch.as_tensor(np.asarray(labels, dtype=np.int64)),
        None if masks is None else torch.from_numpy(masks),
        torch.tensor([False] * n if crowd is None else crowd, dtype=torch.bool),
        areas,
        torch.arange(n) if ids is None else torch.tensor(ids, dtype=torch.int64),
    )


def boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The boxes around masks, bool (n, H, W) -> (n, 4), left, top, right, bottom; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4))
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
