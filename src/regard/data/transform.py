"""What happens to an image that is read while training, by timm's transforms."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from regard.data.augmentation import Augmentation
from regard.data.dataset import Channels
from regard.data.seeded import seeded

_PURPOSE = 8  # of the stream, among those of a seed


class Transform:
    """Makes an image what the network sees, before it is normalised.

    Args:
        size: side in pixels.
        mean: of each channel, 0 to 1.
        std: likewise.
        crop_pct: without an augmentation, the share of the resized image's shorter side that the crop keeps.
        interpolation: how the image is resized then.
        augmentation: random changes; None: the shorter side is resized, and the centre cut out.
        seed: of what is random.
    """

    def __init__(
        self,
        size: int,
        mean: Channels,
        std: Channels,
        crop_pct: float,
        interpolation: str,
        augmentation: Augmentation | None,
        seed: int,
    ) -> None:
        from timm.data import create_transform
        from timm.data.random_erasing import RandomErasing

        self._seed = seed
        self._random = augmentation is not None
        self._erasing: Any = None
        if augmentation is None:
            self._transform = create_transform(
                size, is_training=False, crop_pct=crop_pct, interpolation=interpolation, use_prefetcher=True
            )
            return
        self._transform = create_transform(
            size,
            is_training=True,
            scale=augmentation.scale,
            ratio=augmentation.ratio,
            hflip=0.5 if augmentation.flip else 0.0,
            color_jitter=augmentation.color_jitter or None,  # type: ignore[arg-type]  # None for none
            auto_augment=augmentation.policy,
            interpolation=augmentation.interpolation,
            mean=mean,
            std=std,
            use_prefetcher=True,  # which wants bytes
        )
        if augmentation.erasing:
            self._erasing = RandomErasing(augmentation.erasing, mode=augmentation.erasing_mode, device="cpu")
            self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __call__(self, image: Image.Image, epoch: int, position: int) -> Tensor:
        """An image, RGB, at a position in an epoch's order -> uint8 (3, size, size).

        What is random depends on seed, epoch and position alone.
        """
        if not self._random:
            return self._bytes(image)
        with seeded(self._seed, epoch, _PURPOSE, position):
            shown = self._bytes(image)
            return shown if self._erasing is None else self._erased(shown)

    def _bytes(self, image: Image.Image) -> Tensor:
        return torch.as_tensor(self._transform(image))

    def _erased(self, shown: Tensor) -> Tensor:
        # timm erases normalised values, with those of a normal distribution. What is not erased comes back as it was.
        values = shown.float().div_(255).sub_(self._mean).div_(self._std)
        values = self._erasing(values).mul_(self._std).add_(self._mean).mul_(255)
        return values.round_().clamp_(0, 255).to(torch.uint8)
