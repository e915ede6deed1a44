"""Batches of a data set that is in memory, as bytes on the device: order, crops and flips as tensor operations.

Crops are of the padded image, or random resized crops (Szegedy et al. 2015, arXiv 1409.4842, section 6): of every image
a box of random size, shape and place, resized to one size for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.augmentation import Augmentation
from regard.data.batch import Batch, Loader, Sampling
from regard.data.dataset import InMemoryDataset
from regard.data.in_memory import gib
from regard.data.normalisation import Normalisation
from regard.data.random import Integers, RandomStream
from regard.errors import InputError

SHRUNK = 128  # at most so many times: of more pixels the weights below would be too coarse

_TRIES = 10
# Aspect ratios, width to height, from 3/4 to 4/3, evenly spaced in the logarithm. Rounded, because machines may
# differ in the last bit of an exponential.
_RATIOS = np.exp(np.linspace(-1, 1, 4097) * np.log(4 / 3)).round(9)
_ONE = 2048  # what the weights of a pixel add up to, before each is rounded to a whole number
_PARTS = 8  # of a level: what the image is rounded to between the two passes


class InMemoryLoader(Loader):
    """The batches of a set in memory; see `create_loader`.

    Order, crops and flips of an epoch are drawn at its start on the CPU, from separate random streams that depend only
    on the seed and the epoch: batches are the same on every device, and turning one of them off does not change the
    others.
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
            augmentation.check(streamed=False)
            size = _crop_size(augmentation, height, width)
        super().__init__(_placed(dataset, device), sampling, device, size)
        self.image_size: tuple[int, int] = size
        self._augmentation, self._normalise = augmentation, normalise
        self._masks = self.dataset.regions if masks else None
        if augmentation is not None and augmentation.scale is None:
            self._rows, self._columns = (_padded(length, augmentation, device) for length in (height, width))

    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        order = torch.from_numpy(self._sampling.order(number, len(self.dataset))).to(self.device)
        crops = self._draw_crops(number)
        data = self.dataset
        for step in range(start, len(self)):
            batch_slice = slice(step * self.batch_size, (step + 1) * self.batch_size)
            total = len(order[batch_slice])
            rows = self._sampling.rows(total)
            if not len(rows):  # in order, an odd image or two at the end are for others
                continue
            index, *crop = (values[batch_slice] for values in (order, *crops))
            if self._sampling.world_size > 1:
                rank_rows = torch.from_numpy(rows).to(self.device)
                index, *crop = (values.index_select(0, rank_rows) for values in (index, *crop))
            consecutive = not self._sampling.shuffle and self._sampling.world_size == 1
            images, labels, masks = (
                None if values is None else values[batch_slice] if consecutive else values.index_select(0, index)
                for values in (data.images, data.labels, self._masks)
            )
            assert images is not None and labels is not None
            if crop:
                images = self._cut(images, *crop)
            yield Batch(self._normalise(images), labels, index, total, masks)

    def _draw_crops(self, number: int) -> list[Tensor]:
        """For every position of the epoch's order what `_cut` takes, (N,) each: whether it is flipped, the crop's top
        and left and, of resized crops, its height and width."""
        augmentation, count = self._augmentation, len(self.dataset)
        if augmentation is None:
            return []
        position_stream, flip_stream, size_stream = (
            RandomStream(self._sampling.seed, number, purpose) for purpose in (1, 2, 3)
        )
        crops: list[NDArray[Any]] = [flip_stream.bernoulli(0.5 if augmentation.flip else 0.0, count)]
        if augmentation.scale is not None:
            height, width = self.dataset.images.shape[2:]
            crops += draw_boxes(size_stream, position_stream, count, height, width, augmentation.scale)
        else:
            for (sources, _), length in zip((self._rows, self._columns), self.image_size, strict=True):
                crops.append(position_stream.integers(0, len(sources) - length, count))
        return [torch.from_numpy(values).to(self.device) for values in crops]

    def _cut(self, images: Tensor, flipped: Tensor, top: Tensor, left: Tensor, *resized_from: Tensor) -> Tensor:
        """Bytes (B, 3, H, W) and a crop for each (B,) -> bytes (B, 3, h, w)."""
        if resized_from:
            return resized(images, self.image_size, flipped, top, left, *resized_from)
        height, width = self.image_size
        rows = top[:, None] + torch.arange(height, device=self.device)  # (B, h) in the padded image
        columns = torch.arange(width, device=self.device)
        columns = left[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)  # (B, w)
        (row_index, row_inside), (column_index, column_inside) = self._rows, self._columns
        # Gathered, without a padded copy.
        pixel = row_index[rows][:, :, None] * images.shape[3] + column_index[columns][:, None, :]  # (B, h, w)
        crops = images.flatten(2).gather(2, pixel.flatten(1)[:, None].expand(-1, 3, -1)).unflatten(2, (height, width))
        if row_inside is not None and column_inside is not None:
            crops *= (row_inside[rows][:, :, None] * column_inside[columns][:, None, :])[:, None]
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


