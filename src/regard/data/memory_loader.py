"""Batches of a data set that is in memory, as bytes on the device: order, crops and flips as tensor operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.augmentation import Augmentation
from regard.data.batch import Batch, Loader, Sampling
from regard.data.dataset import InMemoryDataset
from regard.data.in_memory import gib
from regard.data.normalisation import Normalisation
from regard.data.random import RandomStream
from regard.data.resized_crops import SHRUNK, draw_boxes, resized
from regard.errors import InputError


class InMemoryLoader(Loader):
    """The batches of a set in memory; see `create_loader`.

    What is random in an epoch (the order, the crops, the flips) is drawn at once, on the CPU, from the seed and the
    epoch's number alone: batches are the same on every device. Order, crops and flips are drawn apart: to turn one off
    leaves the others as they are.
    """

    dataset: InMemoryDataset

    def __init__(
        self,
        dataset: InMemoryDataset,
        sampling: Sampling,
        augmentation: Augmentation | None,
        normalise: Normalisation,
        device: torch.device,
        *,
        masks: bool,
    ) -> None:
        height, width = dataset.images.shape[2:]
        size: tuple[int, int] = (height, width)
        if augmentation is not None:
            augmentation.check_in_memory()
            size = _crop_size(augmentation, height, width)
        super().__init__(_placed(dataset, device), sampling, device, size)
        self.image_size: tuple[int, int] = size
        self._augmentation, self._normalise, self._masks = augmentation, normalise, masks
        self._scale = None if augmentation is None else augmentation.scale
        if augmentation is not None and self._scale is None:
            # For every row and column of the padded image the one of the image that it shows, and whether it shows any.
            self._padded_rows, self._row_shown = _sources(height, augmentation, self.device)
            self._padded_columns, self._column_shown = _sources(width, augmentation, self.device)

    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        order = torch.from_numpy(self._sampling.order(number, len(self.dataset))).to(self.device)
        crops = self._draw_crops(number)
        data = self.dataset
        for step in range(start, len(self)):
            here = slice(step * self.batch_size, (step + 1) * self.batch_size)
            total = len(order[here])
            whole = self._sampling.world_size == 1
            rows = None if whole else torch.from_numpy(self._sampling.rows(total)).to(self.device)
            if rows is not None and not len(rows):  # in order, an odd image or two at the end are for others
                continue

            def mine(values: Tensor, here: slice = here, rows: Tensor | None = rows) -> Tensor:
                return values[here] if rows is None else values[here].index_select(0, rows)

            index = mine(order)

            def those(values: Tensor, mine: Any = mine, index: Tensor = index) -> Tensor:
                return values.index_select(0, index) if self._sampling.shuffle else mine(values)

            images = those(data.images)
            if crops is not None:
                images = self._cut(images, *map(mine, crops))
            masks = those(data.regions) if self._masks and data.regions is not None else None
            yield Batch(self._normalise(images), those(data.labels), index, total, masks)

    def _draw_crops(self, number: int) -> tuple[Tensor, ...] | None:
        """For every position of the epoch's order what `_cut` takes, (N,) each: flipped, crop top, crop left and, where
        crops are resized, crop height and crop width.
        """
        if self._augmentation is None:
            return None
        count = len(self.dataset)

        def stream(purpose: int) -> RandomStream:
            return RandomStream(self._sampling.seed, number, purpose)

        def on_device(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values).to(self.device)

        flipped = on_device(stream(2).bernoulli(0.5 if self._augmentation.flip else 0.0, count))
        corners = stream(1)
        if self._scale is not None:
            height, width = self.dataset.images.shape[2:]
            boxes = draw_boxes(stream(3), corners, count, height, width, self._scale)
            return flipped, *map(on_device, boxes)
        height, width = self.image_size
        top = on_device(corners.integers(0, len(self._padded_rows) - height, count))
        left = on_device(corners.integers(0, len(self._padded_columns) - width, count))
        return flipped, top, left

    def _cut(self, images: Tensor, *crops: Tensor) -> Tensor:
        """Bytes (B, 3, H, W) and a crop for each (B,) -> bytes (B, 3, h, w)."""
        return self._cropped(images, *crops) if self._scale is None else resized(images, self.image_size, *crops)

    def _cropped(self, images: Tensor, flipped: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """As `_cut`, gathered without a padded copy."""
        height, width = self.image_size
        rows = top[:, None] + torch.arange(height, device=self.device)  # (B, h) in the padded image
        columns = torch.arange(width, device=self.device)
        columns = left[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)  # (B, w)
        row_places, column_places = self._padded_rows[rows], self._padded_columns[columns]
        place = row_places[:, :, None] * images.shape[3] + column_places[:, None, :]  # (B, h, w)
        crops = images.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, 3, -1))
        crops = crops.unflatten(2, (height, width))
        if self._row_shown is not None and self._column_shown is not None:
            crops *= (self._row_shown[rows][:, :, None] * self._column_shown[columns][:, None, :])[:, None]
        return crops


def _placed(dataset: InMemoryDataset, device: torch.device) -> InMemoryDataset:
    """The set on the device, if it has the memory."""
    if dataset.images.device == device:
        return dataset
    try:
        return dataset.to(device)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"the {len(dataset)} {dataset.split} images take {gib(dataset.images.numel())}, more than {device} has "
            "left; give smaller ones (--data.size), fewer (--data.train_images), or another device (--device cpu)"
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
