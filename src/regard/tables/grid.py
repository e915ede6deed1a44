"""Grids of text, and a document of several of them, for a terminal, in Markdown and in LaTeX."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from regard.formatting import printable


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        title: above it; may be empty.
        headings: one for each column.
        align: "l" or "r" for each column.
        rows: texts of each row; a row whose first text is not empty begins a group.
    """

    title: str
    headings: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]

    def __rich__(self) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            title=Text(self.title, style="bold") if self.title else None,
            title_justify="left",
        )
        for heading, align in zip(self.headings, self.align, strict=True):
            numbers = align == "r"
            table.add_column(
                Text(printable(heading)), justify="right" if numbers else "left", no_wrap=numbers, overflow="fold"
            )
        for begins, row in self._grouped():
            if begins:
                table.add_section()
            table.add_row(*(Text(printable(text)) for text in row))
        return table

    def _grouped(self) -> Iterator[tuple[bool, tuple[str, ...]]]:
        """Each row, and whether it begins another group."""
        grouped = any(not row[0] for row in self.rows)
        for number, row in enumerate(self.rows):
            yield grouped and number > 0 and row[0] != "", row

    def to_markdown(self) -> str:
        """As GitHub reads it."""
        rule = ["---:" if align == "r" else "---" for align in self.align]
        head, *rows = (f"| {' | '.join(map(_markdown, row))} |" for row in (self.headings, *self.rows))
        return "\n".join([head, f"| {' | '.join(rule)} |", *rows])

    def to_latex(self) -> str:
        """A tabular of booktabs, made smaller if it is wider than the text."""
        rows = []
        for begins, row in self._grouped():
            rows += [r"\addlinespace"] if begins else []
            rows.append(_latex_row(row))
        lines = [
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{self.align}}}",
            *(r"\toprule", _latex_row(self.headings), r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Document:
    """Grids with what belongs above and below them.

    Attributes:
        name: for labels.
        title: of all.
        facts: (label, text), above.
        grids: the tables.
        notes: (what it is about, text), below; the first may be empty.
        statistics: how differences are computed, below the notes; a page has it in its glossary.
    """

    name: str
    title: str
    facts: tuple[tuple[str, str], ...]
    grids: tuple[Grid, ...]
    notes: tuple[tuple[str, str], ...] = ()
    statistics: str = ""

    @property
    def below(self) -> tuple[tuple[str, str], ...]:
        """What is written below the grids where there is no glossary."""
        return (*self.notes, ("statistics", self.statistics)) if self.statistics else self.notes

    def __rich_console__(self, *_: Any) -> Iterator[RenderableType]:
        yield Text(printable(self.title), style="bold")
        for one in self.facts:
            yield Text(_line(one), style="dim")
        yield from self.grids
        for one in self.below:
            yield Text(_line(one), style="dim")

    def to_markdown(self) -> str:
        """As GitHub reads it."""
        parts = [f"## {_markdown(self.title)}", _markdown_list(self.facts)]
        for grid in self.grids:
            parts += [f"### {_markdown(grid.title)}"] if grid.title else []
            parts.append(grid.to_markdown())
        parts += ["### Notes", _markdown_list(self.below)] if self.below else []
        return "\n\n".join(parts) + "\n"

    def to_latex(self) -> str:
        """A float for each grid, with the packages booktabs and graphicx."""
        label = re.sub(r"[^A-Za-z0-9-]+", "-", self.name)
        parts = [r"% needs \usepackage{booktabs,graphicx}"]
        for number, grid in enumerate(self.grids):
            texts = [self.title, *map(_line, self.facts)] if number == 0 else [self.title, grid.title]
            notes = [rf"\par {_latex(_line(one))}" for one in self.below] if number == 0 else []
            if notes:
                notes = [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", *notes, r"\end{minipage}"]
            lines = [
                *(r"\begin{table}", r"\centering"),
                rf"\caption{{{_latex('. '.join(text.removesuffix('.') for text in texts))}.}}",
                rf"\label{{tab:{label}{'-' + grid.title.lower() if grid.title else ''}}}",
                *(r"\small", grid.to_latex(), *notes, r"\end{table}"),
            ]
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"


def _line(pair: tuple[str, str]) -> str:
    return printable(": ".join(filter(None, pair)))


def _markdown_list(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {_markdown(_line(one))}" for one in pairs)


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = re.sub(r"([\\`*_\[\]|$~#])", r"\\\1", printable(text))
    text = re.sub(r"^(\d*)([-+.)])(?=\s|$)", r"\1\\\2", text)  # at the beginning of a note it would begin a list
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _latex(text: str) -> str:
    """Text that LaTeX prints as it is, where its fonts have the letters."""
    text = re.sub("-(?=-)", "-\0", printable(text))  # dashes would become one
    text = "".join(_COMMANDS.get(letter) or _greek(letter) for letter in text)
    # A bracket or a star after the end of a line would be a part of its command.
    return text.replace("\0", "{}").replace("[", "{[}").replace("]", "{]}").replace("*", "{*}")


def _greek(letter: str) -> str:
    """A small Greek letter as the command of its name; any other as it is."""
    kind, _, name = unicodedata.name(letter, "").rpartition(" ")
    return rf"$\{name.lower()}$" if kind == "GREEK SMALL LETTER" and name != "OMICRON" else letter


_COMMANDS = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "†": r"\dag{}",
    "’": "'",
}
