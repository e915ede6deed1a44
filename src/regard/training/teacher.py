"""The teachers of a recipe: any trained network, made to see the images of the student as it knows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from regard.data import FileSet, InMemoryDataset
from regard.errors import InputError
from regard.training.recipe import TransferRecipe
from regard.training.trained import Trained, open_trained
from regard.transfer import Teacher
from regard.transfer.teacher import Precision

_PRECISIONS: dict[str, Precision] = {"auto": "auto", "float32": None, "bfloat16": torch.bfloat16}


def load_teachers(
    recipe: TransferRecipe,
    images: InMemoryDataset | FileSet,
    size: tuple[int, int],
    device: torch.device,
    say: Callable[[str], None],
    *,
    compile: bool = False,
) -> list[Teacher]:
    """The teachers of a recipe, on the device; none if it names none.

    A teacher with other classes than the data can be asked where to look, not what is there: then a note is said, or an
    error raised if the classes are compared. A teacher that knows images normalised otherwise than those of the data,
    or of a fixed size of its own, gets them so, and a note is said.

    Args:
        recipe: what to take over from whom.
        images: what the student is trained on.
        size: (h, w) of the student's images.
        device: where the teachers run.
        say: is told the notes.
        compile: whether they are compiled.

    Raises:
        InputError: there is no such run, file or network, its weights cannot be had, or its classes rule out what is
            asked.
    """
    return [_load(_Wanted(recipe, images, size, source), device, say, compile) for source in recipe.teachers]


@dataclass(frozen=True)
class _Wanted:
    """A teacher that is asked for."""

    recipe: TransferRecipe
    images: InMemoryDataset | FileSet
    size: tuple[int, int]
    source: str


def _load(wanted: _Wanted, device: torch.device, say: Callable[[str], None], compile: bool) -> Teacher:
    recipe, images = wanted.recipe, wanted.images
    trained = open_trained(wanted.source, say=say)
    _check_classes(wanted, trained, say)
    network = trained.model(recipe.weights)
    own = trained.preprocessing
    mean, std = own.mean or images.mean, own.std or images.std
    if (mean, std) != (images.mean, images.std):
        say(f"note: teacher {wanted.source} gets the images normalised with its own mean and standard deviation")
    return Teacher(
        network.to(device).to(memory_format=torch.channels_last),
        mean=mean,
        std=std,
        images_mean=images.mean,
        images_std=images.std,
        size=_size(wanted, network, own.size, say),
        precision=_PRECISIONS[recipe.precision],
        fold=recipe.fold,
        compile=compile,
    )


def _check_classes(wanted: _Wanted, trained: Trained, say: Callable[[str], None]) -> None:
    source, classes = wanted.source, wanted.images.classes
    compared = [name for name in ("alpha", "gradient") if wanted.recipe.uses(name)]
    if trained.class_count != len(classes):
        if compared:
            raise InputError(
                f"teacher {source} has {trained.class_count} classes and the data {len(classes)}: "
                f"{'distillation' if 'alpha' in compared else 'gradient transfer'} needs the same "
                f"(transfer.{compared[0]} 0 leaves it out)"
            )
        say(
            f"note: teacher {source} has {trained.class_count} classes, the data {len(classes)}; only its attention is "
            "used"
        )
    elif compared and trained.classes is None:
        say(f"note: the classes of teacher {source} have no names; taken for the data's, in order")
    elif compared and trained.classes != classes:
        raise InputError(
            f"teacher {source} and the data have {len(classes)} classes, not the same ones in the same order"
        )


def _size(wanted: _Wanted, network: nn.Module, known: int | None, say: Callable[[str], None]) -> tuple[int, int] | None:
    """The size in which the teacher sees the images, if not as they are."""
    asked = wanted.recipe.teacher_size
    if asked is None and (getattr(network, "pretrained_cfg", None) or {}).get("fixed_input_size") and known:
        if (known, known) != wanted.size:
            say(f"note: teacher {wanted.source} knows images of {known} pixels only, and gets them resized")
        asked = known
    return None if asked is None or (asked, asked) == wanted.size else (asked, asked)
