"""The loader of a `WebDataset`, which reads shards with webdataset's pipeline.

The shards are divided among the processes, and the shards of a process among its DataLoader workers. Each worker makes
whole batches (its rank's slices) from its shards: batch b of an epoch comes from stream b % workers. With fewer shards
than processes, each process reads all shards and takes every world_size-th image.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice, repeat

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from regard.data.batch import Batch, Loader, Sampling, stack_images
from regard.data.decode import SKIP_IN_A_RUN, Unreadable, quiet
from regard.data.listing import is_system_or_hidden
from regard.data.normalisation import Prefetcher
from regard.data.random import RandomStream
from regard.data.transforms import SeededTransform
from regard.data.wds import DOTS_HINT, Sample, WebDataset, sample_name
from regard.data.workers import Failure, Workers
from regard.errors import InputError, one_line

_PURPOSE = 9  # part of the key of the random stream
_MAX_UNREADABLE = 10_000  # consecutive images


class WebDatasetLoader(Loader):
    """Batches of a data set in shards, without masks; see `create_loader`.

    With shuffle, all batches are full; without shuffle, ranks may have different numbers of batches. Batches depend on
    the numbers of processes and workers, but not on the step at which an epoch begins: earlier images are read without
    decoding.
    """

    dataset: WebDataset

    def __init__(
        self,
        dataset: WebDataset,
        sampling: Sampling,
        transform: SeededTransform,
        prefetch: Prefetcher,
        *,
        workers: int,
        skip: bool,
    ) -> None:
        super().__init__(dataset, sampling, prefetch.device, transform.transform.size)
        self._prefetch = prefetch
        self._workers = min(workers, max(1, len(dataset.shards) // sampling.world_size))  # at least a shard per worker
        self._reader = _Reader(dataset, sampling, transform, max(1, self._workers), skip)

    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        reader = replace(self._reader, epoch=number, steps=range(start, len(self)))
        batches = Workers(reader, self._workers, pin_memory=self.device.type == "cuda").read()
        return self._prefetch(batches if self._sampling.shuffle else islice(batches, start, None))

    def sample(self, epoch: int, position: int) -> Batch:
        if self._sampling.shuffle:
            return super().sample(epoch, position)
        if self._sampling.world_size > 1:
            raise InputError("without shuffle, each process reads different shards; use a loader with world_size 1")
        row = position
        for batch in self.epoch(epoch) if position >= 0 else ():  # several batches may be incomplete
            if row < len(batch.images):
                return batch.row(row)
            row -= len(batch.images)
        raise InputError(f"position {position} does not exist; an epoch has {position - row} images, from 0")


@dataclass(eq=False)
class _Reader(IterableDataset[Batch | Failure]):
    """Reads one rank's batches of an epoch, with uint8 images, in the DataLoader workers; with shuffle, only `steps`.

    There is one stream per worker, and at least one. With `skip`, unreadable shards and images are skipped.
    """

    dataset: WebDataset
    sampling: Sampling
    transform: SeededTransform
    streams: int
    skip: bool
    epoch: int = 0
    steps: range = range(0)
    skipped: list[str] = field(init=False, default_factory=list)
    reported: set[str] = field(init=False, default_factory=set)

    def __iter__(self) -> Iterator[Batch | Failure]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        try:
            yield from self._train(number) if self.sampling.shuffle else self._test(number)
        except Unreadable as error:
            hint = "" if self.skip else f"; restore it, or have such files skipped ({SKIP_IN_A_RUN})"
            yield Failure(f"{error}{hint}", traceback.format_exc())
        except InputError as error:
            yield Failure(str(error), traceback.format_exc())

    def _train(self, worker: int) -> Iterator[Batch]:
        # The DataLoader takes batches from its workers in turn, beginning with the first.
        steps = self.steps[worker :: self.streams]
        if not steps:
            return
        stream = steps[0] % self.streams
        rows = self.sampling.rows(self.sampling.batch_size)
        preceding = steps[0] // self.streams * len(rows)  # number of images in earlier batches of this stream
        samples = islice(self._shuffled(stream), preceding // self.sampling.repeats, None)
        images = islice(self._images(samples), preceding % self.sampling.repeats, None)
        for step in steps:
            positions = (step * self.sampling.batch_size + rows).tolist()
            yield self._batch(
                [
                    (self.transform(image, self.epoch, position), label, position)
                    for position, (image, label) in zip(positions, images, strict=False)
                ]
            )

    def _test(self, stream: int) -> Iterator[Batch]:
        size = max(1, self.sampling.batch_size // self.sampling.world_size)
        rows: list[tuple[Tensor, int, int]] = []
        for sample in self._samples(range(len(self.dataset.shards)), stream):
            decoded = self._decode(sample)
            if decoded is None:
                continue
            try:
                pixels = self.transform(decoded[0], 0, 0)
            except InputError as error:
                self._skip_or_raise(f"{sample_name(sample)!r} cannot be fitted: {error}")
                continue
            rows.append((pixels, decoded[1], sample["__index__"]))
            if len(rows) == size:
                yield self._batch(rows)
                rows = []
        if rows or self.skipped:
            yield self._batch(rows)

    def _batch(self, rows: list[tuple[Tensor, int, int]]) -> Batch:
        """A batch from (pixels, label, index) of each image."""
        images = stack_images([image for image, *_ in rows], [f"image {index}" for *_, index in rows])
        labels, index = (torch.tensor([row[i] for row in rows], dtype=torch.int64) for i in (1, 2))
        skipped, self.skipped = tuple(self.skipped), []
        return Batch(images, labels, index, self.sampling.batch_size, skipped=skipped)

    def _images(self, samples: Iterable[Sample]) -> Iterator[tuple[Image.Image, int]]:
        """The labelled training images, with each unreadable image replaced by the next readable one.

        So other images keep their position, and an epoch can begin at any step without decoding earlier images.
        """
        limit = min(len(self.dataset), _MAX_UNREADABLE)
        pending = 0
        for sample in samples:
            pending += 1
            decoded = self._decode(sample)
            if decoded is not None:
                yield from repeat(decoded, pending * self.sampling.repeats)
                pending = 0
            elif pending >= limit:
                raise Unreadable(
                    f"not one of {limit} images in a row could be read (the last: {sample_name(sample)!r})"
                )

    def _decode(self, sample: Sample) -> tuple[Image.Image, int] | None:
        """The image and label of a sample; None if it is skipped."""
        try:
            with quiet():
                return self.dataset.decode(sample)
        except Unreadable as error:
            self._skip_or_raise(str(error))
            return None

    def _shuffled(self, stream: int) -> Iterator[Sample]:
        """An endless iterator over the samples of a stream in random order. Shards are reassigned in each round."""
        import webdataset as wds

        shards, buffer = len(self.dataset.shards), self.dataset.buffer
        empty_shards = 0  # consecutive shards without a sample
        for round_number in count():
            key = self.sampling.seed, self.epoch, _PURPOSE, round_number
            order = RandomStream(*key).permutation(shards).tolist()
            seeds = RandomStream(*key, self.sampling.rank, stream).integers(0, 2**31 - 1, 1)
            shuffle = wds.shuffle(bufsize=buffer, initial=-(-buffer // 4), rng=random.Random(int(seeds[0])))
            empty_shards += -(-shards // (self.sampling.world_size * self.streams))
            for sample in wds.DataPipeline(partial(self._samples, order, stream), shuffle):
                empty_shards = 0
                yield sample
            if empty_shards >= shards:
                first = f" (the first: {self.skipped[0]})" if self.skipped else ""
                raise Unreadable(f"not one image can be read from {shards} shards{first}")

    def _samples(self, order: Iterable[int], stream: int) -> Iterator[Sample]:
        """The samples of a stream, which has its part of the shards in this order."""
        shared = len(self.dataset.shards) < self.sampling.world_size
        first, step = self.sampling.rank + stream * self.sampling.world_size, self.streams * self.sampling.world_size
        stream_shards = order if shared else islice(order, first, None, step)
        samples = chain.from_iterable(map(self._read, stream_shards))
        return islice(samples, self.sampling.rank, None, self.sampling.world_size) if shared else samples

    def _read(self, number: int) -> Iterator[Sample]:
        """The samples of a shard, each with a unique index. A truncated shard is an error after its last sample."""
        import webdataset as wds

        shard, shards = self.dataset.shards[number], len(self.dataset.shards)
        samples = wds.tarfile_to_samples(select_files=lambda path: not is_system_or_hidden(path))
        images, dotted = 0, False
        try:
            for sample in wds.DataPipeline(wds.SimpleShardList([shard]), samples):
                dotted = dotted or any("." in name for name in sample if not name.startswith("__"))
                yield {**sample, "__index__": images * shards + number}
                images += 1
            # A tar file that is cut off between two images can be read without an error.
            expected = self.dataset.lengths.get(shard, images)
            reason = f"it ends after {images} of {expected} images" + (f". {DOTS_HINT}" if dotted else "")
            truncated = images < expected
            if not truncated and shard in self.dataset.cut_off:
                reason, truncated = f"it is cut off after {images} images", True
        except Exception as error:  # from tarfile, decompression or a connection
            # webdataset appends the stream that it was reading to the message and arguments of the error.
            message = error.args[0] if error.args and isinstance(error.args[0], str) else one_line(error)
            reason, truncated = f"{type(error).__name__}: {' '.join(message.partition(' @ <')[0].split())}", True
        if truncated:
            self._skip_or_raise(f"shard {shard!r} cannot be read to its end ({reason})")

    def _skip_or_raise(self, message: str) -> None:
        if not self.skip:
            raise Unreadable(message)
        if message not in self.reported:
            self.reported.add(message)
            self.skipped.append(message)
