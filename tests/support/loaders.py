"""Loaders of streamed images in tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regard import data
from regard.errors import InputError

SIZE = 16


def streamed(
    images: Any,
    batch_size: int,
    *,
    augmentation: data.Augmentation | None = None,
    crop_pct: float = 0.875,
    interpolation: str = "bilinear",
    **options: Any,
) -> data.Loader:
    """Batches of images of 16 x 16 pixels, as a recipe has them; `options` are others of `data.create_loader`."""
    transform = data.Transform((SIZE, SIZE), crop_pct, interpolation=interpolation, augmentation=augmentation)
    return data.create_loader(images, batch_size, transform=transform, **options)


def rank_rows(total: int, rank: int, world_size: int) -> list[int]:
    """The rows of a batch of `total` images that are a rank's: a mirrored pair of blocks where that can be."""
    if total % (2 * world_size) == 0:
        half = total // (2 * world_size)
        front = range(rank * half, (rank + 1) * half)
        return [*front, *(total - 1 - row for row in reversed(front))]
    return list(range(rank * total // world_size, (rank + 1) * total // world_size))


def skipped_in(batches):
    """What could not be read, each once."""
    return list(dict.fromkeys(reason for batch in batches for reason in batch.skipped))


def same(first, second):
    """Whether two lists of batches are equal, bit for bit."""
    return (
        len(first) == len(second) > 0
        and all(torch.equal(one[i], two[i]) for one, two in zip(first, second, strict=True) for i in range(3))
        and all(one.total == two.total for one, two in zip(first, second, strict=True))
    )


def error_of(call, *arguments, **options):
    """The message of the InputError, one line, of making a loader or of its first epoch."""
    with pytest.raises(InputError) as caught:
        loader = call(*arguments, **options)
        if isinstance(loader, data.Loader):
            list(loader.epoch(0))
    assert "\n" not in str(caught.value)
    return str(caught.value)
