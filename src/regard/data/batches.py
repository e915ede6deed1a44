"""Batches of a set that lives as bytes on the device: order, crops and flips as tensor operations over the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.augmentation import Augmentation
from regard.data.dataset import Channels, InMemoryDataset
from regard.data.draws import Draws, Integers, check_seed
from regard.data.normalisation import Normalisation
from regard.data.resized_crops import SHRUNK, draw_boxes, resized
from regard.data.share import Share
from regard.data.whole import gib
from regard.errors import InputError


class Batch(NamedTuple):
    """A batch, or one process's part of it, all on one device.

    Attributes:
        images: float32 (B, 3, h, w), normalised: (byte / 255 - mean) / std.
        labels: int64 (B,).
        index: int64 (B,), the place of each image in the set: `set.regions[batch.index]` are their regions. Of shards,
            which have no places, a number of its own for each image of an epoch.
        total: images of the whole batch, over all processes.
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # in place of tuple.index, which is no use here
    total: int


class Batches:
    """The batches of a set, epoch after epoch.

    The whole set is on the device as bytes. What is random in an epoch (the order, the crops, the flips) is drawn at
    once, on the CPU, from the seed and the epoch's number alone. So any epoch can begin at any step without replaying
    what came before, and the batches are the same on every device. Order, crops and flips are drawn apart: to turn one
    off leaves the others as they are.

    Args:
        images: the set.
        batch_size: images in a batch, 1 or more; the last of an epoch has what is left.
        augmentation: random changes to the images; None for the images as they are, whole.
        shuffle: a new random order in every epoch, in place of the order of the set.
        seed: 0 to 2^64 - 1.
        device: where the batches are; None for where the set is.
        mean: of each channel, 0 to 1, subtracted; None for the set's own.
        std: of each channel, above 0, divided by; None for the set's own.
        drop_last: leave out the last batch of an epoch if it is not full.
        channels_last: give images in torch.channels_last memory format, written so at once.
        share: which part of every batch to give; the parts of all processes together are the batch. In order, without
            `shuffle`, there may be a last batch of which nothing is for this process, and which it is not given.

    Attributes:
        images: the set, on the device.
        device: where the batches are.
        batch_size: as given, over all processes.
        image_size: (h, w) of the images in a batch.
        skipped: nothing, for nothing is read any more.

    Raises:
        InputError: an argument outside its range, an empty set, a crop larger than the padded image or, with scale, far
            smaller than the image, a reflection wider than the image, an augmentation that is for sets read while
            training, repeats of images in order, `drop_last` where not one batch is full, shuffled batches of which one
            is smaller than the number of processes, or a device without memory for the set.
    """

    skipped: tuple[str, ...] = ()

    def __init__(
        self,
        images: InMemoryDataset,
        batch_size: int,
        *,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        mean: Channels | None = None,
        std: Channels | None = None,
        drop_last: bool = False,
        channels_last: bool = False,
        share: Share | None = None,
    ) -> None:
        share = share or Share()
        check_batches(images.name, images.split, len(images), batch_size, drop_last)
        if shuffle:
            share.check(batch_size, len(images), drop_last=drop_last)
        if augmentation is not None:
            augmentation.check_whole()
            augmentation.check_order(shuffle=shuffle)
        self.images = images if device is None else _placed(images, device)
        self.device = self.images.images.device
        self.batch_size = batch_size
        self._augmentation = augmentation
        self._shuffle = shuffle
        self._seed = check_seed(seed)
        self._drop_last = drop_last
        self._share = share
        height, width = images.images.shape[2:]
        self.image_size: tuple[int, int] = (height, width)
        self._scale = None if augmentation is None else augmentation.scale
        if augmentation is not None:
            self.image_size = _crop_size(augmentation, height, width)
        if augmentation is not None and self._scale is None:
            # For every row and column of the padded image the one of the image that it shows, and whether it shows any.
            self._rows, self._row_shown = _sources(height, augmentation, self.device)
            self._columns, self._column_shown = _sources(width, augmentation, self.device)
        self._normalised = Normalisation(
            images.mean if mean is None else mean,
            images.std if std is None else std,
            device=self.device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return steps_of(len(self.images), self.batch_size, self._drop_last)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            number: which epoch, 0 or more.
            start: the first step to give, 0 to `len(self)`: the steps from there on are those of the whole epoch.

        Raises:
            InputError: a number or start outside its range.
        """
        check_epoch(number, start, len(self))
        return self._steps(number, start)

    def _steps(self, number: int, start: int) -> Iterator[Batch]:
        order, crops = self._draw(number)
        for step in range(start, len(self)):
            here = slice(step * self.batch_size, (step + 1) * self.batch_size)
            total = len(order[here])
            whole = self._share.count == 1
            rows = None if whole else torch.from_numpy(self._share.rows(total)).to(self.device)
            if rows is not None and not len(rows):  # in order, an odd image or two at the end are for others
                continue

            def part(values: Tensor, here: slice = here, rows: Tensor | None = rows) -> Tensor:
                return values[here] if rows is None else values[here].index_select(0, rows)

            index = part(order)
            if self._shuffle:
                images, labels = self.images.images.index_select(0, index), self.images.labels.index_select(0, index)
            else:
                images, labels = part(self.images.images), part(self.images.labels)
            if crops is not None:
                images = self._cut(images, *map(part, crops))
            yield Batch(self._normalised(images), labels, index, total)

    def _draw(self, number: int) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Order (N,), and for every place in it, if there is augmentation, what `_cut` takes (N,): flipped, crop top,
        crop left and, where crops are resized, crop height and crop width.
        """
        count = len(self.images)

        def stream(purpose: int) -> Draws:
            return Draws(self._seed, number, purpose)

        def on_device(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values).to(self.device)

        augmentation = self._augmentation
        if self._shuffle:
            order = on_device(shuffled(self._seed, number, count, 1 if augmentation is None else augmentation.repeats))
        else:
            order = torch.arange(count, device=self.device)
        if augmentation is None:
            return order, None
        flipped = on_device(stream(2).chances(0.5 if augmentation.flip else 0.0, count))
        corners = stream(1)
        if self._scale is not None:
            height, width = self.images.images.shape[2:]
            boxes = draw_boxes(stream(3), corners, count, height, width, self._scale)
            return order, (flipped, *map(on_device, boxes))
        height, width = self.image_size
        top = on_device(corners.integers(0, len(self._rows) - height, count))
        left = on_device(corners.integers(0, len(self._columns) - width, count))
        return order, (flipped, top, left)

    def _cut(self, images: Tensor, *crops: Tensor) -> Tensor:
        """Bytes (B, 3, H, W) and a crop for each (B,) -> bytes (B, 3, h, w)."""
        return self._cropped(images, *crops) if self._scale is None else resized(images, self.image_size, *crops)

    def _cropped(self, images: Tensor, flipped: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """As `_cut`, gathered without a padded copy."""
        height, width = self.image_size
        rows = top[:, None] + torch.arange(height, device=self.device)  # (B, h) in the padded image
        columns = torch.arange(width, device=self.device)
        columns = left[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)  # (B, w)
        place = self._rows[rows][:, :, None] * images.shape[3] + self._columns[columns][:, None, :]  # (B, h, w)
        crops = images.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, 3, -1))
        crops = crops.unflatten(2, (height, width))
        if self._row_shown is not None and self._column_shown is not None:
            crops *= (self._row_shown[rows][:, :, None] * self._column_shown[columns][:, None, :])[:, None]
        return crops


