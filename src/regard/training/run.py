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
    MOST_BYTES,
    RUN_FILES,
    check_replaceable,
    read_regular,
    remove_files,
    written_aside,
    written_files,
)
from regard.formatting import printable
from regard.launcher import rank_and_size
from regard.metrics_file import read_metrics
from regard.terminal import command_line
from regard.training.networks import load_network
from regard.training.parsing import load_recipe
from regard.training.recipe import Recipe, with_fields, write_recipe
from regard.version import __version__

Weights = Literal["last", "best"]


@dataclass(frozen=True)
class Run:
    """A run folder.

    `recipe.yaml` (whole), `environment.json`, `metrics.jsonl` (one line per epoch), `checkpoints/`, `last.safetensors`
    (weights after the last finished epoch) and `best.safetensors` (weights with the best test accuracy so far).
    """

    folder: Path

    @classmethod
    def create(cls, folder: str | Path, recipe: Recipe, classes: tuple[str, ...]) -> Run:
        """A new run folder. InputError is raised where it is there and not empty, or cannot be written."""
        cls.check_free(folder)
        run = cls(Path(folder))
        run.begin(recipe, classes)
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run folder; InputError says that there is none, or that it is no run."""
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"there is no run folder {folder}")
        if not (folder / "recipe.yaml").is_file():
            raise InputError(f"{folder} is no run: it has no recipe.yaml")
        return cls(folder)

    @staticmethod
    def check_free(folder: str | Path, *, overwrite: bool = False) -> None:
        """Raises InputError where no new run may be made: the folder is not empty and `overwrite` is not set; it holds
        something other than a run, or the working folder or the home folder; or it cannot be written.
        """
        folder = Path(folder)
        try:
            real = Path(os.path.realpath(folder))
            existing = next(path for path in (real, *real.parents) if os.path.lexists(path))  # a link to itself is
            empty = real != existing or (real.is_dir() and not any(real.iterdir()))
            writable = existing.is_dir() and os.access(existing, os.W_OK)
        except OSError as error:
            raise InputError(f"the run folder {folder} cannot be made ({first_line(error)}); give another") from error
        if not empty:
            if not overwrite:
                raise InputError(
                    f"{folder} exists already; go on with it (--resume), replace it (--overwrite) or choose another "
                    "(--run)"
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
        """Makes the folder of a run that starts.

        Args:
            classes: their names, in the order of the logits.
            replaced: files of the run before, which are removed.
            about: what else is written to `environment.json`.

        Raises:
            InputError: the folder cannot be written.
        """

        def write(folder: Path) -> None:
            with written_aside(folder / "environment.json") as aside:
                aside.write_text(json.dumps(environment(classes) | (about or {}), indent=1))
            with written_aside(folder / "recipe.yaml") as aside:
                write_recipe(recipe, aside)

        real = Path(os.path.realpath(self.folder))
        beside = real.with_name(f".{real.name}.{os.getpid()}.part")
        try:
            if real.exists():
                remove_files(self.folder, replaced)
                write(real)  # one file after the other: at any time it is a run
            else:
                beside.mkdir(parents=True)
                write(beside)
                os.rename(beside, real)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise InputError(
                f"the run folder {self.folder} cannot be made ({first_line(error)}); make room, or give another"
            ) from error

    def update(self, epochs: int, unreadable: Literal["error", "skip"]) -> None:
        """Changes what a run that goes on may change in its recipe: the epochs, and what is done with broken images."""
        before = self.recipe
        changed = with_fields(before, {"schedule.epochs": epochs, "data.unreadable": unreadable})
        if changed == before:
            return
        try:
            with written_aside(self.folder / "recipe.yaml") as aside:
                write_recipe(changed, aside)
        except OSError as error:
            raise InputError(f"the recipe of {self.folder} cannot be written ({first_line(error)})") from error

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def files(self) -> list[Path]:
        """The files of the run, but for its recipe and environment, which make the folder a run."""
        return written_files(self.folder, RUN_FILES)

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.folder / "recipe.yaml")

    @property
    def environment(self) -> dict[str, Any]:
        """What the run depended on besides its recipe; empty where the file is missing. InputError says that it cannot
        be read, or that the classes in it are no names.
        """
        path = self.folder / "environment.json"
        try:
            content = json.loads(read_regular(path, MOST_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read ({first_line(error)}); put the run's own back") from error
        names: Any = content.get("classes", []) if isinstance(content, dict) else None
        listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not listed or len(names) > models.MOST_CLASSES:
            raise InputError(f"{path} does not name the classes of the run; put the run's own back")
        return content

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        names = self.environment.get("classes")
        if not names:
            raise InputError(f"{self.folder / 'environment.json'} does not name the classes of the run")
        return tuple(names)

    def metrics(self) -> list[dict[str, Any]]:
        """The epochs so far, one dict each; a last line cut short is left out. InputError says that the file cannot be
        read, or that another line is not that of an epoch.
        """
        path = self.folder / "metrics.jsonl"
        try:
            return read_metrics(read_regular(path, MOST_BYTES))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror or error})") from error

    def weights(self, which: Weights = "last") -> Path:
        """The file of weights; InputError says that the run has none yet."""
        path = self.folder / f"{which}.safetensors"
        if not path.is_file():
            raise InputError(f"{self.folder} has no {path.name}: no epoch of it is finished")
        return path

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        with written_aside(self.folder / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def save_weights(self, model: nn.Module, which: Weights, epoch: int, test_accuracy: float) -> None:
        notes = {"regard": __version__, "epoch": epoch, "test_accuracy": test_accuracy}
        models.write_weights(model, self.folder / f"{which}.safetensors", notes)

    def record_epoch(self, model: nn.Module, rows: list[dict[str, Any]], unreadable: Sequence[str]) -> None:
        """Writes the metrics, the weights (also as the best ones, if they are) and the list of unreadable files.

        Raises:
            InputError: the disk is full, or the folder cannot be written; what was there before is there still.
        """
        epoch, accuracy = rows[-1]["epoch"], rows[-1]["test_accuracy"]
        try:
            self.save_weights(model, "last", epoch, accuracy)
            if all(accuracy > row["test_accuracy"] for row in rows[:-1]):
                self.save_weights(model, "best", epoch, accuracy)
            self.write_metrics(rows)
            if unreadable:
                lines = "".join(f"{printable(name)}\n" for name in unreadable)
                (self.folder / "unreadable.txt").write_text(lines, encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"epoch {epoch} could not be written to {self.folder} ({first_line(error)}); make room, then resume "
                "the run (--resume)"
            ) from error

    def mend(self, model: nn.Module, rows: list[dict[str, Any]], unreadable: Sequence[str]) -> None:
        """Writes what the folder lacks of the last finished epoch, which its checkpoint is of: a copy may have been cut
        off between the two, and files may have been lost.
        """
        with suppress(InputError):  # metrics that cannot be read are written again
            if len(self.metrics()) >= len(rows) and (self.folder / "last.safetensors").is_file():
                return
        self.record_epoch(model, rows, unreadable)

    def model(self, which: Weights = "last") -> nn.Module:
        """The trained network, in evaluation mode, on the CPU. InputError says that the run has no such weights, or
        that they are cut short or do not fit its recipe.
        """
        return load_network(self.recipe.model, len(self.classes), self.weights(which))


@cache
def commit() -> str | None:
    """The commit that is checked out where regard's sources lie; None if they are no checkout of regard.

    Changes since then are not seen.
    """
    root = Path(regard.__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / ".git").exists():
        return None
    git = ["git", "-c", "safe.directory=*", "-C", str(root), "rev-parse", "HEAD"]  # whoever the sources belong to
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # there is no git, or no commit
        return None


def environment(classes: tuple[str, ...]) -> dict[str, Any]:
    """What a run depends on besides its recipe; classes are in the order of the logits."""
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
