"""Two evaluations on the same images, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regard.bias.intervals import PairedDifference, paired_difference
from regard.bias.report import Report
from regard.bias.summary import comparable
from regard.errors import InputError


@dataclass(frozen=True)
class Difference(PairedDifference):
    """The difference of a rate between two reports, the first minus the second, and what may be said of it.

    Attributes:
        sentence: says "higher" or "lower" only if the interval leaves 0 out.
    """

    sentence: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` says of two reports; iterates over its three differences.

    Attributes:
        accuracy: over all images.
        position_bias: over the images with a region and, in both reports, a focus.
        range_bias: likewise.
        notes: settings in which the two reports differ, which may explain more than the models do.
    """

    accuracy: Difference
    position_bias: Difference
    range_bias: Difference
    notes: tuple[str, ...]

    def __iter__(self) -> Iterator[Difference]:
        return iter((self.accuracy, self.position_bias, self.range_bias))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "notes": list(self.notes)}

    def __str__(self) -> str:
        return "\n".join([*(difference.sentence for difference in self), *self.notes])


def compare(first: Report, second: Report) -> Comparison:
    """How two evaluations of the same images differ: the first minus the second, image by image.

    The intervals (95%, Newcombe 1998) and tests (McNemar, exact) are those of `paired_difference`. They say what other
    images might give; not what another training run might.

    Raises:
        InputError: the reports are not of the same images in the same order, or no image has a focus in both.
    """
    a, b = first.rows, second.rows
    if len(first) != len(second):
        raise InputError(f"reports of {len(first)} and {len(second)} images; expected two of the same images")
    for name in ("label", "region_area"):
        differing = int((a[name] != b[name]).sum())
        if differing:
            raise InputError(
                f"the reports differ in the {name} of {differing} of {len(first)} images; "
                "expected two of the same images in the same order"
            )
    both = comparable(a) & comparable(b)
    if not both.any():
        raise InputError(f"none of {len(first)} images has a region and a focus in both reports; nothing to compare")
    names = _names(first, second)
    settings = ("method", "layer", "target", "threshold")
    differ = [name for name in settings if getattr(first, name) != getattr(second, name)]
    return Comparison(
        accuracy=_difference("accuracy", names, a["correct"], b["correct"]),
        position_bias=_difference("position bias", names, a["position_bias"][both], b["position_bias"][both]),
        range_bias=_difference("range bias", names, a["range_bias"][both], b["range_bias"][both]),
        notes=tuple(f"The {name} differs: {getattr(first, name)}, {getattr(second, name)}." for name in differ),
    )


def _names(first: Report, second: Report) -> tuple[str, str]:
    same = first.model == second.model
    return (f"the first {first.model}", f"the second {second.model}") if same else (first.model, second.model)


def _difference(what: str, names: tuple[str, str], a: np.ndarray, b: np.ndarray) -> Difference:
    paired = paired_difference(a, b)
    return Difference(**asdict(paired), sentence=_sentence(what, names, paired))


def _sentence(what: str, names: tuple[str, str], paired: PairedDifference) -> str:
    first, second = names
    points = f"{abs(100 * paired.difference):.1f} points"
    facts = (
        f"95% interval {100 * paired.low:+.1f} to {100 * paired.high:+.1f}, McNemar p {_probability(paired.p)}, "
        f"{paired.images:,} images"
    )
    if paired.resolved:
        return f"{what}: {first} {'higher' if paired.low > 0 else 'lower'} than {second} by {points} ({facts})"
    return f"{what}: {first} and {second} differ by {points}, inside the interval: not resolved ({facts})"


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
