"""Loaders of streamed images."""

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
    """A loader of images of 16 x 16 pixels; `options` go to `data.create_loader`."""
    transform = data.Transform((SIZE, SIZE), crop_pct, interpolation=interpolation, augmentation=augmentation)
    return data.create_loader(images, batch_size, transform=transform, **options)


def rank_rows(total: int, rank: int, world_size: int) -> list[int]:
    """The rows of a rank in a batch of `total` images: a mirrored pair of blocks where `total` allows it."""
    if total % (2 * world_size) == 0:
        half = total // (2 * world_size)
        front = range(rank * half, (rank + 1) * half)
        return [*front, *(total - 1 - row for row in reversed(front))]
    return list(range(rank * total // world_size, (rank + 1) * total // world_size))


def skipped_in(batches):
    """The messages of unreadable images, without repeats."""
    return list(dict.fromkeys(reason for batch in batches for reason in batch.skipped))


def same(first, second):
    """Whether two lists of batches are bitwise equal."""
    return (
        len(first) == len(second) > 0
        and all(torch.equal(one[i], two[i]) for one, two in zip(first, second, strict=True) for i in range(3))
        and all(one.total == two.total for one, two in zip(first, second, strict=True))
    )


def error_of(call, *arguments, **options):
    """The message, one line, of the InputError that the call, or the first epoch of the loader it returns, raises."""
    with pytest.raises(InputError) as caught:
        loader = call(*arguments, **options)
        if isinstance(loader, data.Loader):
            list(loader.epoch(0))
    assert "\n" not in str(caught.value)
    return str(caught.value)
