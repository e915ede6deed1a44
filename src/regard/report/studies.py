"""What the pages of gates and of groups share: which classes they draw, and facts of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from regard.errors import InputError
from regard.figures import COLOURS
from regard.studies import GateActivations, GroupScores

CLASSES = 5
"""Classes drawn on a page unless stated."""
MOST_CLASSES = len(COLOURS) - 1


def spread_classes(classes: Sequence[int], count: int = CLASSES) -> list[int]:
    """At most so many of the classes, evenly spread over them."""
    count = min(count, len(classes))
    return [classes[(2 * i + 1) * len(classes) // (2 * count)] for i in range(count)]


def drawn_classes(results: Mapping[str, GateActivations | GroupScores], labels: Sequence[int] | None) -> list[int]:
    """The classes to draw: the given ones, or some evenly spread.

    Raises:
        InputError: no result, results of other classes or images, a class that was not counted, or too many classes.
    """
    if not results:
        raise InputError("no result given; give at least one")
    name, first = next(iter(results.items()))
    for other, result in results.items():
        if (result.classes, result.images) != (first.classes, first.images):
            raise InputError(f"{other} was studied on other images than {name}; study them on the same")
    if labels is None:
        return spread_classes(first.classes)
    for label in labels:
        if label not in first.classes:
            raise InputError(f"class {label} is not among those counted: {', '.join(map(str, first.classes))}")
    if not 1 <= len(labels) <= MOST_CLASSES:
        raise InputError(f"{len(labels)} classes to draw; a page has room for 1 to {MOST_CLASSES}")
    return list(dict.fromkeys(labels))


def image_facts(result: GateActivations | GroupScores, data: str) -> list[tuple[str, str]]:
    """The data and its images, as names and texts."""
    few, many = min(result.images), max(result.images)
    facts = [
        ("images", f"{sum(result.images):,}"),
        ("classes", f"{len(result.classes):,}"),
        ("images per class", f"{few:,}" if few == many else f"{few:,} to {many:,}"),
    ]
    return [("data", data), *facts] if data else facts
