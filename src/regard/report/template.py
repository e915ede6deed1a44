"""Pages from templates: each page is one self-contained HTML file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from regard import figures
from regard.columns import filled
from regard.files import check_overwritable, write_text
from regard.formatting import percent, printable_lines
from regard.report import captions, overlay
from regard.report.glossary import Glossary
from regard.tables.verdict import tone
from regard.version import __version__

MARK = 'name="generator" content="regard '
"""Occurs in the first kilobyte of every page."""


class Repeat(NamedTuple):
    """How to repeat a part of a page: shell commands, a recipe as YAML, and the commands that run folders record."""

    name: str
    commands: str
    file: str = ""  # name of the recipe in the commands
    recipe: str = ""
    recorded: str = ""


def write_page(template: str, path: str | Path, **values: Any) -> Path:
    """Renders a file of `templates` with `title` and further values, writes the page, and returns its path.

    Text in the values is escaped. Raises InputError if the path cannot be written, or regard did not write what is
    there.
    """
    check_overwritable(Path(path), MARK)
    text = environment().get_template(template).render(version=__version__, glossary=Glossary(), **values)
    return write_text(path, text)


@cache
def environment() -> Environment:
    """The Jinja environment, with the globals and filters of all templates."""
    environment = Environment(
        loader=PackageLoader("regard.report"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: getattr(figures, name) for name in ("colour", "dashes", "svg")}
    environment.globals |= {"captions": captions, "filled": filled, "overlay": overlay, "tone": tone}
    environment.filters |= {"linked": _linked, "percent": percent}
    return environment


@pass_context
def _linked(context: Context, text: str) -> Markup:
    return cast(Glossary, context["glossary"]).linked(text)


def _printable(value: Any) -> Any:
    """Escapes control characters in text; leaves markup as it is."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value
