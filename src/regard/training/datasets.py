"""The data of recipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from regard import data
from regard.data.sources import READ_WHILE_TRAINING
from regard.training.recipe import DataRecipe


def load_data(recipe: DataRecipe) -> data.Splits:
    """The data of a recipe, with its mean and standard deviation.

    Raises:
        InputError: the data are not there or cannot be read.
    """
    data.all_options(recipe.name, **recipe.options)  # fields are no options
    how: dict[str, Any] = {}
    if recipe.name in READ_WHILE_TRAINING:
        how = {name: getattr(recipe, name) for name in ("crop_pct", "interpolation", "workers")}
    train, test = data.load(
        recipe.name,
        recipe.folder,
        download=recipe.download,
        size=recipe.size,
        unreadable=recipe.unreadable,
        **how,
        **recipe.options,
    )
    if recipe.train_images is not None:
        train = train.subset(recipe.train_images)
    return data.Splits(_normalised(train, recipe), _normalised(test, recipe))


def resolved(recipe: DataRecipe, images: data.InMemoryDataset | data.FileSet) -> DataRecipe:
    """The recipe with everything said that `images` took from defaults, which may change."""
    options = data.all_options(recipe.name, **recipe.options)
    size = images.size if isinstance(images, data.FileSet) else recipe.size
    return replace(recipe, size=size, mean=images.mean, std=images.std, options=options)


def _normalised(images: data.InMemoryDataset | data.FileSet, recipe: DataRecipe) -> data.InMemoryDataset | data.FileSet:
    return replace(images, mean=recipe.mean or images.mean, std=recipe.std or images.std)
