"""What the images of a set, or of a part of it, come to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regard.bias.intervals import student, wilson

MEANS = (
    "spill",
    "miss",
    "iou",
    "mean_iou",
    "best_iou",
    "energy_inside",
    "auc",
    "rank_accuracy",
    "top_k",
    "focus_area",
    "region_area",
)

# Size -> the share of the image's pixels that a region of it takes at least, and stays below: the bounds are squares of
# a quarter and of half the image's side.
SIZES = {"small": (0.0, 1 / 16), "medium": (1 / 16, 1 / 4), "large": (1 / 4, math.inf)}

Rows = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Rate:
    """A share of images.

    Attributes:
        successes: images that count.
        total: images looked at.
        value: successes / total; NaN of none.
        low: lower end of the 95% Wilson interval.
        high: upper end.
    """

    successes: int
    total: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, flags: np.ndarray) -> Rate:
        """The share of true values; flags: bool (N,)."""
        successes, total = int(flags.sum()), len(flags)
        return cls(successes, total, successes / total if total else math.nan, *wilson(successes, total))


@dataclass(frozen=True)
class Mean:
    """The mean of a measure over images.

    Attributes:
        value: NaN of none.
        standard_error: standard deviation (N - 1) / sqrt(N); NaN of fewer than two.
        count: images for which the measure is a number.
        low: lower end of the 95% interval of Student's t (see `student`), cut at 0; NaN of fewer than two.
        high: upper end, cut at 1, as measures lie between 0 and 1.
    """

    value: float
    standard_error: float
    count: int
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """The mean of measures of the range 0 to 1; values: (N,); NaN is left out."""
        known = values[~np.isnan(values)].astype(np.float64)
        n = len(known)
        mean = float(known.mean()) if n else math.nan
        error = float(known.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        low, high = student(mean, error, n)
        return cls(mean, error, n, float(np.maximum(low, 0)), float(np.minimum(high, 1)))


@dataclass(frozen=True)
class Summary:
    """A set of images in a few numbers.

    Accuracy counts every image that has a label. All other rates and means leave out images whose map is flat or whose
    region is empty: there is nothing to compare.

    Attributes:
        images: all of them.
        flat_maps: those whose map is flat.
        empty_regions: those whose region is empty.
        accuracy: share of images whose highest class score is the label's; of none (total 0) if this means nothing.
        position_bias: rate, of images with a focus and a region.
        range_bias: likewise.
        pointing: likewise.
        means: name of measure -> mean.
    """

    images: int
    flat_maps: int
    empty_regions: int
    accuracy: Rate
    position_bias: Rate
    range_bias: Rate
    pointing: Rate
    means: dict[str, Mean]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what is no number is None."""
        return without_nan(asdict(self))


def comparable(rows: Rows) -> np.ndarray:
    """Which images have both a focus and a region, bool (N,)."""
    return ~rows["flat"] & (rows["region_area"] > 0)


def by_size(rows: Rows) -> dict[str, np.ndarray]:
    """Size of the region, one of `SIZES` -> which images have one of that size, bool (N,). An empty region has none."""
    area = rows["region_area"]
    return {name: (area > 0) & (least <= area) & (area < below) for name, (least, below) in SIZES.items()}


def summarise(rows: Rows, which: np.ndarray | None = None, *, scored: bool = True) -> Summary:
    """What the images of a set come to.

    Args:
        rows: name -> (N,), as in a `Report`.
        which: bool (N,) or places, whole numbers: of these alone; None: of all.
        scored: whether `correct` means anything.
    """
    if which is not None:
        rows = {name: values[which] for name, values in rows.items()}
    counted = comparable(rows)
    return Summary(
        images=len(counted),
        flat_maps=int(rows["flat"].sum()),
        empty_regions=int((rows["region_area"] == 0).sum()),
        accuracy=Rate.of(rows["correct"][(rows["label"] >= 0) & scored]),
        position_bias=Rate.of(rows["position_bias"][counted]),
        range_bias=Rate.of(rows["range_bias"][counted]),
        pointing=Rate.of(rows["pointing"][counted]),
        means={name: Mean.of(rows[name][counted]) for name in MEANS},
    )


def without_nan(value: Any) -> Any:
    """The same, with None for every NaN: JSON has none."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
