"""Batches of a set that is read while training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.augmentation import Augmentation
from regard.data.batches import Batch, check_batches, check_epoch, shuffled, steps_of
from regard.data.decode import Unreadable, quiet, read_image
from regard.data.draws import check_seed
from regard.data.fileset import FileSet, Places
from regard.data.normalisation import Normalisation
from regard.data.part import Part
from regard.data.share import Share
from regard.data.transform import Transform
from regard.data.wds import WebDataset
from regard.data.wds_loader import ShardReader
from regard.data.workers import Workers
from regard.errors import InputError


class FileBatches:
    """The batches of a set that is read while training, epoch after epoch.

    Images are read and made what the network sees by other processes, while this one works on those before, and are
    brought to the device while it computes. What is random about an image depends on the seed, the epoch and its
    position in the epoch's order: neither on the number of processes that read or train, nor on where in an epoch one
    begins.

    Args:
        images: the set.
        batch_size: images in a batch, 1 or more; the last of an epoch has what is left, but not of shards in training.
        augmentation: random changes to the images; None for the shorter side resized, and the centre.
        shuffle: a new random order in every epoch, in place of the order of the set; with shards also every epoch of
            the same length, in which the last images of some shards may be left out, and others come twice.
        seed: 0 to 2^64 - 1.
        device: where the batches are; None for the processor.
        drop_last: leave out the last batch of an epoch if it is not full.
        channels_last: give images in torch.channels_last memory format.
        share: which part of every batch to give; the parts of all processes together are the batch. Without `shuffle`,
            parts of shards may have any number of batches.

    Attributes:
        images: the set.
        device: where the batches are.
        batch_size: as given, over all processes.
        image_size: (h, w) of the images in a batch.

    Raises:
        InputError: an argument outside its range, an empty set, an augmentation that is for sets held whole, repeats
            of images in order, batches smaller than the number of processes. When it is come to: a file that cannot be
            read, unless such are skipped; a process that reads ended.
    """

    def __init__(
        self,
        images: FileSet,
        batch_size: int,
        *,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        drop_last: bool = False,
        channels_last: bool = False,
        share: Share | None = None,
    ) -> None:
        share = share or Share()
        in_shards = isinstance(images.source, WebDataset)
        drop_last = drop_last or (in_shards and shuffle)
        check_batches(images.name, images.split, len(images), batch_size, drop_last)
        if shuffle:
            share.check(batch_size, len(images), drop_last=drop_last)
        if augmentation is not None:
            augmentation.check_files()
            augmentation.check_order(shuffle=shuffle)
        self.images, self.batch_size = images, batch_size
        self.device = torch.device("cpu" if device is None else device)
        self.image_size = (images.size, images.size)
        self._shuffle, self._seed = shuffle, check_seed(seed)
        self._drop_last, self._share = drop_last, share
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._skipped: dict[str, None] = {}
        self._transform = Transform(
            images.size, images.mean, images.std, images.crop_pct, images.interpolation, augmentation, self._seed
        )
        self._skip = images.unreadable == "skip"
        self._repeats = 1 if augmentation is None else augmentation.repeats
        self._workers: Workers | None = None
        if isinstance(images.source, Places):
            reader = _Reader(images.source, self._transform, self._skip, substitute=shuffle)
            self._workers = Workers(reader, images.workers, pinned=self._on_gpu, lasting=True)

    @property
    def skipped(self) -> tuple[str, ...]:
        """The files that could not be read so far, and why; each once."""
        return tuple(self._skipped)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return steps_of(len(self.images), self.batch_size, self._drop_last)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            number: which epoch, 0 or more.
            start: the first step to give, 0 to `len(self)`: the steps from there on are those of the whole epoch. Of
                shards, all before are read, too.

        Raises:
            InputError: a number or start outside its range.
        """
        check_epoch(number, start, len(self))
        source = self.images.source
        if isinstance(source, WebDataset):
            return self._on_device(self._checked(self._of_shards(source, number, start)))
        return self._on_device(self._checked(self._of_places(number, start)))

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _of_places(self, number: int, start: int) -> Iterator[Part | str]:
        count = len(self.images)
        order = np.arange(count, dtype=np.int64)
        if self._shuffle:
            order = shuffled(self._seed, number, count, self._repeats)
        requests = []
        for step in range(start, len(self)):
            first = step * self.batch_size
            total = min(self.batch_size, count - first)
            positions = first + self._share.rows(total)
            if len(positions):  # in order, an odd image or two at the end are for others
                requests.append(_Request(number, positions, order[positions], total))
        assert self._workers is not None
        return self._workers.read(requests)

    def _of_shards(self, dataset: WebDataset, number: int, start: int) -> Iterator[Part | str]:
        reader = ShardReader(
            dataset,
            self._transform,
            seed=self._seed,
            epoch=number,
            steps=range(start, len(self)),
            batch_size=self.batch_size,
            share=self._share,
            training=self._shuffle,
            skip=self._skip,
            repeats=self._repeats,
            workers=self.images.workers,
        )
        parts = Workers(reader, reader.workers, pinned=self._on_gpu).read()
        return parts if self._shuffle else islice(parts, start, None)

    def _checked(self, parts: Iterator[Part | str]) -> Iterator[Part]:
        for part in parts:
            if isinstance(part, str):
                raise InputError(part)
            self._skipped.update(dict.fromkeys(part.skipped))
            if len(part.labels):
                yield part

    def _on_device(self, parts: Iterator[Part]) -> Iterator[Batch]:
        if not self._on_gpu:
            normalised = Normalisation(
                self.images.mean, self.images.std, device=self.device, memory_format=self._format
            )
            for part in parts:
                labels, index = part.labels.to(self.device), part.index.to(self.device)
                yield Batch(normalised(part.images.to(self.device)), labels, index, part.total)
            return
        # timm's copies and normalises on a stream of its own, one batch ahead.
        from timm.data.loader import PrefetchLoader

        totals: deque[int] = deque()

        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            for part in parts:
                totals.append(part.total)
                yield part.images, torch.stack((part.labels, part.index))

        ahead = PrefetchLoader(pairs(), self.images.mean, self.images.std, device=self.device)  # type: ignore[arg-type]
        for images, (labels, index) in ahead:
            yield Batch(images.contiguous(memory_format=self._format), labels, index, totals.popleft())


