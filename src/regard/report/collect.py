"""Reads run folders: the network of each run, its cost, and its results."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from regard.bias import Results
from regard.data import all_options
from regard.errors import InputError, one_line
from regard.files import MAX_BYTES, read_regular
from regard.formatting import printable
from regard.models import complexity
from regard.report.records import Note
from regard.stats import Estimate, proportion
from regard.store import read_run
from regard.store.runs import share
from regard.training import Recipe, Run, make_model
from regard.training.datasets import Preprocessing

MEASURES = ("accuracy", "box_ap", "mask_ap", "position_bias", "range_bias", "spill")

_SEED = re.compile(r"^seed: (\d{1,18})$", re.MULTILINE)

# Options of data sets that determine the training images, or how images are read.
_NOT_OF_TESTING = {"train", "train_images", "cue", "memory_limit", "buffer"}
FROM_FOLDERS = ("folder", "files", "wds", "hfds")
"""Data sets whose images are those of a folder."""
_BY_ADDRESS = ("wds", "hfds")  # their `folder` is an address, not a local path


@dataclass(frozen=True, eq=False)
class RunResult:
    """A run, with the cost of its network and its results.

    Attributes:
        name: unique among the runs of a report.
        run: the run folder.
        recipe: recipe of the run.
        parameters: number of learned parameters; None if the run does not record its classes.
        multiply_adds: for one test image; None if the classes or the image size are not known.
        epochs: number of finished epochs.
        test_accuracy: after the last finished epoch, in [0, 1]; None if no epoch is finished.
        accuracy: the same with its interval over the test images; None if their number is not recorded.
        bias: results from `bias.json`; None without this file.
        metrics: one dict per finished epoch.
        environment: what the run depended on besides its recipe; empty if not recorded.
    """

    name: str
    run: Run
    recipe: Recipe = field(repr=False)
    parameters: int | None
    multiply_adds: int | None
    epochs: int
    test_accuracy: float | None
    accuracy: Estimate | None
    bias: Results | None = field(repr=False)
    metrics: tuple[dict[str, Any], ...] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)

    @property
    def finished(self) -> bool:
        """Whether all epochs of its recipe are finished."""
        return 0 < self.recipe.schedule.epochs <= self.epochs

    @property
    def test_images(self) -> int | None:
        """Number of test images; None if not recorded."""
        return _test_images(self.metrics)

    def estimate(self, measure: str) -> Estimate | None:
        """One of `MEASURES`, in [0, 1], with its interval over the test images; None if not known."""
        if measure in ("accuracy", "box_ap", "mask_ap"):  # AP is not a mean over images, and has no interval over them
            return self.accuracy if measure == "accuracy" else None
        estimate = self.bias.overall.estimates()[measure] if self.bias else None
        return estimate if estimate and estimate.n else None

    def value(self, measure: str) -> float | None:
        """One of `MEASURES`, in [0, 1]; None if not known."""
        if measure == "accuracy":
            return self.test_accuracy
        if measure in ("box_ap", "mask_ap"):
            return share(self.metrics[-1].get(f"test_{measure}")) if self.metrics else None
        estimate = self.estimate(measure)
        return estimate.value if estimate else None

    @property
    def test_set(self) -> str:
        """A key that is equal for runs that were tested on the same images, as far as their folders record it.

        It consists of the data set, the options that determine the test images, the number of test images and, for
        `FROM_FOLDERS`, the class names and an address. The path of a local folder and the input size do not count.
        """
        data = self.recipe.data
        contents = list(self.environment.get("classes", ())) if data.name in FROM_FOLDERS else None
        address = data.folder if data.name in _BY_ADDRESS else None
        return json.dumps([data.name, self.test_options, self.test_images, contents, address], default=str)

    @property
    def test_options(self) -> dict[str, Any]:
        """Options of the data set that determine the test images, by name."""
        options = dict(self.recipe.data.options)
        with suppress(InputError):  # the data set no longer exists
            options = all_options(self.recipe.data.name, **options)
        return {name: options[name] for name in sorted(options) if name not in _NOT_OF_TESTING}


def collect(paths: Sequence[str | Path]) -> tuple[list[RunResult], list[Note]]:
    """Reads the runs that have a finished epoch, from run folders alone.

    Args:
        paths: run folders, folders of run folders (read in order of their names, without hidden ones), or shell
            patterns of either. A run that occurs twice is read once.

    Returns:
        The runs, in order of the paths, and one note per folder that is left out.

    Raises:
        InputError: a path that is not a folder, a pattern without a match, or no run folder at all.
    """
    folders: dict[Path, Path] = {}  # by real path
    notes = []
    for path in paths:
        for folder in _matches(path):
            if _is_run(folder):
                folders.setdefault(folder.resolve(), folder)
                continue
            children = sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=_by_name)
            for child in children or [folder]:
                if _is_run(child):
                    folders.setdefault(child.resolve(), child)
                else:
                    notes.append(Note(printable(child), "no recipe.yaml" if any(child.iterdir()) else "empty folder"))
    if not folders:
        names = ", ".join(printable(path) for path in paths) or "no path"
        raise InputError(
            f"no run in {names}; expected folders with a recipe.yaml, as `regard train` makes them, or folders of these"
        )
    results = []
    reader = _Reader()
    for name, folder in zip(_names(list(folders)), folders.values(), strict=True):
        try:
            result = reader.read(Run.open(folder), name)
        except Exception as error:  # building a network from a broken recipe may raise anything
            kind = "" if isinstance(error, InputError | OSError) else f"{type(error).__name__}: "
            notes.append(Note(name, f"broken: {kind}{one_line(error)[:500]}"))
            continue
        if result.epochs:
            results.append(result)
        else:
            notes.append(Note(name, "no epoch is finished"))
    return results, notes


class _Reader:
    """Reads runs; parses recipes that differ only in the seed once, and builds equal networks once."""

    def __init__(self) -> None:
        self._recipes: dict[str, Recipe] = {}
        self._costs: dict[str, tuple[int | None, int | None]] = {}

    def read(self, run: Run, name: str) -> RunResult:
        stored = read_run(run.folder)
        if stored is not None and stored.problem:
            raise InputError(stored.problem)
        recipe, metrics, environment = self._recipe(run), tuple(run.metrics()), run.environment
        bias = Results.load(run.folder / "bias.json") if (run.folder / "bias.json").is_file() else None
        last = metrics[-1] if metrics else {}
        accuracy, images = share(last.get("test_accuracy")), _test_images(metrics)
        classes, side = len(environment.get("classes", ())), Preprocessing.in_testing(recipe.data).size
        key = repr((recipe.model, classes, side))
        if key not in self._costs:
            self._costs[key] = cost(recipe, classes, side)
        parameters, multiply_adds = self._costs[key]
        return RunResult(
            name=name,
            run=run,
            recipe=recipe,
            parameters=parameters,
            multiply_adds=multiply_adds,
            epochs=last.get("epoch", 0),
            test_accuracy=accuracy,
            accuracy=proportion(round(accuracy * images), images) if accuracy is not None and images else None,
            bias=bias and replace(bias, model=name),
            metrics=metrics,
            environment=environment,
        )

    def _recipe(self, run: Run) -> Recipe:
        text = read_regular(run.folder / "recipe.yaml", MAX_BYTES).decode(errors="replace")
        seeds = _SEED.findall(text)
        if len(seeds) != 1:
            return run.recipe
        key = _SEED.sub("", text)
        if key not in self._recipes:
            self._recipes[key] = run.recipe
        return replace(self._recipes[key], seed=int(seeds[0]))


def cost(recipe: Recipe, classes: int, side: int | None) -> tuple[int | None, int | None]:
    """Learned parameters and multiply-adds of a recipe's network for one image; None if not known."""
    if not classes:
        return None, None
    with torch.random.fork_rng(devices=[]):  # the weights are discarded
        model = make_model(recipe, classes, pretrained=False)
    if side is None or recipe.model.detector is not None:  # a detector's operations depend on the image
        return sum(parameter.numel() for parameter in model.parameters()), None
    network = complexity(model, side)
    return network.parameters, network.multiply_adds


