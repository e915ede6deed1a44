"""Rates and means with intervals over rows of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from regard.bias.interventions import VARIANTS
from regard.bias.rows import COLUMNS
from regard.stats import Estimate, mean, proportion

RATES = ("accuracy", "position_bias", "range_bias", "pointing")
MEANS = tuple(name for name, dtype in COLUMNS.items() if dtype is np.float32 and name != "probability")


@dataclass(frozen=True)
class Summary:
    """Rates and means over a selection of images.

    Accuracy counts every image that has a label. All others leave out images whose map is constant or whose region is
    empty. Rates have Wilson's intervals, means Student's, clipped to [0, 1].

    Attributes:
        images: number of images.
        constant_maps: number of images whose map is constant.
        empty_regions: number of images whose region is empty.
        accuracy: share of images whose predicted class is the label; n = 0 if the results are not scored.
        position_bias, range_bias, pointing: shares of images.
        means: name of measure -> mean over the images where it is not NaN.
        interventions: variant -> accuracy over the images that have it; empty if it was not measured.
    """

    images: int
    constant_maps: int
    empty_regions: int
    accuracy: Estimate
    position_bias: Estimate
    range_bias: Estimate
    pointing: Estimate
    means: dict[str, Estimate]
    interventions: dict[str, Estimate] = field(default_factory=dict)

    def estimates(self) -> dict[str, Estimate]:
        """Name of measure -> rate or mean."""
        return {**{name: getattr(self, name) for name in RATES}, **self.means, **self.interventions}

    @classmethod
    def of(cls, rows: Mapping[str, np.ndarray], which: np.ndarray | None = None, *, scored: bool = True) -> Summary:
        """Summarises rows.

        Args:
            rows: name -> (N,), as in `Results`.
            which: bool (N,) or indices of the rows; None: all.
            scored: whether labels are outputs of the model, so that `correct` is meaningful.
        """
        names = [name for name in (*COLUMNS, *VARIANTS) if name in rows]
        rows = {name: rows[name] if which is None else rows[name][which] for name in names}
        counted = comparable(rows)
        return cls(
            images=len(counted),
            constant_maps=int(rows["constant"].sum()),
            empty_regions=int((rows["region_area"] == 0).sum()),
            accuracy=rate(rows["correct"][(rows["label"] >= 0) & scored]),
            position_bias=rate(rows["position_bias"][counted]),
            range_bias=rate(rows["range_bias"][counted]),
            pointing=rate(rows["pointing"][counted]),
            means={name: mean(rows[name][counted], 0, 1) for name in MEANS},
            interventions={name: rate(rows[name][~np.isnan(rows[name])] == 1) for name in VARIANTS if name in rows},
        )


def comparable(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether an image has both a focus and a region, bool (N,)."""
    return ~rows["constant"] & (rows["region_area"] > 0)


def rate(flags: np.ndarray) -> Estimate:
    """The share of flags (N,) that are true."""
    return proportion(int(flags.sum()), len(flags))
