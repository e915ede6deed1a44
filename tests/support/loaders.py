"""Loaders of streamed images in tests."""

from __future__ import annotations

from typing import Any

from regard import data

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
