"""Metrics of published tables, each with the field of a run's metrics that it is read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regard.store.runs import share


@dataclass(frozen=True)
class Metric:
    """A metric in published tables.

    Attributes:
        name: key in table files.
        title: label in tables, with the unit.
        higher_is_better: whether higher values are better.
        field: key of a share in [0, 1] in a run's `metrics.jsonl`; None if runs do not measure it.
        complement: whether the metric is 1 minus the field, as an error is 1 minus an accuracy.
        is_cost: whether it counts parameters or operations; costs are not percentages, and not compared.
    """

    name: str
    title: str
    higher_is_better: bool
    field: str | None = None
    complement: bool = False
    is_cost: bool = False

    def of(self, row: Mapping[str, Any]) -> float | None:
        """The value in percent from a row of `metrics.jsonl`; None if the row has none."""
        value = None if self.field is None else share(row.get(self.field))
        if value is None:
            return None
        return 100 * (1 - value if self.complement else value)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy, %", True, "test_accuracy"),
        Metric("error", "test error, %", False, "test_accuracy", complement=True),
        Metric("top1", "top-1, %", True, "test_accuracy"),
        Metric("top5", "top-5, %", True, "test_top5"),
        Metric("top1_error", "top-1 error, %", False, "test_accuracy", complement=True),
        Metric("top5_error", "top-5 error, %", False, "test_top5", complement=True),
        # COCO's average precision over IoU 0.5 to 0.95, at 0.5, at 0.75, and for small, medium and large objects.
        *(
            Metric(f"{prefix}{name}", f"{title}, %", True, f"test_{kind}_{name}")
            for prefix, kind in (("", "box"), ("mask_", "mask"))
            for name, title in {
                **{"ap": "AP", "ap50": "AP50", "ap75": "AP75"},
                **{"ap_small": "AP small", "ap_medium": "AP medium", "ap_large": "AP large"},
            }.items()
        ),
        Metric("parameters", "parameters, M", False, is_cost=True),
        Metric("gflops", "GFLOPs", False, is_cost=True),
    )
}
"""All metrics by name."""
