"""Filled tables as LaTeX, with the packages booktabs and graphicx."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from regard.tables.contents import Contents, contents
from regard.tables.filled import FilledTable

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


def latex(filled: FilledTable) -> str:
    """A filled table as LaTeX: a table with what was published and what is ours, and one of the comparisons.

    Its document needs `\\usepackage{booktabs,graphicx}`; a table wider than the text is made smaller.
    """
    said = contents(filled)
    label = re.sub(r"[^A-Za-z0-9-]+", "-", filled.table.name)
    main: list[str] = []
    for line in said.lines():
        if line.title and main:
            main.append(r"\addlinespace")
        published = [one.published if one else "" for one in line.entries]
        main.append(_line([line.title, f"{line.what}published", *published]))
        main.append(_line(["", f"{line.what}ours", *(one.ours if one else "" for one in line.entries)]))
    caption = " ".join([_stopped(said.title), *said.facts, *said.warnings])
    parts = [
        r"% needs \usepackage{booktabs,graphicx}",
        _float(caption, label, "ll" + "r" * len(said.columns), ["", "", *said.columns.values()], main, said.notes),
    ]
    if said.comparisons:
        parts.append(_comparisons(said, label))
    return "\n\n".join(parts) + "\n"


def _comparisons(said: Contents, label: str) -> str:
    headings = ["", "", "published", "ours", "95% interval", "p", "verdict"]
    lines = [
        _line([said.where(one), one.pair, one.published, one.ours, one.interval, one.p, one.verdict])
        for one in said.comparisons
    ]
    caption = f"{_stopped(said.title)} Differences in points."
    return _float(caption, f"{label}-comparisons", "llrrrrl", headings, lines, said.warnings)


def _float(
    caption: str, label: str, columns: str, headings: Sequence[str], lines: Iterable[str], below: Iterable[str]
) -> str:
    notes = [rf"\par {_escaped(sentence)}" for sentence in below]
    if notes:
        notes = [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", *notes, r"\end{minipage}"]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(caption)}}}",
            rf"\label{{tab:{label}}}",
            r"\small",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _line(headings),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            *notes,
            r"\end{table}",
        ]
    )


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _stopped(title: str) -> str:
    return title if title.endswith((".", "?", "!")) else f"{title}."


def _escaped(text: str) -> str:
    """Text that LaTeX prints as it is, where its fonts have the letters."""
    text = "".join(_COMMANDS.get(letter) or _greek(letter) for letter in re.sub("-(?=-)", "-\0", text))
    # Dashes would become one, and a bracket or a star after the end of a line a part of its command.
    return text.replace("\0", "{}").replace("[", "{[}").replace("]", "{]}").replace("*", "{*}")


def _greek(letter: str) -> str:
    """A small Greek letter as the command of its name; any other as it is."""
    kind, _, name = unicodedata.name(letter, "").rpartition(" ")
    return rf"$\{name.lower()}$" if kind == "GREEK SMALL LETTER" and name in _GREEK else letter


_GREEK = {
    *("ALPHA", "BETA", "GAMMA", "DELTA", "EPSILON", "ZETA", "ETA", "THETA", "IOTA", "KAPPA", "MU", "NU", "XI", "PI"),
    *("RHO", "SIGMA", "TAU", "UPSILON", "PHI", "CHI", "PSI", "OMEGA"),
}
