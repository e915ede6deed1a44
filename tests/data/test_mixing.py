"""Slices of batches for each rank, mixup and CutMix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.loaders import rank_rows

from regard import data
from regard.errors import InputError

BOTH = data.Augmentation(mixup=0.8, cutmix=1.0)


def batch(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 12, 12, generator=generator), torch.arange(count) % 5


@given(st.integers(1, 70), st.integers(1, 9))
def test_slices_of_all_ranks_cover_every_image_once(total, count):
    images = torch.zeros(total, 3, 1, 1, dtype=torch.uint8)
    black = data.InMemoryDataset(images, torch.zeros(total).long(), ("a",), "black", "test", (0.0,) * 3, (1.0,) * 3)
    loaders = [data.create_loader(black, total, rank=rank, world_size=count) for rank in range(count)]
    parts = [np.concatenate([[], *(batch.index.numpy() for batch in loader.epoch(0))]) for loader in loaders]
    assert sorted(np.concatenate(parts).tolist()) == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1 and all((np.diff(part) > 0).all() for part in parts)
    if total % (2 * count) == 0:
        assert all((part + part[::-1] == total - 1).all() for part in parts)


def test_invalid_ranks_are_refused():
    for rank, count in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match="does not exist|world_size is 0"):
            data.create_loader(data.clutter(train=10, test=10).test, 4, rank=rank, world_size=count)


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("count", [1, 2, 4])
def test_several_processes_mix_the_same_images_as_one(step, count):
    images, labels = batch()
    whole, soft = data.Mixing(BOTH, 5, 3, 0.1)(images.clone(), labels, step)
    for rank in range(count):
        rows = rank_rows(8, rank, count)
        part, part_soft = data.Mixing(BOTH, 5, 3, 0.1)(images[rows], labels[rows], step)
        assert torch.equal(part, whole[rows]) and torch.equal(part_soft, soft[rows])


def test_mixup_averages_two_images_and_their_labels():
    images, labels = batch()
    mixed, soft = data.Mixing(data.Augmentation(mixup=1.0), 5, 0)(images.clone(), labels, 0)
    share = float(soft[0, 0])
    assert 0 < share < 1 and soft.dtype == torch.float32 and torch.allclose(soft.sum(1), torch.ones(8))
    assert torch.allclose(mixed, share * images + (1 - share) * images.flip(0), atol=1e-6)
    assert soft[0, labels[7]] == pytest.approx(1 - share, abs=1e-6)


def test_cutmix_pastes_a_box_of_another_image():
    images, labels = batch()
    mixed, soft = data.Mixing(data.Augmentation(cutmix=1.0), 5, 1)(images.clone(), labels, 0)
    other = (mixed == images.flip(0)).all(1)
    assert ((mixed == images).all(1) ^ other).all() and (other == other[0]).all()
    assert float(soft[0, 0]) == pytest.approx(1 - float(other[0].float().mean()), abs=1e-6)


def test_mixing_probabilities_are_respected():
    def kinds(**fields):
        images, labels = batch()
        names = []
        for step in range(200):
            mixed, soft = data.Mixing(data.Augmentation(**fields), 5, 0)(images.clone(), labels, step)
            whole = bool(((mixed == images) | (mixed == images.flip(0))).all())
            names.append("none" if torch.equal(mixed, images) else "cutmix" if whole else "mixup")
        return {kind: names.count(kind) for kind in set(names)}

    assert kinds(mixup=1.0).get("mixup", 0) > 190
    counts = kinds(mixup=1.0, cutmix=1.0, mix_probability=0.5, mix_switch=0.25)
    assert 70 < counts["none"] < 130 and counts["mixup"] > 1.8 * counts["cutmix"] > 0


def test_mixing_depends_only_on_seed_and_step():
    images, labels = batch()
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    results = [
        data.Mixing(BOTH, 5, seed)(images.clone(), labels, step)[0] for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert np.random.rand() == expected
    assert torch.equal(results[0], results[3])
    assert not any(torch.equal(results[0], other) for other in results[1:3])


def test_mixing_smooths_the_labels():
    images, labels = batch()
    soft = data.Mixing(data.Augmentation(mixup=1.0), 5, 0, 0.1)(images, labels, 0)[1]
    assert soft[0, 4] == pytest.approx(0.02) and torch.allclose(soft.sum(1), torch.ones(8))


def test_invalid_mixing_is_refused():
    images, labels = batch(7)
    with pytest.raises(InputError, match="7 images"):
        data.Mixing(BOTH, 5, 0)(images, labels, 0)
    for arguments, expected in (
        ((data.Augmentation(), 5, 0), "nothing to mix"),
        ((BOTH, 0, 0), "classes is 0"),
        ((BOTH, 5, -1), "seed"),
        ((BOTH, 5, 0, 1.0), "label_smoothing"),
    ):
        with pytest.raises(InputError, match=expected):
            data.Mixing(*arguments)