def _padded(length: int, augmentation: Augmentation, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """For every position along the padded image, int64 (length + 2 padding,): the index of the image pixel there.

    With zero padding also uint8, 1 where it shows the image and 0 where it shows black; else None.
    """
    positions = torch.arange(-augmentation.border, length + augmentation.border)
    if augmentation.padding_mode == "reflect":
        last = length - 1
        return (last - (last - positions.abs()).abs()).to(device), None
    inside = (positions >= 0) & (positions < length)
    return positions.clamp(0, length - 1).to(device), inside.to(device, torch.uint8)


def draw_boxes(
    size_stream: RandomStream,
    position_stream: RandomStream,
    count: int,
    height: int,
    width: int,
    scale: tuple[float, float],
) -> tuple[Integers, Integers, Integers, Integers]:
    """Boxes in `count` images of height x width pixels: top, left, height and width, in whole pixels, (count,) each.

    The area, as a fraction of the image, is drawn uniformly from `scale`, the aspect ratio log-uniformly from 3/4 to
    4/3, and the position uniformly. A box that does not fit into the image is drawn again, up to ten times; then the
    largest box in the image with an aspect ratio in this range is used.
    """
    low, high = scale
    ratio = min(max(width / height, _RATIOS[0]), _RATIOS[-1])
    box_height = np.full(count, min(height, round(width / ratio)), dtype=np.int64)
    box_width = np.full(count, min(width, round(height * ratio)), dtype=np.int64)
    waiting = np.ones(count, dtype=np.bool_)
    for _ in range(_TRIES):
        area = height * width * (low + (high - low) * (size_stream.integers(0, 2**32 - 1, count) / 2**32))
        ratios = _RATIOS[size_stream.integers(0, len(_RATIOS) - 1, count)]
        tall, wide = _side(area / ratios), _side(area * ratios)
        fits = waiting & (tall <= height) & (wide <= width)
        box_height[fits], box_width[fits] = tall[fits], wide[fits]
        waiting &= ~fits
    top = position_stream.integers(0, height - box_height, count)
    left = position_stream.integers(0, width - box_width, count)
    return top, left, box_height, box_width


def resized(
    images: Tensor, size: tuple[int, int], flipped: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor
) -> Tensor:
    """The box of each image, bilinear with antialiasing: uint8 (B, 3, H, W) and boxes (B,) each -> uint8 (B, 3, h, w).

    Each pixel is a mean of those near its centre, weighed by a triangle twice as wide as the pixel is, or as one of the
    image, if that is wider. None beyond the box counts. It takes two products with matrices of weights, down the
    columns and along the rows. All numbers in them are whole, and small enough for sums to be exact in float32 and
    factors in TF32: so devices agree to the last bit, in whatever order they add up.
    """
    rows, row_sums = _weights(top, height, images.shape[2], size[0])  # (B, h, H), (B, h)
    columns, column_sums = _weights(left, width, images.shape[3], size[1], flipped)  # (B, w, W), (B, w)
    with torch.autocast(images.device.type, enabled=False):
        lines = images.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)  # (B, H, 3, W)
        shrunk = torch.bmm(rows, lines.flatten(2)).div_((row_sums / _PARTS)[:, :, None]).round_()  # (B, h, 3W)
        shrunk = torch.bmm(shrunk.view(len(images), -1, images.shape[3]), columns.mT)  # (B, 3h, w)
        shrunk.div_((column_sums * _PARTS)[:, None, :]).round_()
    return shrunk.to(torch.uint8).unflatten(1, (size[0], 3)).transpose(1, 2)


def _weights(
    start: Tensor, length: Tensor, total: int, size: int, flipped: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What each of `size` pixels takes of each of `total`, of which `length` from `start` on are in the box.

    Returns:
        whole numbers, float32 (B, size, total), and the sums over the last dimension.
    """
    # In units of 1 / (2 size) of a pixel of the image, in which all of these are whole numbers.
    centres = 2 * torch.arange(size, device=start.device, dtype=torch.int32) + 1
    if flipped is not None:
        centres = torch.where(flipped[:, None], centres.flip(0), centres)
    positions = torch.arange(total, device=start.device, dtype=torch.int32)
    start, length = start.to(torch.int32)[:, None], length.to(torch.int32)[:, None]  # (B, 1)
    inside = (positions >= start) & (positions < start + length)  # (B, total)
    away = ((2 * (positions - start) + 1) * size)[:, None, :] - (centres * length)[:, :, None]  # (B, size, total)
    near = (2 * length.clamp(min=size)[:, :, None] - away.abs_()).clamp_(min=0).mul_(inside[:, None, :])
    weights = near.to(torch.float32)
    weights = weights.mul_(_ONE).div_(near.sum(2, keepdim=True)).round_()
    return weights, weights.sum(2)


def _side(area: NDArray[np.float64]) -> Integers:
    """Of a square of this area, in whole pixels, at least one."""
    return np.maximum(np.rint(np.sqrt(area)), 1).astype(np.int64)
