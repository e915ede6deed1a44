"""Grids of text, and documents of several grids, for a terminal, in Markdown and in LaTeX."""

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
        title: title above the grid; may be empty.
        headings: one per column.
        align: "l" or "r" per column.
        rows: texts; a row whose first text is not empty begins a group.
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
            right = align == "r"
            table.add_column(
                Text(printable(heading)), justify="right" if right else "left", no_wrap=right, overflow="fold"
            )
        for begins, row in self._grouped():
            if begins:
                table.add_section()
            table.add_row(*(Text(printable(text)) for text in row))
        return table

    def _grouped(self) -> Iterator[tuple[bool, tuple[str, ...]]]:
        """Whether a row begins another group, and the row."""
        grouped = any(not row[0] for row in self.rows)
        for number, row in enumerate(self.rows):
            yield grouped and number > 0 and row[0] != "", row

    def to_markdown(self) -> str:
        """The grid in GitHub Markdown."""
        rule = ["---:" if align == "r" else "---" for align in self.align]
        head, *rows = (f"| {' | '.join(map(_markdown, row))} |" for row in (self.headings, *self.rows))
        return "\n".join([head, f"| {' | '.join(rule)} |", *rows])

    def to_latex(self) -> str:
        """A LaTeX tabular with booktabs, scaled down if it is wider than the text."""
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
    """Grids with facts above and notes below.

    Attributes:
        name: used in LaTeX labels.
        title: title of the document.
        facts: (label, text), above the grids.
        grids: the grids.
        notes: (subject, text), below the grids; the subject may be empty.
        statistics: how differences are computed, below the notes; a page has it in its glossary instead.
    """

    name: str
    title: str
    facts: tuple[tuple[str, str], ...]
    grids: tuple[Grid, ...]
    notes: tuple[tuple[str, str], ...] = ()
    statistics: str = ""

    @property
    def below(self) -> tuple[tuple[str, str], ...]:
        """The notes, and the statistics as a last note."""
        return (*self.notes, ("statistics", self.statistics)) if self.statistics else self.notes

    def __rich_console__(self, *_: Any) -> Iterator[RenderableType]:
        yield Text(printable(self.title), style="bold")
        for fact in self.facts:
            yield Text(_line(fact), style="dim")
        yield from self.grids
        for note in self.below:
            yield Text(_line(note), style="dim")

    def to_markdown(self) -> str:
        """The document in GitHub Markdown."""
        parts = [f"## {_markdown(self.title)}", _markdown_list(self.facts)]
        for grid in self.grids:
            parts += [f"### {_markdown(grid.title)}"] if grid.title else []
            parts.append(grid.to_markdown())
        parts += ["### Notes", _markdown_list(self.below)] if self.below else []
        return "\n\n".join(parts) + "\n"

    def to_latex(self) -> str:
        """LaTeX with one float per grid, for the packages booktabs and graphicx."""
        label = re.sub(r"[^A-Za-z0-9-]+", "-", self.name)
        parts = [r"% needs \usepackage{booktabs,graphicx}"]
        for number, grid in enumerate(self.grids):
            texts = [self.title, *map(_line, self.facts)] if number == 0 else [self.title, grid.title]
            notes = [rf"\par {_latex(_line(note))}" for note in self.below] if number == 0 else []
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
    return "\n".join(f"- {_markdown(_line(pair))}" for pair in pairs)


def _markdown(text: str) -> str:
    """Escapes text for Markdown."""
    text = re.sub(r"([\\`*_\[\]|$~#])", r"\\\1", printable(text))
    text = re.sub(r"^(\d*)([-+.)])(?=\s|$)", r"\1\\\2", text)  # would begin a list at the start of a note
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _latex(text: str) -> str:
    """Escapes text for LaTeX."""
    text = re.sub("-(?=-)", "-\0", printable(text))  # consecutive hyphens would become a dash
    text = "".join(_COMMANDS.get(letter) or _greek(letter) for letter in text)
    # A bracket or star after \\ at the end of a row would be parsed as its argument.
    return text.replace("\0", "{}").replace("[", "{[}").replace("]", "{]}").replace("*", "{*}")


def _greek(letter: str) -> str:
    """The LaTeX command of a small Greek letter; any other letter as it is."""
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
