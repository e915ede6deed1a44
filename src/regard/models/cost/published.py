"""What SA-Net's table says networks cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from regard.models.cost.complexity import Complexity


@dataclass(frozen=True)
class Published:
    """A row of the table, as printed.

    Attributes:
        source: the paper.
        parameters: in millions.
        gflops: as `Complexity.published_flops` counts them, in thousands of millions.
        note: why our count differs in its last digit; empty where it does not.
    """

    source: str
    parameters: str
    gflops: str
    note: str = ""

    def difference(self, counted: Complexity) -> str:
        """What the paper prints where that is not what was counted, and why; empty where all digits agree."""
        ours = (f"{counted.parameters / 1e6:.3f}", f"{counted.published_flops / 1e9:.3f}")
        pairs = zip(("M parameters", "GFLOPs"), (self.parameters, self.gflops), ours, strict=True)
        printed = [f"{theirs} {unit}" for unit, theirs, our in pairs if theirs != our]
        if not printed:
            return ""
        return f"{self.source} prints {' and '.join(printed)}" + (f": {self.note}" if self.note else "")


def published(network: str, attention: str | None, image_size: int, classes: int) -> Published | None:
    """The row of SA-Net's table for a network with plain-gated attention in all its stages; None if there is none."""
    size, count, rows = _table()
    return rows.get((network, attention or "none")) if (image_size, classes) == (size, count) else None


@cache
def _table() -> tuple[int, int, dict[tuple[str, str], Published]]:
    content = yaml.safe_load((files("regard.models.cost") / "sa_net.yaml").read_text(encoding="utf-8"))
    rows = {
        (row["network"], row["attention"]): Published(
            content["source"], row["parameters"], row["gflops"], row.get("note", "")
        )
        for row in content["rows"]
    }
    return content["image_size"], content["classes"], rows