def shuffled(seed: int, epoch: int, count: int, repeats: int = 1) -> Integers:
    """The order of the images in an epoch, int64 (count,): random, and each `repeats` times in a row."""
    order = Draws(seed, epoch, 0).permutation(count)
    return order if repeats == 1 else np.repeat(order[: -(-count // repeats)], repeats)[:count]


def steps_of(count: int, batch_size: int, drop_last: bool) -> int:
    """Batches in an epoch of `count` images."""
    full, left = divmod(count, batch_size)
    return full + (left > 0 and not drop_last)


def check_batches(name: str, split: str, count: int, batch_size: int, drop_last: bool) -> None:
    """Raises InputError for a batch size that is none, or where there is not one batch."""
    if batch_size < 1:
        raise InputError(f"batch size is {batch_size}; give 1 or more")
    if not count:
        raise InputError(f"the {split} set of {name!r} is empty; give one with images")
    if drop_last and batch_size > count:
        raise InputError(
            f"batch size {batch_size} is more than the {count} images, and without the last batch none is left; give "
            f"at most {count}"
        )


def check_epoch(number: int, start: int, steps: int) -> None:
    """Raises InputError for an epoch or a step that does not exist."""
    if number < 0:
        raise InputError(f"epoch {number} does not exist; give 0 or more")
    if not 0 <= start <= steps:
        raise InputError(f"step {start} does not exist; an epoch has {steps} steps, from 0")


def _placed(images: InMemoryDataset, device: torch.device | str) -> InMemoryDataset:
    """The set on the device, if it has the memory."""
    try:
        return images.to(device)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"the {len(images)} {images.split} images take {gib(images.images.numel())}, more than {device} has left; "
            "give smaller ones (--data.size), fewer (--data.train_images), or another device (--device cpu)"
        ) from error


def _crop_size(augmentation: Augmentation, height: int, width: int) -> tuple[int, int]:
    """(h, w) of the crop, if the image allows it."""
    padding, crop = augmentation.border, augmentation.crop
    if augmentation.scale is not None:
        if crop is not None and crop * SHRUNK < max(height, width):
            raise InputError(
                f"augmentation: crop {crop} is too small for images of {height} x {width}, which are shrunk "
                f"{SHRUNK} times at most; give at least {-(-max(height, width) // SHRUNK)}"
            )
        return (height, width) if crop is None else (crop, crop)
    if augmentation.padding_mode == "reflect" and padding >= min(height, width):
        raise InputError(
            f"augmentation: padding {padding} reflects more than images of {height} x {width} hold; "
            f"give at most {min(height, width) - 1}, or padding_mode zero"
        )
    if crop is None:
        return height, width
    if crop > min(height, width) + 2 * padding:
        raise InputError(
            f"augmentation: crop {crop} is larger than images of {height} x {width} padded by {padding}; "
            f"give at most {min(height, width) + 2 * padding}"
        )
    return crop, crop


def _sources(length: int, augmentation: Augmentation, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """For every place along the padded image, int64 (length + 2 padding,): the place in the image that it shows.

    With zero padding also uint8, 1 where it shows the image and 0 where it shows black; else None.
    """
    places = torch.arange(-augmentation.border, length + augmentation.border)
    if augmentation.padding_mode == "reflect":
        last = length - 1
        return (last - (last - places.abs()).abs()).to(device), None
    shown = (places >= 0) & (places < length)
    return places.clamp(0, length - 1).to(device), shown.to(device, torch.uint8)
