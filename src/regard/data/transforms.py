"""Transforms of images and masks, by timm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from regard.data.augmentation import Augmentation
from regard.data.dataset import Channels, Mask
from regard.data.decode import grey_to_mask, mask_to_grey
from regard.data.random import seeded
from regard.errors import InputError, check_fields, unknown

CropMode = Literal["center", "squash", "border"]

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_PURPOSE = 8  # part of the key of the random stream


@dataclass(frozen=True)
class Transform:
    """Resizing and cropping of images as in timm, or augmentation for training.

    Attributes:
        size: (height, width) of the network's input; None leaves images unchanged and ignores the other fields. Images
            in memory are not resized.
        crop_pct: in evaluation, side of the crop as a fraction of the side of the resized image; above 0.
        crop_mode: "center" resizes the shorter side and crops the centre. "squash" resizes both sides, which changes
            the aspect ratio, and crops the centre. "border" resizes the longer side and fills the rest.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        fill: (red, green, blue), 0 to 255, of the border in mode "border". Other modes pad with black if they must.
        augmentation: random augmentation, for which only the size of the other fields is used; None in evaluation.

    Raises:
        InputError: a value is outside its range.
    """

    size: tuple[int, int] | None = None
    crop_pct: Annotated[float, "(0, inf)"] = 1.0
    crop_mode: CropMode = "center"
    interpolation: str = "bilinear"
    fill: tuple[int, int, int] = (0, 0, 0)
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            _check_integers("size", self.size, "height and width in pixels", 2, 1, math.inf)
        _check_integers("fill", self.fill, "three numbers from 0 to 255", 3, 0, 255)
        check_fields(self)
        if self.interpolation not in _INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, _INTERPOLATIONS)
        if self.size is not None and min(self.size) < self.crop_pct:
            raise InputError(f"crop_pct is {self.crop_pct}, which leaves nothing of an image; give 1 or less")

    def image(self, image: Image.Image) -> Tensor:
        """Resizes and crops an RGB image to uint8 (3, h, w) for evaluation, bit for bit as timm before normalisation.

        Raises InputError if the image is so narrow that a resized side would be 0, or the resized image too large.
        """
        if self.size is None:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)
        self._check_shape(*image.size)
        return self._pipeline(image)

    def mask(self, mask: Mask) -> Mask:
        """Resizes and crops a mask as `image` does with its image: bool (H, W) -> bool (h, w).

        A pixel is in the result if the mask covers at least half of its area in the original image. Along an enlarged
        side, it has the value of the original pixel at its centre. Padding is outside the mask. Raises as `image`.
        """
        from timm.data.transforms import center_crop_or_pad

        if self.size is None:
            return mask.copy()
        height, width = mask.shape
        self._check_shape(width, height)
        new_width, new_height = self._nearest_resize(Image.fromarray(mask.view(np.uint8))).size
        covered, row_unit = _interval_sums(mask, height, new_height)
        covered, column_unit = _interval_sums(covered.T, width, new_width)
        half = 2 * covered >= row_unit * column_unit  # in integers, so that exactly one half counts
        return center_crop_or_pad(torch.from_numpy(half.T)[None], list(self.size))[0].numpy()

    @cached_property
    def _pipeline(self) -> Any:
        return self._create_timm(self.interpolation)

    @cached_property
    def _nearest_resize(self) -> Any:
        """timm's resizing with nearest interpolation, to get the size of the resized image quickly."""
        return self._create_timm("nearest").transforms[0]

    def _create_timm(self, interpolation: str) -> Any:
        """timm's transform for evaluation; the result is uint8."""
        from timm.data import create_transform

        assert self.size is not None
        red, green, blue = self.fill
        return create_transform(
            self.size,
            is_training=False,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=interpolation,
            mean=(red / 255, green / 255, blue / 255),  # timm's fill colour
            use_prefetcher=True,  # return uint8
        )

    def _check_shape(self, width: int, height: int) -> None:
        assert self.size is not None
        if self.crop_mode == "squash":
            return
        ratios = [
            side / math.floor(target / self.crop_pct) for side, target in zip((height, width), self.size, strict=True)
        ]
        ratio = min(ratios) if self.crop_mode == "center" else max(ratios)
        new_width, new_height, limit = round(width / ratio), round(height / ratio), Image.MAX_IMAGE_PIXELS
        if min(new_width, new_height) < 1 or (limit is not None and new_width * new_height > limit):
            raise InputError(
                f"an image of {width} x {height} pixels is too long and narrow: it would be resized to "
                f"{new_width} x {new_height}"
            )


