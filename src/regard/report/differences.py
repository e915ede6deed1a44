"""Each network against one of them, on the same test images: what is resolved and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from regard.bias import Difference, compare
from regard.errors import InputError, unknown
from regard.report.contrast import Contrast
from regard.report.summary import Summary
from regard.report.wording import gathered

MEASURES = ("accuracy", "position bias", "range bias")


@dataclass(frozen=True)
class Line(Contrast):
    """One network against the reference in one measure.

    Attributes:
        row: the network.
        measure: "accuracy", "position bias" or "range bias".
        difference: the network minus the reference, with its 95% interval; `.sentence` says it in full.
    """

    difference: Difference
    row: Summary


@dataclass(frozen=True)
class Differences:
    """Every network against the reference.

    Attributes:
        reference: what the others are compared with.
        lines: three for each network that can be compared, in the order of the rows.
        notes: which cannot, and why; settings that differ.
    """

    reference: Summary
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def resolved(self) -> tuple[Line, ...]:
        """Those whose interval leaves 0 out."""
        return tuple(line for line in self.lines if line.resolved)

    @property
    def unresolved(self) -> tuple[Line, ...]:
        """Those whose interval holds 0."""
        return tuple(line for line in self.lines if not line.resolved)


def differences(rows: Sequence[Summary], reference: int | str = 0) -> Differences:
    """Compares every network with the reference, image by image, by their bias reports (see `bias.compare`).

    Args:
        rows: of the report.
        reference: place among the rows, or name of one of them.

    Raises:
        InputError: there is no such row.
    """
    base = rows[index_of(rows, reference)]
    lines: list[Line] = []
    left_out: list[tuple[str, str]] = []
    notes: list[str] = []
    for row in rows:
        if row is base:
            continue
        if row.bias is None or base.bias is None:
            left_out.append((row.name, f"no bias.json in {(base if base.bias is None else row).run.folder}"))
            continue
        try:
            comparison = compare(row.bias, base.bias)
        except InputError as error:
            left_out.append((row.name, str(error)))
            continue
        found = (comparison.accuracy, comparison.position_bias, comparison.range_bias)
        lines += [
            Line(measure, difference, row)
            for measure, difference in zip(MEASURES, found, strict=True)
            if difference is not None  # accuracy, where not both are scored
        ]
        # What chance would do is said of all measures of the comparison; here are three of them, of all networks.
        said = [note for note in comparison.notes if "chance" not in note]
        notes += [f"{row.name} and {base.name}: {note}" for note in said]
    notes = gathered(left_out, f"not compared with {base.name}") + notes
    return Differences(base, tuple(lines), tuple(notes))


def index_of(rows: Sequence[Summary], reference: int | str) -> int:
    """The place of the reference among the rows.

    Raises:
        InputError: there is none.
    """
    names = [row.name for row in rows]
    if isinstance(reference, str):
        if reference not in names:
            raise unknown("reference", reference, names)
        return names.index(reference)
    if not -len(rows) <= reference < len(rows):
        raise InputError(f"reference {reference} of {len(rows)} rows; give 0 to {len(rows) - 1}, or a name")
    return reference % len(rows)
