"""Networks against a reference: seed by seed where both have several, else image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from regard import bias, stats
from regard.errors import InputError
from regard.report.records import Note
from regard.report.seeds import SeedGroup
from regard.stats import Difference

COMPARED = ("accuracy", "box_ap", "mask_ap", "position_bias", "range_bias")


@dataclass(frozen=True)
class Comparison:
    """One network minus the reference in one measure.

    Attributes:
        network: its name.
        reference: its name.
        measure: one of `COMPARED`.
        over: what the difference is over: "seeds", or the test "images" of the first seed.
        difference: in [-1, 1].
    """

    network: str
    reference: str
    measure: str
    over: Literal["seeds", "images"]
    difference: Difference

    def to_record(self) -> dict[str, Any]:
        """A flat dict, JSON-ready; None for NaN, and for significance without a test."""
        one = self.difference
        numbers = {"difference": one.value, "difference_low": one.low, "difference_high": one.high}
        return {
            "network": self.network,
            "reference": self.reference,
            "measure": self.measure,
            "over": self.over,
            "n": one.n,
            **{key: None if math.isnan(value) else value for key, value in numbers.items()},
            "p": one.p,
            "p_adjusted": one.p_adjusted,
            "significant": None if one.p is None else one.significant,
        }


def compare(groups: Sequence[SeedGroup], reference: SeedGroup) -> tuple[list[Comparison], list[Note]]:
    """Every network against the reference, in every measure that both have. Nothing is corrected yet: see `stats.holm`.

    Args:
        groups: networks that were tested on the same images.
        reference: one of them.

    Returns:
        The comparisons, and notes on networks that cannot be compared, and on images and options that differ.
    """
    comparisons: list[Comparison] = []
    notes = []
    for group in groups:
        if group is reference:
            continue
        if by_seed := _over_seeds(group, reference):
            comparisons += by_seed
            continue
        about = f"{group.name}, {reference.name}"
        missing = [one.name for one in (group, reference) if one.first.bias is None]
        if missing:
            notes += [Note(about, f"not compared: no bias.json of {name}") for name in missing]
            continue
        assert group.first.bias is not None and reference.first.bias is not None, "neither is missing"
        try:
            comparison = bias.compare(group.first.bias, reference.first.bias)
        except InputError as error:
            notes.append(Note(about, f"not compared: {error}"))
            continue
        comparisons += [
            Comparison(group.name, reference.name, measure, "images", comparison.differences[measure])
            for measure in COMPARED
            if measure in comparison.differences
        ]
        notes += [Note(about, note) for note in comparison.notes]
    return comparisons, notes


def _over_seeds(group: SeedGroup, reference: SeedGroup) -> list[Comparison]:
    """In every measure that at least two seeds have of both; none if either is not finished."""
    comparisons = []
    for measure in COMPARED if group.finished and reference.finished else ():
        ours, theirs = group.values(measure), reference.values(measure)
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) > 1:
            difference = stats.over_seeds([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
            comparisons.append(Comparison(group.name, reference.name, measure, "seeds", difference))
    return comparisons
