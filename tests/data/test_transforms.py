import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform

from regard.data import Transform
from regard.errors import InputError

MODES = ["center", "squash", "border"]
INTERPOLATIONS = ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def output(transform, image):
    """The transformed pixels, uint8 (h, w, 3)."""
    return transform.image(image).permute(1, 2, 0).numpy()


def timm_transform(transform, mean=(0.485, 0.456, 0.406)):
    return create_transform(
        transform.size,
        crop_pct=transform.crop_pct,
        crop_mode=transform.crop_mode,
        interpolation=transform.interpolation,
        mean=mean,
        normalize=False,
    )


def by_timm(transform, image, mean=(0.485, 0.456, 0.406)):
    return timm_transform(transform, mean)(image).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (33, 21)])
def test_pixels_match_timm(mode, interpolation, size):
    mean = (0.485, 0.456, 0.406)
    fill = tuple(round(255 * value) for value in mean)
    for crop_pct in (1.0, 0.875, 0.9, 0.95, 1.2):
        transform = Transform(size, crop_pct, mode, interpolation, fill)
        for width, height in ((32, 32), (50, 37), (37, 50), (41, 101), (9, 13), (31, 34), (1, 3), (64, 48)):
            image = noise(width, height)
            assert np.array_equal(output(transform, image), by_timm(transform, image, mean)), (crop_pct, width, height)


sizes = st.integers(1, 90)
transforms = st.builds(
    Transform,
    st.tuples(st.integers(2, 48), st.integers(2, 48)),
    st.sampled_from([1.0, 0.875, 0.9, 0.93, 0.965, 0.7, 1.2]),
    st.sampled_from(MODES),
    st.sampled_from(INTERPOLATIONS),
)


@given(transforms, sizes, sizes)
@settings(max_examples=300, deadline=None)
def test_pixels_match_timm_at_any_size(transform, width, height):
    image = noise(width, height)
    try:
        actual = output(transform, image)
    except InputError:
        with pytest.raises(ValueError):  # timm's own resize fails as well
            by_timm(transform, image)
    else:
        assert np.array_equal(actual, by_timm(transform, image, mean=(0, 0, 0)))


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_pixels_match_timm_at_common_sizes(crop_pct):
    for width, height in ((500, 375), (333, 500), (640, 427)):
        transform = Transform((224, 224), crop_pct, interpolation="bicubic")
        image = noise(width, height)
        assert np.array_equal(output(transform, image), by_timm(transform, image))


# The region


def expected_region(transform, mask):
    """The expected region, computed pixel by pixel in exact fractions."""
    height, width = mask.shape
    new_width, new_height = timm_transform(transform).transforms[0](Image.new("L", (width, height))).size
    left, top = (
        -((crop - length) // 2) if crop > length else round((length - crop) / 2)
        for length, crop in ((new_width, transform.size[1]), (new_height, transform.size[0]))
    )

    def footprint(position, length, new_length):
        """The source pixels that an output pixel covers, each with its share of the area."""
        if new_length >= length:
            return [(math.floor(Fraction(2 * position + 1, 2) * length / new_length), Fraction(1))]
        low, high = Fraction(position * length, new_length), Fraction((position + 1) * length, new_length)
        parts = [(i, min(high, i + 1) - max(low, i)) for i in range(math.floor(low), math.ceil(high))]
        return [(i, part / (high - low)) for i, part in parts]

    region = np.zeros(transform.size, dtype=bool)
    for i in range(transform.size[0]):
        for j in range(transform.size[1]):
            row, column = i + top, j + left
            if not (0 <= row < new_height and 0 <= column < new_width):
                continue
            share = sum(
                a * b * int(mask[y, x])
                for y, a in footprint(row, height, new_height)
                for x, b in footprint(column, width, new_width)
            )
            region[i, j] = share >= Fraction(1, 2)
    return region


@given(
    st.builds(Transform, st.tuples(st.integers(2, 12), st.integers(2, 12)), st.just(0.875), st.sampled_from(MODES)),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_region_pixels_are_covered_by_at_least_half(transform, width, height, seed):
    generator = np.random.default_rng(seed)
    mask = generator.random((height, width)) < generator.choice([0.2, 0.5, 0.8])
    try:
        actual = transform.mask(mask)
    except InputError:
        return
    expected = expected_region(transform, mask)
    assert actual.dtype == np.bool_ and np.array_equal(actual, expected)


def blob(width, height):
    """A tilted ellipse off the centre."""
    y, x = np.mgrid[:height, :width]
    u, v = (x - 0.45 * width) / (0.3 * width), (y - 0.6 * height) / (0.25 * height)
    return (u + 0.3 * v) ** 2 + v**2 < 1


def white(mask):
    return Image.fromarray(np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(60, 60), (48, 80)])
@pytest.mark.parametrize("shape", [(200, 140), (133, 201), (40, 30), (61, 60), (500, 90)])
def test_image_and_region_line_up(mode, size, shape):
    mask = blob(*shape)
    for interpolation in ("bilinear", "box", "bicubic"):
        transform = Transform(size, 0.875, mode, interpolation)
        region, image = transform.mask(mask), output(transform, white(mask))[:, :, 0] >= 128
        assert region.any()
        differing = region ^ image
        # Only pixels with both values in their neighbourhood may differ.
        padded = np.pad(region, 1, mode="edge")
        around = np.stack([padded[i : i + size[0], j : j + size[1]] for i in range(3) for j in range(3)])
        assert not (differing & (around.all(0) | ~around.any(0))).any()
        assert differing.mean() < 0.03


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(20, 14), (13, 21), (30, 24), (24, 24)])
def test_nearest_upsampling_of_image_and_region_is_equal(mode, shape):
    # At these sizes no centre falls between two pixels, where Pillow's rounding would decide.
    mask = np.random.default_rng(0).random(shape[::-1]) > 0.5
    transform = Transform((24, 40) if mode == "squash" else (32, 32), 1.0, mode, "nearest")
    assert np.array_equal(transform.mask(mask), output(transform, white(mask))[:, :, 0] == 255)