def _test_images(metrics: Sequence[dict[str, Any]]) -> int | None:
    images = metrics[-1].get("test_images") if metrics else None
    return images if isinstance(images, int) and images > 0 else None


def _matches(path: str | Path) -> list[Path]:
    """The folders that a path or pattern stands for."""
    name = printable(path)
    if Path(path).is_dir():
        return [Path(path)]
    if Path(path).exists():
        raise InputError(f"{name} is a file; expected a run folder, a folder of run folders, or a pattern of them")
    if not glob.has_magic(str(path)):
        raise InputError(f"there is no folder {name}; give a run folder, a folder of run folders, or a pattern")
    folders = sorted((Path(match) for match in glob.glob(str(path)) if Path(match).is_dir()), key=_by_name)
    if not folders:
        raise InputError(f"no folder matches {name}; give a run folder, a folder of run folders, or a pattern of them")
    return folders


def _by_name(path: Path) -> list[tuple[int, str]]:
    """A sort key that orders numbers in names numerically: seed2 before seed10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file()


def _names(paths: Sequence[Path]) -> list[str]:
    """Unique names of folders, each with as many parent folders as needed."""
    depth = {path: 1 for path in paths}
    while True:
        names = [printable("/".join(path.parts[-depth[path] :])) for path in paths]
        longer = [p for p, name in zip(paths, names, strict=True) if names.count(name) > 1 and depth[p] < len(p.parts)]
        if not longer:
            return names
        for path in longer:
            depth[path] += 1
