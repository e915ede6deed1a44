"""The loader of images in memory: order, crops and flips are tensor operations on their device.

Images are padded and cropped, or get random resized crops (Szegedy et al. 2015, arXiv 1409.4842, section 6): boxes of
random size, aspect ratio and position, resized to one size.
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

_MAX_SHRINKING = 128  # with a larger downscaling factor, the integer weights below would be too coarse
_TRIES = 10
# Aspect ratios, width / height, from 3/4 to 4/3, evenly spaced in the logarithm. Rounded, because machines may differ
# in the last bit of an exponential.
_RATIOS = np.exp(np.linspace(-1, 1, 4097) * np.log(4 / 3)).round(9)
_WEIGHT_SUM = 2048  # sum of the weights of an output pixel before each is rounded to an integer
_SUBLEVELS = 8  # between the two passes, values are rounded to 1/8 of a grey level


class InMemoryLoader(Loader):
    """Batches of an in-memory data set; see `create_loader`.

    The order, crops and flips of an epoch are drawn on the CPU when it starts, from separate random streams that depend
    only on the seed and the epoch. So batches are the same on every device, and each kind of randomness can be turned
    off without a change to the others.
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
        super().__init__(_move(dataset, device), sampling, device, size)
        self.image_size: tuple[int, int] = size
        self._augmentation, self._normalise = augmentation, normalise
        self._masks = self.dataset.regions if masks else None
        if augmentation is not None and augmentation.scale is None:
            self._rows, self._columns = (_padded_index(length, augmentation, device) for length in (height, width))

    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        order = torch.from_numpy(self._sampling.order(number, len(self.dataset))).to(self.device)
        crops = self._draw_crops(number)
        for step in range(start, len(self)):
            batch_slice = slice(step * self.batch_size, (step + 1) * self.batch_size)
            total = len(order[batch_slice])
            rows = self._sampling.rows(total)
            if not len(rows):  # without shuffle, a slice of the last batch may be empty
                continue
            index, *crop = (values[batch_slice] for values in (order, *crops))
            if self._sampling.world_size > 1:
                rank_rows = torch.from_numpy(rows).to(self.device)
                index, *crop = (values.index_select(0, rank_rows) for values in (index, *crop))
            consecutive = not self._sampling.shuffle and self._sampling.world_size == 1
            images, labels, masks = (
                None if values is None else values[batch_slice] if consecutive else values.index_select(0, index)
                for values in (self.dataset.images, self.dataset.labels, self._masks)
            )
            assert images is not None and labels is not None
            if crop:
                images = self._crop(images, *crop)
                if masks is not None:  # as black and white images
                    masks = self._crop(masks[:, None].to(torch.uint8) * 255, *crop)[:, 0] >= 128
            yield Batch(self._normalise(images), labels, index, total, masks)

    def _draw_crops(self, number: int) -> list[Tensor]:
        """The arguments of `_crop` for every position in the epoch's order, (N,) each: whether to flip, top and left,
        and for resized crops height and width. Empty without augmentation."""
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
            for (index, _), length in zip((self._rows, self._columns), self.image_size, strict=True):
                crops.append(position_stream.integers(0, len(index) - length, count))
        return [torch.from_numpy(values).to(self.device) for values in crops]

    def _crop(self, images: Tensor, flipped: Tensor, top: Tensor, left: Tensor, *box_size: Tensor) -> Tensor:
        """Crops and flips images: uint8 (B, C, H, W) and parameters, (B,) each -> uint8 (B, C, h, w)."""
        if box_size:
            return resize_crops(images, self.image_size, flipped, top, left, *box_size)
        height, width = self.image_size
        rows = top[:, None] + torch.arange(height, device=self.device)  # (B, h) in the padded image
        columns = torch.arange(width, device=self.device)
        columns = left[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)  # (B, w)
        (row_index, row_inside), (column_index, column_inside) = self._rows, self._columns
        # Pixels are gathered from the images, without a padded copy.
        pixel = row_index[rows][:, :, None] * images.shape[3] + column_index[columns][:, None, :]  # (B, h, w)
        pixel = pixel.flatten(1)[:, None].expand(-1, images.shape[1], -1)
        crops = images.flatten(2).gather(2, pixel).unflatten(2, (height, width))
        if row_inside is not None and column_inside is not None:
            crops *= (row_inside[rows][:, :, None] * column_inside[columns][:, None, :])[:, None]
        return crops


