"""Teachers: a run folder, or a network of timm with pretrained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import timm
from torch import nn

from regard import models
from regard.errors import InputError
from regard.training.recipe import TransferRecipe
from regard.training.run import Run


def load_teacher(recipe: TransferRecipe, classes: tuple[str, ...], say: Callable[[str], None]) -> nn.Module | None:
    """The teacher of a recipe, in evaluation mode; None if it names none.

    A teacher with other classes than the data can be asked where to look, not what is there: then a note is said if
    `alpha` is 0, and an error raised if it is not.

    Raises:
        InputError: there is no such run or network, its weights cannot be had, or its classes rule out distillation.
    """
    if recipe.teacher is None:
        return None
    known: tuple[str, ...] | None = None
    if Path(recipe.teacher).exists():
        run = Run.open(recipe.teacher)
        known = run.classes
        count = len(known)
        teacher = run.model(recipe.weights)
    elif not timm.is_model(recipe.teacher):
        raise InputError(f"teacher {recipe.teacher!r} is neither a run folder nor a network of timm")
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
