"""Weights from elsewhere into a safetensors file that says what network they belong to."""

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
from regard.errors import InputError, first_line
from regard.training.networks import load_network
from regard.training.preprocessing import Preprocessing
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
    say: Callable[[str], None] | None = None,
) -> Pretrained:
    """Reads a checkpoint into a network and writes it as a file that says what it is.

    Args:
        checkpoint: of one of the published codes, or a state dict of the same network; see `models.load_official`.
        network: the network it belongs to.
        out: the file to write, `.safetensors`.
        classes: how many; None: as many as there are names or, without names, as the last matrix has rows.
        class_names: in the order of the logits.
        preprocessing: how images have to come to the network; what is None in it is taken from timm's or torchvision's
            description of the network, if they have one.
        overwrite: replace a file that was imported before.
        ema: take the moving average of the weights, where the checkpoint holds both.
        say: is told what was taken of several state dicts, and what was left out.

    Raises:
        InputError: the checkpoint cannot be read safely or does not fit the network, its values or its logits of a
            black image are not finite, or `out` is there already (with `overwrite`, and was not imported). Nothing is
            written then.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    preprocessing = preprocessing or Preprocessing()
    preprocessing.check()
    _check_free(out, overwrite)
    content = models.read_checkpoint(checkpoint)
    outputs = _outputs(checkpoint, content, classes, class_names)
    options = {**models.described_options(network.name, content, str(checkpoint)), **network.options}
    network = replace(network, pretrained=False, options=options)
    model = load_network(network, outputs, checkpoint, content, ema=ema, say=say)
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
            f"cannot write {out} ({first_line(error)}); make room, or give another place (--out)"
        ) from error
    return load_pretrained(out)


def _check_free(out: Path, overwrite: bool) -> None:
    """Raises InputError for a file that cannot be written, or is there and not to be replaced."""
    if out.suffix != ".safetensors":
        raise InputError(f"the file to write is {out}; its name has to end in .safetensors")
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent}")
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
    bad = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        names = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
        raise InputError(f"{source} holds values that are NaN or infinite, in {len(bad)} of its tensors ({names})")
    if not torch.isfinite(model(torch.zeros(1, 3, size, size))).all():
        raise InputError(f"{source} gives logits that are NaN or infinite for a black image of {size} pixels")


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _outputs(checkpoint: Path, content: Any, classes: int | None, class_names: tuple[str, ...] | None) -> int:
    """The length of the logits."""
    if class_names is not None and classes not in (None, len(class_names)):
        raise InputError(f"{len(class_names)} classes are named, and --num-classes says {classes}")
    count = len(class_names) if class_names is not None else classes
    outputs = models.count_classes(content, str(checkpoint))
    if count is None:
        if outputs is None:
            raise InputError(f"the number of classes cannot be told from {checkpoint}; give it (--num-classes)")
        return outputs
    if outputs not in (None, count) and (outputs, count) != (1, 2):  # one output tells two classes apart
        raise InputError(f"{checkpoint} has {outputs} classes, not {count}")
    return outputs or count
