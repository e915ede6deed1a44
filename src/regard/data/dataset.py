"""`ImageDataset`, the interface of every data set, and `InMemoryDataset`."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from regard.data.decode import square
from regard.data.objects import Instances, Objects, create_objects, mask_boxes
from regard.data.random import RandomStream
from regard.data.text_files import Strings
from regard.errors import InputError

Channels = tuple[float, float, float]
"""A number for each of red, green and blue."""

Mask = NDArray[np.bool_]


class ImageDataset(ABC):
    """A map-style data set of images with labels and optional object masks.

    A subclass implements `image` and `mask`, and sets the attributes below. It checks that its files exist when it is
    opened; images and masks are read one at a time, from any process or thread.

    Attributes:
        name: name of the data set: "coco", "voc", "masks", …
        split: "train", "val", "test" or "".
        classes: class names; may be empty.
        keys: unique name of each image: its path relative to the image folder.
        labels: int64 (N,), indices into `classes`; -1 for an image without a label.
        has_masks: whether there are masks.
        has_objects: whether there are single objects, with boxes and classes.
        has_object_masks: whether there is a mask for each object.
        category_ids: id of each class in the annotation file, or 1, 2, … without one.
        mean, std: of each channel, for values in [0, 1]; None if the data set does not define them.
        skipped: images that could not be read when the data set was opened.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    keys: Sequence[str]
    labels: Tensor
    has_masks: bool = True
    has_objects: bool = False
    has_object_masks: bool = False
    mean: Channels | None = None
    std: Channels | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The image, RGB and upright. Raises Unreadable if it cannot be read."""

    def square(self, index: int, size: int) -> Image.Image:
        """The central square of the image, resized to size x size pixels: bilinear, antialiased. Raises Unreadable."""
        return square(self.image(index), size)

    @abstractmethod
    def mask(self, index: int) -> Mask | None:
        """The object mask, bool (H, W), in the size of the upright image: empty if nothing is marked, None if the
        region is unknown. Raises Unreadable if it cannot be read or does not fit the image."""

    def objects(self, index: int, masks: bool = True) -> Objects | None:
        """The objects in the image, with `masks` also their masks if there are any; None without objects. Raises
        Unreadable as `mask` does."""
        return None

    def instances(self, index: int, masks: bool = True) -> Instances | None:
        """The objects in COCO's format, for the evaluation of detectors."""
        objects = self.objects(index, masks)
        return None if objects is None else Instances.of(objects, self.dimensions(index))

    def dimensions(self, index: int) -> tuple[int, int]:
        """(width, height) of the upright image. Raises Unreadable if it cannot be read."""
        return self.image(index).size

    def image_id(self, index: int) -> int | str:
        """The id of the image in the annotation file, or its key without one."""
        return self.keys[index]

    @property
    def category_ids(self) -> tuple[int | str, ...]:
        """The id of each class in the annotation file, or 1, 2, … without one."""
        return tuple(range(1, len(self.classes) + 1))

    def fingerprint(self) -> str:
        """A hexadecimal digest that changes with the images, labels or masks. The default is computed from up to 64
        evenly spaced images and masks."""
        digest = hashlib.sha256(repr((self.classes, tuple(self.keys))).encode() + self.labels.numpy().tobytes())
        for i in range(min(len(self), 64)):
            index = i * len(self) // min(len(self), 64)
            for pixels in (self.image(index), self.mask(index)):
                digest.update(np.asarray(pixels).tobytes() if pixels is not None else b"-")
        return digest.hexdigest()

    def subset(self, which: int | Sequence[int] | NDArray[np.int64] | Tensor) -> ImageDataset:
        """A subset with the same classes.

        Args:
            which: indices of the images, in any order; or a number of images. A number selects one image of each class
                in turn, so classes are balanced to within one image. Images of a class come in a fixed random order,
                the same on every machine. A smaller subset is the beginning of a larger one.

        Raises:
            InputError: a count outside 1 to N, an index outside 0 to N - 1.
        """
        return Subset(self, subset_indices(which, self.labels))


