"""The batches of a set of either kind."""

from __future__ import annotations

from typing import Any

import torch

from regard.data.augmentation import Augmentation
from regard.data.batches import Batches
from regard.data.dataset import InMemoryDataset
from regard.data.file_batches import FileBatches
from regard.data.fileset import FileSet
from regard.data.share import Share


def make_batches(
    images: InMemoryDataset | FileSet,
    batch_size: int,
    *,
    augmentation: Augmentation | None = None,
    shuffle: bool = False,
    seed: int = 0,
    device: torch.device | str | None = None,
    drop_last: bool = False,
    channels_last: bool = False,
    share: Share | None = None,
) -> Batches | FileBatches:
    """`Batches` of a set that is held whole, `FileBatches` of one that is read while training; they take the same."""
    make: Any = Batches if isinstance(images, InMemoryDataset) else FileBatches
    return make(
        images,
        batch_size,
        augmentation=augmentation,
        shuffle=shuffle,
        seed=seed,
        device=device,
        drop_last=drop_last,
        channels_last=channels_last,
        share=share,
    )
