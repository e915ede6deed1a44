"""Pages from templates: each one HTML file that needs nothing else."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from regard import figures
from regard.columns import filled
from regard.files import check_written, write_text
from regard.formatting import percent, printable_lines
from regard.report import captions, overlay
from regard.report.glossary import Glossary
from regard.tables.verdict import tone
from regard.version import __version__

MARK = 'name="generator" content="regard '
"""In the first kilobyte of every page."""


class Repeat(NamedTuple):
    """How to repeat a part of a page.

    Attributes:
        name: of the network, or of what else is repeated.
        commands: one per line, as a shell takes them.
        file: name under which the commands have the recipe; empty without one.
        recipe: as YAML.
        recorded: commands that run folders record, one per line.
    """

    name: str
    commands: str
    file: str = ""
    recipe: str = ""
    recorded: str = ""


def write_page(template: str, path: str | Path, **values: Any) -> Path:
    """Fills a template and writes the page, aside first and then renamed.

    Args:
        template: name of a file in `templates`.
        path: of the page; its folder is made if need be.
        **values: what the template asks for, and `title`; text in them is escaped.

    Returns:
        The path.

    Raises:
        InputError: the path cannot be written, or holds a file that regard did not write.
    """
    check_written(Path(path), MARK)
    text = environment().get_template(template).render(version=__version__, glossary=Glossary(), **values)
    return write_text(path, text)


@cache
def environment() -> Environment:
    """What templates have besides the values of their page; the macros that they import see these values, too."""
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
    """Lines of text without control characters; markup as it is."""
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value
