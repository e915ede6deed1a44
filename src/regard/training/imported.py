"""Imports checkpoints of other code into a safetensors file that describes its network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from regard import models
from regard.errors import InputError, first_few, first_line
from regard.training.datasets import Preprocessing
from regard.training.networks import load_network
from regard.training.pretrained import Pretrained, describe, load_pretrained
from regard.training.recipe import ModelRecipe
from regard.version import __version__


def import_weights(
    checkpoint: str | Path,
    network: ModelRecipe,
    out: str | Path,
    *,
    classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    preprocessing: Preprocessing | None = None,
    overwrite: bool = False,
    ema: bool = False,
    log: Callable[[str], None] | None = None,
) -> Pretrained:
    """Loads a checkpoint into a network and writes the weights with a description of the network.

    Args:
        checkpoint: checkpoint of one of the three published repositories, or a state dict of the same network; see
            `models.load_official`.
        network: network of the checkpoint.
        out: file to write, `.safetensors`.
        classes: number of classes; None for the number of names or, without names, of rows of the last matrix.
        class_names: class names in the order of the logits.
        preprocessing: preprocessing of the network's images; None fields are filled in from timm's or torchvision's
            description of the network, if there is one.
        overwrite: replace a file that was imported before.
        ema: use the moving average of the weights if the checkpoint has both.
        log: called with notes on the selected state dict and on unused entries.

    Raises:
        InputError: the checkpoint cannot be read safely or does not fit the network, its values or its logits of a
            black image are not finite, or `out` exists (with `overwrite`: and was not imported). Nothing is written.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    preprocessing = preprocessing or Preprocessing()
    preprocessing.check()
    _check_free(out, overwrite)
    content = models.read_checkpoint(checkpoint)
    outputs = _outputs(checkpoint, content, classes, class_names)
    options = {**models.described_options(network.name, content, str(checkpoint)), **network.options}
    network = replace(network, pretrained=False, options=options)
    model = load_network(network, outputs, checkpoint, content, ema=ema, log=log)
    preprocessing = preprocessing.over(Preprocessing.of(describe(network.name)))
    _check_finite(model, preprocessing.size or 32, str(checkpoint))
    notes = {
        "regard": __version__,
        "network": asdict(network),
        "classes": outputs,
        "class_names": class_names,
        "preprocessing": asdict(preprocessing),
        "imported_from": {"name": checkpoint.name, "sha256": sha256(checkpoint)},
    }
    try:
        models.write_weights(model, out, notes)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write {out} ({first_line(error)}); free some space, or choose another path (--out)"
        ) from error
    return load_pretrained(out)


def _check_free(out: Path, overwrite: bool) -> None:
    """Raises InputError if a file cannot be written, or exists and must not be replaced."""
    if out.suffix != ".safetensors":
        raise InputError(f"{out} does not end in .safetensors; give such a name (--out)")
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent}; create it, or choose another path (--out)")
    if out.exists():
        if not overwrite or not out.is_file():
            raise InputError(f"{out} exists already; replace it (--overwrite) or choose another (--out)")
        notes: Mapping[str, Any] = {}
        with suppress(InputError):
            notes = models.read_notes(out)
        if "imported_from" not in notes:
            raise InputError(f"{out} is not overwritten: regard import did not write it; choose another (--out)")


@torch.no_grad()
def _check_finite(model: nn.Module, size: int, source: str) -> None:
    """Raises InputError unless all values of `model` and its logits of a black image are finite."""
    names = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if names:
        raise InputError(
            f"{source} has NaN or infinite values in {len(names)} of its tensors ({first_few(names)}); give another "
            "checkpoint"
        )
    if not torch.isfinite(model(torch.zeros(1, 3, size, size))).all():
        raise InputError(
            f"{source} gives NaN or infinite logits for a black image of {size} pixels; give another checkpoint"
        )


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _outputs(checkpoint: Path, content: Any, classes: int | None, class_names: tuple[str, ...] | None) -> int:
    """Number of logits; 1 for a binary network."""
    if class_names is not None and classes not in (None, len(class_names)):
        raise InputError(f"there are {len(class_names)} class names, but --num-classes is {classes}")
    count = len(class_names) if class_names is not None else classes
    outputs = models.count_classes(content, str(checkpoint))
    if count is None:
        if outputs is None:
            raise InputError(f"{checkpoint} does not show the number of classes; give it (--num-classes)")
        return outputs
    if outputs not in (None, count) and (outputs, count) != (1, 2):  # one output distinguishes two classes
        raise InputError(f"{checkpoint} has {outputs} classes, not {count}")
    return outputs or count
