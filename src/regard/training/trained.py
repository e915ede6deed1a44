"""A trained network, wherever it comes from."""

from __future__ import annotations

from pathlib import Path

import timm

from regard.errors import InputError
from regard.models.torchvision_networks import is_of_torchvision
from regard.training.imported import Imported
from regard.training.named import Named
from regard.training.run import Run

Trained = Run | Imported | Named
"""All have `source`, `network`, `class_count`, `classes`, `preprocessing`, `model(which)`, `weights(which)` and
`bias_report(which)`."""


def open_trained(source: str | Path) -> Trained:
    """A run folder, an imported file, a name of timm or torchvision/NAME with published weights, or NAME=CHECKPOINT.

    Raises:
        InputError: it is none of these.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise InputError(
                f"{path} is no run folder and no imported .safetensors file; `regard import` makes one, and "
                f"NAME={path} says what network it belongs to"
            )
        return Imported.open(path)
    if path.is_dir():
        return Run.open(path)
    name, given, _ = str(source).partition("=")
    if given or timm.is_model(name) or is_of_torchvision(name):
        return Named.open(str(source))
    raise InputError(f"there is no run folder {source}, and timm knows no network of that name")
