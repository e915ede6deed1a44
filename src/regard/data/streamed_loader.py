"""The loader of streamed images, which DataLoader workers read and transform batch by batch."""

from __future__ import annotations

import contextlib
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.data.batch import Batch, Loader, Sampling, stack_images
from regard.data.dataset import ImageDataset, check_mask
from regard.data.decode import SKIP_IN_A_RUN, Unreadable, quiet
from regard.data.detection_transform import DetectionTransform
from regard.data.normalisation import Prefetcher
from regard.data.random import Integers
from regard.data.transforms import SeededTransform
from regard.data.wds import WebDataset
from regard.data.workers import Failure, Workers
from regard.errors import InputError


class StreamedLoader(Loader):
    """Batches of images that DataLoader workers read on demand; see `create_loader`."""

    dataset: ImageDataset

    def __init__(
        self,
        reader: Reader,
        sampling: Sampling,
        prefetch: Prefetcher,
        workers: int,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(reader.dataset, sampling, prefetch.device, image_size)
        self._reader, self._prefetch = reader, prefetch
        # Workers persist in training only: between tests, they would only use memory.
        self._workers = Workers(
            reader, min(workers, len(self)), pin_memory=prefetch.device.type == "cuda", persistent=sampling.shuffle
        )

    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        return self._prefetch(self._workers.read(self._requests(number, start)))

    def _sample(self, epoch: int, step: int, row: int) -> Batch:
        # Without workers, which may be reading an epoch, and without the rest of the batch, which may be unreadable.
        batch_request = next(self._requests(epoch, step))
        single = slice(row, row + 1)
        request = Request(epoch, batch_request.positions[single], batch_request.indices[single], 1)
        return next(self._prefetch(Workers(self._reader, 0).read([request])))

    def _requests(self, number: int, start: int) -> Iterator[Request]:
        order = self._sampling.order(number, len(self.dataset))
        for step in range(start, len(self)):
            first = step * self.batch_size
            total = min(self.batch_size, len(order) - first)
            positions = first + self._sampling.rows(total)
            if len(positions):  # without shuffle, a slice of the last batch may be empty
                yield Request(number, positions, order[positions], total)


class Request(NamedTuple):
    """One rank's slice of a batch: int64 (B,) positions in the epoch's order and indices in the data set, and the size
    of the whole batch."""

    epoch: int
    positions: Integers
    indices: Integers
    total: int


@dataclass(eq=False)
class Reader(ABC):
    """Reads one rank's slices of batches, in the DataLoader workers.

    With `skip`, unreadable images are skipped; with `substitute`, they are replaced by the next readable image.
    """

    dataset: ImageDataset
    skip: bool
    substitute: bool

    @abstractmethod
    def _sample(self, index: int, epoch: int, position: int) -> Any:
        """The transformed image at a position of an epoch. Raises Unreadable, or InputError if it does not fit."""

    @abstractmethod
    def _batch(self, samples: list[Any], index: list[int], total: int) -> Batch:
        """The batch of the samples, with images on the CPU, uint8."""

    def __getitem__(self, request: Request) -> Batch | Failure:
        try:
            return self._read(request)
        except InputError as error:
            return Failure(str(error), traceback.format_exc())

    def _read(self, request: Request) -> Batch:
        samples: list[Any] = []
        index: list[int] = []
        skipped: list[str] = []
        count, keys = len(self.dataset), self.dataset.keys
        for position, first in zip(request.positions.tolist(), request.indices.tolist(), strict=True):
            for i in ((first + offset) % count for offset in range(count if self.substitute else 1)):
                try:
                    with quiet():
                        samples.append(self._sample(i, request.epoch, position))
                except (Unreadable, InputError) as error:
                    reason = error if isinstance(error, Unreadable) else f"{keys[i]!r} cannot be fitted: {error}"
                    if not self.skip:
                        raise InputError(
                            f"{reason}; remove or replace it, or have such images skipped (--unreadable skip; in a run "
                            f"{SKIP_IN_A_RUN})"
                        ) from error
                    skipped.append(f"{keys[i]}: {reason}")
                else:
                    index.append(i)
                    break
            else:
                if self.substitute:
                    raise InputError(
                        f"not one of the {count} images can be read (the last: {skipped[-1]}); give readable ones"
                    )
        return self._batch(samples, index, request.total)._replace(skipped=tuple(skipped))


@dataclass(eq=False)
class PixelsReader(Reader):
    """Reads images of one size, uint8 (B, 3, h, w), and optionally their masks."""

    transform: SeededTransform
    masks: bool

    def _sample(self, index: int, epoch: int, position: int) -> tuple[Tensor, Tensor | None]:
        """A transformed image and its mask, which is empty if the region is unknown."""
        image = self.dataset.image(index)
        pixels = self.transform(image, epoch, position)
        if not self.masks:
            return pixels, None
        mask = self.dataset.mask(index)
        if mask is None:
            return pixels, torch.zeros(pixels.shape[1:], dtype=torch.bool)
        check_mask(mask, self.dataset.keys[index])
        if mask.shape != image.size[::-1]:
            raise Unreadable(
                f"{self.dataset.keys[index]!r} has {image.width} x {image.height} pixels, its mask "
                f"{mask.shape[1]} x {mask.shape[0]}"
            )
        return pixels, torch.from_numpy(np.ascontiguousarray(self.transform.mask(mask, epoch, position)))

    def _batch(self, samples: list[Any], index: list[int], total: int) -> Batch:
        masks = [mask for _, mask in samples if mask is not None]
        return Batch(
            stack_images([image for image, _ in samples], [self.dataset.keys[i] for i in index]),
            self.dataset.labels[index],
            torch.tensor(index, dtype=torch.int64),
            total,
            torch.stack(masks) if masks else torch.empty(0, 0, 0, dtype=torch.bool) if self.masks else None,
        )


@dataclass(eq=False)
class ObjectsReader(Reader):
    """Reads images of any size, each uint8 (3, h, w), and their objects as `Batch.targets`."""

    transform: DetectionTransform | None
    seed: int
    masks: bool

    def _sample(self, index: int, epoch: int, position: int) -> tuple[Tensor, dict[str, Any]]:
        image, objects = self.dataset.image(index), self.dataset.objects(index, self.masks)
        assert objects is not None
        if self.transform is None:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        else:
            pixels, objects = self.transform(image, objects, self.seed, epoch, position)
        # Arrays are pickled; every tensor would need a separate file in shared memory.
        target: dict[str, Any] = {name: getattr(objects, name).numpy() for name in ("boxes", "labels", "crowd", "area")}
        return pixels, target if objects.masks is None else {**target, "masks": objects.masks}

    def _batch(self, samples: list[Any], index: list[int], total: int) -> Batch:
        images, targets = [image for image, _ in samples], [target for _, target in samples]
        return Batch(images, self.dataset.labels[index], torch.tensor(index), total, targets=targets)


def with_objects(dataset: ImageDataset | WebDataset, *, masks: bool = False) -> ImageDataset:
    """The data set. Raises InputError if it has no objects, or with `masks` no masks of objects."""
    if isinstance(dataset, WebDataset) or not dataset.has_objects:
        raise InputError(
            f"data set {dataset.name!r} has no objects with a class; expected annotations of COCO with categories, "
            "boxes of VOC, or a folder with instances/"
        )
    if masks and not dataset.has_object_masks:
        raise InputError(
            f"data set {dataset.name!r} has boxes without masks; give segmentations, or use a detector of boxes"
        )
    return dataset


def wide_images(dataset: ImageDataset) -> NDArray[np.bool_]:
    """Whether each image is at least as wide as high, bool (N,); true for unreadable images, which raise later."""
    wide = np.ones(len(dataset), dtype=np.bool_)
    for i in range(len(dataset)):
        with contextlib.suppress(Unreadable):
            width, height = dataset.dimensions(i)
            wide[i] = width >= height
    return wide
