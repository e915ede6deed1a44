"""Run folders as rows of a report."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from regard.bias import Results
from regard.errors import InputError, one_line
from regard.files import MOST_BYTES, read_regular
from regard.models import complexity
from regard.report.wording import describe
from regard.stats import Estimate, proportion
from regard.store import read_run
from regard.training import Recipe, Run, make_model

# Test images and their side in pixels, for the sets that are always the same.
_TEST_IMAGES = {"clutter": 1_000, "cifar10": 10_000, "cifar100": 10_000, "stl10": 8_000}
_SIDES = {"clutter": 32, "cifar10": 32, "cifar100": 32, "stl10": 96}
_SEED = re.compile(r"^seed: (\d{1,18})$", re.MULTILINE)


@dataclass(frozen=True, eq=False)
class Summary:
    """A network: its run, what it costs, and how it did.

    Attributes:
        name: unique among the rows of a report.
        run: its folder.
        recipe: of the run.
        what: the network in words: "wrn-16-1, attention transfer (beta 1000) from teacher".
        parameters: learned ones; None where the run does not say how many classes it has.
        multiply_adds: of one test image; None where, besides, the size of the images is not known.
        epochs: finished ones.
        test_accuracy: after the last finished epoch, in [0, 1]; None: no epoch is finished.
        accuracy: the same with its 95% Wilson interval; None where the number of test images is not known.
        bias: where the network looks, if `bias.json` is there; its `model` is the name above.
        metrics: the finished epochs, one dict each.
        environment: what the run depended on besides its recipe; empty where the file is missing.
    """

    name: str
    run: Run
    recipe: Recipe = field(repr=False)
    what: str
    parameters: int | None
    multiply_adds: int | None
    epochs: int
    test_accuracy: float | None
    accuracy: Estimate | None
    bias: Results | None = field(repr=False)
    metrics: tuple[dict[str, Any], ...] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)

    @property
    def position_bias(self) -> Estimate | None:
        """Of the test images with a focus and a region; None without a bias report."""
        return _counted(self.bias.position_bias) if self.bias else None

    @property
    def range_bias(self) -> Estimate | None:
        """Likewise."""
        return _counted(self.bias.range_bias) if self.bias else None

    @property
    def spill(self) -> Estimate | None:
        """The mean share of the focus outside the region; None without a bias report."""
        spill = self.bias.overall.means["spill"] if self.bias else None
        return spill if spill and spill.n else None


def summarize(
    runs: Sequence[Run | str | Path],
    names: Sequence[str] | None = None,
    *,
    broken: list[tuple[str, str]] | None = None,
) -> list[Summary]:
    """The rows of a report, in the order of the runs. Reads the run folders and nothing else.

    Args:
        runs: at least one; each has a `recipe.yaml`. `metrics.jsonl` (a torn last line is left out), `bias.json` and
            `environment.json` are read where they are there.
        names: of the rows; None: those of the folders, with the folder above where two are the same.
        broken: takes the names of the runs that cannot be read, each with the reason; they have no row then. None: such
            a run is an error.

    Raises:
        InputError: no runs, a folder that is no run, a file in it that cannot be read, names that are not unique or
            not as many as the runs.
    """
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    if not opened:
        raise InputError("no runs given; a report needs at least one run folder")
    titles = unique(names, len(opened), "runs") if names is not None else _folder_names(opened)
    by_folder = {run.folder.resolve(): title for run, title in zip(opened, titles, strict=True)}
    costs: dict[str, tuple[int | None, int | None]] = {}
    recipes: dict[str, Recipe] = {}
    rows = []
    for run, title in zip(opened, titles, strict=True):
        try:
            stored = read_run(run.folder)
            if stored is not None and stored.problem:
                raise InputError(f"{run.folder} is broken: {stored.problem}")
            rows.append(_summary(run, _recipe(run, recipes), title, by_folder, costs))
        except Exception as error:  # a network gives almost any for a recipe that nobody wrote; the others are shown
            if broken is None:
                raise
            kind = "" if isinstance(error, InputError | OSError) else f"{type(error).__name__}: "
            broken.append((title, f"{kind}{one_line(error)[:500]}"))
    return rows


def images_tested(row: Summary) -> int | None:
    """How many test images there were; None where nothing tells."""
    if row.accuracy is not None:
        return row.accuracy.n
    counts = _test_images(row.recipe, row.metrics, row.bias)
    return counts[0] if counts else None


def _recipe(run: Run, known: dict[str, Recipe]) -> Recipe:
    """Of the run; those that are the same but for the seed are parsed once, which takes its time."""
    text = read_regular(run.folder / "recipe.yaml", MOST_BYTES).decode(errors="replace")
    seeds = _SEED.findall(text)
    if len(seeds) != 1:
        return run.recipe
    same = _SEED.sub("", text)
    if same not in known:
        known[same] = run.recipe
    return replace(known[same], seed=int(seeds[0]))


def _summary(
    run: Run,
    recipe: Recipe,
    name: str,
    by_folder: dict[Path, str],
    costs: dict[str, tuple[int | None, int | None]],
) -> Summary:
    metrics, environment = tuple(run.metrics()), run.environment
    report = Results.load(run.folder / "bias.json") if (run.folder / "bias.json").is_file() else None
    value = _share(metrics[-1].get("test_accuracy")) if metrics else None
    key = repr((recipe.model, len(environment.get("classes", ())), _side(recipe)))
    if key not in costs:
        costs[key] = _cost(recipe, len(environment.get("classes", ())), _side(recipe))
    parameters, multiply_adds = costs[key]
    return Summary(
        name=name,
        run=run,
        recipe=recipe,
        what=describe(recipe, lambda teacher: by_folder.get(Path(os.path.realpath(teacher)))),
        parameters=parameters,
        multiply_adds=multiply_adds,
        epochs=metrics[-1]["epoch"] if metrics else 0,
        test_accuracy=value,
        accuracy=None if value is None else _accuracy(value, _test_images(recipe, metrics, report)),
        bias=None if report is None else replace(report, model=name),
        metrics=metrics,
        environment=environment,
    )


def _share(value: Any) -> float | None:
    """The value, if it is a number from 0 to 1."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def with_cost(row: Summary, side: int) -> Summary:
    """The row with its multiply-adds, if only the side of the test images was wanting."""
    if row.multiply_adds is not None or row.parameters is None:
        return row
    return replace(row, multiply_adds=_cost(row.recipe, len(row.environment["classes"]), side)[1])


