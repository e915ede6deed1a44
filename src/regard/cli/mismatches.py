"""Where images come to a network otherwise than in its training: said, so that the score is not taken for its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from regard.training import Preprocessing, Pretrained


def tell_mismatches(network: Pretrained, seen: Preprocessing, images: str, say: Callable[[str], None]) -> None:
    """Says, a line each, in what images differ from those a network knows.

    Args:
        network: as it was trained.
        seen: how the images come to it now; what is None in it is not known, and not compared.
        images: the name of their set.
        say: is told.
    """
    about = network.preprocessing
    if about.size is not None and seen.size not in (None, about.size):
        say(f"note: {network.source} was trained on images of {about.size} pixels; these of {images} have {seen.size}")
    for part, verb in (
        ("mean", "normalised"),
        ("std", "normalised"),
        ("crop_pct", "fitted"),
        ("crop_mode", "fitted"),
        ("interpolation", "fitted"),
    ):
        own, now = getattr(about, part), getattr(seen, part)
        if own is not None and now is not None and not _same(own, now):
            say(
                f"note: {network.source} knows images {verb} with {part} {_said(own)}; these of {images} come with "
                f"{_said(now)}"
            )


def _same(own: Any, now: Any) -> bool:
    if isinstance(own, str):
        return bool(own == now)
    pairs = zip(own, now, strict=True) if isinstance(own, tuple | list) else ((own, now),)
    return all(math.isclose(a, b, abs_tol=1e-6) for a, b in pairs)


def _said(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(f"{each:.4g}" for each in value) + "]"
    return value if isinstance(value, str) else f"{value:.4g}"
