"""A small labelled set of images, held whole as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.draws import Draws
from regard.errors import InputError

Channels = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A labelled set of images of one size, as bytes on one device.

    Attributes:
        images: uint8 (N, 3, H, W), RGB.
        labels: int64 (N,), each an index into `classes`.
        classes: the names of the classes.
        name: where it comes from: "clutter", "cifar10", "cifar100", "stl10", "cub", "scenes", "folder", or your own.
        split: "train" or "test".
        mean: of each channel over the training split, with bytes 0 to 255 scaled to 0 to 1. Both splits carry it.
        std: standard deviation, likewise.
        regions: bool (N, H, W), the ideal region of each image, or None where it is not known.
        skipped: the paths of unreadable files that were left out.

    Raises:
        InputError: a shape, dtype, length or label that does not agree with the above.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    split: str
    mean: Channels
    std: Channels
    regions: Tensor | None = None
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels, regions = self.images, self.labels, self.regions
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images are {_describe(images)}; expected uint8 (N, 3, H, W)")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise InputError(f"labels are {_describe(labels)}; expected int64 ({len(images)},), one for each image")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise InputError(
                f"labels run from {int(labels.min())} to {int(labels.max())}; expected 0 to {len(self.classes) - 1}, "
                f"as there are {len(self.classes)} classes"
            )
        if regions is not None and (regions.dtype != torch.bool or regions.shape != images[:, 0].shape):
            expected = (images.shape[0], *images.shape[2:])
            raise InputError(f"regions are {_describe(regions)}; expected bool {expected}, one for each image")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its tensors on the device; the tensors are shared if they are there already."""
        regions = None if self.regions is None else self.regions.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), regions=regions)

    def subset(self, which: int | Sequence[int] | Tensor) -> ImageSet:
        """A part of the set; mean, std and classes stay those of the whole.

        Args:
            which: the indices of the images, in the order wanted, or how many: a number takes the classes in turn, so
                that each has its share (to within one image, while it has any left), and within a class the images in
                a fixed random order. The order is the same on every machine, and a smaller number gives the
                beginning of a larger one.

        Raises:
            InputError: a count outside 1 to N, an index outside 0 to N - 1.
        """
        index = chosen(which, self.labels).to(self.images.device)
        regions = None if self.regions is None else self.regions[index]
        return replace(self, images=self.images[index], labels=self.labels[index], regions=regions)


Images = TypeVar("Images")


class Splits(NamedTuple, Generic[Images]):
    """The two parts of a data set, of the same kind: one to learn from, one to be judged on."""

    train: Images
    test: Images


def chosen(which: int | Sequence[int] | Tensor, labels: Tensor) -> Tensor:
    """The indices of a part of a set with these labels (N,), int64; see `ImageSet.subset`."""
    count = len(labels)
    if isinstance(which, int):
        if not 1 <= which <= count:
            raise InputError(f"subset of {which} images of {count}; give a number from 1 to {count}")
        return torch.from_numpy(_by_turns(labels.cpu().numpy())[:which])
    index = torch.as_tensor(which)
    if index.ndim != 1 or (index.numel() and (index.is_floating_point() or index.dtype == torch.bool)):
        raise InputError(f"indices are {_describe(index)}; expected a list of integers")
    index = index.long()
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < count:
        raise InputError(f"indices run from {int(index.min())} to {int(index.max())}; expected 0 to {count - 1}")
    return index


def channel_statistics(images: Tensor) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel, exact to float64.

    Args:
        images: uint8 (N, 3, H, W), N at least 1.

    Returns:
        mean and std, with bytes 0 to 255 scaled to 0 to 1. A channel of one single value has std 0 and gets 1 instead,
        so that dividing by it is harmless.
    """
    # A histogram holds all there is to know and adds up in integers, whatever the order. Chunks bound the memory.
    counts = np.zeros((3, 256), dtype=np.int64)
    for chunk in images.cpu().split(max(1, 2**24 // images[0].numel())):
        for channel in range(3):
            counts[channel] += np.bincount(chunk[:, channel].numpy().reshape(-1), minlength=256)
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = (counts * values).sum(axis=1) / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return _channels(mean), _channels(std)


def _channels(values: NDArray[Any]) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _by_turns(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """All indices in an order that takes the classes in turn."""
    order = Draws(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    # The how-manieth of its class each one is.
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return by_class[np.argsort(turn, kind="stable")]


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