def _move(dataset: InMemoryDataset, device: torch.device) -> InMemoryDataset:
    """Moves the data set to the device. Raises InputError if the device is out of memory."""
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
    """(h, w) of the crop. Raises InputError if it does not fit the images."""
    padding, crop = augmentation.border, augmentation.crop
    if augmentation.scale is not None:
        if crop is not None and crop * _MAX_SHRINKING < max(height, width):
            raise InputError(
                f"augmentation: crop {crop} is too small for images of {height} x {width}, which can be shrunk by a "
                f"factor of {_MAX_SHRINKING} at most; give at least {-(-max(height, width) // _MAX_SHRINKING)}"
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


def _padded_index(length: int, augmentation: Augmentation, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The index of the image pixel at each position along a side of the padded image, int64 (length + 2 padding,).

    With zero padding, the second tensor is 1 on the image and 0 on the padding, uint8; else it is None.
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
    """Draws the boxes of random resized crops: top, left, height and width in whole pixels, int64 (count,) each.

    The area, as a fraction of the height x width image, is drawn uniformly from `scale`, the aspect ratio log-uniformly
    from 3/4 to 4/3, and the position uniformly. The area and aspect ratio of a box that does not fit into the image are
    drawn again. After ten draws, the largest box with an aspect ratio in this range is used.
    """
    low, high = scale
    ratio = min(max(width / height, _RATIOS[0]), _RATIOS[-1])
    box_height = np.full(count, min(height, round(width / ratio)), dtype=np.int64)
    box_width = np.full(count, min(width, round(height * ratio)), dtype=np.int64)
    pending = np.ones(count, dtype=np.bool_)
    for _ in range(_TRIES):
        area = height * width * (low + (high - low) * (size_stream.integers(0, 2**32 - 1, count) / 2**32))
        ratios = _RATIOS[size_stream.integers(0, len(_RATIOS) - 1, count)]
        new_height, new_width = _side(area / ratios), _side(area * ratios)
        fits = pending & (new_height <= height) & (new_width <= width)
        box_height[fits], box_width[fits] = new_height[fits], new_width[fits]
        pending &= ~fits
    top = position_stream.integers(0, height - box_height, count)
    left = position_stream.integers(0, width - box_width, count)
    return top, left, box_height, box_width


def resize_crops(
    images: Tensor, size: tuple[int, int], flipped: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor
) -> Tensor:
    """Crops images, uint8 (B, C, H, W), to boxes and resizes them to uint8 (B, C, h, w), bilinear with antialiasing.

    An output pixel is a weighted mean of the input pixels near its centre. The weights form a triangle, twice as wide
    as the larger of an output and an input pixel. Pixels outside the box have weight 0. The mean is computed as two
    matrix products, along the columns and along the rows. Their operands are integers, small enough for factors to be
    exact in TF32 and sums in float32, so results are bit-identical on all devices, in any order of summation.

    `size` is (h, w); `flipped`, bool (B,), mirrors results left to right; the boxes are int64 (B,).
    """
    rows, row_sums = _weights(top, height, images.shape[2], size[0])  # (B, h, H), (B, h)
    columns, column_sums = _weights(left, width, images.shape[3], size[1], flipped)  # (B, w, W), (B, w)
    with torch.autocast(images.device.type, enabled=False):
        lines = images.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)  # (B, H, C, W)
        crops = torch.bmm(rows, lines.flatten(2)).div_((row_sums / _SUBLEVELS)[:, :, None]).round_()  # (B, h, C W)
        crops = torch.bmm(crops.view(len(images), -1, images.shape[3]), columns.mT)  # (B, h C, w)
        crops.div_((column_sums * _SUBLEVELS)[:, None, :]).round_()
    return crops.to(torch.uint8).unflatten(1, (size[0], images.shape[1])).transpose(1, 2)


def _weights(
    start: Tensor, length: Tensor, total: int, size: int, flipped: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weights of `total` input pixels for `size` output pixels along one side, and the sums of the weights.

    The box covers `length` (B,) input pixels from `start` (B,) on. Weights are integers as float32 (B, size, total),
    sums (B, size).
    """
    # Distances in units of 1 / (2 size) of an input pixel, so that all of them are integers.
    centres = 2 * torch.arange(size, device=start.device, dtype=torch.int32) + 1
    if flipped is not None:
        centres = torch.where(flipped[:, None], centres.flip(0), centres)
    positions = torch.arange(total, device=start.device, dtype=torch.int32)
    start, length = start.to(torch.int32)[:, None], length.to(torch.int32)[:, None]  # (B, 1)
    inside = (positions >= start) & (positions < start + length)  # (B, total)
    distance = ((2 * (positions - start) + 1) * size)[:, None, :] - (centres * length)[:, :, None]  # (B, size, total)
    triangle = (2 * length.clamp(min=size)[:, :, None] - distance.abs_()).clamp_(min=0).mul_(inside[:, None, :])
    weights = triangle.to(torch.float32)
    weights = weights.mul_(_WEIGHT_SUM).div_(triangle.sum(2, keepdim=True)).round_()
    return weights, weights.sum(2)


def _side(area: NDArray[np.float64]) -> Integers:
    """The side of a square of this area in whole pixels, at least 1."""
    return np.maximum(np.rint(np.sqrt(area)), 1).astype(np.int64)
