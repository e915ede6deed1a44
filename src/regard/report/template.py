"""Pages from templates: each one HTML file that needs nothing else."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from regard.files import check_written, write_text
from regard.report import svg, wording
from regard.terminal import escaped_lines
from regard.version import __version__

MARK = 'name="generator" content="regard '
"""In the first kilobyte of every page."""


class Network(NamedTuple):
    """A network on a page: its name, and the style of its mark and lines (see `figures`)."""

    name: str
    style: int


def write_page(template: str, path: str | Path, **values: Any) -> Path:
    """Fills a template and writes the page, aside first and then renamed.

    Args:
        template: the name of its file in this package.
        path: of the page; its folder is made if need be.
        **values: what the template asks for; text in them is escaped.

    Returns:
        The path.

    Raises:
        InputError: the place cannot be written, or holds a file that regard did not write.
    """
    check_written(Path(path), MARK)
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {name: getattr(svg, name) for name in ("colour_of", "core_of", "dashes_of")}
    names = ("percent", "interval", "signed", "large", "probability", "printable")
    environment.filters |= {name: getattr(wording, name) for name in names}
    text = environment.get_template(template).render(version=__version__, **values)
    return write_text(path, text)


def _shown(value: Any) -> Any:
    """What a template shows of a value: of text, lines without characters that cannot be printed."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return escaped_lines(value)
    return value


def _source(name: str) -> str:
    return resources.files("regard.report").joinpath(name).read_text(encoding="utf-8")
