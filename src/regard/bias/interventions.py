"""Interventions: images whose background, or whose object, is taken away or exchanged.

A map says where a model looks; only a changed image says whether it matters. The variants follow the Background
Challenge (Xiao et al. 2020, "Noise or Signal: The Role of Image Backgrounds in Object Recognition", arXiv 2006.09994)
under its names, with three differences: what is removed becomes the mean of the data set instead of black, which a
model has not seen; the object is cut out by its region instead of GrabCut; and `mixed_other` (Mixed-Rand) takes the
background of another class always, where the paper draws the class from all. `only_fg_blur` is not in the paper.
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
"""The object on the mean colour; on its blurred background. The background with the object's bounding box filled with
the mean colour; with tiles of background. The object on the tiled background of another image of its class; of another
class."""

MIXED = VARIANTS[4:]
MOST_BOX = 0.9
"""Largest share of the image that a bounding box may have, so that something is left as background; as in the paper."""

_PURPOSE = 20  # of the stream, among those of a seed
_BLUR = 1 / 16  # standard deviation of the blur in shorter sides of the image


class Interventions:
    """The variants of the images of a data set.

    Args:
        dataset: with labels and regions.
        load: gives the batches of some images, in order, of the same size each time; normalised, with masks.
        seed: of the choice of backgrounds, 0 to 2^64 - 1.

    Attributes:
        partners: for each of `MIXED` the image that gives an image its background, int64 (N,); -1 for none.

    Raises:
        InputError: images of fewer than two classes.
    """

    def __init__(self, dataset: ImageDataset, load: Callable[[Sequence[int]], Iterable[Batch]], seed: int = 0) -> None:
        self._load = load
        labels = dataset.labels.cpu().numpy()
        if len(np.unique(labels[labels >= 0])) < 2:
            raise InputError(
                f"interventions exchange backgrounds between classes, and the images of {dataset.name} have labels of "
                "fewer than two; leave them out"
            )
        self.partners = dict(zip(MIXED, partners(labels, seed), strict=True))

    def batches(self, which: Sequence[int]) -> Iterator[tuple[Batch, Iterator[tuple[str, Tensor, Tensor]]]]:
        """Batches of the images with these indices, each with its variants; see `variants`."""
        index = np.asarray(which)
        chosen = [np.where(one[index] < 0, index, one[index]) for one in self.partners.values()]
        for batch, *others in zip(self._load(which), *(self._load(one.tolist()) for one in chosen), strict=True):
            indices = torch.from_numpy(index)[batch.index.cpu()]
            backgrounds = {}
            for name, other in zip(MIXED, others, strict=True):
                images, regions, known = _matched(batch, other)
                known &= torch.from_numpy(self.partners[name])[indices] >= 0
                backgrounds[name] = images, regions, known.to(batch.images.device)
            assert batch.masks is not None
            yield batch, variants(batch.images, batch.masks, backgrounds)


def variants(
    images: Tensor, regions: Tensor, backgrounds: dict[str, tuple[Tensor, Tensor, Tensor]]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each of `VARIANTS` as (name, images, known): changed images like `images`, and which of them exist, bool (B,).

    An object needs a region that is not empty; a background a bounding box of at most `MOST_BOX` of its image.

    Args:
        images: (B, C, H, W), normalised, so that 0 is the mean of the data set.
        regions: bool (B, H, W).
        backgrounds: for each of `MIXED` images and regions like these, and which of them exist, bool (B,).
    """
    object_ = regions[:, None]
    marked, around = regions.flatten(1).any(1), _has_background(regions)
    yield "only_fg", images * object_, marked
    yield "only_fg_blur", torch.where(object_, images, _blurred(images, ~object_)), marked
    yield "only_bg_b", images * ~_inside(regions)[:, None], around
    yield "only_bg_t", tiled(images, regions), around
    for name, (others, their_regions, known) in backgrounds.items():
        mixed = torch.where(object_, images, tiled(others, their_regions))
        yield name, mixed, marked & known & _has_background(their_regions)


