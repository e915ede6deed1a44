"""The report of runs: networks over their seeds, comparisons, figures, galleries, and published tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from regard import bias, stats
from regard.errors import InputError, unknown
from regard.formatting import printable
from regard.notebook import records_html
from regard.report import captions
from regard.report.bias_records import INTERVENTIONS, LOST, intervention_tables
from regard.report.collect import FROM_FOLDERS, RunResult, collect
from regard.report.parts import Part, compare
from regard.report.provenance import environments, repeats
from regard.report.records import Note, merged_notes, records_table
from regard.report.runs_page import COMPARISON_COLUMNS, NETWORK_COLUMNS, RUN_COLUMNS, part_values
from regard.report.seeds import SeedGroup, default_reference, seed_groups
from regard.report.tables_page import filled_tables
from regard.report.template import write_page
from regard.tables import FilledTable, corrected_together, document
from regard.training import option_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class RunsReport:
    """Networks over their seeds, compared, with the published tables that their runs fill.

    Attributes:
        parts: networks by test set, those with the most runs first.
        tables: published tables that the runs fill.
        notes: folders and runs that are left out.
        title: title of the page.
        images: number of test images in the gallery of each part.
        folder: data folder; None: the one in each recipe.
    """

    parts: tuple[Part, ...]
    tables: tuple[FilledTable, ...]
    notes: tuple[Note, ...]
    title: str = "Runs"
    images: int = 12
    folder: str | None = None

    def to_records(self) -> list[dict[str, Any]]:
        """Flat dicts, JSON-ready; `record` is "network", "run", "comparison", "intervention" or "note"."""
        return [
            {"record": kind, "test_set": part.heading, **record}
            for part in self.parts
            for kind, records in (
                ("network", [group.to_record() for group in part.groups]),
                ("run", [record for group in part.groups for record in group.run_records()]),
                ("comparison", [comparison.to_record() for comparison in part.comparisons]),
                ("intervention", [record for records in part.interventions() for record in records]),
                ("note", [note._asdict() for note in part.notes]),
            )
            for record in records
        ] + [{"record": "note", "test_set": None, **note._asdict()} for note in self.notes]

    def _repr_html_(self) -> str:
        records = self.to_records()
        tables = [
            records_html(
                [record for record in records if record["record"] == kind],
                ["test_set", *(column.key for column in columns)],
            )
            for kind, columns in (("network", NETWORK_COLUMNS), ("comparison", COMPARISON_COLUMNS))
        ]
        return "".join(tables)

    def figures(self) -> dict[str, Figure]:
        """The figures of the page by title, which begins with the test set if there are several."""
        if len(self.parts) == 1:
            return self.parts[0].figures()
        return {f"{part.heading}: {title}": figure for part in self.parts for title, figure in part.figures().items()}

    def plot(self, title: str | None = None) -> Figure:
        """A matplotlib figure of the page.

        Args:
            title: a key of `figures`; None: the first.

        Raises:
            InputError: there is no figure with this title, or none at all.
        """
        charts = self.figures()
        if not charts:
            raise InputError("there is no figure: no run has results yet; train or evaluate them first")
        if title is None:
            return next(iter(charts.values()))
        if title not in charts:
            raise unknown("figure", title, charts)
        return charts[title]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = [replace(column, detail="") for column in NETWORK_COLUMNS]
        for part in self.parts:
            title = part.heading if len(self.parts) > 1 else ""
            records = [group.to_record() for group in part.groups]
            yield records_table(records, columns, title=title, caption=captions.RATES)
            if part.comparisons:
                records = [comparison.to_record() for comparison in part.comparisons]
                title = f"Differences from {part.reference.name}"
                yield records_table(records, COMPARISON_COLUMNS, title=title, caption=captions.DIFFERENCES)
            yield from intervention_tables(*part.interventions())
        for about, note in merged_notes(
            note for notes in (self.notes, *(part.notes for part in self.parts)) for note in notes
        ):
            yield Text(printable(f"{about}: {note}"), style="dim")

    def save(self, path: str | Path) -> Path:
        """Writes the page, one self-contained HTML file.

        Raises:
            InputError: a weights file cannot be read, or the path cannot be written.
        """
        groups = [group for part in self.parts for group in part.groups]
        return write_page(
            "runs.html",
            path,
            title=self.title,
            notes=self.notes,
            parts=[
                part_values(part, f"-{i}" if len(self.parts) > 1 else "", self.images, self.folder)
                for i, part in enumerate(self.parts, 1)
            ],
            columns={
                **{"networks": NETWORK_COLUMNS, "runs": RUN_COLUMNS, "comparisons": COMPARISON_COLUMNS},
                **{"interventions": INTERVENTIONS, "lost": LOST},
            },
            tables=[document(table, only_runs=True) for table in self.tables],
            repeats=repeats(groups),
            environment=environments(groups),
        )


def report_runs(
    paths: Sequence[str | Path],
    *,
    title: str = "Runs",
    names: Sequence[str] | None = None,
    reference: str | None = None,
    images: int = 12,
    folder: str | None = None,
) -> RunsReport:
    """A report of run folders; runs that differ only in their seeds are one network.

    Args:
        paths: see `collect`.
        title: title of the page.
        names: names of the networks, in order; see `seed_groups`.
        reference: name of the network that is subtracted from the others of its test set; None, and for other test
            sets: the cheapest network without a teacher and without attention.
        images: number of random test images in the gallery, in addition to a few on which the networks differ most;
            0: no gallery.
        folder: data folder; None: the one in each recipe.

    Raises:
        InputError: no run, or none with a finished epoch; `names` or `reference` do not match the networks; a number
            is out of range.
    """
    if images < 0:
        raise InputError(f"{images} images in the gallery; give 0 or more")
    results, notes = collect(paths)
    if not results:
        raise InputError(f"no run to report: {'; '.join(f'{about}: {note}' for about, note in notes)}")
    groups, seed_notes = seed_groups(results, names)
    if reference is not None and reference not in [group.name for group in groups]:
        raise unknown("reference", reference, [group.name for group in groups])
    by_test_set: dict[str, list[SeedGroup]] = {}
    for group in groups:
        by_test_set.setdefault(group.first.test_set, []).append(group)
    test_sets = sorted(by_test_set.values(), key=lambda groups: -sum(len(group.runs) for group in groups))
    parts = []
    for part_groups, heading in zip(test_sets, _headings([groups[0].first for groups in test_sets]), strict=True):
        base = next((group for group in part_groups if group.name == reference), default_reference(part_groups))
        comparisons, part_notes = compare(part_groups, base)
        runs = [run for group in part_groups for run in group.runs]
        effects = {run.name: bias.effects(run.bias) for run in runs if run.bias is not None}
        effects = {name: run_effects for name, run_effects in effects.items() if run_effects}
        part_notes += _notes(part_groups)
        parts.append(Part(heading, tuple(part_groups), base, tuple(comparisons), effects, tuple(part_notes)))
    differences = [difference for part in parts for difference in part.differences]
    tables = corrected_together(filled_tables(result.run for result in results), beside=differences)
    differences += [difference for table in tables for difference in table.differences.values()]
    corrected = iter(stats.holm(dict(enumerate(differences))).values())
    return RunsReport(
        parts=tuple(part.with_differences(corrected) for part in parts),
        tables=tuple(tables),
        notes=tuple(merged_notes([*notes, *seed_notes])),
        title=title,
        images=images,
        folder=folder,
    )


def _notes(groups: Sequence[SeedGroup]) -> list[Note]:
    """Notes on runs without bias results, and on results and folders that do not match."""
    notes = []
    folders = {run.recipe.data.folder or "" for group in groups for run in group.runs}
    for group in groups:
        for run in group.runs:
            if run.bias is None:
                notes.append(Note(run.name, "bias not measured (no bias.json in the run folder)"))
                continue
            tested, measured = run.accuracy, run.bias.accuracy
            if run.bias.dataset != run.recipe.data.name or (tested is not None and tested.n != measured.n):
                data = f"{run.bias.dataset} {run.bias.split}".strip()
                notes.append(
                    Note(run.name, f"bias.json was not measured on the test images but on {measured.n:,} of {data}")
                )
            elif tested is not None and abs(tested.value - measured.value) > 0.005:
                notes.append(
                    Note(run.name, "the accuracy in bias.json differs from the last epoch's: other weights or images")
                )
    if len(folders) > 1 and groups[0].first.recipe.data.name in FROM_FOLDERS:
        text = "one of several folders with test images, which may be different images"
        notes += [Note(folder, text) for folder in folders]
    return notes


def _headings(firsts: Sequence[RunResult]) -> list[str]:
    """Unique headings of test sets: name, number of images and classes, and options that differ for the same name."""
    names = []
    for run in firsts:
        same_name = [other.test_options for other in firsts if other.recipe.data.name == run.recipe.data.name]
        details = [f"{run.test_images:,} test images"] if run.test_images else []
        details += [f"{len(run.environment['classes'])} classes"] if run.environment.get("classes") else []
        details += [
            f"{name} {option_text(value)}"
            for name, value in run.test_options.items()
            if name != "test" and any(options.get(name) != value for options in same_name)
        ]
        names.append(", ".join([run.recipe.data.name, *details]))
    return [
        f"{name}, set {names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)
    ]
