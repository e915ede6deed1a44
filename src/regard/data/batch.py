"""Batches, their sampling, and the base class of all loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.dataset import ImageDataset
from regard.data.random import Integers, RandomStream, check_seed
from regard.data.wds import WebDataset
from regard.errors import InputError, check_number


class Batch(NamedTuple):
    """A batch, or one rank's slice of it, on one device.

    Attributes:
        images: float32 (B, 3, h, w), normalised: (byte / 255 - mean) / std. With objects, a list of B images float32
            (3, h, w) in [0, 1], of different sizes.
        labels: int64 (B,), -1 for an image without a label.
        index: int64 (B,), the index of each image in the data set; for shards, a number that is unique in the epoch.
        total: size of the whole batch over all processes, including skipped images.
        masks: bool (B, h, w); None if the data set or the loader has no masks.
        skipped: "key: reason" for each image of the batch that could not be read.
        targets: the objects of each image, in the form that torchvision's detectors expect: a dict of boxes (float32
            (n, 4), left, top, right, bottom), labels (int64 (n,)), crowd (bool (n,)), area (float32 (n,)) and, if the
            loader returns masks, masks (bool (n, h, w)). None if the loader returns no objects.
    """

    images: Any
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # replaces tuple.index
    total: int
    masks: Tensor | None = None
    skipped: tuple[str, ...] = ()
    targets: list[dict[str, Tensor]] | None = None

    def row(self, number: int) -> Batch:
        """A batch of one image."""
        row = slice(number, number + 1)
        masks = None if self.masks is None else self.masks[row]
        targets = None if self.targets is None else self.targets[row]
        return Batch(self.images[row], self.labels[row], self.index[row], 1, masks, targets=targets)


@dataclass(frozen=True)
class Sampling:
    """The order of the images and their distribution to ranks.

    Attributes are as in `create_loader`. Each image is repeated `repeats` times in a row. `groups`, bool (N,), assigns
    each image to one of two groups: a shuffled batch has images of one group, except for at most the last two batches
    of an epoch.
    """

    batch_size: int
    shuffle: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    repeats: int = 1
    groups: NDArray[np.bool_] | None = None

    def steps(self, count: int) -> int:
        """Number of batches in an epoch of `count` images."""
        full, remainder = divmod(count, self.batch_size)
        return full + (remainder > 0 and not self.drop_last)

    def order(self, epoch: int, count: int) -> Integers:
        """The images of an epoch in order, int64 (count,)."""
        if not self.shuffle:
            return np.arange(count, dtype=np.int64)
        order = RandomStream(self.seed, epoch, 0).permutation(count)
        if self.groups is not None:
            return self._grouped(order, self.groups[order])
        return order if self.repeats == 1 else np.repeat(order[: -(-count // self.repeats)], self.repeats)[:count]

    def _grouped(self, order: Integers, group: NDArray[np.bool_]) -> Integers:
        """Reorders images to batches of one group, sorted by their last image, and then the rest of both groups."""
        batches, rest = [], []
        for positions in (np.flatnonzero(group), np.flatnonzero(~group)):
            full = len(positions) // self.batch_size * self.batch_size
            batches.append(positions[:full].reshape(-1, self.batch_size))
            rest.append(positions[full:])
        full_batches = np.concatenate(batches)
        return order[np.concatenate([full_batches[np.argsort(full_batches[:, -1])].reshape(-1), *rest])]

    def rows(self, total: int) -> Integers:
        """The rank's rows of a batch of `total` images, in increasing order."""
        # Mixing pairs row i of a batch with row total - 1 - i. A slice contains both rows of a pair, so that images are
        # mixed in the same way for any number of processes.
        if total % (2 * self.world_size) == 0:
            half = total // (2 * self.world_size)
            front = np.arange(self.rank * half, (self.rank + 1) * half, dtype=np.int64)
            return np.concatenate([front, total - 1 - front[::-1]])
        start, end = (rank * total // self.world_size for rank in (self.rank, self.rank + 1))
        return np.arange(start, end, dtype=np.int64)

    def check(self, dataset: ImageDataset | WebDataset) -> None:
        """Raises InputError for values that are invalid for the data set and the processes."""
        check_seed(self.seed)
        count, size, world_size = len(dataset), self.batch_size, self.world_size
        check_number("batch size", size, "[1, inf)", whole=True)
        check_number("world_size", world_size, "[1, inf)", whole=True)
        if not count:
            raise InputError(f"the {dataset.split} set of {dataset.name!r} is empty; give one with images")
        if not 0 <= self.rank < world_size:
            raise InputError(f"rank {self.rank} does not exist; give one from 0 to {world_size - 1}")
        if self.repeats > 1 and not self.shuffle:
            raise InputError("augmentation: repeats is for batches in random order; leave it out, or shuffle")
        if self.drop_last and size > count:
            raise InputError(
                f"batch size {size} is more than the {count} images, and incomplete batches are dropped; give at most "
                f"{count}"
            )
        last = size if self.drop_last else count % size or size
        if self.shuffle and min(size, last) < world_size:  # without shuffle, a slice of the last batch may be empty
            valid = [value for value in range(world_size, count + 1) if not 0 < count % value < world_size]
            best = min(valid, key=lambda value: abs(value - size), default=world_size)
            raise InputError(
                f"with batch size {size} the last batch of an epoch of {count} images has {last}, fewer than the "
                f"{world_size} processes that share it; give another batch size, such as {best} "
                "(--schedule.batch_size)"
            )


class Loader(ABC):
    """The batches of a data set, by epoch.

    The augmentation of an image depends only on the seed, the epoch and its position in the epoch's order. So an epoch
    can begin at any step, and batches are the same for any number of DataLoader workers and processes.

    Attributes:
        dataset: the data set.
        batch_size: images in a batch, over all processes; the last batch of an epoch may have fewer.
        device: device of the batches.
        world_size: number of processes that share the batches.
        image_size: (h, w) of the images in a batch; None if images keep the size of their files.
    """

    def __init__(
        self,
        dataset: ImageDataset | WebDataset,
        sampling: Sampling,
        device: torch.device,
        image_size: tuple[int, int] | None,
    ) -> None:
        self.dataset, self.batch_size = dataset, sampling.batch_size
        self.device, self.image_size, self.world_size = device, image_size, sampling.world_size
        self._sampling = sampling
        sampling.check(dataset)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self._sampling.steps(len(self.dataset))

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The rank's slices of the batches of an epoch (from 0), beginning at step `start`.

        Raises:
            InputError: an epoch or step out of range; during iteration, an image that cannot be read and is not
                skipped, or a DataLoader worker that died.
        """
        if number < 0:
            raise InputError(f"epoch {number} does not exist; give 0 or more")
        if not 0 <= start <= len(self):
            raise InputError(f"step {start} does not exist; an epoch has {len(self)} steps, from 0")
        return self._batches(number, start)

    def sample(self, epoch: int, position: int) -> Batch:
        """A batch of one image, by its position in an epoch's order, exactly as in the epoch.

        Can be called during an epoch. For a skipped image the batch is empty, and `Batch.skipped` has the reason.

        Raises:
            InputError: the position does not exist or belongs to another process, or the image cannot be read.
        """
        step, row = divmod(position, self.batch_size)
        if not 0 <= step < len(self) or position >= len(self.dataset):
            raise InputError(f"position {position} does not exist; an epoch has {len(self.dataset)} images, from 0")
        total = min(self.batch_size, len(self.dataset) - step * self.batch_size)
        (matches,) = np.nonzero(self._sampling.rows(total) == row)
        if not len(matches):
            raise InputError(f"position {position} belongs to another process; use a loader with world_size 1")
        return self._sample(epoch, step, int(matches[0]))

    def _sample(self, epoch: int, step: int, row: int) -> Batch:
        """The image in a row of the rank's slice of a batch."""
        return next(iter(self.epoch(epoch, step))).row(row)

    @abstractmethod
    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on; `epoch` has checked both arguments."""


def stack_images(images: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """Stacks images, uint8 (3, h, w) each, to (B, 3, h, w). Raises InputError if their sizes differ."""
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            (_, height, width), (_, first_height, first_width) = image.shape, images[0].shape
            raise InputError(
                f"images of different sizes: {name!r} has {width} x {height} pixels, {names[0]!r} {first_width} x "
                f"{first_height}; give one size for all (--data.size)"
            )
    return torch.stack(tuple(images)) if images else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
