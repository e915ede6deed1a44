"""Bytes made into the numbers that a network expects."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.data.dataset import Channels
from regard.errors import InputError


class Normalisation:
    """(byte / 255 - mean) / std, in float32.

    Args:
        mean: of each channel, 0 to 1, subtracted.
        std: of each channel, above 0, divided by.
        device: where the images are.
        memory_format: of the images it gives.

    Raises:
        InputError: not three numbers each, or a std that is not above 0.
    """

    def __init__(
        self,
        mean: Channels,
        std: Channels,
        *,
        device: torch.device | str | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        if len(mean) != 3 or len(std) != 3:
            raise InputError(f"mean or std is {mean}, {std}; give three numbers, for red, green and blue")
        if min(std) <= 0:
            raise InputError(f"std is {std}; give three numbers above 0")
        self._format = memory_format
        self._mean = _of_bytes(mean, device)
        self._factor = _of_bytes(std, device).reciprocal()
        self._constants: tuple[Tensor, Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) -> float32 (B, 3, h, w), in place after the first pass.

        The steps round one by one, as a fused multiply and add would not: so all devices agree to the last bit.
        """
        if self._constants is None or self._constants[0].shape[2:] != images.shape[2:]:
            # Laid out as the images are: then both are read in one straight run.
            mean, factor = (
                constant.expand(1, 3, *images.shape[2:]).contiguous(memory_format=self._format)
                for constant in (self._mean, self._factor)
            )
            self._constants = mean, factor
        mean, factor = self._constants
        return images.to(torch.float32, memory_format=self._format).sub_(mean).mul_(factor)


def _of_bytes(values: Channels, device: torch.device | str | None) -> Tensor:
    return torch.tensor(values, device=device, dtype=torch.float64).mul(255).to(torch.float32).view(1, 3, 1, 1)
