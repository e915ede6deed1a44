"""Guidance: the loss between the maps of a network and the regions of objects.

Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations" (ICCV 2023, arXiv 2303.11932),
introduce the energy loss and compare the four losses here, maps, layers, and few or coarse annotations. `rrr` is from
Ross et al., "Right for the Right Reasons" (IJCAI 2017, arXiv 1703.03717). Sauter et al., "Studying How … - A
Reproducibility Study" (TMLR 2024), show that the energy score favours large regions, and correct it.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.errors import InputError, unknown
from regard.maps.features import describe
from regard.maps.method import promote
from regard.transfer.terms import GuidanceForm

_EPSILON = 1e-12  # a map whose sum or largest value is below this counts as zero


def guidance_loss(maps: Tensor, regions: Tensor, form: GuidanceForm = "energy") -> Tensor:
    """The loss of maps that lie outside their regions, averaged over the images that have a region.

    With A the map of an image, A+ its positive part, and R the region on the grid of the map:

    - 'energy': `1 - sum(R A+) / sum(A+)`, in [0, 1], independent of the scale of the map (the "Energy loss" of Rao et
      al.);
    - 'l1': the mean of `|A+ / max(A+) - R|` over the pixels;
    - 'ppce': the mean of `-log(A+ / max(A+))` over the pixels of the region, weighted by R. Logarithms are at least
      -100, as in `torch.nn.functional.binary_cross_entropy`. It favours high values inside and ignores those outside;
    - 'rrr': `sum((1 - R) A^2)` (the "right reasons" term of Ross et al.), which depends on the scale of the map.
      (The code of Rao et al. divides the map by its largest absolute value first.)

    The loss of an image without a region, or with an empty one, is 0; if all images are like this, the mean is 0 too. A
    map without positive values has energy 1, l1 equal to the area of the region, and ppce 100. A constant positive map
    has energy and l1 equal to 1 - area of the region, and ppce 0. A region of all pixels has energy and rrr 0. The
    gradient is finite in all these cases, and 0 for images without a region and, except for rrr, for maps without
    positive values.

    Regions are resized to the maps: R is the fraction of a map's pixel that the region covers. Thus a coarse map is not
    compared with a border that it cannot resolve. Rao et al. enlarge the maps to the size of the images instead, which
    costs more and spreads each of their pixels over its neighbours.

    Args:
        maps: (N, h, w), floating point, with any scale and sign.
        regions: bool (N, H, W), empty for an image whose region is unknown.
        form: 'energy', 'l1', 'ppce' or 'rrr'.

    Returns:
        A scalar, at least float32.

    Raises:
        InputError: maps or regions of other shapes or dtypes, an unknown form.
    """
    losses, guided = image_losses(maps, regions, form)
    return losses.sum() / guided.sum().clamp(min=1)


def image_losses(maps: Tensor, regions: Tensor, form: GuidanceForm = "energy") -> tuple[Tensor, Tensor]:
    """The guidance loss of each image (N,), 0 without a region, and whether it has a region, bool (N,)."""
    if maps.ndim != 3 or not maps.is_floating_point():
        raise InputError(f"maps are {describe(maps)}; expected floating point (N, h, w)")
    if regions.ndim != 3 or regions.dtype != torch.bool or len(regions) != len(maps):
        raise InputError(f"regions are {describe(regions)}; expected bool ({len(maps)}, H, W), one per map")
    if form not in get_args(GuidanceForm):
        raise unknown("form of the guidance loss", form, get_args(GuidanceForm))
    guided = regions.flatten(1).any(1)
    with torch.autocast(maps.device.type, enabled=False):
        maps = promote(maps)
        covered = F.adaptive_avg_pool2d(regions.to(maps.dtype), (maps.shape[1], maps.shape[2]))
        losses = _FORMS[form](maps.flatten(1), covered.flatten(1))
    return losses.where(guided, 0), guided


def _energy(maps: Tensor, covered: Tensor) -> Tensor:
    positive = maps.relu()
    return 1 - (positive * covered).sum(1) / _zero_to_inf(positive.sum(1))


def _l1(maps: Tensor, covered: Tensor) -> Tensor:
    return (_scaled(maps) - covered).abs().mean(1)


def _ppce(maps: Tensor, covered: Tensor) -> Tensor:
    scaled = _scaled(maps)
    zero = scaled < 1e-30  # keeps the derivative of the logarithm finite
    logs = scaled.masked_fill(zero, 1).log().masked_fill(zero, -100).clamp(min=-100)
    return -(covered * logs).sum(1) / _zero_to_inf(covered.sum(1))


def _rrr(maps: Tensor, covered: Tensor) -> Tensor:
    return ((1 - covered) * maps.square()).sum(1)


_FORMS = {"energy": _energy, "l1": _l1, "ppce": _ppce, "rrr": _rrr}


def _scaled(maps: Tensor) -> Tensor:
    """The positive part, divided by its largest value."""
    positive = maps.relu()
    return positive / _zero_to_inf(positive.amax(1, keepdim=True))


def _zero_to_inf(divisors: Tensor) -> Tensor:
    """Replaces divisors near 0 by infinity, so that the quotients and their gradients are 0."""
    return divisors.masked_fill(divisors < _EPSILON, torch.inf)
