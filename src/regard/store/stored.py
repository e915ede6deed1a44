"""A run as its folder says it, without opening the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StoredRun:
    """What is known of a run folder from its recipe, metrics and environment.

    Attributes:
        name: of its folder.
        recipe: `recipe.yaml` as it is, fields of fields; fields that were added since are not in it. Empty if broken.
        row: the last whole line of `metrics.jsonl`; empty before the first epoch is finished.
        images_per_second: the median over the finished epochs; None if there are none.
        environment: `environment.json`, without the names of the classes; empty where it is missing.
        classes: how many classes there are; None where that is not said.
        weights: whether `last.safetensors` is there.
        problem: what is wrong with the folder, in a line; empty if nothing is. A torn last line of metrics is no
            problem: the epoch counts as not finished.
    """

    name: str
    recipe: Mapping[str, Any] = field(repr=False)
    row: Mapping[str, Any] = field(default_factory=dict, repr=False)
    images_per_second: float | None = None
    environment: Mapping[str, Any] = field(default_factory=dict, repr=False)
    classes: int | None = None
    weights: bool = False
    problem: str = ""

    @property
    def epochs(self) -> int:
        """How many are finished."""
        epoch = self.row.get("epoch", 0)
        return epoch if isinstance(epoch, int) else 0

    @property
    def epochs_asked(self) -> int:
        """How many its recipe asks for; 0 if it does not say."""
        epochs = (self.recipe.get("schedule") or {}).get("epochs", 0)
        return epochs if isinstance(epochs, int) else 0

    @property
    def seed(self) -> int:
        seed = self.recipe.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def teachers(self) -> list[str]:
        """As its recipe calls them."""
        teacher = (self.recipe.get("transfer") or {}).get("teacher") or []
        return [str(one) for one in (teacher if isinstance(teacher, list) else [teacher])]

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, and the weights are there, and nothing is wrong."""
        return not self.problem and self.weights and 0 < self.epochs_asked <= self.epochs
