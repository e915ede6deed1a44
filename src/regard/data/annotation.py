"""Fewer or coarser regions than a data set has, as cheaper annotation would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.data.dataset import ImageDataset, InMemoryDataset, Mask, Subset, chosen
from regard.errors import InputError, check_number


def annotated(dataset: ImageDataset, *, share: float = 1.0, box: bool = False, dilate: int = 0) -> ImageDataset:
    """The data set with the regions of some images only, or with coarser ones; images and labels stay.

    Args:
        dataset: has regions.
        share: share of the images that keep their region, at least one image; the others get an empty one. Chosen as by
            `ImageDataset.subset`: balanced over the classes, always the same, the fewer among the more.
        box: replaces each region by its bounding box.
        dilate: pixels of the image by which each region, or box, is enlarged on every side (by a square).

    Raises:
        InputError: a data set without regions, a share outside (0, 1], a negative `dilate`.
    """
    if not dataset.has_masks:
        raise InputError(
            f"the {dataset.split or 'given'} set of {dataset.name!r} has no regions; guidance needs a set with masks, "
            "polygons or boxes (guidance.weight 0 leaves it out)"
        )
    check_number("share", share, "(0, 1]", whole=False)
    check_number("dilate", dilate, "[0, inf)", whole=True)
    keeps = torch.zeros(len(dataset), dtype=torch.bool)
    keeps[chosen(max(1, round(share * len(dataset))), dataset.labels)] = True
    if isinstance(dataset, InMemoryDataset):
        assert dataset.regions is not None
        regions = dataset.regions & keeps.to(dataset.regions.device)[:, None, None]
        return replace(dataset, regions=_coarse(regions, box, dilate))
    return _Annotated(dataset, keeps, box, dilate)


class _Annotated(Subset):
    """A data set whose regions are read and changed one by one."""

    def __init__(self, dataset: ImageDataset, keeps: Tensor, box: bool, dilate: int) -> None:
        super().__init__(dataset, torch.arange(len(dataset)))
        self._keeps, self._box, self._dilate = keeps, box, dilate

    def mask(self, index: int) -> Mask | None:
        mask = self._dataset.mask(index) if self._keeps[index] else None
        if mask is None or not (self._box or self._dilate):
            return mask
        return _coarse(torch.from_numpy(np.ascontiguousarray(mask))[None], self._box, self._dilate)[0].numpy()


def _coarse(regions: Tensor, box: bool, dilate: int) -> Tensor:
    """Regions, bool (N, H, W), as boxes, or enlarged, or both."""
    if box:
        regions = _between(regions.any(2))[:, :, None] & _between(regions.any(1))[:, None, :]
    for dim in (1, 2) if dilate else ():  # a square is a line along each side
        lines = regions.movedim(dim, 2).flatten(0, 1).to(torch.float32)
        wide = F.max_pool1d(lines[:, None], 2 * dilate + 1, stride=1, padding=dilate)[:, 0] > 0
        regions = wide.unflatten(0, (len(regions), -1)).movedim(2, dim)
    return regions


def _between(covered: Tensor) -> Tensor:
    """Whether each position of (N, L) lies between the first and the last that is covered."""
    count = covered.to(torch.int32).cumsum(1)
    return (count > 0) & (covered.flip(1).to(torch.int32).cumsum(1).flip(1) > 0)
