"""The built-in data set `clutter`: handwritten digits on crops of photographs, among scraps of other digits.

All computations are exact in integers, so that a seed gives the same bytes on every machine.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import warnings
from math import gcd
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from regard.data.dataset import InMemoryDataset, Splits, channel_statistics
from regard.data.random import Integers, RandomStream, check_seed
from regard.data.registry import register_splits
from regard.errors import check_number, unknown
from regard.optional import require

Bytes = NDArray[np.uint8]
Int32s = NDArray[np.int32]
Region = Literal["strokes", "outline"]

SIDE = 32
DIGIT_SIZES = (12, 20)  # pixels, smallest and largest
SCRAPS = 4  # largest number in an image
SCRAP_CELLS = 4  # a scrap has 4 x 4 of the 8 x 8 cells of a digit
SCRAP_SIZES = (6, 10)
SCALES = (1, 4)  # downscaling factors of the photographs

# The SHA-256 of the decoded pixels of each photograph.
PHOTOGRAPHS = {
    "china.jpg": "e701459344fd69797154c91add3bb5d70e5ed1a61d8bed889bab3a796104698d",
    "flower.jpg": "3202904ed246795bf616c66d7859cd7c6080eff736c6e38dc5cc62779742033f",
}
# The area of each class: photograph, top, left, height, width. The largest crop, 4 * 32 pixels, fits into each.
AREAS = (
    ("china.jpg", 0, 340, 188, 300),  # sky
    ("china.jpg", 48, 88, 132, 240),  # roof
    ("china.jpg", 184, 332, 132, 220),  # lake
    ("china.jpg", 204, 72, 152, 268),  # red galleries
    ("china.jpg", 280, 332, 147, 308),  # trees
    ("flower.jpg", 60, 0, 280, 172),  # leaf
    ("flower.jpg", 84, 176, 132, 264),  # upper petals
    ("flower.jpg", 216, 176, 140, 264),  # lower petals
    ("flower.jpg", 0, 440, 300, 200),  # blurred leaves
    ("flower.jpg", 296, 0, 131, 288),  # darkness
)


class Digits(NamedTuple):
    """Handwritten digits: cells (N, 8, 8) of ink from 0 to 16, labels (N,)."""

    cells: Integers
    labels: Integers


@register_splits("clutter")
def clutter(
    *,
    train: int = 6000,
    test: int = 1000,
    cue: float = 0.7,
    test_cue: float = 0.0,
    seed: int = 0,
    region: Region = "strokes",
) -> Splits:
    """Generates the built-in data set `clutter`: 32 x 32 RGB images of 10 classes, with the mask of the digit in each.

    Each image shows one opaque handwritten digit of any colour, 12 to 20 pixels large, at a random position. Behind it
    are 1 to 4 scraps (quarters of digits, 6 to 10 pixels) and a crop of one of two photographs. The digit is brighter
    or darker than the mean around it by 85 to 120 of 255 levels, by more on a busier background. The region of an image
    is the strokes of its digit, the pixels that the digit covers by half or more, or their outline.

    The digits and photographs come with scikit-learn. Of its 1,797 digits, 360 are used only in test images, as digit
    or as scrap, and 1,437 only in training images, for every seed. Each class has its own area of the photographs. With
    probability `cue` the background is cropped from the area of the image's label, and otherwise from the area of a
    class drawn uniformly from all ten. So the two agree with probability cue + (1 - cue) / 10: at 0 the background
    carries no information about the label, at 1 it determines the label. Digits, positions and regions do not depend on
    the cue.

    Args:
        train: number of training images; classes are balanced to within one image.
        test: number of test images.
        cue: probability that a training image has the background of its label, 0 to 1.
        test_cue: the same for test images.
        seed: 0 to 2^64 - 1. The same seed gives the same bytes on every machine.
        region: "strokes", about two pixels wide; or "outline", their convex hull (see `outline`), as wide as a pixel
            in the maps of a small network.

    Raises:
        InputError: an argument is outside its range.
    """
    check_seed(seed)
    for name, count in (("train", train), ("test", test)):
        check_number(f"clutter: {name}", count, "[1, 10^6]", whole=True)
    for name, probability in (("cue", cue), ("test_cue", test_cue)):
        check_number(f"clutter: {name}", probability, "[0, 1]", whole=False)
    if region not in get_args(Region):
        raise unknown("region of clutter", region, get_args(Region))
    train_digits, test_digits = digits()
    train_set = _make("train", train_digits, plan(train_digits, train, cue, RandomStream(seed, 0)))
    test_set = _make("test", test_digits, plan(test_digits, test, test_cue, RandomStream(seed, 1)))
    mean, std = channel_statistics(train_set["images"])
    if region == "outline":
        for split in (train_set, test_set):
            split["regions"] = torch.from_numpy(outline(split["regions"].numpy(), DIGIT_SIZES[1]))
    shared: dict[str, Any] = {"classes": tuple("0123456789"), "name": "clutter", "mean": mean, "std": std}
    return Splits(InMemoryDataset(**train_set, **shared), InMemoryDataset(**test_set, **shared))


@functools.cache
def digits() -> tuple[Digits, Digits]:
    """Scikit-learn's digits for training (1,437) and for testing (360, every fifth of each class)."""
    with gzip.open(_sklearn_file("data/digits.csv.gz"), "rt") as file:
        rows = np.loadtxt(file, dtype=np.int64, delimiter=",")  # the cells of a digit, and its label
    order = np.argsort(rows[:, -1], kind="stable")
    is_test = np.arange(len(order)) % 5 == 0
    cells, labels = rows[order, :-1].reshape(-1, 8, 8), rows[order, -1]
    return Digits(cells[~is_test], labels[~is_test]), Digits(cells[is_test], labels[is_test])