class SeededTransform:
    """Applies a transform to images. timm's augmentation depends only on the seed, the epoch and the position.

    With augmentation, the size of the transform must be square. `mean` (0 to 1) and `std` are those of each channel.
    """

    def __init__(self, transform: Transform, mean: Channels, std: Channels, seed: int) -> None:
        from timm.data import RandomResizedCropAndInterpolation, create_transform
        from timm.data.random_erasing import RandomErasing
        from torchvision.transforms import RandomHorizontalFlip

        self.transform, self._seed = transform, seed
        self._pipeline: Any = None
        self._erasing: Any = None
        augmentation = transform.augmentation
        if augmentation is None:
            return
        assert transform.size is not None
        augmentation.check(streamed=True)
        self._pipeline = create_transform(
            transform.size,
            is_training=True,
            scale=augmentation.scale,
            ratio=augmentation.ratio,
            hflip=0.5 if augmentation.flip else 0.0,
            color_jitter=augmentation.color_jitter or None,  # type: ignore[arg-type]  # None for none
            auto_augment=augmentation.policy,
            interpolation=augmentation.interpolation,
            mean=mean,
            std=std,
            use_prefetcher=True,
        )
        geometric = RandomResizedCropAndInterpolation | RandomHorizontalFlip
        self._geometric = [step for step in self._pipeline.transforms if isinstance(step, geometric)]
        if augmentation.erasing:
            self._erasing = RandomErasing(augmentation.erasing, mode=augmentation.erasing_mode, device="cpu")
            self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __call__(self, image: Image.Image, epoch: int, position: int) -> Tensor:
        """Transforms the RGB image at a position of an epoch's order to uint8 (3, h, w)."""
        if self._pipeline is None:
            return self.transform.image(image)
        with seeded(self._seed, epoch, _PURPOSE, position):
            pixels: Tensor = self._pipeline(image)
            return pixels if self._erasing is None else self._erase(pixels)

    def mask(self, mask: Mask, epoch: int, position: int) -> Mask:
        """Transforms the mask at a position of an epoch's order as its image: bool (H, W) -> (h, w).

        In training, the mask is cropped, resized and flipped as a black and white image, and pixels that are at least
        half white are in the result. Random erasing does not change it.
        """
        if self._pipeline is None:
            return self.transform.mask(mask)
        grey = mask_to_grey(mask)
        with seeded(self._seed, epoch, _PURPOSE, position):
            for step in self._geometric:  # they come first in the pipeline, so they draw the same numbers here
                grey = step(grey)
        return grey_to_mask(grey)

    def _erase(self, pixels: Tensor) -> Tensor:
        # timm erases normalised values and fills with normal noise. Other pixels keep their exact value.
        values = pixels.float().div_(255).sub_(self._mean).div_(self._std)
        values = self._erasing(values).mul_(self._std).add_(self._mean).mul_(255)
        return values.round_().clamp_(0, 255).to(torch.uint8)


def _interval_sums(values: NDArray[Any], length: int, new_length: int) -> tuple[NDArray[Any], int]:
    """The sums of values (length, ...) over the intervals that `new_length` pixels cover, scaled to integers.

    Returns the sums, (new_length, ...), and the sum for values that are all 1.
    """
    positions = np.arange(new_length)
    if new_length >= length:
        return values[(2 * positions + 1) * length // (2 * new_length)], 1
    # In units in which each value is new_length long, pixel i covers the interval from i * length to (i + 1) * length:
    # a part of its first value, all inner values, and a part of its last value.
    edges, cut = np.divmod(np.arange(new_length + 1, dtype=np.int32) * length, new_length)
    values = np.concatenate([values, np.zeros_like(values[:1])]).astype(np.int32)
    first, last = edges[:-1], edges[1:]
    sums = values[last] * cut[1:, None] + values[first] * (new_length - cut[:-1, None])
    for step in range(1, int((last - first).max())):
        weight = np.where(first + step < last, new_length, 0)
        sums += values[np.minimum(first + step, length)] * weight[:, None].astype(np.int32)
    return sums, length


def _check_integers(name: str, values: object, expected: str, count: int, low: int, high: float) -> None:
    if not (
        isinstance(values, tuple)
        and len(values) == count
        and all(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high for value in values)
    ):
        raise InputError(f"{name} is {values!r}; give {expected}")
