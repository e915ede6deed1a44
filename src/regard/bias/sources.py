"""What an evaluation reads, brought to one form: batches of images with labels and regions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from regard.data import Batches, Channels, Fit, ImageSet, Normalisation, RegionSet, stream
from regard.errors import InputError


class Batch(NamedTuple):
    """Images, as the model wants them but for the dtype, with labels and regions; and where they are in the set.

    Attributes:
        images: floating point (B, 3, H, W).
        labels: whole numbers (B,); -1: none.
        regions: bool (B, H, W).
        places: of the images in the set.
        skipped: the files in between that could not be read, each with the reason.
    """

    images: Tensor
    labels: Tensor
    regions: Tensor
    places: Sequence[int]
    skipped: tuple[str, ...] = ()


class _Read(Protocol):
    def __call__(self, places: range | None, device: torch.device) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Source:
    """A set to be read.

    Attributes:
        read: gives the batches of these places, None: of all.
        name: of the set.
        split: of the set; "" where it has none.
        classes: of the set; None: the model's.
        count: of the images; None: not known.
        batch_size: images at a time; 0: as they come.
        keys: what the images are called; empty: by their numbers.
        labels: (N,), where they are known before.
        as_many: whether the set has to have as many classes as the model outputs.
        settings: what the batches depend on, JSON-ready.
    """

    read: _Read
    name: str
    split: str = ""
    classes: tuple[str, ...] | None = None
    count: int | None = None
    batch_size: int = 0
    keys: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    as_many: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


def of_images(images: ImageSet, batch_size: int | None, mean: Channels | None, std: Channels | None) -> Source:
    """A set that is held whole.

    Raises:
        InputError: it has no regions.
    """
    regions = images.regions
    if regions is None:
        raise InputError(f"the {images.split} set of {images.name!r} has no regions; give one that has")
    size = 250 if batch_size is None else batch_size
    mean, std = images.mean if mean is None else mean, images.std if std is None else std

    def read(places: range | None, device: torch.device) -> Iterator[Batch]:
        chosen = range(len(images)) if places is None else places
        part = images if len(chosen) == len(images) else images.subset(list(chosen))
        for batch in Batches(part, size, device=device, mean=mean, std=std).epoch(0):
            index = [chosen[i] for i in batch.index.tolist()]
            yield Batch(batch.images, batch.labels, regions[torch.as_tensor(index, device=regions.device)], index)

    return Source(
        read,
        images.name,
        images.split,
        images.classes,
        len(images),
        size,
        labels=images.labels.cpu().numpy(),
        settings={"data": _fingerprint(images), "mean": mean, "std": std},
    )


def of_files(
    images: RegionSet,
    batch_size: int | None,
    mean: Channels | None,
    std: Channels | None,
    fit: Fit | None,
    workers: int,
    unreadable: str,
) -> Source:
    """A set that is read from files.

    Raises:
        InputError: it has no regions, or it is not said how its images are normalised.
    """
    if not images.has_regions:
        raise InputError(f"the images of {images.name!r} have no regions; give a set that has")
    if mean is None or std is None:
        raise InputError(f"images of {images.name!r} are bytes; say how the model wants them (mean, std)")
    size = 32 if batch_size is None else batch_size
    fit = fit or Fit()

    def read(places: range | None, device: torch.device) -> Iterator[Batch]:
        normalised = Normalisation(mean, std, device=device)
        chosen = range(len(images)) if places is None else places
        for batch in stream(images, fit, chosen, size, workers=workers, unreadable=unreadable):
            skipped = tuple(f"{images.keys[i]}: {reason}" for i, reason in batch.skipped)
            # A batch whose files were all skipped has no images, and no size.
            found = batch.images.to(device, non_blocking=True)
            yield Batch(
                normalised(found) if len(found) else found.float(),
                batch.labels.to(device, non_blocking=True),
                batch.regions.to(device, non_blocking=True),
                batch.index.tolist(),
                skipped,
            )

    return Source(
        read,
        images.name,
        images.split,
        images.classes,
        len(images),
        size,
        images.keys,
        images.labels,
        as_many=False,
        settings={"data": images.fingerprint, "mean": mean, "std": std, "fit": str(fit), "unreadable": unreadable},
    )


def of_batches(batches: Iterable[Sequence[Tensor]], mean: Channels | None, std: Channels | None) -> Source:
    """Batches (images, labels, regions) as they come.

    Raises:
        InputError: a mean or std is given for them.
    """
    if mean is not None or std is not None:
        raise InputError("mean and std are for an ImageSet or RegionSet; batches come normalised: leave them out")
    name, split = str(getattr(batches, "name", "batches")), str(getattr(batches, "split", ""))
    return Source(partial(_as_they_come, batches), name, split)


def _as_they_come(batches: Iterable[Sequence[Tensor]], places: range | None, device: torch.device) -> Iterator[Batch]:
    start = 0
    for batch in batches:
        if not isinstance(batch, Sequence) or len(batch) != 3 or not all(isinstance(part, Tensor) for part in batch):
            raise InputError("a batch is not three tensors (images, labels, regions); give those, or a set")
        images, labels, regions = batch
        if not 0 < len(images) == len(labels) == len(regions) or labels.ndim != 1 or labels.is_floating_point():
            raise InputError(
                f"a batch has images {tuple(images.shape)}, labels {labels.dtype} {tuple(labels.shape)}, regions "
                f"{tuple(regions.shape)}; expected (B, 3, H, W), whole numbers (B,), (B, H, W), B at least 1"
            )
        yield Batch(images, labels, regions, range(start, start + len(images)))
        start += len(images)


def _fingerprint(images: ImageSet) -> str:
    found = hashlib.sha256()
    for part in (images.images, images.labels, images.regions):
        if part is not None:
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            found.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
