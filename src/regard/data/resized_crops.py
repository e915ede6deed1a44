"""Random resized crops: of every image a box of random size, shape and place, resized to one size for all.

They come from Szegedy et al. 2015 (arXiv 1409.4842, section 6).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.random import Integers, RandomStream

SHRUNK = 128  # at most so many times: of more pixels the weights below would be too coarse

_TRIES = 10
# Aspect ratios, width to height, from 3/4 to 4/3, equally far apart by their logarithms. Rounded, for machines need
# not agree on the last bit of an exponential.
_RATIOS = np.exp(np.linspace(-1, 1, 4097) * np.log(4 / 3)).round(9)
_ONE = 2048  # what the weights of a pixel add up to, before each is rounded to a whole number
_PARTS = 8  # of a level: what the image is rounded to between the two passes


class Boxes(NamedTuple):
    """A box in each of N images, in whole pixels: int64 (N,) each."""

    top: Integers
    left: Integers
    height: Integers
    width: Integers


def draw_boxes(
    sizes: RandomStream, places: RandomStream, count: int, height: int, width: int, scale: tuple[float, float]
) -> Boxes:
    """Boxes in `count` images of height x width pixels.

    The share of the image's area that each has is drawn uniformly from `scale`, its aspect ratio from 3/4 to 4/3,
    uniform in the logarithm, and then its place, from all that there are. A box that does not fit into the image is
    drawn again. Where ten do not, it is the largest in the image whose aspect ratio is in that range.

    Args:
        sizes: the stream that shares and ratios are drawn from.
        places: the one that places are drawn from.
        count: how many.
        height, width: of the images.
        scale: the least and the largest share, above 0 and at most 1.
    """
    low, high = scale
    ratio = min(max(width / height, _RATIOS[0]), _RATIOS[-1])
    box_height = np.full(count, min(height, round(width / ratio)), dtype=np.int64)
    box_width = np.full(count, min(width, round(height * ratio)), dtype=np.int64)
    waiting = np.ones(count, dtype=np.bool_)
    for _ in range(_TRIES):
        area = height * width * (low + (high - low) * (sizes.integers(0, 2**32 - 1, count) / 2**32))
        ratios = _RATIOS[sizes.integers(0, len(_RATIOS) - 1, count)]
        tall, wide = _side(area / ratios), _side(area * ratios)
        fits = waiting & (tall <= height) & (wide <= width)
        box_height[fits], box_width[fits] = tall[fits], wide[fits]
        waiting &= ~fits
    top = places.integers(0, height - box_height, count)
    left = places.integers(0, width - box_width, count)
    return Boxes(top, left, box_height, box_width)


def resized(
    images: Tensor, size: tuple[int, int], flipped: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor
) -> Tensor:
    """The box of each image, bilinear with antialiasing: each pixel is a mean of those near its centre, weighed by a
    triangle twice as wide as the pixel is, or as one of the image, if that is wider. None beyond the box counts.

    It takes two products with matrices of weights, down the columns and along the rows. All numbers in them are whole,
    and small enough for sums to be exact in float32 and factors in TF32: so devices agree to the last bit, in whatever
    order they add up.

    Args:
        images: uint8 (B, 3, H, W).
        size: (h, w).
        flipped: bool (B,), whether to mirror left to right.
        top, left, height, width: int64 (B,), of the boxes.

    Returns:
        uint8 (B, 3, h, w).
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
    places = torch.arange(total, device=start.device, dtype=torch.int32)
    start, length = start.to(torch.int32)[:, None], length.to(torch.int32)[:, None]  # (B, 1)
    inside = (places >= start) & (places < start + length)  # (B, total)
    away = ((2 * (places - start) + 1) * size)[:, None, :] - (centres * length)[:, :, None]  # (B, size, total)
    near = (2 * length.clamp(min=size)[:, :, None] - away.abs_()).clamp_(min=0).mul_(inside[:, None, :])
    weights = near.to(torch.float32)
    weights = weights.mul_(_ONE).div_(near.sum(2, keepdim=True)).round_()
    return weights, weights.sum(2)


def _side(area: NDArray[np.float64]) -> Integers:
    """Of a square of this area, in whole pixels, at least one."""
    return np.maximum(np.rint(np.sqrt(area)), 1).astype(np.int64)
