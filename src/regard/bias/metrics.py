"""Measures of maps against regions, one value per image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.bias.ranking import Ranking
from regard.errors import InputError, check_number
from regard.maps.features import describe
from regard.maps.method import resized

THRESHOLDS = tuple(i / 20 for i in range(1, 20))  # of mean and best IoU: 0.05, 0.1, …, 0.95
CURVE_THRESHOLDS = tuple(i / 100 for i in range(101))  # 0, 0.01, …, 1


@dataclass(frozen=True, eq=False)
class Curves:
    """Pixel counts of the focus of N images at the 101 thresholds 0, 0.01, …, 1.

    At threshold 0 the focus is the full image, so `inside[:, 0]` is the size of the region. Above 0 the focus of a
    constant map is empty.

    Attributes:
        inside: (N, 101), int32; pixels of the focus inside the region.
        outside: (N, 101), int32; pixels of the focus outside the region.
        beyond: (N,), uint8; the number of thresholds, from 0 on, at which the focus extends more than `margin` beyond
            the region.
    """

    inside: Tensor
    outside: Tensor
    beyond: Tensor


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of N images: tensors (N,), booleans and floating-point numbers.

    F is the focus, R the region, both sets of pixels; 0 / 0 is NaN.

    Attributes:
        position_bias: bool; F and R are disjoint. Source: the diagnosis of LSAS (arXiv 2305.05200), made exact.
        range_bias: bool; F and R intersect, and F is not inside R, or extends more than `margin` beyond it. Never
            together with position bias. Source: as above.
        spill: `|F outside R| / |F|`, 0 (best) to 1: 1 minus the precision of F.
        miss: `|R outside F| / |R|`, 0 (best) to 1: 1 minus the recall of F.
        iou: `|F and R| / |F or R|`, intersection over union (Jaccard), 0 to 1 (best).
        mean_iou: the mean of IoU over the `thresholds` of `measure`, 0 to 1, which does not depend on the choice of one
            threshold. Maps with gradual values cannot reach 1. Source: Choe et al. 2020 (arXiv 2001.07437) likewise
            judge maps independently of the threshold; they average precision over it.
        best_iou: the highest IoU over the same thresholds, 0 to 1 (best): the fit if the threshold is chosen per image,
            with the region known. Source: as above, where the best threshold is chosen once for the data set
            (MaxBoxAcc), which gives no more than this.
        pointing: bool; a pixel with the highest value lies in R, or within `tolerance` pixels of it; one of several is
            enough. Source: the pointing game, Zhang et al. 2016 (arXiv 1608.00507). Quantus computes the same without
            tolerance, except that an empty region or a constant map is a hit.
        energy_inside: the share of the map's sum that lies in R, 0 to 1 (best). Source: the energy-based pointing game,
            Wang et al. 2020 (Score-CAM, arXiv 1910.01279). Also called relevance mass accuracy and attribution
            localisation; for negative values, Quantus subtracts them in the former and adds their size in the latter.
        auc: the probability that a random pixel in R has a higher value than a random pixel outside, ties counting
            half; 0 to 1 (best), 0.5 for chance. Exact: the area under the ROC curve of the map as a classifier of
            pixels. Source: Fawcett 2006, "An introduction to ROC analysis".
        rank_accuracy: the share of the `|R|` highest pixels that lies in R, 0 to 1 (best). For pixels that tie for the
            last ranks, the expected value over all orders. Source: relevance rank accuracy, Arras et al. 2020 (arXiv
            2003.07258). Quantus breaks ties by the order of its sort.
        top_k: the share of the `top_k` highest pixels that lies in R, 0 to 1 (best); ties as above. Source: top-k
            intersection, Theiner et al. 2021 (arXiv 2104.14995).
        focus_area: `|F| / pixels`, 0 to 1.
        region_area: `|R| / pixels`, 0 to 1.
        constant: bool; the clipped map has a single value, see `measure`.
        curves: the focus at other thresholds, which determines `spill`, `miss`, `iou` and both biases there.
    """

    position_bias: Tensor
    range_bias: Tensor
    spill: Tensor
    miss: Tensor
    iou: Tensor
    mean_iou: Tensor
    best_iou: Tensor
    pointing: Tensor
    energy_inside: Tensor
    auc: Tensor
    rank_accuracy: Tensor
    top_k: Tensor
    focus_area: Tensor
    region_area: Tensor
    constant: Tensor
    curves: Curves

    def __len__(self) -> int:
        return len(self.constant)

    def items(self) -> list[tuple[str, Tensor]]:
        """(name, values) of every measure, in the order above."""
        return [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "curves"]


