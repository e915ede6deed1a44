"""Each network against one of them, on the same test images: what is significant and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from regard.bias import compare
from regard.errors import InputError, unknown
from regard.report.contrast import Contrast
from regard.report.summary import Summary
from regard.report.wording import gathered
from regard.stats import Difference, holm

MEASURES = ("accuracy", "position bias", "range bias")


@dataclass(frozen=True)
class Line(Contrast):
    """One network against the reference in one measure.

    Attributes:
        row: the network.
        measure: "accuracy", "position bias" or "range bias".
        difference: the network minus the reference, with its 95% interval.
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
    def significant(self) -> tuple[Line, ...]:
        """Those whose p, corrected together, is below 0.05."""
        return tuple(line for line in self.lines if line.significant)


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
        by_measure = {measure: comparison.differences.get(measure.replace(" ", "_")) for measure in MEASURES}
        lines += [Line(measure, one, row) for measure, one in by_measure.items() if one is not None]
        notes += [f"{row.name} and {base.name}: {note}" for note in comparison.notes]
    corrected = holm({place: line.difference for place, line in enumerate(lines)})  # all that are shown, together
    lines = [replace(line, difference=corrected[place]) for place, line in enumerate(lines)]
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