def _cost(recipe: Recipe, classes: int, side: int | None) -> tuple[int | None, int | None]:
    if not classes:
        return None, None
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
        model = make_model(recipe, classes, pretrained=False)
    if side is None:
        return sum(parameter.numel() for parameter in model.parameters()), None
    cost = complexity(model, side)
    return cost.parameters, cost.multiply_adds


def _side(recipe: Recipe) -> int | None:
    """Of the test images, in pixels."""
    return recipe.data.size or _SIDES.get(recipe.data.name)


def _test_images(recipe: Recipe, metrics: Sequence[dict[str, Any]], report: Results | None) -> list[int]:
    """How many there may be, most certain first."""
    said = metrics[-1].get("test_images") if metrics else None
    known = _TEST_IMAGES.get(recipe.data.name)
    if recipe.data.name == "clutter":
        known = recipe.data.options.get("test", known)
    measured = len(report) if report and report.dataset == recipe.data.name else None
    return [number for number in (said, known, measured) if isinstance(number, int)]


def _accuracy(value: float, test_images: Sequence[int]) -> Estimate | None:
    """With its interval, if the value is a share of one of these numbers of images."""
    for total in test_images:
        correct = round(value * total)
        if 0 <= correct <= total and abs(correct - value * total) < 1e-6 * total:
            return proportion(correct, total)
    return None


def _counted(rate: Estimate) -> Estimate | None:
    return rate if rate.n else None


def _folder_names(runs: Sequence[Run]) -> list[str]:
    """The names of the folders, each with as many of those above it as make it unique."""
    paths = [run.folder.resolve() for run in runs]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise InputError(f"the run {runs[i].folder} is given twice; give it once")
    depth = {path: 1 for path in paths}
    while True:
        names = [_printable("/".join(path.parts[-depth[path] :])) for path in paths]
        twice = [path for path, name in zip(paths, names, strict=True) if names.count(name) > 1]
        longer = [path for path in twice if depth[path] < len(path.parts)]
        if not longer:
            return names
        for path in longer:
            depth[path] += 1


def unique(names: Sequence[str], count: int, what: str, called: Sequence[str] = ()) -> list[str]:
    """The names, printable.

    Args:
        names: as a person gives them.
        count: of things to be named.
        what: they are, in the plural.
        called: what they are called without these names.

    Raises:
        InputError: not as many as the things, or not unique.
    """
    titles = [_printable(name) for name in names]
    if len(titles) != count:
        which = f" ({', '.join(called)})" if called else ""
        raise InputError(f"{len(titles)} names for {count} {what}{which}; give one for each")
    for title in titles:
        if not title or titles.count(title) > 1:
            raise InputError(f"the name {title!r} is empty or given twice; give each of the {what} a name of its own")
    return titles


def _printable(name: str) -> str:
    """The name on one line, with "?" for what is no text (the name of a folder can hold any bytes)."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(name.split()))
