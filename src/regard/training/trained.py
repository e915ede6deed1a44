"""A trained network, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import timm

from regard.errors import InputError
from regard.models.torchvision_networks import is_of_torchvision
from regard.training.imported import Imported
from regard.training.named import Named
from regard.training.run import Run
from regard.training.run_checkpoint import RunCheckpoint

Trained = Run | Imported | Named
"""All have `source`, `network`, `outputs`, `class_count`, `classes`, `preprocessing`, `model(which)`, `weights(which)`
and `bias_report(which)`. A run may be a `RunCheckpoint`, the run as it was then."""


def open_trained(source: str | Path, *, ema: bool = False, say: Callable[[str], None] | None = None) -> Trained:
    """A run folder, a checkpoint within one, an imported file, a name of timm or torchvision/NAME with published
    weights, or NAME=CHECKPOINT.

    Args:
        source: which.
        ema: of NAME=CHECKPOINT, take the moving average of the weights where the file holds both.
        say: is told what was taken of such a file, and what was left out.

    Raises:
        InputError: it is none of these; a moving average is asked of anything but NAME=CHECKPOINT.
    """
    trained = _opened(source, ema, say)
    if ema and not (isinstance(trained, Named) and trained.checkpoint is not None):
        raise InputError(f"--ema is for a network as NAME=CHECKPOINT, not for {source}; leave it out")
    return trained


def _opened(source: str | Path, ema: bool, say: Callable[[str], None] | None) -> Trained:
    path = Path(source)
    if path.is_file():
        if path.suffix == ".safetensors":
            return Imported.open(path)
        if RunCheckpoint.folder_of(path) is not None:
            return RunCheckpoint.open(path)
        raise InputError(
            f"{path} is no run folder, no checkpoint within one and no imported .safetensors file; `regard import` "
            f"makes one, and NAME={path} says what network it belongs to"
        )
    if path.is_dir():
        return Run.open(path)
    name, given, _ = str(source).partition("=")
    if given or timm.is_model(name) or is_of_torchvision(name):
        return Named.open(str(source), ema=ema, say=say)
    if path.suffix == ".pt" and RunCheckpoint.folder_of(path) is not None:
        raise InputError(f"there is no checkpoint {source}; its run keeps the newest only")
    raise InputError(f"there is no run folder {source}, and timm knows no network of that name")
