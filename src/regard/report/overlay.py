"""Test images with maps and regions over them, as data URIs."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SMALL, _WANTED, _LARGEST = 64, 128, 160  # pixels a side
_COLOURS = matplotlib.colormaps["inferno"]
_LIGHT, _DARK = (255, 255, 255), (0, 0, 0)

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


def picture(image: Bytes, heat: Numbers | None = None, region: Mask | None = None) -> str:
    """An image, with a map and the outline of a region over it.

    Small images are enlarged without smoothing, so that their pixels stay visible; large ones are reduced.

    Args:
        image: (H, W, 3).
        heat: (H, W), 0 to 1.
        region: (H, W).

    Returns:
        A data URI: PNG if the image is small, JPEG if it is large.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    factor = max(1, round(_WANTED / side)) if side <= _SMALL else min(1.0, _LARGEST / side)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if factor >= 1:
        canvas = image if heat is None else blended(image, heat)
        canvas = np.asarray(Image.fromarray(canvas).resize(size, Image.Resampling.NEAREST))
    else:
        canvas = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        if heat is not None:
            values = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
            canvas = blended(canvas, np.asarray(values, dtype=np.float64))
    if region is not None:
        mask = np.asarray(Image.fromarray(region).resize(size, Image.Resampling.NEAREST))
        canvas = outlined(canvas, mask, 2 if factor >= 3 else 1)
    return _uri(canvas, "PNG" if factor > 1 or side <= _SMALL else "JPEG")


def blended(image: Bytes, heat: Numbers) -> Bytes:
    """The map over the image: the higher a value, the brighter its colour and the less of the image shows through."""
    heat = np.clip(np.nan_to_num(heat), 0, 1)
    colour = 255 * np.asarray(_COLOURS(heat))[..., :3]
    weight = (0.35 + 0.3 * heat)[..., None]
    return np.round((1 - weight) * image + weight * colour).astype(np.uint8)


def outlined(image: Bytes, mask: Mask, width: int = 1) -> Bytes:
    """The edge of the mask: a light line inside it and a dark one outside, so that one shows on any image."""
    inside = mask & ~_grown(~mask, width)
    outside = _grown(mask, width) & ~mask
    image = image.copy()
    image[inside], image[outside] = _LIGHT, _DARK
    return image


def _grown(mask: Mask, steps: int) -> Mask:
    """The pixels at most `steps` rows and columns from the mask."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        rows = padded[:-2] | padded[1:-1] | padded[2:]
        mask = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return mask


def _uri(image: Bytes, form: str) -> str:
    file = io.BytesIO()
    options = {"optimize": True} if form == "PNG" else {"quality": 85, "subsampling": 0}
    Image.fromarray(image).save(file, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
