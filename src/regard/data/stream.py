"""Batches of a set of image files, read by other processes while the last ones are worked on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.dataset import ImageDataset, Mask
from regard.data.decode import OnUnreadable, Unreadable, quiet
from regard.data.fit import Fit
from regard.data.workers import Workers
from regard.errors import InputError


class RegionBatch(NamedTuple):
    """A batch, in the memory of the processor.

    Attributes:
        images: uint8 (B, 3, h, w), RGB, as the network sees them before they are normalised.
        labels: int64 (B,), -1 where an image has none.
        regions: bool (B, h, w); nowhere true if the set has none.
        index: int64 (B,), the place of each image in the set.
        skipped: images that could not be read and were left out, before this batch, in it or right after it: the place
            of each in the set, and why.
    """

    images: Tensor
    labels: Tensor
    regions: Tensor
    index: Tensor  # type: ignore[assignment]  # in place of tuple.index, which is no use here
    skipped: tuple[tuple[int, str], ...] = ()


class NothingReadable(InputError):
    """Not one of the images asked for could be read, though such images were to be skipped.

    Attributes:
        skipped: the place of each in the set, and why.
    """

    def __init__(self, skipped: tuple[tuple[int, str], ...]) -> None:
        super().__init__(
            f"not one of the {len(skipped)} images can be read (the first: {skipped[0][1]}); give readable ones"
        )
        self.skipped = skipped


def looked(images: ImageDataset, fit: Fit | None, index: int) -> tuple[NDArray[np.uint8], Mask]:
    """One image as the network sees it, and its region.

    Args:
        images: the set.
        fit: how its images are resized and cropped; None leaves them as they are.
        index: the place of the image in the set.

    Returns:
        uint8 (h, w, 3), RGB, and bool (h, w): nowhere true if the set has no regions.

    Raises:
        Unreadable: the image or its region cannot be read, or they do not fit one another.
    """
    fit = fit or Fit()
    try:
        with quiet():
            image = images.image(index)
            shown = fit.image(image)
            region = images.mask(index)
        if region is None:
            return shown, np.zeros(shown.shape[:2], dtype=np.bool_)
        if region.shape != image.size[::-1]:
            raise Unreadable(
                f"{images.keys[index]!r} has {image.width} x {image.height} pixels, its region "
                f"{region.shape[1]} x {region.shape[0]}"
            )
        return shown, fit.region(region)
    except InputError as error:
        raise Unreadable(f"{images.keys[index]!r} cannot be fitted: {error}") from error


def stream(
    images: ImageDataset,
    fit: Fit,
    indices: Sequence[int] | range,
    batch_size: int,
    *,
    workers: int = 0,
    unreadable: OnUnreadable = "error",
) -> Iterator[RegionBatch]:
    """The images at some places of a set, in that order, in batches.

    No more than a few batches are in memory at a time, whatever the set. The batches do not depend on `workers`.

    Args:
        images: the set.
        fit: how its images are resized and cropped.
        indices: the places of the images in the set.
        batch_size: images in a batch, 1 or more; fewer in the last one, and where images are skipped.
        workers: processes that read images; 0 reads them here, when they are asked for.
        unreadable: on an image that cannot be read, "error", or "skip" it and list it in the batch.

    Raises:
        InputError: an argument outside its range (at once); an image that cannot be read, images of different sizes and
            a fit without a size, not one image that can be read, a worker that died (when it is come to).
    """
    if isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch size is {batch_size}; give 1 or more")
    if isinstance(workers, bool) or workers < 0:
        raise InputError(f"workers is {workers}; give 0 or more")
    if unreadable not in get_args(OnUnreadable):
        raise InputError(f"unreadable is {unreadable!r}; give 'error' or 'skip'")
    places = np.asarray(indices, dtype=np.int64)
    if len(places) and not 0 <= places.min() <= places.max() < len(images):
        raise InputError(f"places run from {places.min()} to {places.max()}; expected 0 to {len(images) - 1}")
    return _batches(_Reader(images, fit, places, batch_size, unreadable == "skip"), workers)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads the batch of a number; this is what goes to other processes."""

    images: ImageDataset
    fit: Fit
    places: NDArray[np.int64]
    batch_size: int
    skip: bool

    def __len__(self) -> int:
        return -(-len(self.places) // self.batch_size)

    def __getitem__(self, number: int) -> RegionBatch | str:
        """A batch, or what is wrong in one line: as an exception it would come back with a traceback in its message."""
        shown: list[NDArray[np.uint8]] = []
        regions: list[Mask] = []
        index: list[int] = []
        skipped: list[tuple[int, str]] = []
        for place in self.places[number * self.batch_size : (number + 1) * self.batch_size].tolist():
            try:
                picture, region = looked(self.images, self.fit, place)
            except Unreadable as error:
                if not self.skip:
                    return f"{error}; remove or replace it, or have such images skipped (--unreadable skip)"
                skipped.append((place, str(error)))
                continue
            if shown and picture.shape != shown[0].shape:
                first, other = (f"{p.shape[1]} x {p.shape[0]}" for p in (shown[0], picture))
                names = repr(self.images.keys[index[0]]), repr(self.images.keys[place])
                return (
                    f"images of different sizes: {names[1]} has {other} pixels, {names[0]} {first}; give one size for "
                    "all (--data.size)"
                )
            shown.append(picture)
            regions.append(region)
            index.append(place)
        if not shown:
            shown, regions = [np.zeros((0, 0, 3), np.uint8)], [np.zeros((0, 0), np.bool_)]
        pixels = torch.from_numpy(np.stack(shown).transpose(0, 3, 1, 2).copy())
        where = torch.tensor(index, dtype=torch.int64)
        labels = self.images.labels[index]
        return RegionBatch(pixels, labels, torch.from_numpy(np.stack(regions)), where, tuple(skipped))


def _batches(reader: _Reader, workers: int) -> Iterator[RegionBatch]:
    # One batch is held back: what was skipped after the last image has to come with some batch.
    held: RegionBatch | None = None
    skipped: tuple[tuple[int, str], ...] = ()
    for batch in Workers(reader, min(workers, len(reader))).read(range(len(reader))):
        if isinstance(batch, str):
            raise InputError(batch)
        if not len(batch.index):
            skipped += batch.skipped
            continue
        if held is not None:
            yield held
        held = batch._replace(skipped=skipped + batch.skipped)
        skipped = ()
    if held is not None:
        yield held._replace(skipped=held.skipped + skipped)
    elif skipped:
        raise NothingReadable(skipped)