class Subset(ImageDataset):
    """The images of a data set at the given indices, in any order."""

    def __init__(self, dataset: ImageDataset, index: Tensor) -> None:
        self._dataset, self._index = dataset, index
        self.name, self.split, self.classes = dataset.name, dataset.split, dataset.classes
        self.has_masks, self.mean, self.std = dataset.has_masks, dataset.mean, dataset.std
        self.has_objects, self.has_object_masks = dataset.has_objects, dataset.has_object_masks
        self.keys = Strings(dataset.keys[i] for i in index.tolist())
        self.labels = dataset.labels[index]

    def image(self, index: int) -> Image.Image:
        return self._dataset.image(int(self._index[index]))

    def square(self, index: int, size: int) -> Image.Image:
        return self._dataset.square(int(self._index[index]), size)

    def mask(self, index: int) -> Mask | None:
        return self._dataset.mask(int(self._index[index]))

    def objects(self, index: int, masks: bool = True) -> Objects | None:
        return self._dataset.objects(int(self._index[index]), masks)

    def instances(self, index: int, masks: bool = True) -> Instances | None:
        return self._dataset.instances(int(self._index[index]), masks)

    def dimensions(self, index: int) -> tuple[int, int]:
        return self._dataset.dimensions(int(self._index[index]))

    def image_id(self, index: int) -> int | str:
        return self._dataset.image_id(int(self._index[index]))

    @property
    def category_ids(self) -> tuple[int | str, ...]:
        return self._dataset.category_ids

    def fingerprint(self) -> str:
        return hashlib.sha256(self._dataset.fingerprint().encode() + self._index.numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class InMemoryDataset(ImageDataset):
    """Images of one size, as bytes on one device; each has a label.

    It adds these attributes to those of `ImageDataset`.

    Attributes:
        images: uint8 (N, 3, H, W), RGB.
        mean, std: of the training split, in both splits.
        regions: bool (N, H, W), the object mask of each image; None without masks.

    Raises:
        InputError: a tensor has another shape or dtype, or a label is out of range.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    split: str
    mean: Channels = field()
    std: Channels = field()
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
        for attribute in ("has_masks", "has_objects", "has_object_masks"):
            object.__setattr__(self, attribute, regions is not None)
        object.__setattr__(self, "keys", tuple(map(str, range(len(images)))))

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index].permute(1, 2, 0).cpu().numpy())

    def mask(self, index: int) -> Mask | None:
        return None if self.regions is None else self.regions[index].cpu().numpy()

    def objects(self, index: int, masks: bool = True) -> Objects | None:
        """The single object of the image, or none if its mask is empty; None without masks."""
        if self.regions is None:
            return None
        mask = self.regions[index].cpu().numpy()[None]
        regions = mask[mask.any((1, 2))]
        labels = self.labels[index].repeat(len(regions)).cpu().numpy()
        objects = create_objects(mask_boxes(regions), labels, regions, size=mask.shape[:0:-1])
        return objects if masks else objects._replace(masks=None)

    def fingerprint(self) -> str:
        """A digest of all images, labels and regions, the same in every process and on every device."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels, self.regions):
            if tensor is not None:
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Self:
        """The data set with its tensors on the device; tensors that are already on it are shared."""
        return self._map_tensors(lambda tensor: tensor.to(device))

    def subset(self, which: int | Sequence[int] | NDArray[np.int64] | Tensor) -> Self:
        """A subset as in `ImageDataset.subset`, with the same mean and std."""
        index = subset_indices(which, self.labels)
        return self._map_tensors(lambda tensor: tensor[index.to(tensor.device)])

    def _map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A copy with the function applied to every tensor field; their first dimension is the image."""
        values = {attribute.name: getattr(self, attribute.name) for attribute in fields(self)}
        changed: dict[str, Any] = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)


Images = TypeVar("Images")


class Splits(NamedTuple, Generic[Images]):
    """The training and the test split of a data set."""

    train: Images
    test: Images


def subset_indices(which: int | Sequence[int] | NDArray[np.int64] | Tensor, labels: Tensor) -> Tensor:
    """The indices, int64, that `ImageDataset.subset` selects from a data set with labels (N,)."""
    count = len(labels)
    if isinstance(which, int):
        if not 1 <= which <= count:
            raise InputError(f"subset of {which} of {count} images; give a number from 1 to {count}")
        return torch.from_numpy(_balanced_order(labels.cpu().numpy() + 1)[:which])
    index = torch.as_tensor(which)
    if index.ndim != 1 or (index.numel() and (index.is_floating_point() or index.dtype == torch.bool)):
        raise InputError(f"indices are {_describe(index)}; expected a list of integers")
    index = index.long()
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < count:
        raise InputError(f"indices run from {int(index.min())} to {int(index.max())}; expected 0 to {count - 1}")
    return index


def check_mask(mask: object, key: str) -> None:
    """Raises InputError unless the mask of the image `key` is an array, bool (H, W)."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
        kind = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else f"of type {type(mask).__name__}"
        raise InputError(f"the mask of {key!r} is {kind}; expected a NumPy array, bool (H, W), such as `mask > 0`")


def channel_statistics(images: Tensor) -> tuple[Channels, Channels]:
    """The mean and standard deviation of each channel of images uint8 (N, 3, H, W), with bytes scaled to [0, 1].

    They are exact to float64. A constant channel gets the std 1 instead of 0, so that images can be divided by it.
    """
    # Histograms are exact integers, independent of the order. Chunks bound the memory.
    counts = np.zeros((3, 256), dtype=np.int64)
    for chunk in images.cpu().split(max(1, 2**24 // images[0].numel())):
        for channel in range(3):
            counts[channel] += np.bincount(chunk[:, channel].numpy().reshape(-1), minlength=256)
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = (counts * values).sum(axis=1) / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def _balanced_order(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The indices of labels (N,), which are at least 0, in an order that takes one image of each class in turn."""
    order = RandomStream(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return by_class[np.argsort(rank_in_class, kind="stable")]


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