def tiled(images: Tensor, regions: Tensor) -> Tensor:
    """The images with the bounding boxes of their regions covered by background (Only-BG-T).

    Of the four strips beside, above and below the box, the largest is repeated over the image from its corner, and
    shows in the box.

    Args:
        images: (B, C, H, W).
        regions: bool (B, H, W); of one without background the result means nothing.
    """
    height, width = regions.shape[1:]
    top, bottom, left, right = _boxes(regions)
    beside, above = torch.maximum(left, width - right), torch.maximum(top, height - bottom)
    is_beside = beside * height > above * width
    rows = _repeated(~is_beside, torch.where(top > height - bottom, 0, bottom), above, height)
    columns = _repeated(is_beside, torch.where(left > width - right, 0, right), beside, width)
    pixel = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None]
    tiles = images.flatten(2).gather(2, pixel.expand(-1, images.shape[1], -1)).view_as(images)
    return torch.where(_inside(regions)[:, None], tiles, images)


def partners(labels: Integers, seed: int) -> tuple[Integers, Integers]:
    """For each image another one of its class, and one of another class, int64 (N,); -1 for none.

    First the class is drawn, each with the same probability, then the image. What an image gets depends only on the
    labels, the seed and its position.

    Args:
        labels: int64 (N,); -1 for an image without a label, which neither has nor is a partner.
        seed: 0 to 2^64 - 1.
    """
    stream = RandomStream(check_seed(seed), _PURPOSE)
    labelled = np.flatnonzero(labels >= 0)
    classes, of_class, counts = np.unique(labels[labelled], return_inverse=True, return_counts=True)
    order = np.argsort(of_class, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(order), np.int64)  # of each image in its class
    rank[order] = np.arange(len(order)) - starts[of_class[order]]
    same, other = np.full((2, len(labels)), -1, np.int64)
    draw = stream.integers(0, np.maximum(counts[of_class] - 2, 0), len(labelled))
    drawn = labelled[order[starts[of_class] + (draw + (draw >= rank)) % counts[of_class]]]
    same[labelled] = np.where(counts[of_class] > 1, drawn, -1)
    if len(classes) > 1:
        behind = stream.integers(0, len(classes) - 2, len(labelled))
        behind += behind >= of_class
        other[labelled] = labelled[order[starts[behind] + stream.integers(0, counts[behind] - 1, len(labelled))]]
    return same, other


def _matched(batch: Batch, other: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Images and regions of the other batch in the order of this one, and which of them could be read, bool (B,)."""
    assert batch.masks is not None and other.masks is not None
    row = {index: i for i, index in enumerate(other.index.tolist())}
    indices = batch.index.tolist()
    known = torch.tensor([index in row for index in indices], dtype=torch.bool)
    if not known.any():
        return batch.images, batch.masks, known
    if other.images.shape[1:] != batch.images.shape[1:]:
        raise InputError(
            f"images of {tuple(batch.images.shape[2:])} and {tuple(other.images.shape[2:])} pixels cannot exchange "
            "backgrounds; have them resized (transform, --data.size)"
        )
    rows = torch.tensor([row.get(index, 0) for index in indices], device=other.images.device)
    return other.images[rows], other.masks[rows], known


def _boxes(regions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, bottom, left and right of the bounding boxes, int64 (B,), ends exclusive; the whole image if empty."""

    def ends(flags: Tensor) -> tuple[Tensor, Tensor]:
        flags = flags.int()
        return flags.argmax(1), flags.shape[1] - flags.flip(1).argmax(1)

    return *ends(regions.any(2)), *ends(regions.any(1))


def _inside(regions: Tensor) -> Tensor:
    """The pixels of the bounding boxes, bool (B, H, W)."""
    top, bottom, left, right = (one[:, None] for one in _boxes(regions))
    rows, columns = (torch.arange(length, device=regions.device) for length in regions.shape[1:])
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]


def _has_background(regions: Tensor) -> Tensor:
    return _inside(regions).float().mean((1, 2)) <= MOST_BOX


def _repeated(which: Tensor, start: Tensor, count: Tensor, length: int) -> Tensor:
    """(B, length): `count` positions from `start` on over and over where `which`, else every position once."""
    positions = torch.arange(length, device=start.device)
    repeated = start[:, None] + positions % count.clamp(min=1)[:, None]
    return torch.where(which[:, None], repeated, positions).clamp(max=length - 1)


def _blurred(images: Tensor, background: Tensor) -> Tensor:
    """A Gaussian blur of the background alone, without the colours of the object."""
    from torchvision.transforms.functional import gaussian_blur

    sigma = _BLUR * min(images.shape[2:])
    size = 2 * int(np.ceil(3 * sigma)) + 1
    weight = gaussian_blur(background.to(images.dtype), [size, size], [sigma, sigma])
    return gaussian_blur(images * background, [size, size], [sigma, sigma]) / weight.clamp(min=1e-6)