@torch.no_grad()
def measure(
    maps: Tensor,
    regions: Tensor,
    threshold: float = 0.5,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    tolerance: int = 0,
    margin: int = 0,
    top_k: int | None = None,
) -> Measures:
    """Every measure of every map against its region.

    Maps are clipped at 0. The focus is computed from the clipped map scaled to [0, 1] (see `focus`), energy and ranks
    from the clipped map. Maps are first resized to the regions if their sizes differ, bilinearly
    (`align_corners=False`). Everything runs on the device of the maps, without synchronisation. One sort of each
    image's pixels serves all thresholds and ranks (see `Ranking`).

    Special cases:

    - *A constant map*, whose clipped values are all equal, has no focus: position bias without range bias, spill NaN,
      miss 1, IoU 0 at every threshold, pointing False, AUC 0.5, rank accuracy and top-k at chance (the region's area),
      energy also the region's area, or NaN if the map is 0 everywhere. A map with NaN or infinite values counts as 0
      everywhere.
    - *An empty region*: position bias without range bias, spill 1, IoU at every threshold, energy and top-k 0, pointing
      False; miss, AUC and rank accuracy NaN.
    - *Both*: position bias without range bias, spill, miss and IoU NaN, the others as for an empty region.
    - *A region that covers the image*: no bias (unless the map is constant), spill 0, energy, rank accuracy and top-k
      1; AUC NaN.

    Args:
        maps: (N, h, w), of any real dtype.
        regions: (N, H, W), bool, on the same device.
        threshold: threshold of the focus, in (0, 1].
        thresholds: thresholds of mean and best IoU, at least one, each in (0, 1].
        tolerance: tolerance of the pointing game, in pixels (Euclidean distance); the published value is 15 for images
            of about 500 pixels.
        margin: margin of range bias, in pixels (Euclidean distance): a focus that extends no further beyond the region
            counts as inside. Half a cell of a map is below its resolution: 16 for a map of 7 x 7 cells over 224 pixels.
        top_k: the number of pixels for top-k; None: one in 50, at least 1 (about 1,000 of 224 x 224).

    Returns:
        Numbers in float32, or float64 for float64 maps.

    Raises:
        InputError: shapes, dtypes or devices that do not fit, a number out of range.
    """
    _check(maps, regions)
    check_focus(threshold, margin, tolerance)
    levels = _levels(threshold, thresholds, maps)
    pixels = regions.shape[1] * regions.shape[2]
    k = max(1, pixels // 50) if top_k is None else top_k
    if not 1 <= k <= pixels:
        raise InputError(f"top_k {top_k}; expected 1 to {pixels}, the pixels of an image")

    maps, low, high = _clipped(maps, regions.shape[-2:])
    constant = low == high
    values, inside = maps.flatten(1), regions.flatten(1)  # (N, H W)
    dtype = values.dtype
    ranking = Ranking(values, inside)
    region_size = ranking.region

    # Scaling keeps the order of pixels, so the focus at a threshold is a suffix of the sorted pixels. (N, levels)
    starts = torch.searchsorted(_scaled(ranking.values, low, high), levels.expand(len(maps), -1).contiguous())
    focus_sizes = pixels - starts
    intersections = ranking.inside_highest(focus_sizes)
    outside = focus_sizes - intersections
    beyond = outside > 0
    if margin:
        distant = _scaled(values, low, high).masked_fill(_dilated(regions, margin).flatten(1), -1)
        beyond = distant.amax(1, keepdim=True) >= levels
    ious = _ratio(intersections, region_size[:, None] + outside, dtype)[:, 1 : 1 + len(thresholds)]
    inside_curve, outside_curve = (counts[:, -len(CURVE_THRESHOLDS) :].int() for counts in (intersections, outside))
    relative = values / high[:, None]  # keeps the sum of large values finite
    hits = ranking.peak_inside()
    if tolerance:
        hits = ((values == high[:, None]) & _dilated(regions, tolerance).flatten(1)).any(1)
    precisions = ranking.precision(torch.stack((region_size, torch.full_like(region_size, k)), 1))
    return Measures(
        **focus_measures(intersections[:, 0], outside[:, 0], region_size, pixels, beyond[:, 0], dtype),
        mean_iou=ious.mean(1),
        best_iou=ious.amax(1),
        pointing=hits & ~constant,
        energy_inside=(relative * inside).sum(1) / relative.sum(1),
        auc=ranking.auc(),
        rank_accuracy=precisions[:, 0],
        top_k=precisions[:, 1],
        region_area=_ratio(region_size, pixels, dtype),
        constant=constant,
        curves=Curves(inside_curve, outside_curve, beyond[:, -len(CURVE_THRESHOLDS) :].sum(1).to(torch.uint8)),
    )


@torch.no_grad()
def focus(maps: Tensor, threshold: float = 0.5) -> Tensor:
    """The pixels whose value, clipped at 0 and scaled to [0, 1] by the image's own range, is at least the threshold.

    Args:
        maps: (N, H, W), of any real dtype.
        threshold: in (0, 1].

    Returns:
        bool (N, H, W); False everywhere for a constant map (see `measure`).

    Raises:
        InputError: maps of another shape, a threshold out of range.
    """
    check_focus(threshold)
    return scaled(maps) >= threshold


@torch.no_grad()
def scaled(maps: Tensor) -> Tensor:
    """Maps clipped at 0, each scaled to [0, 1] by its own range; `focus` thresholds them.

    Args:
        maps: (N, H, W), of any real dtype.

    Returns:
        (N, H, W); 0 everywhere for a constant map (see `measure`).

    Raises:
        InputError: maps of another shape.
    """
    _check_maps(maps)
    maps, low, high = _clipped(maps, maps.shape[-2:])
    return _scaled(maps.flatten(1), low, high).unflatten(1, maps.shape[1:])


def _scaled(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values (N, P) scaled to [0, 1] by their ranges, ends (N,); 0 for an empty range."""
    spread = high - low
    return (values - low[:, None]) / spread.where(spread > 0, 1)[:, None]


def _clipped(maps: Tensor, size: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Maps resized and clipped at 0, or 0 everywhere if not finite; and their lowest and highest values (N,)."""
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    finite = (maps.amin((1, 2)) > -torch.inf) & (maps.amax((1, 2)) < torch.inf)  # False for NaN
    maps = resized(maps, size).clamp(min=0).where(finite[:, None, None], 0)
    return maps, maps.amin((1, 2)), maps.amax((1, 2))


def _dilated(regions: Tensor, radius: int) -> Tensor:
    """The pixels within `radius` of the region: for each row offset of a disc, its rows shifted and widened."""
    _, height, width = regions.shape
    radius = min(radius, height + width)  # longer than the diagonal
    # The number of region pixels left of each column, whose differences show whether there are any in between.
    left = F.pad(regions.cumsum(2, dtype=torch.int32), (1, 0))  # (N, H, W + 1)
    column = torch.arange(width, device=regions.device)
    dilated = torch.zeros_like(regions)
    for down in range(-min(radius, height - 1), min(radius, height - 1) + 1):
        reach = math.isqrt(radius * radius - down * down)
        begin, end = (column - reach).clamp(min=0), (column + reach + 1).clamp(max=width)
        source = left[:, max(0, -down) : height - max(0, down)]
        target = dilated[:, max(0, down) : height - max(0, -down)]
        target |= source.index_select(2, end) > source.index_select(2, begin)
    return dilated


def check_focus(threshold: float, margin: int = 0, tolerance: int = 0) -> None:
    """Raises InputError unless 0 < threshold <= 1, and margin and tolerance are whole numbers of pixels."""
    check_number("threshold", threshold, "(0, 1]", whole=False)
    for name, pixels in (("margin", margin), ("tolerance", tolerance)):
        check_number(name, pixels, "[0, 10^6]", whole=True)


def _ratio(count: Tensor, total: Tensor | int, dtype: torch.dtype) -> Tensor:
    return count.to(dtype) / total


def focus_measures(
    inside: Tensor, outside: Tensor, region: Tensor, pixels: Tensor | int, beyond: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The measures that depend on the threshold.

    They follow from the numbers of pixels of the focus `inside` and `outside` the region, of the `region` and of the
    image, (N,), and from whether the focus extends more than the margin `beyond` the region, bool (N,).
    """
    focus = inside + outside
    return {
        "position_bias": inside == 0,
        "range_bias": (inside > 0) & beyond,
        "spill": _ratio(outside, focus, dtype),
        "miss": _ratio(region - inside, region, dtype),
        "iou": _ratio(inside, region + outside, dtype),
        "focus_area": _ratio(focus, pixels, dtype),
    }


def _levels(threshold: float, thresholds: Sequence[float], maps: Tensor) -> Tensor:
    """The thresholds of the focus, of mean and best IoU, and of the curves, in one tensor."""
    if not len(thresholds):
        raise InputError("no thresholds for mean and best IoU; give at least one, such as 0.5")
    for level in thresholds:
        check_focus(level)
    dtype = torch.promote_types(maps.dtype, torch.float32)
    levels = torch.tensor((threshold, *thresholds, *CURVE_THRESHOLDS), dtype=dtype)
    return levels.to(maps.device, non_blocking=True)


def _check(maps: Tensor, regions: Tensor) -> None:
    _check_maps(maps)
    if not isinstance(regions, Tensor) or regions.ndim != 3 or regions.dtype != torch.bool or 0 in regions.shape[1:]:
        raise InputError(f"regions are {describe(regions)}; expected torch.bool (N, H, W)")
    if len(maps) != len(regions):
        raise InputError(f"{len(maps)} maps for {len(regions)} regions; expected the same number")
    if maps.device != regions.device:
        raise InputError(f"maps are on {maps.device}, regions on {regions.device}; move one of them")


def _check_maps(maps: Tensor) -> None:
    if not isinstance(maps, Tensor) or maps.ndim != 3 or maps.is_complex() or 0 in maps.shape[1:]:
        raise InputError(f"maps are {describe(maps)}; expected real numbers (N, H, W)")
