"""The report of runs: networks over their seeds, comparisons, figures, galleries, and published tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from regard import figures, stats
from regard.data import InMemoryDataset, Splits, all_options
from regard.errors import InputError, unknown
from regard.formatting import printable
from regard.report import captions
from regard.report.collect import FROM_FOLDERS, MEASURES, RunResult, collect, cost
from regard.report.comparisons import Comparison, compare
from regard.report.glossary import TERMS
from regard.report.provenance import environments, repeats
from regard.report.records import Column, Note, gathered
from regard.report.records_table import records_table
from regard.report.runs_gallery import runs_gallery
from regard.report.seeds import SeedGroup, plainest, seed_groups
from regard.report.tables_page import filled_tables
from regard.report.template import write_page
from regard.stats import Estimate
from regard.tables import FilledTable, document
from regard.training import load_data, option_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SHOWN = 12
"""Networks in a gallery."""

NETWORK_COLUMNS = (
    Column("network", "network", detail="description"),
    Column("seeds", "seeds", "count", "seeds"),
    Column("parameters", "parameters", "large"),
    Column("multiply_adds", "multiply-adds", "large", "multiply_adds"),
    *(
        Column(measure, TERMS[measure].name, "number" if measure == "spill" else "percent", measure)
        for measure in MEASURES
    ),
)
RUN_COLUMNS = (
    Column("run", "run", detail="folder"),
    Column("seed", "seed", "count"),
    Column("epochs", "epochs", "count"),
    Column("epochs_of_recipe", "of", "count"),
    *NETWORK_COLUMNS[4:],
)
COMPARISON_COLUMNS = (
    Column("network", "network"),
    Column("measure", "measure", "measure"),
    Column("difference", "difference", "points"),
    Column("n", "n", "count", detail="over"),
    Column("p", "p", "p", "p"),
    Column("p_adjusted", "adjusted p", "p", "holm"),
    Column("significant", "result", "significant", "significant"),
)
_CURVES = {
    "Test accuracy": "test_accuracy",
    "Training loss (cross entropy with the labels)": "task",
    "Attention loss, before its weight beta": "attention",
}
_BARS = ("accuracy", "position_bias", "range_bias")


@dataclass(frozen=True, eq=False)
class Part:
    """Networks that were tested on the same images.

    Attributes:
        heading: the test set.
        groups: the networks.
        reference: the one that the others are compared with.
        comparisons: corrected together with all others of the report.
        notes: on what cannot be compared, or is missing.
    """

    heading: str
    groups: tuple[SeedGroup, ...]
    reference: SeedGroup
    comparisons: tuple[Comparison, ...]
    notes: tuple[Note, ...]

    @property
    def runs(self) -> list[RunResult]:
        """Those that count."""
        return [run for group in self.groups for run in group.runs]

    @property
    def styles(self) -> dict[str, int]:
        """Number of the style of each network, see `figures`: the reference has the first."""
        others = iter(range(1, len(self.groups)))
        return {group.name: 0 if group is self.reference else next(others) for group in self.groups}

    def plot(self) -> dict[str, Figure]:
        """Figures by title: accuracy by cost, measures with their intervals, curves of the training."""
        return {**self.costs(), **self.intervals(), **self.curves()}

    def costs(self) -> dict[str, Figure]:
        """Test accuracy by multiply-adds, where two finished networks or more have both."""
        known = {
            group.name: (group.multiply_adds, group.parameters, values)
            for group in self.groups
            if group.finished and group.multiply_adds and group.parameters
            if (values := list(group.values("accuracy").values()))
        }
        if len(known) < 2:
            return {}
        figure = figures.scatter(
            {name: adds for name, (adds, _, _) in known.items()},
            {
                name: Estimate(math.fsum(values) / len(values), min(values), max(values), len(values))
                for name, (_, _, values) in known.items()
            },
            xlabel="multiply-adds",
            percent=True,
            areas={name: parameters for name, (_, parameters, _) in known.items()},
            styles=self.styles,
        )
        return {"Test accuracy by multiply-adds": figure}

    def intervals(self) -> dict[str, Figure]:
        """Accuracy and the two biases with their intervals, and where a network has several seeds, a mark for each."""
        drawn = {}
        for measure in _BARS:
            rows = {group.name: estimate for group in self.groups if (estimate := group.estimate(measure)) is not None}
            points = {group.name: list(group.values(measure).values()) for group in self.groups if len(group.runs) > 1}
            if rows:
                drawn[f"{TERMS[measure].name.capitalize()} with 95% intervals"] = figures.intervals(
                    rows, percent=True, points=points, limits=(0, 1), styles=self.styles
                )
        return drawn

    def curves(self) -> dict[str, Figure]:
        """Test accuracy and losses by epoch, each where any network has it."""
        drawn = {}
        for title, column in _CURVES.items():
            lines = {group.name: [_curve(run, column) for run in group.runs] for group in self.groups}
            # The attention loss is 0 throughout where a network is not trained with it.
            zero = column == "attention"
            lines = {
                name: runs for name, runs in lines.items() if any(any(run.values()) if zero else run for run in runs)
            }
            if lines:
                drawn[title] = figures.curves(
                    lines, xlabel="epoch", percent=column == "test_accuracy", styles=self.styles, legend=False
                )
        return drawn


@dataclass(frozen=True, eq=False)
class RunsReport:
    """Runs as networks, compared, with the published tables that they fill.

    Attributes:
        parts: networks by test set, those with the most runs first.
        tables: published tables that the runs fill.
        notes: on folders and runs that are left out.
        title: of the page.
        images: test images in the gallery of each part.
        folder: where the data lie; None: where the recipes say.
    """

    parts: tuple[Part, ...]
    tables: tuple[FilledTable, ...]
    notes: tuple[Note, ...]
    title: str = "Runs"
    images: int = 12
    folder: str | None = None

    def to_records(self) -> list[dict[str, Any]]:
        """Flat dicts, JSON-ready; `record` says of what: "network", "run", "comparison" or "note"."""
        return [
            {"record": kind, "test_set": part.heading, **record}
            for part in self.parts
            for kind, records in (
                ("network", [group.to_record() for group in part.groups]),
                ("run", [record for group in part.groups for record in group.run_records()]),
                ("comparison", [comparison.to_record() for comparison in part.comparisons]),
                ("note", [note._asdict() for note in part.notes]),
            )
            for record in records
        ] + [{"record": "note", "test_set": None, **note._asdict()} for note in self.notes]

    def plot(self) -> dict[str, Figure]:
        """The figures of the page by title; of several test sets, with the test set in front."""
        if len(self.parts) == 1:
            return self.parts[0].plot()
        return {f"{part.heading}: {title}": figure for part in self.parts for title, figure in part.plot().items()}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in self.parts:
            title = part.heading if len(self.parts) > 1 else ""
            records = [group.to_record() for group in part.groups]
            yield records_table(records, _without_details(NETWORK_COLUMNS), title=title, caption=captions.RATES)
            if part.comparisons:
                records = [comparison.to_record() for comparison in part.comparisons]
                title = f"Differences from {part.reference.name}"
                yield records_table(records, COMPARISON_COLUMNS, title=title, caption=captions.DIFFERENCES)
        for about, note in gathered(
            note for notes in (self.notes, *(part.notes for part in self.parts)) for note in notes
        ):
            yield Text(printable(f"{about}: {note}"), style="dim")

    def save(self, path: str | Path) -> Path:
        """Writes the page: one HTML file that needs nothing else.

        Raises:
            InputError: a weights file that cannot be read, a path that cannot be written.
        """
        groups = [group for part in self.parts for group in part.groups]
        return write_page(
            "runs.html",
            path,
            title=self.title,
            notes=self.notes,
            parts=[self._page(part, f"-{i}" if len(self.parts) > 1 else "") for i, part in enumerate(self.parts, 1)],
            captions=captions,
            columns={"networks": NETWORK_COLUMNS, "runs": RUN_COLUMNS, "comparisons": COMPARISON_COLUMNS},
            tables=[document(one, only_runs=True) for one in self.tables],
            repeats=repeats(groups),
            environment=environments(groups),
        )

    def _page(self, part: Part, mark: str) -> dict[str, Any]:
        """What the template shows of a part; `mark`: the end of its ids."""
        splits, notes = _data(part.reference.first, self.folder) if self.images else (None, [])
        gallery = None
        if splits is not None:
            test = splits.test
            part = replace(part, groups=tuple(_with_cost(group, test.images.shape[2]) for group in part.groups))
            part = replace(part, reference=next(g for g in part.groups if g.name == part.reference.name))
            shown = _shown(part)
            firsts = [_moved(group.first, self.folder) for group in shown]
            gallery = runs_gallery(firsts, shown.index(part.reference), test, images=self.images)
            notes += gallery.notes
            if len(shown) < len(part.groups):
                notes.append(Note("gallery", f"{len(shown)} of {len(part.groups)} networks"))
        notes += [
            Note(group.name, "multiply-adds depend on the size of the test images, which is not known")
            for group in part.groups
            if group.parameters is not None and group.multiply_adds is None
        ]
        names = {group.first.name: group.name for group in part.groups}
        return {
            "heading": part.heading,
            "mark": mark,
            "facts": _facts(part, splits),
            "networks": [group.to_record() for group in part.groups],
            "runs": [record for group in part.groups for record in group.run_records()],
            "several": any(len(group.runs) > 1 for group in part.groups),
            "reference": part.reference.name,
            "styles": part.styles,
            "comparisons": [one.to_record() for one in part.comparisons],
            "costs": part.costs(),
            "intervals": part.intervals(),
            "curves": part.curves(),
            "gallery": gallery.gallery if gallery and gallery.networks else None,
            "gallery_styles": [part.styles[names[run.name]] for run in gallery.networks] if gallery else [],
            "notes": gathered([*part.notes, *notes]),
        }


def _without_details(columns: Sequence[Column]) -> list[Column]:
    """Of a terminal, which has no room for them."""
    return [replace(column, detail="") for column in columns]


def report_runs(
    paths: Sequence[str | Path],
    *,
    title: str = "Runs",
    names: Sequence[str] | None = None,
    reference: str | None = None,
    images: int = 12,
    folder: str | None = None,
) -> RunsReport:
    """A report of the runs at some paths; those that differ only in their seeds are one network.

    Args:
        paths: see `collect`.
        title: of the page.
        names: of the networks, in order; see `seed_groups`.
        reference: the name of the network that the others with the same test set are compared with; with other test
            sets, and if None: one without a teacher and without attention, the cheapest.
        images: test images in the gallery, random ones; a few more are those on which the networks differ most. 0: no
            gallery.
        folder: where the data lie; None: where the recipes say.

    Raises:
        InputError: no run at these paths, or none with a finished epoch; names that do not fit the networks, no such
            reference, a number out of range.
    """
    if images < 0:
        raise InputError(f"{images} images in the gallery; give 0 or more")
    results, notes = collect(paths)
    if not results:
        raise InputError(f"no run to report: {'; '.join(f'{about}: {note}' for about, note in notes)}")
    groups, of_seeds = seed_groups(results, names)
    if reference is not None and reference not in [group.name for group in groups]:
        raise unknown("reference", reference, [group.name for group in groups])
    by_test_set: dict[str, list[SeedGroup]] = {}
    for group in groups:
        by_test_set.setdefault(group.first.test_set, []).append(group)
    together = sorted(by_test_set.values(), key=lambda part: -sum(len(group.runs) for group in part))
    parts = []
    for part, heading in zip(together, _headings([part[0].first for part in together]), strict=True):
        base = next((group for group in part if group.name == reference), plainest(part))
        comparisons, of_part = compare(part, base)
        parts.append(Part(heading, tuple(part), base, tuple(comparisons), (*of_part, *_notes(part))))
    tables = filled_tables(result.run for result in results)
    return RunsReport(
        parts=tuple(_corrected(parts)),
        tables=tuple(tables),
        notes=tuple(gathered([*notes, *of_seeds])),
        title=title,
        images=images,
        folder=folder,
    )


def _corrected(parts: Sequence[Part]) -> list[Part]:
    """With the comparisons of all parts corrected together."""
    every = [comparison for part in parts for comparison in part.comparisons]
    corrected = stats.holm(dict(enumerate(one.difference for one in every)))
    adjusted = iter(replace(one, difference=corrected[i]) for i, one in enumerate(every))
    return [replace(part, comparisons=tuple(next(adjusted) for _ in part.comparisons)) for part in parts]


def _notes(groups: Sequence[SeedGroup]) -> list[Note]:
    """What is missing or does not fit together."""
    notes = []
    folders = {run.recipe.data.folder or "" for group in groups for run in group.runs}
    for group in groups:
        for run in group.runs:
            if run.bias is None:
                notes.append(Note(run.name, "no bias.json"))
                continue
            tested, measured = run.accuracy, run.bias.accuracy
            if run.bias.dataset != run.recipe.data.name or (tested is not None and tested.n != measured.n):
                data = f"{run.bias.dataset} {run.bias.split}".strip()
                notes.append(
                    Note(run.name, f"bias.json is of other images than the test images: {measured.n:,} of {data}")
                )
            elif tested is not None and abs(tested.value - measured.value) > 0.005:
                notes.append(
                    Note(run.name, "bias.json has another accuracy than the last epoch: other weights or images")
                )
    if len(folders) > 1 and groups[0].first.recipe.data.name in FROM_FOLDERS:
        notes += [
            Note(folder, "one of several folders of test images, whether of the same is not known")
            for folder in folders
        ]
    return notes


def _facts(part: Part, splits: Splits[InMemoryDataset] | None) -> list[tuple[str, str]]:
    """What was trained on what, and how CAMs were computed; names with values."""
    runs = part.runs
    measured = [run.bias for run in runs if run.bias is not None]
    facts: dict[str, Iterable[object]] = {
        "networks": [len(part.groups)],
        "runs": [len(runs)],
        "data": [run.recipe.data.name for run in runs],
    }
    if splits is not None:
        height, width = splits.test.images.shape[2:]
        facts |= {
            "training images": [f"{run.recipe.data.train_images or len(splits.train):,}" for run in runs],
            "test images": [f"{len(splits.test):,}"],
            "image size": [f"{width} × {height} pixels"],
            "classes": [len(splits.test.classes)],
        }
    default: dict[str, Any] = {}
    with suppress(InputError):  # of a data set that is no more
        default = all_options(part.reference.first.recipe.data.name)
    options = [{**default, **run.recipe.data.options} for run in runs]
    for name in default:
        differs = any(of_run[name] != default[name] for of_run in options)
        if name in ("cue", "test_cue") or (differs and name not in ("train", "test")):
            facts[f"option {name}"] = [of_run[name] for of_run in options]
    facts |= {
        "epochs": sorted(run.epochs for run in runs),
        "seeds": sorted({run.recipe.seed for run in runs}),
        "device": [_device(run) for run in runs],
        "CAM": [one.method for one in measured],
        "layers": [", ".join(one.layers) for one in measured],
        "class of the CAM": [one.target for one in measured],
        "threshold of the focus": [f"{one.threshold:g}" for one in measured],
        "margin in pixels": [one.margin for one in measured],
    }
    texts = {
        name: ", ".join(dict.fromkeys(printable(option_text(v)) for v in values)) for name, values in facts.items()
    }
    return [(name, text) for name, text in texts.items() if text.strip(", ")]


def _headings(firsts: Sequence[RunResult]) -> list[str]:
    """Test sets by the name of the data set, and what distinguishes two of the same name."""
    names = []
    for run in firsts:
        same = [other.test_options for other in firsts if other.recipe.data.name == run.recipe.data.name]
        details = [f"{run.test_images:,} test images"] if run.test_images else []
        details += [f"{len(run.environment['classes'])} classes"] if run.environment.get("classes") else []
        details += [
            f"{name} {option_text(value)}"
            for name, value in run.test_options.items()
            if name != "test" and any(other.get(name) != value for other in same)
        ]
        names.append(", ".join([run.recipe.data.name, *details]))
    return [
        f"{name}, set {names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)
    ]


def _curve(run: RunResult, column: str) -> dict[float, float]:
    """Epoch -> value, where there is a finite one."""
    values = {line["epoch"]: line.get(column) for line in run.metrics}
    return {epoch: v for epoch, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


def _shown(part: Part) -> list[SeedGroup]:
    """The networks of the gallery: the reference and the first others."""
    others = [group for group in part.groups if group is not part.reference][: MOST_SHOWN - 1]
    return [group for group in part.groups if group is part.reference or group in others]


def _with_cost(group: SeedGroup, side: int) -> SeedGroup:
    """With multiply-adds, if only the side of the test images was not known."""
    run = group.first
    if run.multiply_adds is not None or run.parameters is None:
        return group
    known = replace(run, multiply_adds=cost(run.recipe, len(run.environment["classes"]), side)[1])
    return replace(group, runs=(known, *group.runs[1:]))


def _moved(run: RunResult, folder: str | None) -> RunResult:
    """The run with its data in another folder."""
    if folder is None:
        return run
    return replace(run, recipe=replace(run.recipe, data=replace(run.recipe.data, folder=folder)))


def _data(run: RunResult, folder: str | None) -> tuple[Splits[InMemoryDataset] | None, list[Note]]:
    """The images of a run, and a note if there are none for the gallery."""
    try:
        splits = load_data(replace(_moved(run, folder).recipe.data, download=False))
    except InputError as error:
        return None, [Note("gallery", f"no test images: {error}")]
    if not isinstance(splits.test, InMemoryDataset):
        return None, [Note("gallery", f"no test images: {splits.test.name} is not in memory")]
    return splits, []


def _device(run: RunResult) -> str:
    gpu, device = run.environment.get("gpu"), run.recipe.device
    if device == "cpu" or (device == "auto" and not gpu):
        return "CPU"
    return str(gpu) if gpu and device.startswith(("auto", "cuda")) else device
