"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from regard.bias import Rate
from regard.data import Splits, clutter
from regard.errors import InputError
from regard.files import written_aside
from regard.report import figures, wording
from regard.report.caveats import caveats, seeds
from regard.report.differences import Differences, differences, index_of
from regard.report.repeat import environments, repeats
from regard.report.sheet import Sheet, make_sheet
from regard.report.summary import Summary
from regard.training import load_data
from regard.version import __version__


@dataclass(frozen=True)
class _Figure:
    title: str
    svg: Markup


def write_html(
    rows: Sequence[Summary],
    path: str | Path,
    *,
    title: str,
    images: int = 12,
    reference: int | str = 0,
    notes: Sequence[str] = (),
) -> Path:
    """Writes a report of runs as one self-contained HTML file: no script, no request, light and dark, screen and paper.

    Besides the run folders it reads the test images, for the sheet; where they are gone, the page says so and has
    none. The file is written aside and renamed.

    Args:
        rows: from `summarize`, at least one.
        path: of the file; its folder is made if need be.
        title: of the page.
        images: test images on the sheet, picked by chance; four more show where the networks differ most. 0: no sheet.
        reference: the row that the others are compared with, its place or its name.
        notes: what else the reader should know, a paragraph each, plain text.

    Returns:
        The path.

    Raises:
        InputError: no rows, no such reference, a weights file that cannot be read, a place that cannot be written.
    """
    if not rows:
        raise InputError("no rows given; a report needs at least one run")
    if images < 0:
        raise InputError(f"{images} images on the sheet; give 0 or more")
    base = index_of(rows, reference)
    found = differences(rows, base)
    splits, said = _data(rows[base]) if images else (None, [])
    sheet = make_sheet(rows, base, splits.test, images=images) if splits else None
    others = iter(range(1, len(rows)))
    styles = {row.name: 0 if i == base else next(others) for i, row in enumerate(rows)}
    text = _template().render(
        title=title,
        version=__version__,
        intro=_intro(rows, splits),
        notes=notes,
        rows=rows,
        reference=rows[base],
        styles=styles,
        found=found,
        by_chance=_by_chance(found),
        reach=max((abs(end) for line in found.lines for end in (line.difference.low, line.difference.high)), default=1),
        seeds=seeds(rows),
        caveats=[*caveats(rows), *found.notes, *said, *(sheet.notes if sheet else ())],
        measured=_measured(rows),
        forests=_forests(rows, styles),
        curves=_curves(rows, styles),
        sheet=sheet if sheet and sheet.networks else None,
        rule=_rule(sheet) if sheet else "",
        repeats=repeats(rows),
        environments=environments(rows),
    )
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            aside.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; give another place") from error
    return path


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"colour_of": figures.colour_of, "dashes_of": figures.dashes_of}
    names = ("percent", "interval", "signed", "large", "probability")
    environment.filters |= {name: getattr(wording, name) for name in names}
    source = resources.files("regard.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source)


def _data(row: Summary) -> tuple[Splits | None, list[str]]:
    """The images of a run, and what to say if they cannot be had."""
    try:
        return load_data(replace(row.recipe.data, download=False)), []
    except InputError as error:
        return None, [f"There is no sheet of test images: {error}."]


def _intro(rows: Sequence[Summary], splits: Splits | None) -> str:
    """Two sentences: what was trained on what, and how."""
    data = rows[0].recipe.data
    names = wording.listed(dict.fromkeys(row.recipe.data.name for row in rows))
    details = []
    if splits is not None:
        train, test = splits
        height, width = test.images.shape[2:]
        details = [
            f"{len(train):,} training and {len(test):,} test images",
            f"{width} × {height} pixels",
            f"{len(test.classes)} classes",
        ]
    if names == "clutter":
        defaults = inspect.signature(clutter).parameters
        cue, test_cue = (data.options.get(name, defaults[name].default) for name in ("cue", "test_cue"))
        details.append(f"cue {cue:g} in training and {test_cue:g} in testing")
    details += [f"{name} {value}" for name, value in data.options.items() if name not in ("cue", "test_cue")]
    verb = "was" if len(rows) == 1 else "were"
    first = f"{wording.number(len(rows), 'network').capitalize()} {verb} trained on {names}"
    first += f" ({', '.join(details)})." if details else "."
    epochs = sorted({row.epochs for row in rows})
    seeds_used = sorted({row.recipe.seed for row in rows})
    span = f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"{epochs[0]}"
    devices = wording.listed(dict.fromkeys(_device(row) for row in rows))
    second = (
        f"{'Each network' if len(rows) > 1 else 'It'} saw {span} epoch{'s' if epochs != [1] else ''}, with "
        f"seed{'s' if len(seeds_used) > 1 else ''} {wording.listed(map(str, seeds_used))}, on {devices}; all numbers "
        "are those after the last epoch."
    )
    return f"{first} {second}"


def _device(row: Summary) -> str:
    gpu = row.environment.get("gpu")
    asked = row.recipe.device
    if asked == "cpu" or (asked == "auto" and not gpu):
        return "the CPU"
    return str(gpu) if gpu and asked.startswith(("auto", "cuda")) else asked


def _by_chance(found: Differences) -> str:
    count = len(found.lines)
    expected = round(count / 20)
    if count < 2:
        return ""
    about = f"about {wording.number(expected)} of these {count}" if expected else "one in twenty such intervals"
    return f"Even if no network differed, {about} would leave zero out by chance."


def _measured(rows: Sequence[Summary]) -> str:
    """How the bias reports were made, if there are any."""
    reports = [row.bias for row in rows if row.bias is not None]
    if not reports:
        return ""
    methods = {"gradcam": "Grad-CAM"}
    how = wording.listed(dict.fromkeys(methods.get(report.method, report.method) for report in reports))
    targets = wording.listed(dict.fromkeys("label's" if r.target == "label" else "predicted" for r in reports))
    thresholds = wording.listed(dict.fromkeys(f"{report.threshold:g}" for report in reports))
    return (
        f"Where a network looks is its {how} map of the {targets} class, scaled to [0, 1] an image; its focus is where "
        f"the map is at least {thresholds}. Position bias: the focus does not meet the region, the pixels of the "
        "object. Range bias: they meet, but the focus is not inside the region. Spill: the share of the focus outside "
        "the region. Accuracy counts all test images, the others those with a focus and a region."
    )


def _forests(rows: Sequence[Summary], styles: dict[str, int]) -> list[_Figure]:
    panels: dict[str, list[tuple[Summary, Rate | None]]] = {
        "Test accuracy": [(row, row.accuracy) for row in rows],
        "Position bias": [(row, row.position_bias) for row in rows],
        "Range bias": [(row, row.range_bias) for row in rows],
    }
    drawn = []
    for panel, rates in panels.items():
        bars = [
            figures.Bar(row.name, styles[row.name], 100 * rate.value, 100 * rate.low, 100 * rate.high)
            for row, rate in rates
            if rate is not None
        ]
        if bars:
            said = "; ".join(f"{bar.name} {bar.value:.1f}% ({bar.low:.1f} to {bar.high:.1f})" for bar in bars)
            svg = figures.forest(bars, f"{panel} with 95% intervals: {said}", salt=panel)
            drawn.append(_Figure(panel, Markup(svg)))
    return drawn


def _curves(rows: Sequence[Summary], styles: dict[str, int]) -> list[_Figure]:
    panels = (("Test accuracy", "test_accuracy", 100, "%"), ("Training loss (cross entropy with the labels)", "task", 1, ""))
    drawn = []
    for panel, column, factor, unit in panels:
        series = []
        for row in rows:
            points = [(e["epoch"], factor * e[column]) for e in row.metrics if isinstance(e.get(column), int | float)]
            if points:
                series.append((row.name, figures.Series(styles[row.name], *map(list, zip(*points, strict=True)))))
        if series:
            said = "; ".join(f"{name} {one.y[-1]:.3g}{unit}" for name, one in series)
            svg = figures.curves([one for _, one in series], unit, f"{panel} by epoch; last: {said}", salt=f"{panel} curve")
            drawn.append(_Figure(panel, Markup(svg)))
    return drawn


def _rule(sheet: Sheet) -> str:
    return (
        f"{len(sheet.fair)} of the {sheet.images:,} test images: the set is cut into {len(sheet.fair)} equal parts, and of "
        "each part one image is drawn (seed 0), whatever the networks make of it."
    )
