"""What a table's numbers are, and where a run says them. All are in percent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regard.errors import unknown


@dataclass(frozen=True)
class Metric:
    """A measured quantity, in percent.

    Attributes:
        name: as table files say it.
        title: as tables show it.
        higher_is_better: whether more of it is better.
        field: of a line of a run's `metrics.jsonl`, a share in [0, 1]; None: runs do not say it.
        complement: whether the quantity is what the field leaves of 1, as an error is of an accuracy.
    """

    name: str
    title: str
    higher_is_better: bool
    field: str | None = None
    complement: bool = False

    def of(self, row: Mapping[str, Any]) -> float | None:
        """The value in percent after the epoch of a line of `metrics.jsonl`; None if it does not say it."""
        share = row.get(self.field) if self.field is not None else None
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            return None
        return 100 * (1 - share if self.complement else share)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy, %", True, "test_accuracy"),
        Metric("error", "test error, %", False, "test_accuracy", complement=True),
        Metric("top1", "top-1, %", True, "test_accuracy"),
        Metric("top5", "top-5, %", True, "test_top5"),
        Metric("top1_error", "top-1 error, %", False, "test_accuracy", complement=True),
        Metric("top5_error", "top-5 error, %", False, "test_top5", complement=True),
        # Of COCO: average precision over IoU 0.5 to 0.95, at 0.5, at 0.75, of small, medium and large objects.
        Metric("ap", "AP", True),
        Metric("ap50", "AP50", True),
        Metric("ap75", "AP75", True),
        Metric("ap_small", "AP small", True),
        Metric("ap_medium", "AP medium", True),
        Metric("ap_large", "AP large", True),
    )
}
"""The known ones, by name."""


def metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        InputError: there is none.
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]
