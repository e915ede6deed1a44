"""Draws a class activation map (CAM), the edge of its focus and the edge of a region over an image."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SMALL, _ENLARGED = 64, 128  # pixels per side
# Matplotlib's colour map inferno (CC0): red, green and blue at 18 steps from 0 to 1.
_INFERNO = bytes.fromhex(
    "000004 0a0722 1e0c45 380962 510e6c 69166e 801f6c 982766 b0315b"
    "c63d4d d94d3d e9612b f47918 fa9407 fcb014 f8cd37 f2ea69 fcffa4"
)
_COLOURS = np.frombuffer(_INFERNO, np.uint8).reshape(-1, 3)
_LUMA = np.array([0.299, 0.587, 0.114])
_OPACITY = 0.6  # of the map
FOCUS, INSIDE, OUTSIDE, BOX = (0, 229, 255), (255, 255, 255), (0, 0, 0), (255, 214, 0)
"""Colours of the edges of the focus, of a region at its inner and outer side (one of them is visible on any image), and
of a box."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def draw(
    image: Pixels,
    cam: NDArray[np.floating] | None = None,
    region: Mask | None = None,
    threshold: float | None = None,
    *,
    size: int | None = None,
    boxes: Sequence[Sequence[float]] = (),
) -> Pixels:
    """Draws a map over the image in grey, brighter for higher values; without a map, the image keeps its colours.

    Small images are enlarged without smoothing, so that their pixels stay visible; large ones are reduced.

    Args:
        image: (H, W, 3).
        cam: (H, W), 0 to 1.
        region: (H, W); its edge is white inside and black outside.
        threshold: threshold of the focus, whose edge is cyan; None: no edge.
        size: longer side of a reduced image, in pixels; None: large images are not reduced.
        boxes: left, top, right and bottom of detections, in pixels; their edges are yellow.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    factor = max(1, round(_ENLARGED / side)) if side <= _SMALL else min(1.0, (size or side) / side)
    shape = (max(1, round(width * factor)), max(1, round(height * factor)))
    smooth = factor < 1
    canvas = _resized(image, shape, smooth)
    if cam is not None:
        cam = _resized(cam.astype(np.float32), shape, smooth)
        canvas = _blended(canvas, cam)
        if threshold is not None and cam.any():
            focus = cam >= threshold
            canvas[focus & _dilated(~focus)] = FOCUS
    if region is not None:
        region = _resized(region, shape, smooth=False)
        canvas[region & _dilated(~region)] = INSIDE
        canvas[_dilated(region) & ~region] = OUTSIDE
    for box in boxes:
        left, top, right, bottom = (round(end * factor) for end in box)
        inside = canvas[max(0, top) : max(bottom, top + 1), max(0, left) : max(right, left + 1)]
        inside[:1] = inside[-1:] = inside[:, :1] = inside[:, -1:] = BOX
    return canvas


def data_uri(pixels: Pixels) -> str:
    """Pixels (H, W, 3) as a data URI: PNG for small images, else JPEG."""
    file = io.BytesIO()
    kind, options = ("png", {"optimize": True}) if max(pixels.shape) <= _ENLARGED else ("jpeg", {"quality": 85})
    Image.fromarray(pixels).save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def colours(steps: int = 9) -> list[str]:
    """CSS colours of map values from 0 to 1."""
    return [f"#{bytes(colour).hex()}" for colour in _coloured(np.linspace(0, 1, steps)).round().astype(np.uint8)]


def _resized(values: NDArray[Any], shape: tuple[int, int], smooth: bool) -> NDArray[Any]:
    """Resizes an array (H, W, …) to `shape`, (width, height)."""
    resampling = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return np.array(Image.fromarray(values).resize(shape, resampling))


def _blended(image: Pixels, cam: NDArray[np.floating]) -> Pixels:
    colour = _coloured(np.clip(np.nan_to_num(cam), 0, 1))
    grey = (image @ _LUMA)[..., None]
    return np.round((1 - _OPACITY) * grey + _OPACITY * colour).astype(np.uint8)


def _coloured(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colours (…, 3), 0 to 255, of values from 0 to 1."""
    steps = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(values, steps, channel) for channel in _COLOURS.T], axis=-1)


def _dilated(mask: Mask) -> Mask:
    """The pixels in the mask or next to it."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
