"""Boxes and masks follow the image through every random change."""

import numpy as np
import pytest
import torch
from PIL import Image

from regard.data import DetectionTransform
from regard.data.objects import create_objects, mask_boxes
from regard.errors import InputError

SIZE = (61, 47)


def scene(seed, crowds=0):
    """An image that is white inside its objects, and the objects, which do not touch."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(SIZE[::-1])
    masks = [(x - 9) ** 2 + (y - 30 + seed % 5) ** 2 < rng.integers(20, 70)]
    masks += [(abs(x - 34) < 2 + rng.integers(8)) & (abs(y - 20) < 2 + rng.integers(8))]
    masks += [(x > 48) & (y > 26) & (x + y < rng.integers(86, 100))]
    masks = np.stack(masks)
    image = Image.fromarray(np.where(masks.any(0), 255, 0).astype(np.uint8)).convert("RGB")
    crowd = np.arange(len(masks)) < crowds
    return image, create_objects(mask_boxes(masks), [4, 5, 6], masks, size=SIZE, crowd=crowd)


TRANSFORMS = [
    DetectionTransform((47,), flip=False),
    DetectionTransform((47,)),
    DetectionTransform((32, 60, 94), 110),
    DetectionTransform((47,), photometric=True),
    DetectionTransform(jitter=(0.5, 2), crop=64),
    DetectionTransform(jitter=(1, 2), crop=48, photometric=True),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_boxes_and_masks_follow_the_image(transform):
    sizes, flips = set(), set()
    for position in range(12):
        image, objects = scene(position)
        pixels, after = transform(image, objects, 1, 0, position)
        white = pixels.float().mean(0) > 127
        sizes.add(tuple(pixels.shape[1:]))
        assert pixels.dtype == torch.uint8 and after.masks.shape[1:] == white.shape
        # Only objects that are cut off completely are missing; the others keep their labels.
        names = dict(zip(objects.ids.tolist(), objects.labels.tolist(), strict=True))
        assert after.labels.tolist() == [names[number] for number in after.ids.tolist()]
        # Pixel for pixel, unless a photometric change moves a grey edge across the threshold.
        wrong = (after.masks.any(0) != white).sum() / max(1, white.sum())
        assert wrong == 0 or (transform.photometric and wrong < 0.1), wrong
        tight = mask_boxes(after.masks.numpy())
        assert abs(after.boxes.numpy() - tight).max(initial=0) <= 2 * max(1, white.shape[0] / 47)
        assert after.area.tolist() == after.masks.sum((1, 2)).tolist() and (after.area > 0).all()
        sides = after.boxes[:, 2:] - after.boxes[:, :2]
        assert (sides >= 1).all() and (after.boxes >= 0).all() and (after.boxes[:, [0, 2]] <= white.shape[1]).all()
        if transform.jitter is None:
            assert len(after.ids) == 3
            flips.add(bool(after.boxes[0, 0] > after.boxes[2, 0]))
        else:
            assert np.array_equal(after.boxes.numpy(), tight)
    assert transform.jitter or flips == ({False, True} if transform.flip else {False})
    if transform.jitter:
        assert sizes == {(transform.crop,) * 2}
    elif len(transform.short_side) > 1:
        # The short side, unless the long side would exceed 110.
        assert sizes == {(32, int(61 * 32 / 47)), (60, int(61 * 60 / 47)), (int(47 * 110 / 61), 110)}


def test_flips_mirror_pixels_boxes_and_masks_exactly():
    image, objects = scene(0)
    for position in range(8):
        pixels, after = DetectionTransform((47,))(image, objects, 0, 0, position)
        if after.boxes[0, 0] > 30:
            assert torch.equal(pixels[0] == 255, after.masks.any(0)) and torch.equal(after.masks, objects.masks.flip(2))
            assert torch.equal(after.boxes[:, 0], 61 - objects.boxes[:, 2])
            return
    raise AssertionError("not one of 8 images is mirrored")


def test_changes_depend_only_on_seed_epoch_and_position():
    transform = TRANSFORMS[-1]
    image, objects = scene(0)
    first = transform(image, objects, 5, 2, 7)
    state = torch.random.get_rng_state()
    torch.rand(3)
    repeated = transform(image, objects, 5, 2, 7)
    assert all(torch.equal(a, b) for a, b in zip([first[0], *first[1]], [repeated[0], *repeated[1]], strict=True))
    torch.random.set_rng_state(state)
    expected = torch.rand(3)
    torch.random.set_rng_state(state)
    others = [transform(image, objects, *key)[0] for key in ((6, 2, 7), (5, 3, 7), (5, 2, 8))]
    assert torch.equal(torch.rand(3), expected)
    assert not any(torch.equal(first[0], other) for other in others)


def test_crowds_and_objects_below_one_pixel_are_dropped():
    image, objects = scene(0, crowds=1)
    _, after = TRANSFORMS[0](image, objects, 0, 0, 0)
    assert after.ids.tolist() == [1, 2]
    boxes = np.array([[3, 3, 3.5, 20], [3, 3, 20, 20], [50, 9, 50, 12]])
    _, after = TRANSFORMS[0](image, create_objects(boxes, [0, 1, 2], size=SIZE), 0, 0, 0)
    assert after.labels.tolist() == [1] and after.masks is None and after.area.tolist() == [289]
    _, empty = TRANSFORMS[-1](image, create_objects(np.zeros((0, 4)), [], size=SIZE), 0, 0, 0)
    assert empty.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"short_side": ()}, "short_side is"),
        ({"short_side": (800, 1400)}, "from 1 to long_side"),
        ({"long_side": 0}, "long_side is 0"),
        ({"jitter": (2, 0.1)}, "jitter is"),
        ({"crop": 0}, "crop is 0"),
    ],
)
def test_values_out_of_range_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        DetectionTransform(**fields)


def test_images_that_are_too_narrow_are_refused():
    image, objects = Image.new("RGB", (4000, 1)), create_objects(np.zeros((0, 4)), [], size=(4000, 1))
    with pytest.raises(InputError, match="4000 x 1 pixels is too long and narrow"):
        DetectionTransform()(image, objects, 0, 0, 0)
