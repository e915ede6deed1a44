"""Teachers: a run folder, an imported file, or a network of timm with pretrained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from regard import models
from regard.data import ImageSet
from regard.errors import InputError
from regard.training.imported import Imported
from regard.training.recipe import TransferRecipe
from regard.training.trained import open_trained


def load_teacher(recipe: TransferRecipe, images: ImageSet, say: Callable[[str], None]) -> nn.Module | None:
    """The teacher of a recipe, in evaluation mode; None if it names none.

    A teacher with other classes than the data can be asked where to look, not what is there: then a note is said if
    `alpha` is 0, and an error raised if it is not. An imported teacher that knows its own mean and standard deviation
    gets the images, which come to it normalised with those of the data, with its own.

    Args:
        recipe: what to take over from whom.
        images: what the student is trained on.
        say: is told the notes.

    Raises:
        InputError: there is no such run, file or network, its weights cannot be had, or its classes rule out
            distillation.
    """
    if recipe.teacher is None:
        return None
    classes = images.classes
    known: tuple[str, ...] | None = None
    if Path(recipe.teacher).exists():
        trained = open_trained(recipe.teacher)
        known, count = trained.classes, trained.class_count
        teacher = trained.model(recipe.weights)
        if isinstance(trained, Imported):
            _renormalise(teacher, trained, images, say)
            if known is None and count == len(classes) and recipe.alpha:
                say(f"note: the classes of teacher {trained.source} have no names; taken for the data's, in order")
    elif not timm.is_model(recipe.teacher):
        raise InputError(
            f"teacher {recipe.teacher!r} is neither a run folder nor an imported file nor a network of timm"
        )
    else:
        published = timm.get_pretrained_cfg(recipe.teacher)
        if published is None:
            raise InputError(f"timm has no pretrained weights for teacher {recipe.teacher}")
        count = published.num_classes
        teacher = models.create(recipe.teacher, count, pretrained=True).eval()
    if count != len(classes):
        if recipe.alpha:
            raise InputError(
                f"teacher {recipe.teacher} has {count} classes and the data {len(classes)}: distillation needs "
                "the same (transfer.alpha 0 transfers attention alone)"
            )
        say(f"note: teacher {recipe.teacher} has {count} classes, the data {len(classes)}; only its attention is used")
    elif known is not None and known != classes and recipe.alpha:
        raise InputError(
            f"teacher {recipe.teacher} and the data have {count} classes, not the same ones in the same order"
        )
    return teacher


def _renormalise(teacher: nn.Module, trained: Imported, images: ImageSet, say: Callable[[str], None]) -> None:
    """Lets a teacher see images as it knows them, whatever mean and standard deviation they were normalised with."""
    own = trained.preprocessing
    if own.mean is None or own.std is None or (own.mean, own.std) == (images.mean, images.std):
        return
    say(f"note: teacher {trained.source} gets the images normalised with its own mean and standard deviation")
    here, there = torch.tensor((images.mean, images.std)), torch.tensor((own.mean, own.std))
    scale, shift = here[1] / there[1], (here[0] - there[0]) / there[1]  # (3,)

    def renormalised(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *rest = arguments
        return (x * scale.to(x)[:, None, None] + shift.to(x)[:, None, None], *rest)

    teacher.register_forward_pre_hook(renormalised)
