"""Images with maps and regions over them, as pixels and as data URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SMALL, _WANTED, _LARGEST = 64, 128, 160  # pixels a side
_COLOURS = matplotlib.colormaps["inferno"]
_LUMA = np.array([0.299, 0.587, 0.114])
_WEIGHT = 0.6  # of the map's colour
_LIGHT, _DARK = (255, 255, 255), (0, 0, 0)
FOCUS = (0, 229, 255)  # of its edge

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


def picture(
    image: Bytes,
    heat: Numbers | None = None,
    region: Mask | None = None,
    threshold: float | None = None,
    *,
    largest: int = _LARGEST,
) -> str:
    """An image, with a map, the edge of its focus and the edge of a region over it; see `drawn`.

    Returns:
        A data URI: PNG if the image is small, JPEG if it is large.
    """
    canvas = drawn(image, heat, region, threshold, largest=largest)
    return _uri(canvas, "PNG" if max(image.shape[:2]) <= _SMALL else "JPEG")


def drawn(
    image: Bytes,
    heat: Numbers | None = None,
    region: Mask | None = None,
    threshold: float | None = None,
    *,
    largest: int | None = None,
) -> Bytes:
    """An image, with a map, the edge of its focus and the edge of a region over it.

    Small images are enlarged without smoothing, so that their pixels stay visible; large ones are reduced.

    Args:
        image: (H, W, 3).
        heat: (H, W), 0 to 1.
        region: (H, W).
        threshold: of the focus; None: its edge is not drawn.
        largest: the longer side in pixels to which a large image is reduced; None: it stays as large as it is.

    Returns:
        (h, w, 3).
    """
    height, width = image.shape[:2]
    side = max(height, width)
    factor = max(1, round(_WANTED / side)) if side <= _SMALL else min(1.0, (largest or side) / side)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    smooth = factor < 1
    canvas = _resized(image, size, smooth)
    if heat is not None:
        heat = _resized(heat.astype(np.float32), size, smooth).astype(np.float64)
        canvas = blended(canvas, heat)
        if threshold is not None and heat.any():
            focus = heat >= threshold
            canvas[focus & _grown(~focus)] = FOCUS
    if region is not None:
        canvas = outlined(canvas, _resized(region, size, smooth=False))
    return canvas


def ramp(steps: int = 9) -> list[str]:
    """The colours of a map from 0 to 1, as CSS writes them."""
    return [matplotlib.colors.to_hex(_COLOURS(i / (steps - 1))) for i in range(steps)]


def _resized(values: NDArray[Any], size: tuple[int, int], smooth: bool) -> NDArray[Any]:
    """Pixels (H, W, …) at another size (width, height)."""
    how = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return np.array(Image.fromarray(values).resize(size, how))


def blended(image: Bytes, heat: Numbers) -> Bytes:
    """The map over the image in grey, so that all colour is the map's: the higher a value, the brighter."""
    colour = 255 * np.asarray(_COLOURS(np.clip(np.nan_to_num(heat), 0, 1)))[..., :3]
    grey = (image @ _LUMA)[..., None]
    return np.round((1 - _WEIGHT) * grey + _WEIGHT * colour).astype(np.uint8)


def outlined(image: Bytes, mask: Mask) -> Bytes:
    """The edge of the mask: a light line inside it and a dark one outside, so that one shows on any image."""
    image = image.copy()
    image[mask & _grown(~mask)] = _LIGHT
    image[_grown(mask) & ~mask] = _DARK
    return image


def _grown(mask: Mask) -> Mask:
    """The pixels in the mask or next to it."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _uri(image: Bytes, form: str) -> str:
    file = io.BytesIO()
    options = {"optimize": True} if form == "PNG" else {"quality": 85, "subsampling": 0}
    Image.fromarray(image).save(file, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
