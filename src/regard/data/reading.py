"""Sets of all kinds brought to one form: batches as a network wants them, with labels and regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from regard.data.batches import Batches
from regard.data.dataset import Channels, ImageDataset, InMemoryDataset
from regard.data.decode import OnUnreadable
from regard.data.file_batches import FileBatches
from regard.data.fileset import FileSet, Places
from regard.data.fit import Fit
from regard.data.normalisation import Normalisation
from regard.data.stream import NothingReadable, stream
from regard.errors import InputError


class Labelled(NamedTuple):
    """Images with what is known of them.

    Attributes:
        images: floating point (B, 3, h, w), normalised.
        labels: whole numbers (B,), classes of the set; -1: none.
        regions: bool (B, h, w); None where the set has none.
        places: of the images in the set, (B,).
        skipped: the files in between that could not be read, each with the reason; if no file could be, B is 0.
    """

    images: Tensor
    labels: Tensor
    regions: Tensor | None
    places: Sequence[int]
    skipped: tuple[str, ...] = ()


class _Read(Protocol):
    def __call__(self, places: Sequence[int] | None, device: torch.device) -> Iterator[Labelled]: ...


@dataclass(frozen=True)
class Reading:
    """A set to be read in batches, the same whoever reads it.

    Attributes:
        read: gives the images at these places, None: all, on a device.
        name: of the set.
        split: of the set; "" where it has none.
        classes: of the set; None: the outputs of whatever network.
        count: of the images; None: not known.
        batch_size: images at a time; 0: as they come.
        keys: what the images are called; empty: by their numbers.
        labels: (N,), where they are known before.
        has_masks: whether the set has regions.
        settings: what the batches depend on, JSON-ready.
    """

    read: _Read
    name: str
    split: str = ""
    classes: tuple[str, ...] | None = None
    count: int | None = None
    batch_size: int = 0
    keys: Sequence[str] = ()
    labels: np.ndarray | None = None
    has_masks: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


def reading(
    images: ImageDataset | FileSet,
    batch_size: int | None = None,
    *,
    mean: Channels | None = None,
    std: Channels | None = None,
    fit: Fit | None = None,
    workers: int = 0,
    unreadable: OnUnreadable = "error",
) -> Reading:
    """How a set is read.

    Args:
        images: the set.
        batch_size: images at a time; None: 250 of an `InMemoryDataset`, else 32.
        mean: of each channel, 0 to 1; None: that of the set, if it has one.
        std: likewise.
        fit: how images of a `ImageDataset`, and their regions with them, are resized and cropped; None: not at all. A
            `FileSet` says it itself.
        workers: processes that read image files; 0: none besides this one.
        unreadable: on a file that cannot be read, "error" or "skip".

    Raises:
        InputError: a `ImageDataset` without mean or std.
    """
    if isinstance(images, InMemoryDataset):
        mean, std = images.mean if mean is None else mean, images.std if std is None else std
        return _of_images(images, 250 if batch_size is None else batch_size, mean, std)
    if isinstance(images, FileSet):
        mean, std = mean or images.mean, std or images.std
        images = replace(images, mean=mean, std=std, workers=workers, unreadable=unreadable)
        return _of_file_set(images, 32 if batch_size is None else batch_size)
    if mean is None or std is None:
        raise InputError(f"images of {images.name!r} are bytes; say how the network wants them (mean, std)")
    return _of_files(images, 32 if batch_size is None else batch_size, mean, std, fit or Fit(), workers, unreadable)


def _of_images(images: InMemoryDataset, size: int, mean: Channels, std: Channels) -> Reading:
    def read(places: Sequence[int] | None, device: torch.device) -> Iterator[Labelled]:
        part = images if places is None else images.subset(list(places))
        chosen = range(len(images)) if places is None else places
        batches = Batches(part, size, device=device, mean=mean, std=std)
        regions = batches.images.regions
        start = 0
        for batch in batches.epoch(0):
            here = slice(start, start + len(batch.images))
            start = here.stop
            yield Labelled(batch.images, batch.labels, None if regions is None else regions[here], chosen[here])

    return Reading(
        read,
        images.name,
        images.split,
        images.classes,
        len(images),
        size,
        labels=images.labels.cpu().numpy(),
        has_masks=images.regions is not None,
        settings={"data": images.fingerprint(), "mean": mean, "std": std},
    )


def _of_files(
    images: ImageDataset, size: int, mean: Channels, std: Channels, fit: Fit, workers: int, unreadable: OnUnreadable
) -> Reading:
    def read(places: Sequence[int] | None, device: torch.device) -> Iterator[Labelled]:
        normalised = Normalisation(mean, std, device=device)
        chosen = range(len(images)) if places is None else places

        def said(skipped: tuple[tuple[int, str], ...]) -> tuple[str, ...]:
            return tuple(f"{images.keys[place]}: {reason}" for place, reason in skipped)

        try:
            for batch in stream(images, fit, chosen, size, workers=workers, unreadable=unreadable):
                yield Labelled(
                    normalised(batch.images.to(device, non_blocking=True)),
                    batch.labels.to(device, non_blocking=True),
                    batch.regions.to(device, non_blocking=True) if images.has_masks else None,
                    batch.index.tolist(),
                    said(batch.skipped),
                )
        except NothingReadable as error:  # of these; of others there may be some
            nothing = torch.empty(0, 3, 0, 0, device=device)
            yield Labelled(nothing, torch.empty(0, dtype=torch.int64), None, (), said(error.skipped))

    return Reading(
        read,
        images.name,
        images.split,
        images.classes,
        len(images),
        size,
        images.keys,
        images.labels.numpy(),
        images.has_masks,
        settings={"data": images.fingerprint(), "mean": mean, "std": std, "fit": str(fit), "unreadable": unreadable},
    )


def _of_file_set(images: FileSet, size: int) -> Reading:
    def read(places: Sequence[int] | None, device: torch.device) -> Iterator[Labelled]:
        part = images if places is None else images.subset(list(places))
        batches = FileBatches(part, size, device=device)
        said = 0
        for batch in batches.epoch(0):
            skipped = batches.skipped[said:]
            said += len(skipped)
            where = batch.index.tolist() if places is None else [places[i] for i in batch.index.tolist()]
            yield Labelled(batch.images, batch.labels, None, where, skipped)
        if said < len(batches.skipped):
            nothing = torch.empty(0, 3, 0, 0, device=device)
            yield Labelled(nothing, torch.empty(0, dtype=torch.int64), None, (), batches.skipped[said:])

    return Reading(
        read,
        images.name,
        images.split,
        images.classes,
        len(images),
        size,
        labels=images.source.labels if isinstance(images.source, Places) else None,
        has_masks=False,
        settings={"fit": str(images.fit), "mean": images.mean, "std": images.std},
    )
