"""A labelled set of images that are read while training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from regard.data.dataset import Channels, ImageDataset, chosen
from regard.data.decode import OnUnreadable, Unreadable, read_image
from regard.data.transforms import Transform
from regard.errors import InputError

SIZE = 224


class Reader(Protocol):
    """timm's readers of what has places: `reader[place]` is an open file and its label."""

    def __getitem__(self, place: int) -> tuple[IO[bytes], int]: ...
    def __len__(self) -> int: ...
    def filename(self, place: int, basename: bool = False, absolute: bool = False) -> str | None: ...


@dataclass(frozen=True, eq=False)
class Places:
    """Images that can be read in any order.

    Attributes:
        reader: reads them.
        labels: int64 (N,), of the images in this set.
        which: int64 (N,), their places in the reader; None: all of them, in order.
    """

    reader: Reader
    labels: NDArray[np.int64]
    which: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> IO[bytes]:
        """The image at a place in this set.

        Raises:
            OSError: its file cannot be opened.
            Unreadable: there is no image.
        """
        try:
            return self.reader[self._place(index)][0]
        except (AssertionError, KeyError, TypeError) as error:  # as timm fails to take what is empty
            raise Unreadable(f"{self.name(index, whole=True)!r} has no image") from error

    def name(self, index: int, *, whole: bool = False) -> str:
        """What the image at a place in this set is called: its path from the folder of the set, or the whole one."""
        place = self._place(index)
        try:
            return self.reader.filename(place, absolute=whole) or f"image {place}"
        except TypeError:  # of what is empty
            return f"image {place}"

    def subset(self, which: Tensor) -> Places:
        """The images at these places."""
        index = which.numpy()
        return Places(self.reader, self.labels[index], index if self.which is None else self.which[index])

    def _place(self, index: int) -> int:
        return int(index if self.which is None else self.which[index])


@dataclass(frozen=True, eq=False)
class FileSet:
    """A labelled set of images, of any number, that are read and decoded when they are needed.

    Attributes:
        source: what reads them.
        name: where it comes from: "files" or "hfds".
        split: "train" or "test".
        classes: the names of the classes.
        mean: of each channel, 0 to 1, that the network's images are normalised by.
        std: likewise.
        size: side in pixels of what the network sees.
        crop_pct: in testing, the share of the resized image's shorter side that the crop of the centre keeps.
        interpolation: how images are resized in testing: "bilinear", "bicubic", …
        unreadable: on an image that cannot be read, "error", or "skip" it and name it.
        workers: processes that read images.
        skipped: nothing; what is skipped is known when it is come to, see `Batch`.

    Raises:
        InputError: a value other than these.
    """

    source: Places
    name: str
    split: str
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    size: int = SIZE
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    unreadable: OnUnreadable = "error"
    workers: int = 4
    skipped: tuple[str, ...] = ()
    has_masks = False

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise InputError(f"size is {self.size!r}; give the side of the images in pixels, 1 or more")
        if self.unreadable not in get_args(OnUnreadable):
            raise InputError(f"unreadable is {self.unreadable!r}; give 'error' or 'skip'")
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 0:
            raise InputError(f"workers is {self.workers!r}; give 0 or more")
        _ = self.transform

    def __len__(self) -> int:
        return len(self.source)

    @property
    def transform(self) -> Transform:
        """How its images are resized and cropped in testing."""
        return Transform((self.size, self.size), self.crop_pct, "center", self.interpolation)

    def subset(self, which: int | Sequence[int] | Tensor) -> FileSet:
        """A part of the set; see `InMemoryDataset.subset`.

        Raises:
            InputError: a count outside 1 to N, an index outside 0 to N - 1.
        """
        return replace(self, source=self.source.subset(chosen(which, torch.from_numpy(self.source.labels))))


class PlacesDataset(ImageDataset):
    """The images of a set that are read from places, as a data set."""

    has_masks = False

    def __init__(self, files: FileSet) -> None:
        self._places = files.source
        self.name, self.split, self.classes = files.name, files.split, files.classes
        self.mean, self.std = files.mean, files.std
        self.labels = torch.from_numpy(files.source.labels)
        self.keys = _Names(files.source)

    def image(self, index: int) -> Image.Image:
        name = self._places.name(index, whole=True)
        try:
            with self._places.open(index) as file:
                return read_image(Path(name), file)[0]
        except OSError as error:
            raise Unreadable(f"{name!r} cannot be opened ({error.strerror or error})") from error

    def mask(self, index: int) -> None:
        return None

    def fingerprint(self) -> str:
        raise NotImplementedError


class _Names(Sequence[str]):
    def __init__(self, places: Places) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        return self._places.name(index)


def common(name: str, size: int | None, **rest: Any) -> dict[str, Any]:
    """What the two sets of a data set have in common, checked before anything is read."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    found = {
        "name": name,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "size": SIZE if size is None else size,
        **rest,
    }
    FileSet(Places(_Nothing(), np.empty(0, np.int64)), split="", classes=(), **found)
    return found


class _Nothing:
    def __getitem__(self, place: int) -> tuple[IO[bytes], int]:
        return io.BytesIO(), 0

    def __len__(self) -> int:
        return 0

    def filename(self, place: int, basename: bool = False, absolute: bool = False) -> str | None:
        return None
