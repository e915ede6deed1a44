"""Interventions: images whose background or object is removed or exchanged.

A map shows where a model looks; only a changed image shows whether this matters. The variants follow the Background
Challenge (Xiao et al. 2020, "Noise or Signal: The Role of Image Backgrounds in Object Recognition", arXiv 2006.09994)
and its names, with three differences: removed pixels become the mean of the data set instead of black, which models
have not seen; the object is cut out by its region instead of by GrabCut; and `mixed_other` (Mixed-Rand) always uses the
background of another class, where the paper draws from all classes. `only_fg_blur` is not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from regard.data import Batch, ImageDataset
from regard.data.random import Integers, RandomStream, check_seed
from regard.errors import InputError

VARIANTS = ("only_fg", "only_fg_blur", "only_bg_b", "only_bg_t", "mixed_same", "mixed_other")
"""In order: the object on the mean colour; the object on its blurred background; the background with the object's
bounding box in the mean colour; the background with the bounding box tiled with background; the object on the tiled
background of another image of its class; the object on that of an image of another class."""

MIXED = VARIANTS[4:]
MOST_BOX = 0.9
"""The largest share of an image that a bounding box may cover if a variant needs background; as in the paper."""

_PURPOSE = 20  # number of the random stream among those of a seed
_BLUR = 1 / 16  # standard deviation of the blur, as a fraction of the image's shorter side


class Interventions:
    """The variants of the images of a data set.

    Args:
        dataset: a data set with labels and regions.
        load: loads images by index, in order, in batches of a constant size; normalised, with masks.
        seed: seed of the choice of backgrounds, 0 to 2^64 - 1.

    Attributes:
        partners: for each of `MIXED`, the indices of the images that provide the backgrounds, int64 (N,); -1: none.

    Raises:
        InputError: images of fewer than two classes.
    """

    def __init__(self, dataset: ImageDataset, load: Callable[[Sequence[int]], Iterable[Batch]], seed: int = 0) -> None:
        self._load = load
        labels = dataset.labels.cpu().numpy()
        if len(np.unique(labels[labels >= 0])) < 2:
            raise InputError(
                f"interventions exchange backgrounds between classes, and the images of {dataset.name} have fewer than "
                "two; leave the interventions out"
            )
        self.partners = dict(zip(MIXED, partners(labels, seed), strict=True))

    def batches(self, which: Sequence[int]) -> Iterator[tuple[Batch, Iterator[tuple[str, Tensor, Tensor]]]]:
        """Batches of the images with these indices, each with its variants; see `variants`."""
        index = np.asarray(which)
        sources = [np.where(source[index] < 0, index, source[index]) for source in self.partners.values()]
        loaders = (self._load(source.tolist()) for source in sources)
        for batch, *source_batches in zip(self._load(which), *loaders, strict=True):
            indices = torch.from_numpy(index)[batch.index.cpu()]
            backgrounds = {}
            for name, source_batch in zip(MIXED, source_batches, strict=True):
                images, regions, exists = _match(batch, source_batch)
                exists &= torch.from_numpy(self.partners[name])[indices] >= 0
                backgrounds[name] = images, regions, exists.to(batch.images.device)
            assert batch.masks is not None
            yield batch, variants(batch.images, batch.masks, backgrounds)


def variants(
    images: Tensor, regions: Tensor, backgrounds: dict[str, tuple[Tensor, Tensor, Tensor]]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each of `VARIANTS` as (name, changed images (B, C, H, W), bool (B,) for the images that have the variant).

    Objects need a region that is not empty, backgrounds a bounding box of at most `MOST_BOX` of their image. Images are
    normalised, so that 0 is the mean of the data set. `backgrounds` has for each of `MIXED` images and regions of the
    same shapes, and bool (B,) for those that exist.
    """
    foreground = regions[:, None]
    has_object, has_background = regions.flatten(1).any(1), _has_background(regions)
    yield "only_fg", images * foreground, has_object
    yield "only_fg_blur", torch.where(foreground, images, _blurred(images, ~foreground)), has_object
    yield "only_bg_b", images * ~_inside(regions)[:, None], has_background
    yield "only_bg_t", tiled(images, regions), has_background
    for name, (source_images, source_regions, exists) in backgrounds.items():
        mixed = torch.where(foreground, images, tiled(source_images, source_regions))
        yield name, mixed, has_object & exists & _has_background(source_regions)


