"""Normalises batches of bytes on the device of the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from regard.data.batch import Batch
from regard.data.dataset import Channels
from regard.errors import InputError


class Normalisation:
    """Normalises images to (byte / 255 - mean) / std in float32, with mean (0 to 1) and std (above 0) of each channel.

    Raises:
        InputError: mean or std has not three values, or a value is outside its range.
    """

    def __init__(
        self, mean: Channels, std: Channels, *, device: torch.device | str | None = None, channels_last: bool = False
    ) -> None:
        if len(mean) != 3 or len(std) != 3:
            raise InputError(f"mean or std is {mean}, {std}; give three numbers, for red, green and blue")
        if not all(0 <= value <= 1 for value in mean):
            raise InputError(f"mean is {mean}; give three numbers from 0 to 1")
        if not all(0 < value < math.inf for value in std):
            raise InputError(f"std is {std}; give three numbers above 0")
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._mean = _of_bytes(mean, device)
        self._factor = _of_bytes(std, device).reciprocal()
        self._constants: tuple[Tensor, Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) -> float32 (B, 3, h, w), in place after the first pass.

        Subtraction and multiplication round separately, unlike a fused multiply-add, so results are bit-identical on
        all devices.
        """
        if self._constants is None or self._constants[0].shape[2:] != images.shape[2:]:
            # The same memory layout as the images, so that both are read contiguously.
            mean, factor = (
                constant.expand(1, 3, *images.shape[2:]).contiguous(memory_format=self._format)
                for constant in (self._mean, self._factor)
            )
            self._constants = mean, factor
        mean, factor = self._constants
        return images.to(torch.float32, memory_format=self._format).sub_(mean).mul_(factor)


def denormalised(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """The inverse of `Normalisation`: float (B, 3, h, w) -> uint8 (B, 3, h, w), exactly the original bytes."""
    shift, factor = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return images.mul(factor).add_(shift).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


class Prefetcher:
    """Copies batches to a device and normalises them; on a GPU one batch ahead, on a separate CUDA stream.

    Images with objects are only scaled to [0, 1].
    """

    def __init__(self, normalise: Normalisation | None, device: torch.device) -> None:
        self._normalise, self.device = normalise, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Batches on the CPU with uint8 images -> batches on the device with float32 images."""
        if self._stream is None:
            yield from map(self._moved, batches)
            return
        ahead: Batch | None = None
        for batch in batches:
            with torch.cuda.stream(self._stream):
                moved = self._moved(batch)
            if ahead is not None:
                yield ahead
            ahead = self._arrived(moved, self._stream)
        if ahead is not None:
            yield ahead

    def _moved(self, batch: Batch) -> Batch:
        batch = _each(batch, lambda part: torch.as_tensor(part).to(self.device, non_blocking=True))
        if self._normalise is None:
            return batch._replace(images=[image.float().div_(255) for image in batch.images])
        return batch._replace(images=self._normalise(batch.images))

    def _arrived(self, batch: Batch, copying: torch.cuda.Stream) -> Batch:
        """The batch; computations queued later wait for its copy."""
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(copying)

        def recorded(part: Tensor) -> Tensor:
            part.record_stream(computing)  # its memory is not reused before it has been read
            return part

        return _each(batch, recorded)


def _each(batch: Batch, function: Callable[[Any], Tensor]) -> Batch:
    """The batch with the function applied to each of its tensors and arrays."""
    return tree_map_only((Tensor, np.ndarray), function, batch)


def _of_bytes(values: Channels, device: torch.device | str | None) -> Tensor:
    return torch.tensor(values, device=device, dtype=torch.float64).mul(255).to(torch.float32).view(1, 3, 1, 1)
