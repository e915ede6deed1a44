"""Preprocessing of images for a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Annotated, Any, Literal

from regard import data
from regard.errors import InputError, check_fields

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images for a network, as in timm's data config.

    Attributes:
        mean: mean of each channel, in [0, 1]; None for the mean of the data.
        std: standard deviation of each channel; None for that of the data.
        size: side of the images in pixels; None if unknown.
        crop_pct: side of the centre crop as a fraction of the shorter side of the resized image, in (0, 1]; None for 1.
        crop_mode: timm's "center", "squash" or "border"; None for "center".
        interpolation: timm's name of the interpolation; None for "bilinear".
    """

    mean: Channels | None = None
    std: Channels | None = None
    size: Annotated[int | None, "[1, 16384]"] = None
    crop_pct: Annotated[float | None, "(0, 1]"] = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    interpolation: str | None = None

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing in timm's `pretrained_cfg`, or in a part of one.

        Raises:
            TypeError, ValueError: mean or std are not three numbers.
        """
        size = about.get("input_size")
        return cls(
            _channels(about.get("mean")),
            _channels(about.get("std")),
            size[-1] if size else None,
            about.get("crop_pct"),
            about.get("crop_mode"),
            about.get("interpolation"),
        )

    def check(self) -> None:
        """Raises InputError for values out of range."""
        if (self.mean is None) != (self.std is None):
            raise InputError("mean and std go together")
        if not all(map(math.isfinite, (*(self.mean or ()), *(self.std or ())))) or 0 in (self.std or ()):
            raise InputError(f"mean {self.mean}, std {self.std}; expected finite numbers, no std of 0")
        check_fields(self)

    def over(self, other: Preprocessing) -> Preprocessing:
        """This preprocessing, with None replaced by the values of `other`."""
        values, fallback = astuple(self), astuple(other)
        return Preprocessing(*(a if a is not None else b for a, b in zip(values, fallback, strict=True)))

    def transform(self) -> data.Transform:
        """The transform that resizes and crops images for the network; the identity if `size` is None."""
        if self.size is None:
            return data.Transform()
        red, green, blue = (round(255 * value) for value in self.mean or (0.0, 0.0, 0.0))
        return data.Transform(
            size=(self.size, self.size),
            crop_pct=self.crop_pct or 1.0,
            crop_mode=self.crop_mode or "center",
            interpolation=self.interpolation or "bilinear",
            fill=(red, green, blue),
        )


def _channels(values: Any) -> Channels | None:
    if values is None:
        return None
    red, green, blue = map(float, values)
    return red, green, blue