@pytest.mark.parametrize("mode", MODES)
def test_a_moving_edge_moves_region_and_image_together(mode):
    width, height = 97, 61
    transform = Transform((32, 32), 0.9, mode, "box")
    for edge in range(width + 1):
        mask = np.zeros((height, width), dtype=bool)
        mask[:, edge:] = True
        pixels = output(transform, white(mask))[:, :, 0].astype(int)
        # The box filter weighs whole pixels, so only values near one half may be on the wrong side.
        region = transform.mask(mask)
        inside, outside = pixels[region], pixels[~region]
        assert not inside.size or inside.min() >= 70
        assert not outside.size or outside.max() <= 185


def test_single_pixels_line_up_in_image_and_region():
    transform = Transform((40, 48), 0.9, "center", "nearest")
    for position in range(0, 20 * 25, 7):
        mask = np.zeros((20, 25), dtype=bool)
        mask.flat[position] = True
        assert np.array_equal(transform.mask(mask), output(transform, white(mask))[:, :, 0] == 255)


def test_full_and_empty_regions_stay_so_except_for_padding():
    full = np.ones((30, 70), dtype=bool)
    for mode in MODES:
        transform = Transform((32, 32), 0.875, mode, fill=(0, 0, 0))
        assert np.array_equal(transform.mask(full), output(transform, white(full))[:, :, 0] == 255)
        assert not transform.mask(~full).any()
    assert transform.mask(full).sum() < 32 * 32  # the border


# Options


def test_without_a_size_nothing_changes():
    image, mask = noise(13, 7), np.random.default_rng(0).random((7, 13)) > 0.5
    assert np.array_equal(output(Transform(), image), np.asarray(image))
    assert np.array_equal(Transform().mask(mask), mask)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": (0, 5)}, "size is"),
        ({"size": 224}, "height and width"),
        ({"size": (2.5, 3)}, "size is"),
        ({"crop_pct": 0}, "crop_pct is 0"),
        ({"crop_pct": float("nan")}, "crop_pct"),
        ({"size": (2, 2), "crop_pct": 5.0}, "leaves nothing"),
        ({"crop_mode": "centre"}, "did you mean 'center'"),
        ({"interpolation": "cubic"}, "did you mean 'bicubic'"),
        ({"fill": (0, 0, 256)}, "fill"),
    ],
)
def test_invalid_options_are_named(options, expected):
    with pytest.raises(InputError, match=".") as caught:
        Transform(**options)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_images_that_are_too_narrow_to_resize_are_refused():
    with pytest.raises(InputError, match="60000 x 1 pixels is too long and narrow"):
        Transform((224, 224)).image(Image.new("RGB", (60000, 1)))
    with pytest.raises(InputError, match="too long and narrow"):
        Transform((224, 224), crop_mode="border").mask(np.ones((1, 60000), dtype=bool))
