import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.data import InMemoryDataset
from regard.data.dataset import channel_statistics
from regard.errors import InputError

GREY = (0.5, 0.5, 0.5)


def image_set(labels, regions=None, classes=("a", "b", "c")):
    labels = torch.tensor(labels)
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 4).contiguous()
    return InMemoryDataset(images, labels, classes, "mine", "train", GREY, GREY, regions)


def test_moving_to_the_same_device_shares_all_tensors():
    images = image_set([0, 1, 2], torch.zeros(3, 2, 4, dtype=torch.bool))
    assert len(images) == 3
    same = images.to("cpu")
    assert same.images is images.images and same.labels is images.labels and same.regions is images.regions


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_all_tensors_move_to_the_gpu():
    on_gpu = image_set([0, 1, 2], torch.zeros(3, 2, 4, dtype=torch.bool)).to("cuda")
    assert on_gpu.images.is_cuda and on_gpu.labels.is_cuda and on_gpu.regions.is_cuda
    assert on_gpu.subset(2).labels.is_cuda


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.data())
def test_subsets_by_count_are_balanced_and_nested(labels, data):
    images = image_set(labels)
    count = data.draw(st.integers(1, len(labels)))
    part = images.subset(count)
    chosen = part.images[:, 0, 0, 0].tolist()
    assert len(set(chosen)) == count and [labels[i] for i in chosen] == part.labels.tolist()
    assert chosen == images.subset(len(labels)).images[:count, 0, 0, 0].tolist()
    counts = {label: chosen_labels.count(label) for chosen_labels in [part.labels.tolist()] for label in set(labels)}
    for label, number in counts.items():
        # Each class has as many images as any other, or one fewer, or all of its images.
        assert number >= max(counts.values()) - 1 or number == labels.count(label)


def test_subsets_by_index_keep_order_and_regions():
    regions = torch.arange(3 * 8).view(3, 2, 4) % 5 == 0
    part = image_set([2, 0, 1], regions).subset([2, 0])
    assert part.labels.tolist() == [1, 2]
    assert part.images[:, 0, 0, 0].tolist() == [2, 0]
    assert torch.equal(part.regions, regions[[2, 0]])
    assert torch.equal(image_set([2, 0, 1]).subset(torch.tensor([2, 0])).images, part.images)
    assert len(part.subset([])) == 0


@pytest.mark.parametrize("which", [0, -1, 4, [3], [-1], torch.tensor([0.5]), torch.tensor([[0]]), [True, False, True]])
def test_invalid_subsets_are_refused(which):
    with pytest.raises(InputError):
        image_set([0, 1, 2]).subset(which)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", torch.zeros(3, 3, 2, 4)),
        ("images", torch.zeros(3, 1, 2, 4, dtype=torch.uint8)),
        ("labels", torch.zeros(3)),
        ("labels", torch.zeros(2, dtype=torch.int64)),
        ("labels", torch.tensor([0, 1, 3])),
        ("labels", torch.tensor([0, -1, 2])),
        ("regions", torch.zeros(3, 2, 4)),
        ("regions", torch.zeros(3, 4, 2, dtype=torch.bool)),
    ],
)
def test_inconsistent_tensors_are_refused(field, value):
    with pytest.raises(InputError) as caught:
        dataclasses.replace(image_set([0, 1, 2]), **{field: value})
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)


def test_channel_statistics_match_float64():
    images = torch.randint(0, 256, (50, 3, 7, 9), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    assert torch.allclose(torch.tensor(mean).double(), scaled.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(torch.tensor(std).double(), scaled.std((0, 2, 3), correction=0), atol=1e-6)


def test_constant_channels_have_a_std_of_one():
    assert channel_statistics(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)) == ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
