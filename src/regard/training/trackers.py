"""Where metrics go besides the run folder, by accelerate: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from accelerate import utils
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from regard.errors import InputError, one_line


def check_trackers(names: Sequence[str]) -> None:
    """Raises InputError for a tracker whose package is not installed."""
    for name in names:
        if not getattr(utils, f"is_{name}_available")():
            raise InputError(f"trackers has {name}, which is not installed (pip install {name})")


class Trackers:
    """The trackers of a run. What they write lies in the run folder, unless they send it elsewhere.

    Args:
        names: tensorboard, wandb, mlflow.
        folder: of the run.
        recipe: its fields, flat.
        say: is told of a tracker that fails later, which does not end the run.

    Raises:
        InputError: a tracker is not installed, or cannot start.
    """

    def __init__(self, names: Sequence[str], folder: Path, recipe: dict[str, Any], say: Callable[[str], None]) -> None:
        check_trackers(names)
        self._trackers: list[GeneralTracker] = []
        self._say = say
        folder = folder.resolve()
        for name in names:
            kind = LOGGER_TYPE_TO_CLASS[name]
            options: dict[str, Any] = {"logging_dir": str(folder)} if kind.requires_logging_directory else {}
            if name == "wandb":  # the same run there when it is resumed here
                options.update(name=folder.name, id=f"{folder.name}-{crc32(bytes(folder)):08x}", resume="allow")
                options["dir"] = str(folder)
            if name == "mlflow":
                options["run_name"] = folder.name
            try:
                tracker = kind("regard" if name != "tensorboard" else "tensorboard", **options)
                tracker.start()
                tracker.store_init_configuration({field: _scalar(value) for field, value in recipe.items()})
            except Exception as error:  # the network, accounts and files of others give almost any
                raise InputError(f"tracker {name} cannot start ({one_line(error)[:200]})") from error
            self._trackers.append(tracker)

    def log(self, row: dict[str, Any], step: int) -> None:
        """The metrics of an epoch, after so many steps."""
        self._each(lambda tracker: tracker.log(row, step=step))

    def finish(self) -> None:
        self._each(lambda tracker: tracker.finish())

    def _each(self, call: Callable[[GeneralTracker], object]) -> None:
        for tracker in self._trackers:
            try:
                call(tracker)
            except Exception as error:  # as above; the same metrics are in the run folder
                self._say(f"tracker {tracker.name} failed ({one_line(error)[:200]}); the run goes on")


def _scalar(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool) else json.dumps(value)
