"""The teachers of a recipe: trained networks that get the student's images with their own preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from regard.data import ImageDataset, WebDataset
from regard.errors import InputError
from regard.store import local_run
from regard.training.pretrained import Pretrained, load_pretrained
from regard.training.recipe import TransferRecipe
from regard.training.run import Run
from regard.transfer import Teacher
from regard.transfer.teacher import Precision

_PRECISIONS: dict[str, Precision] = {"auto": "auto", "float32": None, "bfloat16": torch.bfloat16}


def load_teachers(
    recipe: TransferRecipe,
    images: ImageDataset | WebDataset,
    size: tuple[int, int],
    device: torch.device,
    say: Callable[[str], None],
    *,
    compile: bool = False,
) -> list[Teacher]:
    """Loads the teachers of a recipe on the device; empty if there are none.

    Only the attention of a teacher with other classes than the data can be transferred; losses that compare classes
    then raise an error. A teacher with another normalisation, or a fixed image size, gets the images normalised and
    resized for it. Notes report these cases.

    Args:
        recipe: transfer recipe. Of all processes of a machine, one downloads a teacher from a bucket.
        images: training images of the student.
        size: (h, w) of the student's images.
        device: device of the teachers.
        say: called with each note.
        compile: compile the teachers.

    Raises:
        InputError: a run, file or network does not exist, a run is not finished, weights are not available, or the
            losses cannot be used with the teacher's classes.
    """
    teachers = []
    for source in recipe.teachers:
        location = local_run(source)
        _check_finished(source, location)
        pretrained = load_pretrained(location, recipe.weights, say=say)
        pretrained.check_classifier()
        _check_classes(recipe, source, pretrained, images.classes, say)
        network, about = pretrained.model(), pretrained.preprocessing
        mean, std = about.mean or images.mean, about.std or images.std
        if (mean, std) != (images.mean, images.std):
            say(f"note: teacher {source} gets the images normalised with its own mean and standard deviation")
        side = recipe.teacher_size
        fixed = (getattr(network, "pretrained_cfg", None) or {}).get("fixed_input_size")  # of timm
        if side is None and about.size is not None and fixed:
            side = about.size
            if (side, side) != size:
                say(f"note: teacher {source} takes images of {side} pixels only, and gets them resized")
        teachers.append(
            Teacher(
                network.to(device).to(memory_format=torch.channels_last),
                mean=mean,
                std=std,
                images_mean=images.mean,
                images_std=images.std,
                size=None if side is None or (side, side) == size else (side, side),
                precision=_PRECISIONS[recipe.precision],
                fold=recipe.fold,
                compile=compile,
            )
        )
    return teachers


def _check_finished(source: str, location: str) -> None:
    """Raises InputError for a run with epochs left; `location` is its folder."""
    if Path(location).is_dir():
        run = Run.open(location)
        rows, epochs = run.metrics(), run.recipe.schedule.epochs
        if rows and rows[-1]["epoch"] < epochs:
            raise InputError(
                f"teacher {source} has {rows[-1]['epoch']} of {epochs} epochs; finish it first, or name one of its "
                "checkpoints"
            )


def _check_classes(
    recipe: TransferRecipe,
    source: str,
    pretrained: Pretrained,
    classes: tuple[str, ...],
    say: Callable[[str], None],
) -> None:
    count = pretrained.class_count
    compared = [name for name in ("alpha", "gradient") if recipe.uses(name)]
    if count != len(classes):
        if compared:
            raise InputError(
                f"teacher {source} has {count} classes and the data {len(classes)}: "
                f"{'distillation' if 'alpha' in compared else 'gradient transfer'} needs the same "
                f"(transfer.{compared[0]} 0 leaves it out)"
            )
        say(f"note: teacher {source} has {count} classes, the data {len(classes)}; only its attention is used")
    elif compared and pretrained.classes is None:
        say(f"note: the classes of teacher {source} have no names; they are assumed to be those of the data, in order")
    elif compared and pretrained.classes != classes:
        raise InputError(
            f"teacher {source} and the data have {len(classes)} classes, not the same ones in the same order"
        )
