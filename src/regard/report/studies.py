"""What the studies of gates and of groups share: which classes are shown, how they are called, numbers for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from regard.errors import InputError
from regard.report.svg import COLOURS

SHOWN = 5  # classes on a page, unless asked for otherwise
MOST_SHOWN = COLOURS - 1  # each with a colour of its own


def some_classes(classes: Sequence[int], count: int = SHOWN) -> list[int]:
    """So many of the classes, evenly spread over them, so that nobody picked them; all if there are no more."""
    count = min(count, len(classes))
    return [classes[(2 * i + 1) * len(classes) // (2 * count)] for i in range(count)]


def shown_classes(counted: Sequence[int], asked: Sequence[int] | None) -> list[int]:
    """The classes to show: those asked for, or some of those counted.

    Raises:
        InputError: a class that was not counted, or too many.
    """
    if asked is None:
        return some_classes(counted)
    for label in asked:
        if label not in counted:
            raise InputError(f"class {label} is not among those counted: {', '.join(map(str, counted))}")
    if not 1 <= len(asked) <= MOST_SHOWN:
        raise InputError(f"{len(asked)} classes to show; a page has room for 1 to {MOST_SHOWN}")
    return list(dict.fromkeys(asked))


def counted(images: Sequence[int], data: str) -> str:
    """How many images there were: 1,000 images of 10 classes, 100 of each, of clutter test"""
    few, many = min(images), max(images)
    each = f"{few:,}" if few == many else f"{few:,} to {many:,}"
    classes = "1 class" if len(images) == 1 else f"{len(images):,} classes, {each} of each"
    return f"{sum(images):,} images of {classes}" + (f", of {data}" if data else "")


def class_name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else f"class {label}"


def plain(values: Tensor | float) -> list[float | None] | float | None:
    """Numbers as JSON has them, with 7 digits; None where one is not known."""
    if isinstance(values, Tensor):
        return [_plain(value) for value in values.tolist()]
    return _plain(values)


def _plain(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None
