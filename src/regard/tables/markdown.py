"""Filled tables as Markdown, as GitHub reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from regard.tables.contents import Contents, Entry, contents
from regard.tables.filled import FilledTable


def markdown(filled: FilledTable) -> str:
    """A filled table as Markdown: the table, comparisons, every seed, notes."""
    said = contents(filled)
    parts = [f"## {_escaped(said.title)}", _list(said.facts)]
    if said.warnings:
        parts.append("\n>\n".join(f"> **{_escaped(warning)}**" for warning in said.warnings))
    parts.append(_main(said))
    if said.comparisons:
        parts += ["### Comparisons", _comparisons(said)]
    if said.origins:
        parts += ["### Every seed", _origins(said)]
    if said.notes:
        parts += ["### Notes", _list(said.notes)]
    return "\n\n".join(parts) + "\n"


def _main(said: Contents) -> str:
    rows = []
    for line in said.lines():
        rows.append([line.title, f"{line.what}published", *(one.published if one else "" for one in line.entries)])
        rows.append(["", f"{line.what}ours", *(one.ours if one else "" for one in line.entries)])
    return _table(["", "", *said.columns.values()], rows, left=2)


def _comparisons(said: Contents) -> str:
    headings = ["", "columns", "published", "ours (95% interval)", "p", "verdict", "why"]
    rows = [
        [said.where(one), one.pair, one.published, one.numbers, one.p, one.verdict, one.why] for one in said.comparisons
    ]
    return _table(headings, rows, left=2, right=3)


def _origins(said: Contents) -> str:
    metric = ["metric"] if said.several else []
    headings = [
        "cell",
        *metric,
        "runs",
        "median",
        "mean",
        "95% interval",
        "seeds",
        "epochs",
        "recipe",
        "regard",
        "data",
    ]
    rows = []
    for origin in said.origins:
        whence = [origin.epochs, origin.recipe, origin.versions, origin.data]
        for one in origin.entries:
            name = [one.metric] if said.several else []
            rows.append([origin.cell, *name, *_numbers(one), *whence])
    return _table(headings, rows, left=1 + len(metric), right=4)


def _numbers(one: Entry) -> list[str]:
    return [str(len(one.values)), one.median, one.mean, one.interval, one.seeds]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int, right: int | None = None) -> str:
    """Columns to the left, then as many to the right (None: all that are left), then to the left again."""
    last = len(headings) if right is None else left + right
    aligned = ["---:" if left <= place < last else "---" for place in range(len(headings))]
    lines = [headings, *rows]
    text = [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines]
    return "\n".join([text[0], f"| {' | '.join(aligned)} |", *text[1:]])


def _list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_escaped(sentence)}" for sentence in sentences)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = re.sub(r"([\\`*_\[\]|$~#])", r"\\\1", text)
    text = re.sub(r"^(\d*)([-+.)])(?=\s|$)", r"\1\\\2", text)  # at the beginning of a note it would begin a list
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
