"""How an image, and its region with it, comes to the size that a network sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regard.errors import InputError, unknown

CropMode = Literal["center", "squash", "border"]

_INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}


class Geometry(NamedTuple):
    """Resize the image to `width` x `height`, then cut out what begins at (`left`, `top`), below 0 if padding does."""

    width: int
    height: int
    left: int
    top: int


@dataclass(frozen=True)
class Fit:
    """How an image is resized and cropped for a network, as timm does it in evaluation.

    Attributes:
        size: (height, width) of what the network sees; None leaves images as they are, whatever the rest says.
        crop_pct: the share of the resized image, along each side, that the crop keeps; above 0.
        crop_mode: "center": the shorter side is resized and the centre cut out. "squash": both sides are resized,
            whatever that does to the proportions, and the centre is cut out. "border": the longer side is resized, and
            the rest filled.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        fill: (red, green, blue), 0 to 255, of the border in mode "border". Where the other modes have to pad, they
            pad with black.

    Raises:
        InputError: a value other than these.
    """

    size: tuple[int, int] | None = None
    crop_pct: float = 1.0
    crop_mode: CropMode = "center"
    interpolation: str = "bilinear"
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        # A fit that went through JSON comes with lists.
        if self.size is not None:
            object.__setattr__(self, "size", _integers("size", self.size, "height and width in pixels", 2, 1, None))
        object.__setattr__(self, "fill", _integers("fill", self.fill, "three numbers from 0 to 255", 3, 0, 255))
        if not (isinstance(self.crop_pct, int | float) and math.isfinite(self.crop_pct) and self.crop_pct > 0):
            raise InputError(f"crop_pct is {self.crop_pct!r}; give a number above 0, at most 1 as a rule")
        if self.crop_mode not in get_args(CropMode):
            raise unknown("crop_mode", self.crop_mode, get_args(CropMode))
        if self.interpolation not in _INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, _INTERPOLATIONS)
        if self.size is not None and min(_scaled(self.size, self.crop_pct)) < 1:
            raise InputError(f"crop_pct is {self.crop_pct}, which leaves nothing of an image; give 1 or less")

    def geometry(self, width: int, height: int) -> Geometry:
        """What happens to an image of width x height pixels: the same for its pixels and for its region.

        Raises:
            InputError: the image is so long and narrow that it would vanish, or be larger than is safe, once resized.
        """
        if self.size is None:
            return Geometry(width, height, 0, 0)
        target_height, target_width = _scaled(self.size, self.crop_pct)
        if self.crop_mode == "squash":
            new_height, new_width = target_height, target_width
        elif self.crop_mode == "center" and target_height == target_width:
            # The longer side is rounded down here and to the nearest below, as timm does.
            new_height, new_width = target_height, target_width
            if width <= height:
                new_height = int(target_width * height / width)
            else:
                new_width = int(target_height * width / height)
        else:
            ratios = height / target_height, width / target_width
            ratio = min(ratios) if self.crop_mode == "center" else max(ratios)
            new_height, new_width = round(height / ratio), round(width / ratio)
        limit = Image.MAX_IMAGE_PIXELS
        if min(new_height, new_width) < 1 or (limit is not None and new_height * new_width > limit):
            raise InputError(
                f"an image of {width} x {height} pixels is too long and narrow: it would be resized to "
                f"{new_width} x {new_height}"
            )
        return Geometry(new_width, new_height, _offset(new_width, self.size[1]), _offset(new_height, self.size[0]))

    def image(self, image: Image.Image) -> NDArray[np.uint8]:
        """The pixels that the network sees, before they are normalised.

        Args:
            image: RGB.

        Returns:
            uint8 (h, w, 3): to the bit those of timm's own transform, `timm.data.create_transform`.

        Raises:
            InputError: the image is too long and narrow; see `geometry`.
        """
        if self.size is None:
            return np.array(image)
        width, height, left, top = self.geometry(*image.size)
        image = image.resize((width, height), _INTERPOLATIONS[self.interpolation])
        if width < self.size[1] or height < self.size[0]:
            canvas = Image.new("RGB", self.size[::-1], self.fill if self.crop_mode == "border" else 0)
            canvas.paste(image, (-left, -top))
            return np.array(canvas)
        return np.array(image.crop((left, top, left + self.size[1], top + self.size[0])))

    def region(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The region of what the network sees.

        A pixel is in it if the region covers at least half of what the pixel covers of the image. Along a side that is
        enlarged the pixel takes after the one at its centre. What was padded is not in the region.

        Args:
            mask: bool (H, W), of the size of the image.

        Returns:
            bool (h, w).

        Raises:
            InputError: the image is too long and narrow; see `geometry`.
        """
        if self.size is None:
            return mask.copy()
        height, width = mask.shape
        new_width, new_height, left, top = self.geometry(width, height)
        rows = np.arange(max(top, 0), min(top + self.size[0], new_height))
        columns = np.arange(max(left, 0), min(left + self.size[1], new_width))
        covered, row_unit = _covered(mask, height, new_height, rows)
        covered, column_unit = _covered(covered.T, width, new_width, columns)
        region = np.zeros(self.size, dtype=np.bool_)
        # In whole numbers, so that exactly a half is a half.
        region[np.ix_(rows - top, columns - left)] = 2 * covered.T.astype(np.int64) >= row_unit * column_unit
        return region


def _covered(values: NDArray, length: int, new_length: int, places: NDArray) -> tuple[NDArray, int]:
    """How much each of the places (P,), one after another of `new_length`, covers of values (length, ...).

    Returns:
        integers (P, ...), and what they are where all values are 1.
    """
    if new_length >= length:
        return values[(2 * places + 1) * length // (2 * new_length)], 1
    # Place i covers i * length to (i + 1) * length, where each value is new_length long.
    whole, part = np.divmod(np.append(places, places[-1] + 1) * length, new_length)
    values = np.concatenate([values, np.zeros_like(values[:1])])
    kind = np.int32 if values.dtype == np.bool_ else np.int64  # the first time up to length, then up to its square
    between = np.add.reduceat(values, whole, axis=0, dtype=kind)[:-1]
    cut = values[whole] * part.astype(kind).reshape(-1, *[1] * (values.ndim - 1))
    return between * kind(new_length) + cut[1:] - cut[:-1], length


def _scaled(size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    return math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct)


def _offset(length: int, crop: int) -> int:
    """Where a centred crop begins. Python rounds a half to the even number, and so must the crop."""
    return -((crop - length) // 2) if crop > length else round((length - crop) / 2)


def _integers(name: str, values: object, expected: str, count: int, low: int, high: int | None) -> tuple[int, ...]:
    if isinstance(values, tuple | list) and len(values) == count:
        numbers = tuple(values)
        if all(
            isinstance(n, int) and not isinstance(n, bool) and low <= n and (high is None or n <= high) for n in numbers
        ):
            return numbers
    raise InputError(f"{name} is {values!r}; give {expected}")
