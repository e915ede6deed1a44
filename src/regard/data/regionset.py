"""Images with regions, read from files one at a time."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regard.errors import InputError

Mask = NDArray[np.bool_]


class RegionSet(ABC):
    """A set of image files, each with the region of what it shows, too large to be held whole.

    Opening one checks that the files it needs are there; images and regions are read one by one, from any process or
    thread.

    Attributes:
        name: where it comes from: "coco", "voc", "masks", …
        split: "train", "val", "test" or "".
        classes: the names of its classes; may be empty.
        keys: what each image is called, unique in the set: its path below the folder of images.
        labels: int64 (N,), each an index into `classes`, or -1 where an image has none.
        has_regions: whether regions are known.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    has_regions: bool = True

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What changes if the images, labels or regions do, in hexadecimal; worked out when it is asked for."""

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The image, RGB and upright.

        Raises:
            Unreadable: it cannot be read.
        """

    @abstractmethod
    def region(self, index: int) -> Mask:
        """The region, bool (H, W), of the size of the upright image; empty where nothing is marked.

        Raises:
            Unreadable: it cannot be read, or does not fit the image.
        """

    def part(self, indices: Sequence[int] | NDArray[np.int64]) -> RegionSet:
        """The images at these places, in the order given; classes stay those of the whole.

        Raises:
            InputError: a place outside 0 to N - 1.
        """
        places = np.asarray(indices, dtype=np.int64)
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            raise InputError(f"places run from {places.min()} to {places.max()}; expected 0 to {len(self) - 1}")
        return _Part(self, places)


class _Part(RegionSet):
    """Some of the images of a set."""

    def __init__(self, whole: RegionSet, places: NDArray[np.int64]) -> None:
        self._whole = whole
        self._places = places
        self.name, self.split, self.classes, self.has_regions = (
            whole.name,
            whole.split,
            whole.classes,
            whole.has_regions,
        )
        self.keys = tuple(whole.keys[place] for place in places)
        self.labels = whole.labels[places]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._whole.fingerprint.encode() + self._places.tobytes()).hexdigest()

    def image(self, index: int) -> Image.Image:
        return self._whole.image(int(self._places[index]))

    def region(self, index: int) -> Mask:
        return self._whole.region(int(self._places[index]))
