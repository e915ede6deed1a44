"""A checkpoint of a run, scored while the run goes on or after it was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from regard import models
from regard.errors import InputError
from regard.training.run import Run, Weights, load_network


@dataclass(frozen=True)
class RunCheckpoint(Run):
    """A run as it was at one of its checkpoints, `RUN/checkpoints/step-….pt`.

    Network, classes, data and preprocessing are those of the run folder that the file lies in. Its weights are the
    moving average, if the run keeps one (`ema` of its recipe), as in `last.safetensors`.

    Attributes:
        file: the checkpoint.
    """

    file: Path

    @staticmethod
    def folder_of(path: Path) -> Path | None:
        """The run folder that a file lies in, in its `checkpoints` or beside its recipe; None if there is none."""
        near = path.absolute().parent
        whole = ("recipe.yaml", "environment.json")
        return next((run for run in (near.parent, near) if all((run / name).is_file() for name in whole)), None)

    @classmethod
    def open(cls, path: str | Path) -> RunCheckpoint:
        """An existing checkpoint within a run folder.

        Raises:
            InputError: there is no such file, or it lies in no run folder.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no checkpoint {path}")
        folder = cls.folder_of(path)
        if folder is None:
            raise InputError(
                f"{path} lies in no run folder, which would say what network it is of; NAME={path} says it"
            )
        return cls(folder, path)

    @property
    def source(self) -> str:
        return str(self.file)

    @property
    def averaged(self) -> bool:
        """Whether its weights are the moving average of the run."""
        return self.recipe.ema > 0

    def bias_report(self, which: Weights = "last") -> Path:
        return self.folder / f"bias-{self.file.stem}.json"

    def weights(self, which: Weights = "last") -> Path:
        """The checkpoint.

        Raises:
            InputError: the best weights are asked for.
        """
        if which != "last":
            raise InputError(f"{self.file} holds one set of weights; leave --weights {which} out, or name the run")
        return self.file

    def model(self, which: Weights = "last") -> nn.Module:
        """The network, in evaluation mode, on the CPU.

        Raises:
            InputError: the checkpoint cannot be read, lacks the weights or does not fit the recipe of the run.
        """
        return load_network(self.network, self.class_count, self._state(self.weights(which)), str(self.file))

    def _state(self, path: Path) -> Mapping[str, Tensor]:
        content = models.read_checkpoint(path)
        wanted = "ema" if self.averaged else "model"
        state = content.get(wanted) if isinstance(content, Mapping) else None
        if not isinstance(state, Mapping):
            missing = "moving average of the weights, which its run keeps" if self.averaged else "network"
            raise InputError(f"{path} is no checkpoint of the run it lies in: it holds no {missing}")
        return state