def tiled(images: Tensor, regions: Tensor) -> Tensor:
    """The images (B, C, H, W) with the bounding boxes of their regions (B, H, W) covered by background (Only-BG-T).

    The box is filled from a tiling of the image with the largest of the four strips left, right, above and below it.
    """
    height, width = regions.shape[1:]
    top, bottom, left, right = _boxes(regions)
    strip_width, strip_height = torch.maximum(left, width - right), torch.maximum(top, height - bottom)
    is_vertical = strip_width * height > strip_height * width
    rows = _repeated(~is_vertical, torch.where(top > height - bottom, 0, bottom), strip_height, height)
    columns = _repeated(is_vertical, torch.where(left > width - right, 0, right), strip_width, width)
    pixel = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None]
    tiles = images.flatten(2).gather(2, pixel.expand(-1, images.shape[1], -1)).view_as(images)
    return torch.where(_inside(regions)[:, None], tiles, images)


def partners(labels: Integers, seed: int) -> tuple[Integers, Integers]:
    """For each image, a random image of its class and one of another class, int64 (N,); -1: none.

    The class is drawn first, with equal probabilities, then the image. A draw depends only on the labels (N,), the seed
    and the position of the image. Images without a label (-1) neither have nor are partners.
    """
    stream = RandomStream(check_seed(seed), _PURPOSE)
    labelled = np.flatnonzero(labels >= 0)
    unique, classes, counts = np.unique(labels[labelled], return_inverse=True, return_counts=True)
    order = np.argsort(classes, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(order), np.int64)  # of each image in its class
    rank[order] = np.arange(len(order)) - starts[classes[order]]
    same, other = np.full((2, len(labels)), -1, np.int64)
    draw = stream.integers(0, np.maximum(counts[classes] - 2, 0), len(labelled))
    drawn = labelled[order[starts[classes] + (draw + (draw >= rank)) % counts[classes]]]
    same[labelled] = np.where(counts[classes] > 1, drawn, -1)
    if len(unique) > 1:
        others = stream.integers(0, len(unique) - 2, len(labelled))
        others += others >= classes
        other[labelled] = labelled[order[starts[others] + stream.integers(0, counts[others] - 1, len(labelled))]]
    return same, other


def _match(batch: Batch, other: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The images and regions of the other batch in the order of this one, and bool (B,) for those that were read."""
    assert batch.masks is not None and other.masks is not None
    row = {index: i for i, index in enumerate(other.index.tolist())}
    indices = batch.index.tolist()
    exists = torch.tensor([index in row for index in indices], dtype=torch.bool)
    if not exists.any():
        return batch.images, batch.masks, exists
    if other.images.shape[1:] != batch.images.shape[1:]:
        raise InputError(
            f"images of {tuple(batch.images.shape[2:])} and {tuple(other.images.shape[2:])} pixels cannot exchange "
            "backgrounds; resize them to one size (transform, --data.size)"
        )
    rows = torch.tensor([row.get(index, 0) for index in indices], device=other.images.device)
    return other.images[rows], other.masks[rows], exists


def _boxes(regions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, bottom, left and right of the bounding boxes, int64 (B,), ends exclusive; the full image for no region."""

    def ends(flags: Tensor) -> tuple[Tensor, Tensor]:
        flags = flags.int()
        return flags.argmax(1), flags.shape[1] - flags.flip(1).argmax(1)

    return *ends(regions.any(2)), *ends(regions.any(1))


def _inside(regions: Tensor) -> Tensor:
    """The pixels of the bounding boxes, bool (B, H, W)."""
    top, bottom, left, right = (side[:, None] for side in _boxes(regions))
    rows, columns = (torch.arange(length, device=regions.device) for length in regions.shape[1:])
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]


def _has_background(regions: Tensor) -> Tensor:
    return _inside(regions).float().mean((1, 2)) <= MOST_BOX


def _repeated(repeats: Tensor, start: Tensor, count: Tensor, length: int) -> Tensor:
    """Positions (B, length): `count` from `start` on, repeated, where `repeats`, otherwise 0 to length - 1."""
    positions = torch.arange(length, device=start.device)
    repeated = start[:, None] + positions % count.clamp(min=1)[:, None]
    return torch.where(repeats[:, None], repeated, positions).clamp(max=length - 1)


def _blurred(images: Tensor, background: Tensor) -> Tensor:
    """A Gaussian blur of the background only, without colours of the object."""
    from torchvision.transforms.functional import gaussian_blur

    sigma = _BLUR * min(images.shape[2:])
    size = 2 * int(np.ceil(3 * sigma)) + 1
    weight = gaussian_blur(background.to(images.dtype), [size, size], [sigma, sigma])
    return gaussian_blur(images * background, [size, size], [sigma, sigma]) / weight.clamp(min=1e-6)
