"""Numbers and names as all renderings write them."""

from __future__ import annotations

from regard.formatting import printable

DASH = "—"


def signed(value: float, decimals: int = 2) -> str:
    """+0.44, −0.31, 0.00; with a true minus."""
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def reach(low: float, high: float) -> str:
    """An interval of a difference: −0.10 to +0.78."""
    return f"{signed(low)} to {signed(high)}"


def probability(p: float) -> str:
    """p < 0.001, p = 0.031"""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def counted(count: int, what: str) -> str:
    """1 seed; 5 seeds."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def span(numbers: set[int]) -> str:
    """15; 15 to 20."""
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"


def sentence(text: str) -> str:
    """With a full stop, if it has none."""
    text = printable(text)
    return text if not text or text[-1] in ".!?:" else f"{text}."
