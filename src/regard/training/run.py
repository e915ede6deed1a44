"""A run is a folder: its recipe, its environment, one line of metrics per epoch, checkpoints and weights."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

import regard
from regard import attention, models
from regard.errors import InputError, first_line
from regard.files import (
    MAX_BYTES,
    RUN_FILES,
    atomic_write,
    check_replaceable,
    matching_files,
    read_regular,
    remove_files,
)
from regard.formatting import printable
from regard.launcher import rank_and_size
from regard.store.runs import measure_of, read_metrics
from regard.terminal import command_line
from regard.training.networks import load_network
from regard.training.parsing import load_recipe
from regard.training.recipe import Recipe, with_fields, write_recipe
from regard.version import __version__

Weights = Literal["last", "best"]


@dataclass(frozen=True)
class Run:
    """A run folder.

    Its files are `recipe.yaml` (complete), `environment.json`, `metrics.jsonl` (one line per epoch), `checkpoints/`,
    `last.safetensors` (weights after the last finished epoch) and `best.safetensors` (weights with the best test
    accuracy, or AP, so far).
    """

    folder: Path

    @classmethod
    def create(cls, folder: str | Path, recipe: Recipe, classes: tuple[str, ...]) -> Run:
        """Creates a run folder. Raises InputError if it is not empty or cannot be written."""
        cls.check_free(folder)
        run = cls(Path(folder))
        run.begin(recipe, classes)
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Opens a run folder. Raises InputError if it does not exist or is no run."""
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"there is no run folder {folder}")
        if not (folder / "recipe.yaml").is_file():
            raise InputError(f"{folder} is no run: it has no recipe.yaml")
        return cls(folder)

    @staticmethod
    def check_free(folder: str | Path, *, overwrite: bool = False) -> None:
        """Raises InputError if a new run cannot be made in a folder.

        That is if the folder is not empty and `overwrite` is not set, contains anything but a run, is or contains the
        working folder or the home folder, or cannot be written.
        """
        folder = Path(folder)
        try:
            real = Path(os.path.realpath(folder))
            existing = next(path for path in (real, *real.parents) if os.path.lexists(path))  # also a link to itself
            empty = real != existing or (real.is_dir() and not any(real.iterdir()))
            writable = existing.is_dir() and os.access(existing, os.W_OK)
        except OSError as error:
            raise InputError(f"the run folder {folder} cannot be made ({first_line(error)}); give another") from error
        if not empty:
            if not overwrite:
                raise InputError(
                    f"{folder} exists already; resume it (--resume), replace it (--overwrite) or choose another (--run)"
                )
            try:
                _ = Run.open(folder).classes
            except InputError as error:
                raise InputError(f"{folder} is not overwritten: it exists and is no run ({error})") from error
            check_replaceable(folder)
        if not writable:
            raise InputError(
                f"the run folder {folder} cannot be made: {existing} cannot be written; give another (--run)"
            )

    def begin(
        self,
        recipe: Recipe,
        classes: tuple[str, ...],
        replaced: Sequence[Path] = (),
        about: dict[str, Any] | None = None,
    ) -> None:
        """Creates the folder of a new run. Raises InputError if it cannot be written.

        Args:
            recipe: recipe of the run.
            classes: class names in the order of the logits.
            replaced: files of a replaced run, which are removed.
            about: further fields of `environment.json`.
        """

        def write(folder: Path) -> None:
            with atomic_write(folder / "environment.json") as temporary:
                temporary.write_text(json.dumps(environment(classes) | (about or {}), indent=1))
            write_recipe(recipe, folder / "recipe.yaml")

        real = Path(os.path.realpath(self.folder))
        temporary = real.with_name(f".{real.name}.{os.getpid()}.part")
        try:
            if real.exists():
                remove_files(self.folder, replaced)
                write(real)  # file by file, so that the folder is a run at any time
            else:
                temporary.mkdir(parents=True)
                write(temporary)
                os.rename(temporary, real)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise InputError(
                f"the run folder {self.folder} cannot be made ({first_line(error)}); free some space, or give another"
            ) from error

    def update(self, epochs: int, unreadable: Literal["error", "skip"]) -> None:
        """Updates the recipe fields that may change when a run is resumed: the epochs and `data.unreadable`."""
        recipe = with_fields(self.recipe, {"schedule.epochs": epochs, "data.unreadable": unreadable})
        if recipe == self.recipe:
            return
        try:
            write_recipe(recipe, self.folder / "recipe.yaml")
        except OSError as error:
            raise InputError(f"the recipe of {self.folder} cannot be written ({first_line(error)})") from error

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def files(self) -> list[Path]:
        """The files of the run except recipe and environment, which make the folder a run."""
        return matching_files(self.folder, RUN_FILES)

    @property
    def recipe(self) -> Recipe:
        """The recipe. Raises InputError if the file is missing or is no recipe."""
        return load_recipe(self.folder / "recipe.yaml")

    @property
    def environment(self) -> dict[str, Any]:
        """Content of `environment.json`, empty if it is missing. Raises InputError if it is malformed."""
        path = self.folder / "environment.json"
        try:
            content = json.loads(read_regular(path, MAX_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read ({first_line(error)}); restore the file") from error
        names: Any = content.get("classes", []) if isinstance(content, dict) else None
        listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not listed or len(names) > models.MOST_CLASSES:
            raise InputError(f"{path} does not name the classes of the run; restore the file")
        return content

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        names = self.environment.get("classes")
        if not names:
            raise InputError(f"{self.folder / 'environment.json'} does not name the classes of the run")
        return tuple(names)

    def metrics(self) -> list[dict[str, Any]]:
        """One dict per finished epoch, without an incomplete last line. Raises InputError for a malformed file."""
        path = self.folder / "metrics.jsonl"
        try:
            return read_metrics(read_regular(path, MAX_BYTES))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror or error})") from error

    def weights(self, which: Weights = "last") -> Path:
        """Path of the weights. Raises InputError if the run has none yet."""
        path = self.folder / f"{which}.safetensors"
        if not path.is_file():
            raise InputError(f"{self.folder} has no {path.name}: no epoch of it is finished")
        return path

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Writes `metrics.jsonl`, one line per epoch."""
        with atomic_write(self.folder / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def save_weights(
        self, model: nn.Module, which: Weights, epoch: int, value: float, measure: str = "test_accuracy"
    ) -> None:
        """Writes the weights of `model`, with the epoch and the value of the measure in the metadata."""
        notes = {"regard": __version__, "epoch": epoch, measure: value}
        models.write_weights(model, self.folder / f"{which}.safetensors", notes)

    def record_epoch(self, model: nn.Module, rows: list[dict[str, Any]], unreadable: Sequence[str]) -> None:
        """Writes the metrics, the last weights, the best weights if this epoch is the best, and the unreadable files.

        Raises InputError if the disk is full or the folder cannot be written; earlier files are unchanged.
        """
        measure = measure_of(rows[-1])
        epoch, value = rows[-1]["epoch"], rows[-1][measure]
        try:
            self.save_weights(model, "last", epoch, value, measure)
            if all(value > row[measure] for row in rows[:-1]):
                self.save_weights(model, "best", epoch, value, measure)
            self.write_metrics(rows)
            if unreadable:
                lines = "".join(f"{printable(name)}\n" for name in unreadable)
                (self.folder / "unreadable.txt").write_text(lines, encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"epoch {epoch} could not be written to {self.folder} ({first_line(error)}); free some space, then "
                "resume the run (--resume)"
            ) from error

    def mend(self, model: nn.Module, rows: list[dict[str, Any]], unreadable: Sequence[str]) -> None:
        """Restores files of the last finished epoch that a copy lacks, from the state of its checkpoint."""
        with suppress(InputError):  # unreadable metrics are written again
            if len(self.metrics()) >= len(rows) and (self.folder / "last.safetensors").is_file():
                return
        self.record_epoch(model, rows, unreadable)

    def model(self, which: Weights = "last") -> nn.Module:
        """The trained network, in evaluation mode on the CPU. Raises InputError if it has none that fit."""
        recipe = self.recipe
        return load_network(recipe.model, len(self.classes), self.weights(which), data=recipe.data)


@cache
def commit() -> str | None:
    """The git commit of regard; None if regard was not imported from a git checkout. Ignores uncommitted changes."""
    root = Path(regard.__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / ".git").exists():
        return None
    # safe.directory=*: another user may own the sources
    command = ["git", "-c", "safe.directory=*", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # git is not installed, or there is no commit
        return None


def environment(classes: tuple[str, ...]) -> dict[str, Any]:
    """Content of `environment.json`: versions, device and class names (in the order of the logits) of a run."""
    gpu = torch.cuda.is_available()
    return {
        "regard": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: version(package) for package in ("torchvision", "timm", "accelerate")},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": rank_and_size()[1],
        "attention_kernels": attention.kernels.backend("cuda" if gpu else "cpu"),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "command": command_line(sys.argv),
        "classes": list(classes),
    }
