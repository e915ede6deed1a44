"""Which runs a report is of: run folders, stores of them, and patterns of either."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regard.errors import InputError
from regard.formatting import printable
from regard.report.summary import Summary, summarize
from regard.report.wording import few
from regard.training import Run


@dataclass(frozen=True)
class Found:
    """The runs of a report.

    Attributes:
        rows: those with at least one finished epoch, in order of the places.
        left_out: sentences: which others there are, and why they have no row.
    """

    rows: tuple[Summary, ...]
    left_out: tuple[str, ...]


def find_runs(places: Sequence[str | Path]) -> Found:
    """The runs at these places.

    Args:
        places: each a run folder, a folder whose folders are run folders (in order of their names, hidden ones left
            out), or a pattern of such, as a shell has them. A run that is there twice counts once.

    Raises:
        InputError: a place that is not there or no folder, a pattern that nothing matches, no run folder at all.
    """
    folders: dict[Path, Path] = {}  # by where they really are
    reasons: list[tuple[str, str]] = []
    for place in places:
        for folder in _matches(place):
            runs = [folder]
            if not _is_run(folder):
                inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
                inside.sort(key=_by_name)
                runs = [path for path in inside if _is_run(path)]
                reasons += [
                    (printable(str(path)), "empty" if not any(path.iterdir()) else "no run: it has no recipe.yaml")
                    for path in (inside or [folder])
                    if not _is_run(path)
                ]
            for run in runs:
                folders.setdefault(run.resolve(), run)
    if not folders:
        where = ", ".join(printable(str(place)) for place in places) or "no place"
        raise InputError(
            f"no run in {where}; expected folders with a recipe.yaml, as `regard train` makes them, or folders of these"
        )
    broken: list[tuple[str, str]] = []
    rows = summarize([Run.open(folder) for folder in folders.values()], broken=broken)
    reasons += [(name, f"broken ({reason})") for name, reason in broken]
    reasons += [(row.name, "at its beginning: no epoch is finished") for row in rows if not row.epochs]
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        names.setdefault(reason, []).append(name)
    left_out = [f"{few(own)} {'is' if len(own) == 1 else 'are'} {reason}." for reason, own in names.items()]
    return Found(tuple(row for row in rows if row.epochs), tuple(left_out))


def _matches(place: str | Path) -> list[Path]:
    """The folders that a place names."""
    path = Path(place)
    shown = printable(str(place))
    if path.is_dir():
        return [path]
    if path.exists():
        raise InputError(f"{shown} is a file; expected a run folder, a folder of run folders, or a pattern of them")
    if not glob.has_magic(str(place)):
        raise InputError(f"there is no folder {shown}; give a run folder, a folder of run folders, or a pattern")
    found = sorted((Path(match) for match in glob.glob(str(place)) if Path(match).is_dir()), key=_by_name)
    if not found:
        raise InputError(f"no folder matches {shown}; give a run folder, a folder of run folders, or a pattern of them")
    return found


def _by_name(path: Path) -> list[tuple[int, str]]:
    """Sorts numbers in names as numbers: seed2 before seed10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file()