class _Request(NamedTuple):
    """A part of a batch: epoch, positions in its order and places in the set (B,), and images of the whole batch."""

    epoch: int
    positions: NDArray[np.int64]
    places: NDArray[np.int64]
    total: int


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads parts of batches from places; this is what goes to other processes."""

    images: Places
    transform: Transform
    skip: bool
    substitute: bool
    """In place of an image that cannot be read, the next of the set that can: so batches stay of one size."""

    def __getitem__(self, request: _Request) -> Part | str:
        """A part, or what is wrong in one line: as an exception it would come back with a traceback in its message."""
        shown: list[Tensor] = []
        index: list[int] = []
        skipped: list[str] = []
        for position, place in zip(request.positions.tolist(), request.places.tolist(), strict=True):
            for tried in range(len(self.images) if self.substitute else 1):
                at = (place + tried) % len(self.images)
                try:
                    shown.append(self._read(at, request.epoch, position))
                except Unreadable as error:
                    if not self.skip:
                        return f"{error}; restore it, or have such images skipped (--data.unreadable skip)"
                    skipped.append(str(error))
                    continue
                index.append(at)
                break
            else:
                if self.substitute:
                    return f"not one of the {len(self.images)} images can be read (the last: {skipped[-1]})"
        images = torch.stack(shown) if shown else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
        labels = torch.from_numpy(self.images.labels[index].astype(np.int64))
        return Part(images, labels, torch.tensor(index, dtype=torch.int64), request.total, tuple(skipped))

    def _read(self, place: int, epoch: int, position: int) -> Tensor:
        name = self.images.name(place, whole=True)
        try:
            with self.images.open(place) as file, quiet():
                image = read_image(Path(name), file)[0]
        except OSError as error:
            raise Unreadable(f"{name!r} cannot be opened ({error.strerror or error})") from error
        return self.transform(image, epoch, position)
