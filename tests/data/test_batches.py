import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as transforms

from regard.data import Augmentation, InMemoryDataset, Transform, create_loader
from regard.errors import InputError

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def noise(count=64, height=8, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    return InMemoryDataset(images, torch.arange(count) % 4, ("a", "b", "c", "d"), "noise", "train", MEAN, STD)


def make(images, batch_size, *, augmentation=None, **options):
    return create_loader(images, batch_size, transform=Transform(augmentation=augmentation), **options)


def as_bytes(images):
    """The uint8 pixels of a batch normalised with mean 0 and std 1."""
    return (images * 255).round().to(torch.uint8)


def all_crops(image, padding, mode, height, width):
    """Every crop of one image (3, H, W) by plain slicing, and its mirror: {(top, left, flipped): (3, h, w)}."""
    sides = [padding] * 4
    padded = F.pad(image[None].float(), sides, mode="reflect" if mode == "reflect" else "constant")[0].to(torch.uint8)
    crops = {}
    for top in range(padded.shape[1] - height + 1):
        for left in range(padded.shape[2] - width + 1):
            crop = padded[:, top : top + height, left : left + width]
            crops[top, left, False], crops[top, left, True] = crop, crop.flip(2)
    return crops


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True)) and first.total == second.total


def test_without_augmentation_images_are_unchanged_and_in_order():
    images = noise(10)
    batches = list(make(images, 4).epoch(0))
    assert [len(batch.images) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.index for batch in batches]), torch.arange(10))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), images.labels)
    pixels = torch.cat([batch.images for batch in batches])
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    assert pixels.dtype == torch.float32
    assert torch.allclose(pixels, (images.images / 255 - mean) / std, atol=1e-5)


