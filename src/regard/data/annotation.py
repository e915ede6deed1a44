"""Data sets with fewer or coarser regions, as from cheaper annotation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.data.dataset import ImageDataset, InMemoryDataset, Mask, Subset, subset_indices
from regard.errors import InputError, check_number


def annotated(dataset: ImageDataset, *, share: float = 1.0, box: bool = False, dilate: int = 0) -> ImageDataset:
    """The data set with regions for fewer images, or with coarser regions; images and labels stay.

    Args:
        dataset: a data set with regions.
        share: share of the images that keep their region, at least one image; other regions are empty. The images are
            chosen as in `ImageDataset.subset`: balanced over the classes, always the same, and a smaller share is part
            of a larger one.
        box: replace each region by its bounding box.
        dilate: number of pixels by which each region or box is enlarged on every side (by a square).

    Raises:
        InputError: the data set has no regions, `share` is outside (0, 1], or `dilate` is negative.
    """
    if not dataset.has_masks:
        raise InputError(
            f"the {dataset.split or 'given'} set of {dataset.name!r} has no regions; guidance needs a data set with "
            "masks, polygons or boxes (guidance.weight 0 turns it off)"
        )
    check_number("share", share, "(0, 1]", whole=False)
    check_number("dilate", dilate, "[0, inf)", whole=True)
    has_region = torch.zeros(len(dataset), dtype=torch.bool)
    has_region[subset_indices(max(1, round(share * len(dataset))), dataset.labels)] = True
    if isinstance(dataset, InMemoryDataset):
        assert dataset.regions is not None
        regions = dataset.regions & has_region.to(dataset.regions.device)[:, None, None]
        return replace(dataset, regions=_coarsen(regions, box, dilate))
    return _AnnotatedDataset(dataset, has_region, box, dilate)


class _AnnotatedDataset(Subset):
    """A data set whose regions are changed when they are read."""

    def __init__(self, dataset: ImageDataset, has_region: Tensor, box: bool, dilate: int) -> None:
        super().__init__(dataset, torch.arange(len(dataset)))
        self._has_region, self._box, self._dilate = has_region, box, dilate

    def mask(self, index: int) -> Mask | None:
        mask = self._dataset.mask(index) if self._has_region[index] else None
        if mask is None or not (self._box or self._dilate):
            return mask
        return _coarsen(torch.from_numpy(np.ascontiguousarray(mask))[None], self._box, self._dilate)[0].numpy()


def _coarsen(regions: Tensor, box: bool, dilate: int) -> Tensor:
    """Replaces regions, bool (N, H, W), by their boxes and enlarges them."""
    if box:
        regions = _fill_between(regions.any(2))[:, :, None] & _fill_between(regions.any(1))[:, None, :]
    for dim in (1, 2) if dilate else ():  # dilation by a square is separable
        lines = regions.movedim(dim, 2).flatten(0, 1).to(torch.float32)
        dilated = F.max_pool1d(lines[:, None], 2 * dilate + 1, stride=1, padding=dilate)[:, 0] > 0
        regions = dilated.unflatten(0, (len(regions), -1)).movedim(2, dim)
    return regions


def _fill_between(covered: Tensor) -> Tensor:
    """Whether each position of (N, L) lies between the first and the last covered position."""
    count = covered.to(torch.int32).cumsum(1)
    return (count > 0) & (covered.flip(1).to(torch.int32).cumsum(1).flip(1) > 0)
