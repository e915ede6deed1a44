"""Numbers and cells in words, which all renderings share."""

from __future__ import annotations


def signed(value: float, decimals: int = 2) -> str:
    """+0.44, −0.31, 0.00; with a true minus."""
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def probability(p: float) -> str:
    """p < 0.001, p = 0.031"""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def counted(count: int, what: str) -> str:
    """1 seed; 5 seeds."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