def test_mean_and_std_can_be_overridden():
    images = next(iter(make(noise(), 8, mean=ZERO, std=ONE).epoch(0))).images
    assert torch.allclose(images, noise().images[:8] / 255, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    padding=st.integers(0, 4),
    mode=st.sampled_from(["zero", "reflect"]),
    crop=st.one_of(st.none(), st.integers(3, 6)),
    flip=st.booleans(),
    channels_last=st.booleans(),
)
def test_every_batch_image_is_a_crop_of_its_source(size, padding, mode, crop, flip, channels_last):
    images = noise(6, *size)
    crop = None if crop is None else min(crop, min(size) + 2 * padding)
    batches = make(
        images,
        4,
        augmentation=Augmentation(padding, mode, crop, flip),
        shuffle=True,
        mean=ZERO,
        std=ONE,
        channels_last=channels_last,
    )
    height, width = batches.image_size
    assert (height, width) == (size if crop is None else (crop, crop))
    for batch in batches.epoch(0):
        assert batch.images.shape[1:] == (3, height, width)
        for pixels, index in zip(as_bytes(batch.images), batch.index, strict=True):
            crops = all_crops(images.images[index], padding, mode, height, width)
            matches = [position for position, crop in crops.items() if torch.equal(crop, pixels)]
            assert matches and (flip or any(not flipped for _, _, flipped in matches))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_every_crop_is_equally_frequent(mode):
    images = noise(1)
    many = InMemoryDataset(
        images.images.repeat(3000, 1, 1, 1), images.labels.repeat(3000), images.classes, "", "", MEAN, STD
    )
    batches = make(many, 3000, augmentation=Augmentation(1, mode), mean=ZERO, std=ONE)
    pixels = as_bytes(next(batches.epoch(0)).images)
    crops = all_crops(images.images[0], 1, mode, 8, 8)
    counts = [int((pixels == crop).flatten(1).all(1).sum()) for crop in crops.values()]
    assert len(counts) == 18 and sum(counts) == 3000
    assert min(counts) > 110 and max(counts) < 230  # 167 expected


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 45), st.booleans(), st.integers(0, 5))
def test_an_epoch_yields_every_image_once(count, batch_size, drop_last, number):
    images = noise(count, 4, 4)
    if drop_last and batch_size > count:
        return
    batches = make(images, batch_size, shuffle=True, drop_last=drop_last)
    epoch = list(batches.epoch(number))
    assert len(epoch) == len(batches) == (count // batch_size if drop_last else -(-count // batch_size))
    index = torch.cat([batch.index for batch in epoch]).tolist()
    assert len(set(index)) == len(index) == (count // batch_size * batch_size if drop_last else count)
    for batch in epoch:
        assert torch.equal(batch.labels, images.labels[batch.index])
    if drop_last:
        assert all(len(batch.images) == batch_size for batch in epoch)


def test_each_seed_and_epoch_is_different_and_repeatable():
    def first(seed, epoch):
        return next(make(noise(), 64, augmentation=Augmentation(2), shuffle=True, seed=seed).epoch(epoch))

    batches = [first(0, 0), first(0, 1), first(1, 0), first(1, 1)]
    for i, batch in enumerate(batches):
        for other in batches[:i]:
            assert not torch.equal(batch.index, other.index) and not torch.equal(batch.images, other.images)
    assert equal(first(1, 1), batches[3])


def test_order_crops_and_flips_use_separate_random_streams():
    def first(shuffle, augmentation):
        return next(make(noise(), 64, augmentation=augmentation, shuffle=shuffle).epoch(0))

    shuffled = first(True, Augmentation(2))
    assert torch.equal(first(True, None).index, shuffled.index)
    unflipped = first(True, Augmentation(2, flip=False)).images
    same = (unflipped == shuffled.images).flatten(1).all(1)
    mirrored = (unflipped.flip(3) == shuffled.images).flatten(1).all(1)
    assert (same ^ mirrored).all() and 16 < same.sum() < 48


def test_the_shuffled_order_equals_the_recorded_one():
    images = noise(10)
    order = [batch.index.tolist() for batch in make(images, 5, shuffle=True, seed=1).epoch(2)]
    assert order == [[7, 9, 8, 1, 4], [6, 0, 5, 3, 2]]


def test_channels_last_changes_only_the_memory_layout():
    def first(channels_last, augmentation):
        return next(make(noise(), 8, augmentation=augmentation, channels_last=channels_last).epoch(0)).images

    for augmentation in (None, Augmentation(2), Augmentation(2, "zero", crop=5), Augmentation(0, scale=(0.1, 1))):
        plain, last = first(False, augmentation), first(True, augmentation)
        assert plain.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(plain, last)


def test_batches_do_not_share_memory_with_the_data_set():
    images = noise()
    before = images.images.clone()
    for batch in make(images, 16, augmentation=Augmentation(2, "zero"), shuffle=True).epoch(0):
        batch.images.zero_()
    for batch in make(images, 16).epoch(0):
        batch.images.zero_()
    assert torch.equal(images.images, before)


def test_a_data_set_on_the_right_device_is_not_copied():
    images = noise()
    assert make(images, 8).dataset is images
    assert make(images, 8, device="cpu").dataset.images.data_ptr() == images.images.data_ptr()


RESIZED = Augmentation(padding=0, scale=(0.08, 1.0))


@pytest.mark.parametrize(
    ("size", "crop", "scale"),
    [
        ((32, 32), None, (0.08, 1.0)),
        ((40, 70), 64, (0.08, 1.0)),  # crops smaller and larger than the image, along either side
        ((90, 60), 7, (0.3, 0.9)),
        ((5, 200), 16, (0.5, 1.0)),  # very few boxes fit
    ],
)
def test_resized_crops_match_torchvision(size, crop, scale):
    images = noise(40, *size)
    batches = make(
        images,
        40,
        augmentation=Augmentation(padding=0, crop=crop, scale=scale),
        shuffle=True,
        seed=2,
        mean=ZERO,
        std=ONE,
    )
    output_size = batches.image_size
    assert output_size == (size if crop is None else (crop, crop))
    flipped, *boxes = batches._draw_crops(3)
    (batch,) = batches.epoch(3)
    assert 5 < flipped.sum() < 35
    for pixels, index, flip, *box in zip(as_bytes(batch.images), batch.index, flipped, *boxes, strict=True):
        top, left, height, width = map(int, box)
        assert 0 <= top <= size[0] - height and 0 <= left <= size[1] - width and min(height, width) > 0
        source = images.images[index]
        expected = transforms.resized_crop(source, top, left, height, width, list(output_size), antialias=True)
        exact = transforms.resized_crop(source.double(), top, left, height, width, list(output_size), antialias=True)
        if flip:
            expected, exact = expected.flip(2), exact.flip(2)
        assert (pixels.int() - expected.int()).abs().max() <= 1
        assert (pixels - exact).abs().max() < 0.75  # rounding alone gives up to 0.5


def test_a_uniform_image_stays_uniform():
    """The rounded interpolation weights add up to one."""
    white = InMemoryDataset(
        torch.full((50, 3, 61, 83), 255, dtype=torch.uint8), torch.zeros(50).long(), ("a",), "", "", MEAN, STD
    )
    for crop in (1, 5, 32, 100):
        (batch,) = make(
            white, 50, augmentation=Augmentation(padding=0, crop=crop, scale=(0.08, 1.0)), mean=ZERO, std=ONE
        ).epoch(0)
        assert (as_bytes(batch.images) == 255).all()


def test_area_fractions_and_aspect_ratios_follow_the_options():
    _, top, left, height, width = make(noise(20_000, 64, 64), 20_000, augmentation=RESIZED)._draw_crops(0)
    area, ratio = (height * width).double() / 64**2, width.double() / height
    assert area.min() < 0.1 and area.max() == 1 and ratio.min() > 0.7 and ratio.max() < 1.45
    # Where every box fits, area fractions are uniform, and tall boxes are as frequent as wide ones.
    counts = torch.histc(area[area < 0.7], 5, 0.08, 0.7)
    assert counts.max() / counts.min() < 1.15
    assert abs((ratio < 1).double().mean() - (ratio > 1).double().mean()) < 0.02
    assert (top == 0).any() and (top == 64 - height).any() and (left == 64 - width).any()
    small = (height < 40) & (width < 40)
    middle = (top + height / 2)[small].mean(), (left + width / 2)[small].mean()
    assert middle == pytest.approx((32, 32), abs=0.5)


def test_resized_crops_do_not_change_order_or_flips():
    plain, resized = (
        make(noise(), 64, augmentation=augmentation, shuffle=True, seed=1)
        for augmentation in (Augmentation(0), RESIZED)
    )
    assert torch.equal(next(plain.epoch(2)).index, next(resized.epoch(2)).index)
    assert torch.equal(plain._draw_crops(2)[0], resized._draw_crops(2)[0])


def test_resized_crops_equal_the_recorded_ones():
    _, *boxes = make(noise(6, 32, 32), 6, augmentation=RESIZED, seed=1)._draw_crops(2)
    recorded = [[5, 11, 20, 17], [1, 6, 27, 26], [0, 8, 13, 18], [3, 11, 24, 21], [3, 0, 24, 32], [0, 3, 32, 27]]
    assert torch.stack(boxes, 1).tolist() == recorded


def test_resized_crops_do_not_depend_on_threads_or_autocast():
    def first(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return next(make(noise(16, 50, 50), 16, augmentation=RESIZED).epoch(0)).images
        finally:
            torch.set_num_threads(before)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        other = first(2)
    assert torch.equal(first(1), other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("augmentation", [Augmentation(3, "zero"), Augmentation(3), RESIZED])
def test_batches_are_the_same_on_a_gpu(augmentation):
    on_cpu, on_gpu = (
        make(noise(), 10, augmentation=augmentation, shuffle=True, device=device).epoch(1) for device in ("cpu", "cuda")
    )
    for expected, batch in zip(on_cpu, on_gpu, strict=True):
        assert batch.images.is_cuda and equal(expected, [part.cpu() for part in batch])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"batch_size": 0}, "batch size"),
        ({"batch_size": 65, "drop_last": True}, "at most 64"),
        ({"seed": -1}, "seed"),
        ({"std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"mean": (1.0, 1.0)}, "three numbers"),
        ({"std": (1.0, 1.0)}, "three numbers"),
        ({"mean": (127.0, 0.5, 0.5)}, "from 0 to 1"),
        ({"mean": (float("nan"), 0.5, 0.5)}, "from 0 to 1"),
        ({"std": (float("nan"), 0.5, 0.5)}, "above 0"),
        ({"batch_size": 2.5}, "whole number"),
        ({"world_size": 0}, "world_size is 0"),
        ({"augmentation": Augmentation(8)}, "at most 7"),
        ({"augmentation": Augmentation(2, crop=13)}, "at most 12"),
        ({"images": noise(8, 300, 20), "augmentation": Augmentation(0, crop=2, scale=(1, 1))}, "at least 3"),
    ],
)
def test_invalid_arguments_are_named(arguments, expected):
    with pytest.raises(InputError, match=expected) as caught:
        make(**{"images": noise(), "batch_size": 8, **arguments})
    assert "\n" not in str(caught.value)


WRONG = [
    {"padding": -1},
    {"padding_mode": "edge"},
    {"crop": 0},
    {"ratio": (0, 1)},
    {"interpolation": "box"},
    {"color_jitter": -0.1},
    {"policy": "sometimes"},
    {"policy": "rand-m7", "color_jitter": 0.4},
    {"erasing": 1.5},
    {"erasing_mode": "black"},
    {"mixup": -1},
    {"cutmix": float("nan")},
    {"mix_probability": 2},
    {"mix_switch": -0.5},
    {"repeats": 0},
    {"repeats": 1.5},
]
SCALES = [(0, 1), (0.5, 0.4), (0.5, 1.1), (-0.5, 1.0), (float("nan"), 1), (0.5,)]


@pytest.mark.parametrize("fields", [*WRONG, *({"scale": scale, "padding": 0} for scale in SCALES)])
def test_invalid_augmentation_fields_are_named(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        Augmentation(**fields)


def test_scale_and_padding_exclude_each_other():
    with pytest.raises(InputError, match="padding is 4; give padding 0"):
        Augmentation(4, scale=(0.08, 1))
    assert Augmentation(scale=(0.08, 1)).border == 0 and Augmentation().border == 4


STREAMED_ONLY = [
    {"ratio": (0.5, 2.0)},
    {"interpolation": "bicubic"},
    {"color_jitter": 0.4},
    {"policy": "rand-m7"},
    {"erasing": 0.2},
    {"erasing_mode": "pixel"},
]


@pytest.mark.parametrize("fields", STREAMED_ONLY)
def test_augmentation_fields_for_streamed_sets_are_refused(fields):
    with pytest.raises(InputError, match=f"{next(iter(fields))} is for streamed data sets"):
        make(noise(), 8, augmentation=Augmentation(**fields))


def test_ratio_may_be_a_list():
    assert len(make(noise(), 8, augmentation=Augmentation(ratio=[3 / 4, 4 / 3]))) == 8


def test_repeats_yield_each_image_several_times_in_a_row():
    order = []
    for batch in make(noise(63), 12, augmentation=Augmentation(3, repeats=3), shuffle=True).epoch(0):
        copies = batch.images.unflatten(0, (-1, 3))
        index = batch.index.unflatten(0, (-1, 3))
        assert (index == index[:, :1]).all() and not torch.equal(copies[0, 0], copies[0, 1])
        order += index[:, 0].tolist()
    assert len(order) == len(set(order)) == 21
    # Another batch size gives the same order, and a batch may end between two repeats of an image.
    smaller = list(make(noise(63), 8, augmentation=Augmentation(3, repeats=3), shuffle=True).epoch(0))
    assert torch.cat([batch.index for batch in smaller]).tolist() == [index for index in order for _ in range(3)]
    with pytest.raises(InputError, match="random order"):
        make(noise(), 9, augmentation=Augmentation(3, repeats=3))


def test_a_last_batch_smaller_than_the_world_size_is_refused():
    with pytest.raises(InputError, match="the last batch of an epoch of 64 images has 1, .* such as 8"):
        make(noise(), 9, shuffle=True, rank=0, world_size=3)
    with pytest.raises(InputError, match="the 9 processes that share it; .* such as 11 "):
        make(noise(), 8, shuffle=True, rank=0, world_size=9)
    assert len(make(noise(), 9, shuffle=True, drop_last=True, rank=0, world_size=3)) == 7
    parts = [list(make(noise(), 9, rank=rank, world_size=3).epoch(0)) for rank in range(3)]
    index = torch.cat([batch.index for part in parts for batch in part])
    assert sorted(index.tolist()) == list(range(64))


def test_data_sets_too_large_for_the_device_are_refused(monkeypatch):
    def refuse(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(InMemoryDataset, "to", refuse)
    with pytest.raises(InputError, match="the 64 train images take .* GiB, more than meta has left") as caught:
        make(noise(), 8, device="meta")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [(-1, 0), (0, -1), (0, 9)])
def test_invalid_epochs_and_steps_are_refused_immediately(arguments):
    with pytest.raises(InputError, match="does not exist"):
        make(noise(), 8).epoch(*arguments)


def test_an_empty_data_set_is_refused():
    with pytest.raises(InputError, match="empty"):
        make(noise().subset([]), 8)
