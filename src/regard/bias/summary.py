"""What the images of a set, or of a part of it, come to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regard.bias.intervals import wilson

MEANS = (
    "spill",
    "miss",
    "iou",
    "energy_inside",
    "auc",
    "rank_accuracy",
    "top_k",
    "focus_area",
    "region_area",
)

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
    """

    value: float
    standard_error: float
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        """values: (N,); NaN is left out."""
        known = values[~np.isnan(values)].astype(np.float64)
        n = len(known)
        error = float(known.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        return cls(float(known.mean()) if n else math.nan, error, n)


@dataclass(frozen=True)
class Summary:
    """A set of images in a few numbers.

    Accuracy counts every image. All other rates and means leave out images whose map is flat or whose region is empty:
    there is nothing to compare.

    Attributes:
        images: all of them.
        flat_maps: those whose map is flat.
        empty_regions: those whose region is empty.
        accuracy: share of images whose highest class score is the label's.
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
        return _without_nan(asdict(self))


def comparable(rows: Rows) -> np.ndarray:
    """Which images have both a focus and a region, bool (N,)."""
    return ~rows["flat"] & (rows["region_area"] > 0)


def summarise(rows: Rows, which: np.ndarray | None = None) -> Summary:
    """The summary of all images, or of those where `which`, bool (N,), is true."""
    if which is not None:
        rows = {name: values[which] for name, values in rows.items()}
    counted = comparable(rows)
    return Summary(
        images=len(counted),
        flat_maps=int(rows["flat"].sum()),
        empty_regions=int((rows["region_area"] == 0).sum()),
        accuracy=Rate.of(rows["correct"]),
        position_bias=Rate.of(rows["position_bias"][counted]),
        range_bias=Rate.of(rows["range_bias"][counted]),
        pointing=Rate.of(rows["pointing"][counted]),
        means={name: Mean.of(rows[name][counted]) for name in MEANS},
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