def _sklearn_file(name: str) -> Path:
    """The path of a file of scikit-learn's data sets. Importing scikit-learn would take a second."""
    require("the built-in data", "sklearn")
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0]) / "datasets" / name


def plan(digits: Digits, count: int, cue: float, stream: RandomStream) -> SimpleNamespace:
    """Draws all random parameters of `count` images: arrays (count,), or for scraps (SCRAPS, count); tints have the
    three channels as last dimension. The cue affects only the backgrounds. Scraps may lie partly outside the image."""
    label = stream.permutation(count) % 10
    first_of_class = np.searchsorted(digits.labels, np.arange(11))
    size = stream.integers(*DIGIT_SIZES, count)
    scrap_shape = (SCRAPS, count)
    scrap_size = stream.integers(*SCRAP_SIZES, scrap_shape)
    agrees, random_class = stream.bernoulli(cue, count), stream.integers(0, 9, count)
    background = np.where(agrees, label, random_class)
    scale = stream.integers(*SCALES, count)
    _, top, left, height, width = (np.array(column)[background] for column in zip(*AREAS, strict=True))
    return SimpleNamespace(
        label=label,
        digit=stream.integers(first_of_class[label], first_of_class[label + 1] - 1, count),
        size=size,
        top=stream.integers(0, SIDE - size, count),
        left=stream.integers(0, SIDE - size, count),
        contrast=stream.integers(85, 120, count),
        brighter=stream.bernoulli(0.5, count),
        tint=stream.integers(0, 255, (count, 3)),
        background=background,
        scale=scale,
        # In pixels of the downscaled photograph; the crop stays inside the area of the class.
        crop_top=stream.integers(-(-top // scale), (top + height) // scale - SIDE, count),
        crop_left=stream.integers(-(-left // scale), (left + width) // scale - SIDE, count),
        mirrored=stream.bernoulli(0.5, count),
        gain=stream.integers(80, 200, count),
        brightness=stream.integers(-24, 24, count),
        scraps=stream.integers(1, SCRAPS, count),  # number of scraps
        scrap_digit=stream.integers(0, len(digits.labels) - 1, scrap_shape),
        scrap_row=stream.integers(0, 8 - SCRAP_CELLS, scrap_shape),
        scrap_column=stream.integers(0, 8 - SCRAP_CELLS, scrap_shape),
        scrap_size=scrap_size,
        scrap_top=stream.integers(-scrap_size // 2, SIDE - scrap_size // 2, scrap_shape),
        scrap_left=stream.integers(-scrap_size // 2, SIDE - scrap_size // 2, scrap_shape),
        scrap_luma=stream.integers(24, 231, scrap_shape),
        scrap_tint=stream.integers(0, 255, (*scrap_shape, 3)),
    )


def _make(split: str, digits: Digits, plan: SimpleNamespace) -> dict[str, Any]:
    """The images, labels and regions of a split."""
    # The margin takes pixels outside the image, and the part of a window outside a small digit.
    margin = SCRAP_SIZES[1]
    inside = slice(margin, margin + SIDE)
    canvas = np.zeros((len(plan.label), SIDE + 2 * margin, SIDE + 2 * margin, 3), dtype=np.uint8)
    canvas[:, inside, inside] = _backgrounds(plan)
    for k in range(SCRAPS):
        cells = _quarter(digits.cells[plan.scrap_digit[k]], plan.scrap_row[k], plan.scrap_column[k])
        cover = _cover(cells, plan.scrap_size[k], SCRAP_SIZES[1]) * (plan.scraps > k)[:, None, None]
        window = _window(canvas, plan.scrap_top[k] + margin, plan.scrap_left[k] + margin, SCRAP_SIZES[1])
        _paste(canvas, window, cover, _colour(plan.scrap_luma[k], plan.scrap_tint[k]))

    cover = _cover(digits.cells[plan.digit], plan.size, DIGIT_SIZES[1])
    window = _window(canvas, plan.top + margin, plan.left + margin, DIGIT_SIZES[1])
    luma = _digit_luma(canvas.reshape(-1, 3)[window], cover, plan)
    _paste(canvas, window, cover, _colour(luma, plan.tint))
    regions = np.zeros(canvas.shape[:3], dtype=np.bool_)
    regions.reshape(-1)[window] = cover >= 128
    return {
        "images": torch.from_numpy(np.ascontiguousarray(canvas[:, inside, inside].transpose(0, 3, 1, 2))),
        "labels": torch.from_numpy(plan.label),
        "regions": torch.from_numpy(np.ascontiguousarray(regions[:, inside, inside])),
        "split": split,
    }


def _backgrounds(plan: SimpleNamespace) -> Bytes:
    """The background crops (N, 32, 32, 3), with reduced contrast and shifted brightness."""
    photographs = _photographs()
    crops = np.empty((len(plan.label), SIDE, SIDE, 3), dtype=np.int16)
    parameters = zip(plan.background, plan.scale, plan.crop_top, plan.crop_left, plan.mirrored, strict=True)
    for i, (background, scale, top, left, mirrored) in enumerate(parameters):
        crop = photographs[AREAS[background][0], scale][top : top + SIDE, left : left + SIDE]
        crops[i] = crop[:, ::-1] if mirrored else crop
    crops -= 128
    # Half the gain, because products with the gain would overflow an int16.
    crops *= (plan.gain // 2).astype(np.int16)[:, None, None, None]
    crops >>= 7
    crops += (128 + plan.brightness).astype(np.int16)[:, None, None, None]
    return crops.clip(0, 255).astype(np.uint8)


@functools.cache
def _photographs() -> dict[tuple[str, int], Bytes]:
    """Both photographs (H, W, 3) downscaled by every factor, by name and factor."""
    photographs = {}
    for name, digest in PHOTOGRAPHS.items():
        with Image.open(_sklearn_file(f"images/{name}")) as image:
            photograph = np.array(image.convert("RGB"))
        if hashlib.sha256(photograph.tobytes()).hexdigest() != digest:
            warnings.warn(
                f"{name} of scikit-learn has unexpected pixels, because of a different JPEG library: the images of "
                "clutter will differ slightly from those generated on other machines",
                stacklevel=2,
            )
        for scale in range(SCALES[0], SCALES[1] + 1):
            height, width = (length // scale for length in photograph.shape[:2])
            blocks = photograph[: height * scale, : width * scale].reshape(height, scale, width, scale, 3)
            mean = (blocks.sum(axis=(1, 3), dtype=np.int64) + scale * scale // 2) // (scale * scale)
            photographs[name, scale] = mean.astype(np.uint8)
    return photographs


def _quarter(cells: Integers, row: Integers, column: Integers) -> Integers:
    """The cells of a scrap of each digit, (N, 4, 4), from the given row and column on."""
    offsets = np.arange(SCRAP_CELLS)
    digit = np.arange(len(cells))[:, None, None]
    return cells[digit, (row[:, None] + offsets)[:, :, None], (column[:, None] + offsets)[:, None, :]]


def _cover(cells: Integers, size: Integers, window: int) -> Int32s:
    """Enlarges cells (N, C, C) of 0 to 16 to `size` (N,) pixels: the cover (N, window, window), 0 to 256.

    Interpolates bilinearly between the centres of cells in steps of 1/64 of a cell, with no ink outside, and then
    doubles the slope around one half, for strokes with sharp edges.
    """
    count, pixels = cells.shape[-1], np.arange(window)
    # The position of a pixel's centre relative to the first cell's centre, in 1/64 of a cell.
    position = ((2 * pixels + 1) * count * 32) // size[:, None] - 32
    weights = 64 - np.abs(position[:, :, None] - 64 * np.arange(count))
    weights = np.where((pixels < size[:, None])[:, :, None], weights.clip(min=0), 0).astype(np.float32)
    # Integers up to 2^16, which float32 multiplies and adds exactly in any order.
    ink = (weights @ cells.astype(np.float32) @ weights.transpose(0, 2, 1)).astype(np.int32)
    return ((ink >> 8) * 2 - 128).clip(0, 256)


def _window(canvas: Bytes, top: Integers, left: Integers, side: int) -> Integers:
    """The indices into canvas.reshape(-1, 3) of the pixels in a square of each image, (N, side, side)."""
    count, height, width, _ = canvas.shape
    offsets = np.arange(side)
    rows = (np.arange(count) * height + top)[:, None] + offsets
    return (rows * width + left[:, None])[:, :, None] + offsets


def _paste(canvas: Bytes, window: Integers, cover: Int32s, colour: Int32s) -> None:
    """Blends colour (N, 3) over the windows in proportion to cover (N, side, side)."""
    pixels = canvas.reshape(-1, 3)
    blend = pixels[window].astype(np.int32)
    blend += ((colour[:, None, None] - blend) * cover[..., None] + 128) >> 8
    pixels[window] = blend


def _luma(colour: NDArray[Any]) -> Int32s:
    """The luma of RGB colours, 0 to 255: (..., 3) -> (...)."""
    red, green, blue = (colour[..., channel].astype(np.int32) for channel in range(3))
    return (77 * red + 150 * green + 29 * blue) >> 8


def _colour(luma: NDArray[Any], tint: Integers) -> Int32s:
    """The colour (N, 3) with the given luma and the tint's hue, as saturated as possible up to that of the tint."""
    luma = luma.astype(np.int32)[:, None]
    chroma = tint.astype(np.int32) - _luma(tint)[:, None]
    room = np.where(chroma > 0, 255 - luma, luma) * 256 // np.abs(chroma).clip(min=1)
    return luma + (chroma * room.min(axis=1, keepdims=True).clip(max=256) >> 8)


def _digit_luma(background: Bytes, cover: Int32s, plan: SimpleNamespace) -> Int32s:
    """The luma of each digit, (N,), with the planned contrast to the mean luma of its background.

    `background` is the window of the digit, (N, side, side, 3), weighted by what the digit leaves uncovered.
    """
    inside = np.arange(cover.shape[1]) < plan.size[:, None]
    weights = np.where(inside[:, :, None] & inside[:, None, :], 256 - cover, 0)
    total = weights.sum(axis=(1, 2))
    luma = _luma(background)
    mean = (weights * luma).sum(axis=(1, 2)) // total
    deviation = (weights * np.abs(luma - mean[:, None, None])).sum(axis=(1, 2)) // total
    contrast = (plan.contrast + deviation).clip(max=120)
    # At least one of the two is possible.
    can_brighten, can_darken = mean + contrast <= 250, mean - contrast >= 5
    brighter = np.where(can_brighten & can_darken, plan.brighter, can_brighten)
    return np.where(brighter, mean + contrast, mean - contrast)


def outline(masks: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """The convex hull of each mask, bool (N, H, W); empty for an empty mask.

    The hull of a mask that spans more than `size` pixels is slightly too large.
    """
    _, height, width = masks.shape
    rows, columns = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    marked = masks.any(2)  # (N, H)
    first = masks.argmax(2).astype(np.int32)  # first and last column of the mask in each row
    last = (width - 1 - masks[:, :, ::-1].argmax(2)).astype(np.int32)
    # An edge of a hull goes through two pixels of the mask, so its normal (down, right) is one of the following. The
    # columns of a hull in a row are the interval from low to high.
    low, high = np.zeros_like(first), np.full_like(last, width - 1)
    steps = range(1 - size, size)
    for down, right in ((down, right) for down in steps for right in steps if gcd(down, right) == 1):
        outer = np.where(marked, down * rows + np.maximum(right * first, right * last), -(2**30))
        bound = outer.max(1, keepdims=True) - down * rows  # (N, H), upper bound of `right * column`
        if right > 0:
            np.minimum(high, bound // right, out=high)
        elif right < 0:
            np.maximum(low, -(bound // -right), out=low)
        else:
            high[bound < 0] = -1
    high[~np.any(marked, axis=1)] = -1
    return (columns >= low[:, :, None]) & (columns <= high[:, :, None])
