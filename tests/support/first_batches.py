"""Batches of a recipe, and of a data set with regions, for the tests of random streams.

`tests/data/first_batches.json` records the contents of these batches. This is the only file that has to follow when the
loading code changes its names.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from regard import data, training
from regard.training.datasets import dropped_images


class Seen(NamedTuple):
    """A batch, or one process's slice of it.

    Attributes:
        images: float32 (B, 3, h, w), normalised.
        labels: int64 (B,).
        index: int64 (B,).
        total: number of images of the whole batch, over all processes.
        masks: bool (B, h, w); None without regions.
        skipped: messages of all unreadable images up to this batch.
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]
    total: int = 0
    masks: Tensor | None = None
    skipped: tuple[str, ...] = ()


def recipe(**fields: dict[str, Any] | Any) -> training.Recipe:
    """A recipe from its YAML fields."""
    parts = {
        "data": training.DataRecipe,
        "augmentation": data.Augmentation,
        "schedule": training.ScheduleRecipe,
    }
    return training.Recipe(**{name: parts[name](**value) if name in parts else value for name, value in fields.items()})


def batches(
    recipe: training.Recipe, epoch: int = 0, start: int = 0, *, split: str = "train", rank: int = 0, world_size: int = 1
) -> list[Seen]:
    """The training batches of one process in an epoch, from step `start` on, or its test batches.

    Test batches have the recipe's batch size over all processes.
    """
    train, test = training.load_data(recipe.data)
    size, ranks = recipe.schedule.batch_size, {"rank": rank, "world_size": world_size}
    if split == "train":
        drop_last = data.is_streamed(recipe.data.name) or recipe.augmentation.mixes
        loader = training.make_loader(
            train,
            recipe.data,
            size,
            augmentation=recipe.augmentation,
            shuffle=True,
            seed=recipe.seed,
            drop_last=drop_last or dropped_images(len(train), size, world_size) > 0,
            **ranks,
        )
    else:
        loader = training.make_loader(test, recipe.data, size, **ranks)
    batches = []
    skipped = dict.fromkeys((train if split == "train" else test).skipped)
    for batch in loader.epoch(epoch, start):
        skipped |= dict.fromkeys(batch.skipped)
        if len(batch.images):
            batches.append(Seen(*batch[:4], skipped=tuple(skipped)))
    return batches


def mixed(recipe: training.Recipe, batch: Seen, classes: int, step: int) -> Seen:
    """The batch after mixup and CutMix at a step of the run; its labels are soft, float32 (B, classes)."""
    mixing = data.Mixing(recipe.augmentation, classes, recipe.seed, recipe.label_smoothing)
    images, labels = mixing(batch.images.clone(), batch.labels, step)
    return batch._replace(images=images, labels=labels)


def evaluation_batches(
    images: data.ImageDataset, batch_size: int, *, workers: int = 0, fit: dict[str, Any] | None = None
) -> list[Seen]:
    """The batches that `regard bias` measures: preprocessed images and their regions.

    Args:
        images: a data set with regions, from `data.load`, `data.open_regions` or `data.open_pictures`.
        batch_size: number of images per batch.
        workers: number of DataLoader workers.
        fit: for streamed images: size (height, width), crop_pct, crop_mode, interpolation and fill, as in timm.
    """
    in_memory = isinstance(images, data.InMemoryDataset)
    loader = data.create_loader(
        images,
        batch_size,
        mean=None if in_memory else (0.5, 0.4, 0.3),
        std=None if in_memory else (0.25, 0.2, 0.3),
        transform=None if fit is None else data.Transform(**fit),
        workers=workers,
        masks=True,
    )
    return [Seen(*batch[:6]) for batch in loader.epoch(0)]


def tensors(images: data.InMemoryDataset) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and regions of a data set in memory: uint8 (N, 3, H, W), int64 (N,), bool (N, H, W)."""
    assert images.regions is not None
    return images.images, images.labels, images.regions
