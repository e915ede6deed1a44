"""Guidance: the loss between where a network looks and the region of the object.

Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations" (ICCV 2023, arXiv 2303.11932),
compare the four losses here, and maps, layers and few or coarse annotations; the energy loss is theirs. `rrr` is that
of Ross et al., "Right for the Right Reasons" (IJCAI 2017, arXiv 1703.03717). That the energy score favours large
regions, and a correction of it: Sauter et al., "Studying How … - A Reproducibility Study" (TMLR 2024).
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.errors import InputError, unknown
from regard.maps.method import wide
from regard.transfer.terms import GuidanceForm

_LEAST = 1e-12  # a map whose sum or largest value is below this counts as zero


def guidance_loss(maps: Tensor, regions: Tensor, form: GuidanceForm = "energy") -> Tensor:
    """How far maps lie outside the regions; the mean over the images that have a region.

    With A the map of an image, A+ its positive part, and R the region on the grid of the map:

    - 'energy': `1 - sum(R A+) / sum(A+)`, in [0, 1], whatever the scale of the map (their "Energy loss");
    - 'l1': the mean of `|A+ / max(A+) - R|` over the pixels;
    - 'ppce': the mean of `-log(A+ / max(A+))` over the pixels of the region, weighted by R; a logarithm is at least
      -100, as in `torch.nn.functional.binary_cross_entropy`. It asks for a high map inside and nothing outside;
    - 'rrr': `sum((1 - R) A^2)` (the "right reasons" term of Ross et al.), which depends on the scale of the map.
      (The code of Rao et al. divides the map by its largest absolute value first.)

    Of an image without a region, or with an empty one, the loss is 0; if no image has one, so is the mean. A map
    without positive values has energy 1, and its l1 is the area of the region, its ppce 100. A constant positive map
    has energy and l1 1 - area of the region, and ppce 0. A region of all pixels has energy and rrr 0. The gradient is
    finite in all these cases, and 0 for the maps of images without a region and for maps without positive values (but
    rrr).

    Regions are brought to the size of the maps: R is the fraction of a map's pixel that the region covers. So a coarse
    map is not held to a border that it cannot draw, nor is it enlarged to the size of the images, as in Rao et al.,
    which costs more and gives each of its pixels a part in its neighbours.

    Args:
        maps: (N, h, w), floating point, of any scale and sign.
        regions: bool (N, H, W); an image whose region is unknown has an empty one.
        form: 'energy', 'l1', 'ppce' or 'rrr'.

    Returns:
        A scalar, float32 at least.

    Raises:
        InputError: maps and regions of other shapes or dtypes, an unknown form.
    """
    losses, guided = image_losses(maps, regions, form)
    return losses.sum() / guided.sum().clamp(min=1)


def image_losses(maps: Tensor, regions: Tensor, form: GuidanceForm = "energy") -> tuple[Tensor, Tensor]:
    """The loss of each image (N,), 0 without a region, and whether it has one, bool (N,); see `guidance_loss`."""
    if maps.ndim != 3 or not maps.is_floating_point():
        raise InputError(f"maps are {_describe(maps)}; expected floating point (N, h, w)")
    if regions.ndim != 3 or regions.dtype != torch.bool or len(regions) != len(maps):
        raise InputError(f"regions are {_describe(regions)}; expected bool ({len(maps)}, H, W), one for each map")
    if form not in get_args(GuidanceForm):
        raise unknown("form of the guidance loss", form, get_args(GuidanceForm))
    guided = regions.flatten(1).any(1)
    with torch.autocast(maps.device.type, enabled=False):
        maps = wide(maps)
        covered = F.adaptive_avg_pool2d(regions.to(maps.dtype), (maps.shape[1], maps.shape[2]))
        losses = _FORMS[form](maps.flatten(1), covered.flatten(1))
    return losses.where(guided, 0), guided


def _energy(maps: Tensor, covered: Tensor) -> Tensor:
    positive = maps.relu()
    return 1 - (positive * covered).sum(1) / _not_zero(positive.sum(1))


def _l1(maps: Tensor, covered: Tensor) -> Tensor:
    return (_scaled(maps) - covered).abs().mean(1)


def _ppce(maps: Tensor, covered: Tensor) -> Tensor:
    scaled = _scaled(maps)
    zero = scaled < 1e-30  # the derivative of the logarithm has to stay finite
    logs = scaled.masked_fill(zero, 1).log().masked_fill(zero, -100).clamp(min=-100)
    return -(covered * logs).sum(1) / _not_zero(covered.sum(1))


def _rrr(maps: Tensor, covered: Tensor) -> Tensor:
    return ((1 - covered) * maps.square()).sum(1)


_FORMS = {"energy": _energy, "l1": _l1, "ppce": _ppce, "rrr": _rrr}


def _scaled(maps: Tensor) -> Tensor:
    """The positive part, divided by its largest value."""
    positive = maps.relu()
    return positive / _not_zero(positive.amax(1, keepdim=True))


def _not_zero(values: Tensor) -> Tensor:
    """The values, and infinity for those that are next to 0: what is divided by them becomes 0, its gradient too."""
    return values.masked_fill(values < _LEAST, torch.inf)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
