"""Regions follow every augmentation of their images; annotated shares, boxes and dilated regions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support import sources
from tests.support.loaders import error_of, streamed
from torch.nn import functional as F

from regard import data
from regard.data import Augmentation, annotated
from regard.errors import InputError

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def blobs(count: int, height: int, width: int) -> torch.Tensor:
    """Regions of all shapes, bool (N, H, W)."""
    noise = torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 5, 1, 2)[:, 0] > 0.5


def pictures(regions: torch.Tensor) -> torch.Tensor:
    """Images whose pixels are their regions, uint8 (N, 3, H, W)."""
    return regions[:, None].expand(-1, 3, -1, -1).to(torch.uint8) * 255


def bright(batch: data.Batch) -> torch.Tensor:
    """The mask of pixels that are at least half white."""
    return (batch.images * 255).round().amin(1) >= 128


@pytest.mark.parametrize(
    "changes",
    [
        {"padding": 4},
        {"padding": 5, "padding_mode": "zero", "crop": 17},
        {"padding": 3, "flip": False},
        {"scale": (0.2, 1.0)},
        {"scale": (0.1, 0.4), "crop": 40},
        {"repeats": 2},
    ],
    ids=str,
)
def test_regions_in_memory_follow_augmentation(changes) -> None:
    regions = blobs(40, 24, 30)
    images = data.InMemoryDataset(
        pictures(regions), torch.arange(40) % 4, tuple("abcd"), "x", "train", *PLAIN.values(), regions
    )
    options = {"transform": data.Transform(augmentation=Augmentation(**changes)), "shuffle": True, "masks": True}
    loader = data.create_loader(images, 16, seed=3, **options)
    before = torch.cat(
        [batch.images for batch in data.create_loader(images, 16, seed=3, **options | {"masks": False}).epoch(1)]
    )
    batches = list(loader.epoch(1))
    assert torch.equal(torch.cat([batch.images for batch in batches]), before)  # masks do not change the images
    for batch in batches:
        assert torch.equal(batch.masks, bright(batch)) and batch.masks.any() and not batch.masks.all()
    parts = [data.create_loader(images, 16, seed=3, rank=rank, world_size=2, **options).epoch(1) for rank in range(2)]
    for batch, *rank_batches in zip(batches, *parts, strict=True):
        masks = {int(i): mask for part in rank_batches for i, mask in zip(part.index, part.masks, strict=True)}
        if "repeats" not in changes:
            assert all(torch.equal(masks[int(i)], mask) for i, mask in zip(batch.index, batch.masks, strict=True))


@pytest.fixture
def dataset(tmp_path):
    """Files of different sizes whose pixels are their regions."""
    for i in range(12):
        region = blobs(12, 20 + i, 41 - i)[i].numpy()
        for folder in ("images", "masks"):
            path = tmp_path / folder / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.where(region, np.uint8(255), np.uint8(0))).save(path)
    return data.open_regions(f"masks:{tmp_path}")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale": (0.3, 0.5), "ratio": (0.5, 2.0), "interpolation": "bicubic"},
        {"interpolation": "random", "flip": False},
        {"repeats": 3},
    ],
    ids=str,
)
def test_streamed_regions_follow_augmentation(dataset, changes) -> None:
    options = {"augmentation": Augmentation(**changes), "shuffle": True, "masks": True, **PLAIN}
    for epoch in range(2):
        batches = list(streamed(dataset, 5, seed=4, **options).epoch(epoch))
        for batch in batches:
            assert torch.equal(batch.masks, bright(batch))
        assert 0.1 < torch.cat([batch.masks for batch in batches]).float().mean() < 0.9


def test_colour_jitter_and_erasing_do_not_change_the_region(dataset) -> None:
    options = {"shuffle": True, "masks": True, "seed": 4, **PLAIN}
    changed = streamed(dataset, 12, augmentation=Augmentation(color_jitter=0.4, erasing=1.0), **options)
    (plain,), (other,) = (
        list(loader.epoch(0)) for loader in (streamed(dataset, 12, augmentation=Augmentation(), **options), changed)
    )
    assert torch.equal(plain.masks, other.masks) and not torch.equal(plain.images, other.images)


@pytest.mark.parametrize("kind", ["masks", "coco", "voc", "voc boxes", "pets", "imagenet", "stl10 marks"])
def test_regions_of_every_format_follow_augmentation(kind, tmp_path) -> None:
    sources.ALL[kind](tmp_path)
    images = data.open_regions(tmp_path)
    options = {"augmentation": Augmentation(scale=(0.9, 1.0)), "shuffle": True, "masks": True, **PLAIN}
    (batch,) = streamed(images, len(images), **options).epoch(0)
    annotated = torch.tensor([images.mask(int(i)) is not None and bool(images.mask(int(i)).any()) for i in batch.index])
    assert batch.masks.shape == (len(images), 16, 16) and annotated.any()
    assert not (batch.masks.flatten(1).any(1) & ~annotated).any()


def test_stl10_can_be_trained_on_with_its_annotations(tmp_path) -> None:
    with sources.published(tmp_path):
        labels = data.load("stl10", tmp_path).train.labels.tolist()
        for split in ("train", "test"):
            kind = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")[labels[3]]
            marks = {"3": {"object": [[x, y] for x in range(4, 8) for y in range(2)]}}
            (tmp_path / f"stl10_{split}_{kind}.json").write_text(json.dumps(marks))
        train, test = data.load("stl10", tmp_path, regions=str(tmp_path))
        assert data.load("stl10", tmp_path).train.regions is None
        assert error_of(data.load, "stl10", tmp_path, regions=str(tmp_path / "none"))
    expected = torch.zeros(96, 96, dtype=torch.bool)
    expected[:12, 24:48] = True
    for part in (train, test):
        assert torch.equal(part.regions[3], expected) and int(part.regions.flatten(1).any(1).sum()) == 1


def test_policies_that_move_pixels_are_refused(dataset) -> None:
    policy = Augmentation(policy="rand-m7-mstd0.5")
    assert "policy" in error_of(streamed, dataset, 4, augmentation=policy, shuffle=True, masks=True, **PLAIN)


def small(regions: torch.Tensor, labels: torch.Tensor | None = None) -> data.InMemoryDataset:
    count = len(regions)
    labels = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    return data.InMemoryDataset(pictures(regions), labels, ("a", "b"), "x", "train", *PLAIN.values(), regions)


def test_annotated_shares_are_balanced_nested_and_fixed() -> None:
    images = small(torch.ones(40, 4, 4, dtype=torch.bool), torch.arange(40) % 2)
    masks = [annotated(images, share=share).regions.flatten(1).all(1) for share in (0.01, 0.1, 0.5, 1.0)]
    assert [int(mask.sum()) for mask in masks] == [1, 4, 20, 40]
    assert all(not (fewer & ~more).any() for fewer, more in zip(masks, masks[1:], strict=False))
    assert images.labels[masks[1]].bincount().tolist() == [2, 2]
    assert torch.equal(masks[1], annotated(images, share=0.1).regions.flatten(1).all(1))


def test_regions_can_become_boxes_and_be_dilated(tmp_path) -> None:
    regions = torch.zeros(3, 7, 9, dtype=torch.bool)
    regions[0, 2, 3] = regions[0, 4, 6] = True
    regions[1, 0, 8] = True
    box = torch.zeros_like(regions)
    box[0, 2:5, 3:7] = box[1, 0, 8] = True
    dilated = torch.zeros_like(regions)
    dilated[0, 1:4, 2:5] = dilated[0, 3:6, 5:8] = dilated[1, :2, 7:] = True
    boxes_and_dilated = torch.zeros_like(regions)
    boxes_and_dilated[0, 1:6, 2:8] = boxes_and_dilated[1, :2, 7:] = True
    images = small(regions)
    for expected, options in (
        (box, {"box": True}),
        (dilated, {"dilate": 1}),
        (boxes_and_dilated, {"box": True, "dilate": 1}),
    ):
        assert torch.equal(annotated(images, **options).regions, expected)
        for i in range(3):  # from files, one by one
            for folder, pixels in (("images", regions[i]), ("masks", regions[i])):
                path = tmp_path / folder / "a" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.numpy().astype(np.uint8) * 255).save(path)
        read = annotated(data.open_regions(f"masks:{tmp_path}"), **options)
        assert all(np.array_equal(read.mask(i), expected[i].numpy()) for i in range(3))
    assert annotated(images, dilate=9).regions[:2].all() and not annotated(images, dilate=9).regions[2].any()


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.1}, {"dilate": -1}])
def test_invalid_annotation_options_are_refused(options) -> None:
    with pytest.raises(InputError):
        annotated(small(torch.ones(4, 4, 4, dtype=torch.bool)), **options)
