"""Weights from elsewhere, in a safetensors file that says what network they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from regard import models
from regard.errors import InputError, first_line, one_line
from regard.training.described import described_preprocessing
from regard.training.parsing import RecipeParser
from regard.training.recipe import ModelRecipe
from regard.training.run import Preprocessing, Weights, load_network
from regard.version import __version__


@dataclass(frozen=True)
class Imported:
    """A file of weights that `import_weights` made.

    Its metadata hold the network, the number of its classes and, where they are known, their names, and how images
    have to come to it.
    """

    path: Path
    network: ModelRecipe
    outputs: int
    """Length of the logits; 1 of a binary network, whose logit is that of class 1."""
    classes: tuple[str, ...] | None
    """The names of the classes in the order of the logits; None if they are not known."""
    preprocessing: Preprocessing

    @property
    def class_count(self) -> int:
        return len(self.classes) if self.classes is not None else max(self.outputs, 2)

    @classmethod
    def open(cls, path: str | Path) -> Imported:
        """An existing file.

        Raises:
            InputError: there is no such file, or it was not made by `import_weights`.
        """
        path = Path(path)
        notes = models.read_notes(path)
        if "network" not in notes:
            if (path.parent / "recipe.yaml").is_file():
                raise InputError(f"{path} is part of a run; name its folder, {path.parent}")
            raise InputError(
                f"{path} does not say what network its weights belong to; `regard import {path} --model NAME --out …` "
                "makes a file that does"
            )
        try:
            known = {name: notes.get(name) for name in ("network", "classes", "class_names", "preprocessing")}
            about = _notes_parser().instantiate(_notes_parser().parse_object(known))
            about.preprocessing.check()
            _check_outputs(path, about.classes, about.class_names)
        except (InputError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path} does not describe its network as `regard import` does ({one_line(error)[:200]}); import the "
                "checkpoint again"
            ) from error
        names = None if about.class_names is None else tuple(about.class_names)
        return cls(path, about.network, about.classes, names, about.preprocessing)

    @property
    def source(self) -> str:
        """What a person calls it by."""
        return str(self.path)

    def bias_report(self, which: Weights = "last") -> Path:
        """Where the report on where it looks goes."""
        return self.path.with_suffix(".bias.json")

    def weights(self, which: Weights = "last") -> Path:
        """The file of weights.

        Raises:
            InputError: the best ones are asked for: there is one set of weights only.
        """
        if which != "last":
            raise InputError(f"{self.path} holds one set of weights; leave --weights {which} out")
        return self.path

    def model(self, which: Weights = "last") -> nn.Module:
        """The network, in evaluation mode, on the CPU.

        Raises:
            InputError: the weights are cut short or do not fit the network that the file names.
        """
        content = models.read_checkpoint(self.weights(which))
        return load_network(self.network, self.outputs, content, str(self.path))


@cache
def _notes_parser() -> RecipeParser:
    """Of what `import_weights` writes into a file."""
    parser = RecipeParser(prog="notes")
    parser.add_class_arguments(ModelRecipe, "network")
    parser.add_class_arguments(Preprocessing, "preprocessing")
    parser.add_argument("--classes", type=int)
    parser.add_argument("--class_names", type=list[str] | None)
    return parser


def _check_outputs(path: Path, outputs: int, names: Sequence[str] | None) -> None:
    """Raises InputError unless the file has a tensor with a row for each output, and a name is there for each class."""
    if not 1 <= outputs <= models.MOST_CLASSES or outputs not in (
        shape[0] for shape in models.read_shapes(path).values() if shape and 0 not in shape
    ):
        raise InputError(f"it says {outputs} classes, and no tensor of it has so many rows")
    if names is not None and len(names) != max(outputs, 2) and len(names) != outputs:
        raise InputError(f"it has {outputs} outputs and names {len(names)} classes")


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
) -> Imported:
    """Reads a checkpoint into a network and writes it as a file that says what it is.

    Args:
        checkpoint: of one of the published codes, or a state dict of the same network; see `models.load_official`.
        network: the network it belongs to.
        out: the file to write, `.safetensors`.
        classes: how many; None: as many as there are names or, without names, as the last matrix has rows.
        class_names: in the order of the logits.
        preprocessing: how images have to come to the network; what is None in it is taken from timm's description of
            the network, if it has one.
        overwrite: replace a file that was imported before.
        ema: take the moving average of the weights, where the checkpoint holds both.
        say: is told what was taken of several state dicts, and what was left out.

    Raises:
        InputError: the checkpoint cannot be read safely or does not fit the network, its values or its logits of a
            black image are no numbers, or `out` is there already (with `overwrite`, and was not imported). Nothing is
            written then.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"the file to write is {out}; its name has to end in .safetensors")
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent}")
    if out.exists():
        if not overwrite or not out.is_file():
            raise InputError(f"{out} exists already; replace it (--overwrite) or choose another (--out)")
        if not _was_imported(out):
            raise InputError(f"{out} is not overwritten: regard import did not write it; choose another (--out)")
    content = models.read_checkpoint(checkpoint)
    outputs = _outputs(checkpoint, content, classes, class_names)
    options = {**models.described_options(network.name, content, str(checkpoint)), **network.options}
    network = replace(network, pretrained=False, options=options)
    model = load_network(network, outputs, content, str(checkpoint), ema=ema, say=say)
    preprocessing = (preprocessing or Preprocessing()).over(described_preprocessing(model))
    check_numbers(model, preprocessing.size or 32, str(checkpoint))
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
    return Imported.open(out)


def _was_imported(path: Path) -> bool:
    try:
        return "imported_from" in models.read_notes(path)
    except InputError:
        return False


@torch.no_grad()
def check_numbers(model: nn.Module, size: int, source: str) -> None:
    """Whether all values of `model` and its logits of a black image are numbers.

    Raises:
        InputError: some are infinite or no number.
    """
    bad = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        names = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
        raise InputError(
            f"{source} holds values that are infinite or no number, in {len(bad)} of its tensors ({names})"
        )
    if not torch.isfinite(model(torch.zeros(1, 3, size, size))).all():
        raise InputError(f"{source} gives logits that are infinite or no number for a black image of {size} pixels")


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _outputs(checkpoint: Path, content: Any, classes: int | None, class_names: tuple[str, ...] | None) -> int:
    """The length of the logits."""
    if class_names is not None and classes not in (None, len(class_names)):
        raise InputError(f"{len(class_names)} classes are named, and --classes says {classes}")
    count = len(class_names) if class_names is not None else classes
    outputs = models.count_classes(content, str(checkpoint))
    if count is None:
        if outputs is None:
            raise InputError(f"the number of classes cannot be told from {checkpoint}; give it (--classes)")
        return outputs
    if outputs not in (None, count) and (outputs, count) != (1, 2):  # one output tells two classes apart
        raise InputError(f"{checkpoint} has {outputs} classes, not {count}")
    return outputs or count
