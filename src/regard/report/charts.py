"""A figure with its title."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Chart:
    """A titled figure; `svg` is markup that is safe on a page."""

    title: str
    svg: Markup
