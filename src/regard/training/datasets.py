"""The data of recipes, and their batches."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

from regard import data
from regard.errors import InputError
from regard.training.distributed import Processes
from regard.training.recipe import DataRecipe, Recipe

Images = data.ImageDataset | data.WebDataset

SIZE = 224  # of streamed images, where no size is given


def load_data(recipe: DataRecipe) -> data.Splits:
    """The data of a recipe, with its mean and standard deviation.

    Raises:
        InputError: the data are not there or cannot be read.
    """
    data.all_options(recipe.name, **recipe.options)  # fields are no options
    train, test = data.load(
        recipe.name,
        recipe.folder,
        download=recipe.download,
        size=recipe.size,
        unreadable=recipe.unreadable,
        **recipe.options,
    )
    if recipe.train_images is not None:
        train = train.subset(recipe.train_images)
    return data.Splits(_normalised(train, recipe), _normalised(test, recipe))


def resolved(recipe: DataRecipe, images: Images) -> DataRecipe:
    """The recipe with everything said that `images` took from defaults, which may change."""
    options = data.all_options(recipe.name, **recipe.options)
    size = recipe.size or SIZE if data.is_streamed(recipe.name) else recipe.size
    return replace(recipe, size=size, mean=images.mean, std=images.std, options=options)


def _normalised(images: Images, recipe: DataRecipe) -> Images:
    mean, std = recipe.mean or images.mean, recipe.std or images.std
    assert mean is not None and std is not None
    normalised = copy(images)
    vars(normalised).update(mean=mean, std=std)  # a set in memory is frozen
    return normalised


def make_loader(
    images: Images,
    recipe: DataRecipe,
    batch_size: int,
    *,
    augmentation: data.Augmentation | None = None,
    **options: Any,
) -> data.Loader:
    """`data.create_loader` of images, resized, normalised and read as their recipe says.

    Args:
        batch_size: images in a batch, over all processes.
        augmentation: in training.
        options: the others of `data.create_loader`.
    """
    return data.create_loader(
        images,
        batch_size,
        transform=make_transform(recipe, augmentation),
        mean=recipe.mean,
        std=recipe.std,
        workers=recipe.workers,
        unreadable=recipe.unreadable,
        **options,
    )


def make_transform(recipe: DataRecipe, augmentation: data.Augmentation | None = None) -> data.Transform:
    """How the images of a recipe are resized and cropped; not at all of sets whose images come in one size."""
    if not data.is_streamed(recipe.name):
        return data.Transform(augmentation=augmentation)
    size = (recipe.size or SIZE,) * 2
    return data.Transform(size, recipe.crop_pct, interpolation=recipe.interpolation, augmentation=augmentation)


def make_loaders(
    recipe: Recipe, splits: data.Splits, processes: Processes, channels_last: bool
) -> tuple[data.Loader, data.Loader]:
    """The batches of training and test."""
    train, test = splits
    batch_size, mixes = recipe.schedule.batch_size, recipe.augmentation.mixes
    if mixes and batch_size % (2 * processes.count):
        raise InputError(
            f"mixup and cutmix take images in pairs; give a batch size that {2 * processes.count} divides "
            f"(schedule.batch_size is {batch_size}, over {processes.count} processes)"
        )
    whole_batches = data.is_streamed(recipe.data.name) or mixes
    left = len(train) % batch_size if whole_batches else left_out(len(train), batch_size, processes.count)
    if left and batch_size < len(train):
        processes.note(f"the last batch of an epoch would have {left} of {len(train)} images, and is left out")

    def loader(images: Images, batch_size: int, **options: Any) -> data.Loader:
        shared = {"rank": processes.rank, "world_size": processes.count, "device": processes.device}
        return make_loader(images, recipe.data, batch_size, channels_last=channels_last, **shared, **options)

    training = {"augmentation": recipe.augmentation, "shuffle": True, "seed": recipe.seed}
    return (
        loader(train, batch_size, drop_last=whole_batches or left > 0, **training),
        loader(test, test_batch_size(test, recipe.data, processes.count)),
    )


def left_out(images: int, batch_size: int, processes: int) -> int:
    """The images of the last batch of an epoch if it would leave a process fewer than two, which is then left out.

    Batch norms over maps of one pixel need two. Where a whole batch leaves a process one, so may the last; a single
    batch stays.
    """
    left = images % batch_size
    fewest = 2 if 2 * processes <= batch_size else 1
    return left if left < fewest * processes and batch_size <= images else 0


def test_batch_size(images: Images, recipe: DataRecipe, processes: int) -> int:
    """Images of a batch in testing: 500 small ones a process, and fewer of large ones, which take more memory."""
    width, height = images.image(0).size if isinstance(images, data.InMemoryDataset) else (recipe.size or SIZE,) * 2
    return processes * max(1, min(500, 500 * 96 * 96 // (height * width)))
