"""What every loader gives and has: batches, and epochs of them that can begin at any step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regard.data.augmentation import Augmentation
from regard.data.dataset import ImageDataset
from regard.data.draws import Draws, Integers, check_seed
from regard.data.wds import WebDataset
from regard.errors import InputError


class Batch(NamedTuple):
    """A batch, or one process's slice of it, on one device.

    Attributes:
        images: float32 (B, 3, h, w), normalised: (byte / 255 - mean) / std.
        labels: int64 (B,), -1 where an image has none.
        index: int64 (B,), the place of each image in the data set; of shards, which have no places, a number of its
            own for each image of an epoch.
        total: images of the whole batch, over all processes; where images are skipped, those that were asked for.
        masks: bool (B, h, w); None where the data set has none, or nobody asked for them.
        skipped: "key: reason" of each image of the batch that could not be read.
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # in place of tuple.index, which is no use here
    total: int
    masks: Tensor | None = None
    skipped: tuple[str, ...] = ()


class Loader(ABC):
    """The batches of a data set, epoch after epoch.

    What is random about an image depends on the seed, the epoch and its position in the epoch's order alone. So an
    epoch can begin at any step, and batches are the same for any number of DataLoader workers and of processes.

    Attributes:
        dataset: the data set.
        batch_size: images in a batch, over all processes; the last of an epoch has what is left.
        device: where the batches are.
        image_size: (h, w) of the images in a batch; None where it is that of the files.
    """

    def __init__(
        self,
        dataset: ImageDataset | WebDataset,
        batch_size: int,
        *,
        augmentation: Augmentation | None,
        shuffle: bool,
        seed: int,
        rank: int,
        world_size: int,
        device: torch.device | str,
        image_size: tuple[int, int] | None,
        drop_last: bool,
    ) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.device, self.image_size = torch.device(device), image_size
        self._shuffle, self._seed, self._drop_last = shuffle, check_seed(seed), drop_last
        self._rank, self._world_size = rank, world_size
        self._repeats = 1 if augmentation is None else augmentation.repeats
        if self._repeats > 1 and not shuffle:
            raise InputError("augmentation: repeats is for batches in random order; leave it out, or shuffle")
        self._check()

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, left = divmod(len(self.dataset), self.batch_size)
        return full + (left > 0 and not self._drop_last)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, of each the rank's slice.

        Args:
            number: which epoch, 0 or more.
            start: the first step to give, 0 to `len(self)`: the steps from there on are those of the whole epoch.

        Raises:
            InputError: a number or start outside its range. When it is come to: an image that cannot be read, unless
                such are skipped; a DataLoader worker that died.
        """
        if number < 0:
            raise InputError(f"epoch {number} does not exist; give 0 or more")
        if not 0 <= start <= len(self):
            raise InputError(f"step {start} does not exist; an epoch has {len(self)} steps, from 0")
        return self._batches(number, start)

    def sample(self, epoch: int, position: int) -> Batch:
        """A batch of one image: the one at a position of an epoch's order, exactly as its step saw it.

        The whole batch is read for it.

        Raises:
            InputError: there is no such position, or it is another process's.
        """
        step, row = divmod(position, self.batch_size)
        if not 0 <= step < len(self) or position >= len(self.dataset):
            raise InputError(f"position {position} does not exist; an epoch has {len(self.dataset)} images, from 0")
        total = min(self.batch_size, len(self.dataset) - step * self.batch_size)
        (mine,) = np.nonzero(rank_rows(total, self._rank, self._world_size) == row)
        if not len(mine):
            raise InputError(f"position {position} is that of another process; ask a loader of all images")
        batch = next(iter(self.epoch(epoch, step)))
        one = slice(int(mine[0]), int(mine[0]) + 1)
        masks = None if batch.masks is None else batch.masks[one]
        return Batch(batch.images[one], batch.labels[one], batch.index[one], 1, masks)

    @abstractmethod
    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch that exists, from a step that does."""

    def _order(self, number: int) -> Integers:
        """The images of an epoch in order, int64 (N,)."""
        count = len(self.dataset)
        if not self._shuffle:
            return np.arange(count, dtype=np.int64)
        order = Draws(self._seed, number, 0).permutation(count)
        return order if self._repeats == 1 else np.repeat(order[: -(-count // self._repeats)], self._repeats)[:count]

    def _check(self) -> None:
        """Raises InputError for a batch size that is none, or does not go with the images and processes."""
        count, size, world_size = len(self.dataset), self.batch_size, self._world_size
        if isinstance(size, bool) or size < 1:
            raise InputError(f"batch size is {size}; give 1 or more")
        if not count:
            raise InputError(f"the {self.dataset.split} set of {self.dataset.name!r} is empty; give one with images")
        if not 0 <= self._rank < world_size:
            raise InputError(f"rank {self._rank} does not exist; give one from 0 to {world_size - 1}")
        if self._drop_last and size > count:
            raise InputError(
                f"batch size {size} is more than the {count} images, and without the last batch none is left; give "
                f"at most {count}"
            )
        if not self._shuffle:  # then a process may have nothing of the last batch
            return
        if size < world_size:
            raise InputError(
                f"batch size {size} is less than the {world_size} processes that share it; give at least "
                f"{world_size} (--schedule.batch_size)"
            )
        last = size if self._drop_last else count % size or size
        if last < world_size:
            fitting = (one for step in range(1, count) for one in (size - step, size + step) if one >= world_size)
            best = next(one for one in fitting if count % one == 0 or count % one >= world_size)
            raise InputError(
                f"with batch size {size} the last batch of an epoch of {count} images has {last}, less than the "
                f"{world_size} processes that share it; give another batch size, such as {best} "
                "(--schedule.batch_size)"
            )


def rank_rows(total: int, rank: int, world_size: int) -> Integers:
    """Which rows of a batch of `total` images belong to a rank, increasing; those of all ranks are the batch."""
    # Mixing takes an image together with its mirror image in the batch, the first with the last. A slice that holds
    # with every row its mirror image gives, flipped, the very pairs that the whole batch gives, flipped: so images are
    # mixed the same on however many processes.
    if total % (2 * world_size) == 0:
        half = total // (2 * world_size)
        front = np.arange(rank * half, (rank + 1) * half, dtype=np.int64)
        return np.concatenate([front, total - 1 - front[::-1]])
    first, end = (one * total // world_size for one in (rank, rank + 1))
    return np.arange(first, end, dtype=np.int64)
