"""Normalisation of uint8 batches on the device of the network."""

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
    """Normalises images to (byte / 255 - mean) / std in float32, with the mean (0 to 1) and std (above 0) of channels.

    Raises:
        InputError: `mean` or `std` does not have three values, or a value is outside its range.
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
        self._mean = _byte_scale(mean, device)
        self._factor = _byte_scale(std, device).reciprocal()
        self._constants: tuple[Tensor, Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Normalises uint8 (B, 3, h, w) to float32 (B, 3, h, w).

        Subtraction and multiplication round separately, unlike a fused multiply-add, so results are bit-identical on
        all devices.
        """
        if self._constants is None or self._constants[0].shape[2:] != images.shape[2:]:
            # They have the memory layout of the images, so that both are read contiguously.
            mean, factor = (
                constant.expand(1, 3, *images.shape[2:]).contiguous(memory_format=self._format)
                for constant in (self._mean, self._factor)
            )
            self._constants = mean, factor
        mean, factor = self._constants
        return images.to(torch.float32, memory_format=self._format).sub_(mean).mul_(factor)


def denormalised(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """Inverts `Normalisation`: float (B, 3, h, w) -> uint8 (B, 3, h, w), exactly the original bytes."""
    shift, factor = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return images.mul(factor).add_(shift).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


class Prefetcher:
    """Copies batches to a device and normalises them. On a GPU, it works one batch ahead on a separate CUDA stream.

    Without `normalise`, images are a list of different sizes and are only scaled to [0, 1].
    """

    def __init__(self, normalise: Normalisation | None, device: torch.device) -> None:
        self._normalise, self.device = normalise, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Converts batches on the CPU with uint8 images to batches on the device with float32 images."""
        if self._stream is None:
            yield from map(self._copy, batches)
            return
        next_batch: Batch | None = None
        for batch in batches:
            with torch.cuda.stream(self._stream):
                copy = self._copy(batch)
            if next_batch is not None:
                yield next_batch
            next_batch = self._synchronise(copy, self._stream)
        if next_batch is not None:
            yield next_batch

    def _copy(self, batch: Batch) -> Batch:
        batch = _map_tensors(batch, lambda values: torch.as_tensor(values).to(self.device, non_blocking=True))
        if self._normalise is None:
            return batch._replace(images=[image.float().div_(255) for image in batch.images])
        return batch._replace(images=self._normalise(batch.images))

    def _synchronise(self, batch: Batch, copy_stream: torch.cuda.Stream) -> Batch:
        """Makes computations that are queued later wait for the copy."""
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(copy_stream)

        def record(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)  # its memory is not reused before it has been read
            return tensor

        return _map_tensors(batch, record)


def _map_tensors(batch: Batch, function: Callable[[Any], Tensor]) -> Batch:
    """The batch with the function applied to each of its tensors and arrays."""
    return tree_map_only((Tensor, np.ndarray), function, batch)


def _byte_scale(values: Channels, device: torch.device | str | None) -> Tensor:
    return torch.tensor(values, device=device, dtype=torch.float64).mul(255).to(torch.float32).view(1, 3, 1, 1)
