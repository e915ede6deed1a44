"""What the network of a recipe is trained for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from regard.training.recipe import Recipe
from regard.transfer import TERMS, Objective, Teacher


def make_objective(
    recipe: Recipe, model: nn.Module, teachers: Sequence[nn.Module | Teacher], image_size: tuple[int, int]
) -> Objective:
    """The losses of a recipe.

    Args:
        recipe: says which, and how much each counts.
        model: the student.
        teachers: as many as the recipe names; none if it names none.
        image_size: (h, w) of the student's images.

    Raises:
        InputError: student and teachers do not go together as asked.
    """
    asked = recipe.transfer
    return Objective(
        model,
        teachers or None,
        temperature=asked.temperature,
        layers=asked.layers,
        power=asked.power,
        reduce=asked.reduce,
        form=asked.form,
        label_smoothing=0.0 if recipe.augmentation.mixes else recipe.label_smoothing,  # mixed labels come smoothed
        task=recipe.task,
        image_size=image_size,
        compile=recipe.compile,
        **{term.weight: asked.weight(term.weight) for term in TERMS.values()},
    )
