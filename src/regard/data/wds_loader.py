"""Loader of a `WebDataset`, which reads shards with webdataset's pipeline.

The shards are divided among the processes, and those of a process among its DataLoader workers. Each worker makes whole
batches (its rank's slices) from its shards: batch b of an epoch comes from stream b % workers. If there are fewer
shards than processes, each process reads all shards and takes every world_size-th image.
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

from regard.data.batch import Batch, Loader, Sampling, stacked
from regard.data.decode import SKIPPED_IN_A_RUN, Unreadable, quiet
from regard.data.listing import is_system_or_hidden
from regard.data.normalisation import Prefetcher
from regard.data.random import RandomStream
from regard.data.transforms import SeededTransform
from regard.data.wds import DOTS, Sample, WebDataset, name_of
from regard.data.workers import Failure, Workers
from regard.errors import InputError, one_line

_PURPOSE = 9  # of the random stream, among those of a seed
_MOST_UNREADABLE = 10_000  # consecutive images


class WebDatasetLoader(Loader):
    """Batches of a data set in shards, without masks; see `create_loader`.

    With shuffle all batches are full; without shuffle, ranks may have different numbers of batches. Batches depend on
    the numbers of processes and workers, but not on the step at which an epoch begins: earlier images are read, but not
    decoded.
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
        self._workers = min(workers, max(1, len(dataset.shards) // sampling.world_size))  # each has a shard at least
        self._reader = _Reader(dataset, sampling, transform, max(1, self._workers), skip)

    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        reader = replace(self._reader, epoch=number, steps=range(start, len(self)))
        batches = Workers(reader, self._workers, pinned=self.device.type == "cuda").read()
        return self._prefetch(batches if self._sampling.shuffle else islice(batches, start, None))

    def sample(self, epoch: int, position: int) -> Batch:
        if self._sampling.shuffle:
            return super().sample(epoch, position)
        if self._sampling.world_size > 1:
            raise InputError("without shuffle, each process reads other shards; use a loader with world_size 1")
        passed = position
        for batch in self.epoch(epoch) if position >= 0 else ():  # several of them may not be full
            if passed < len(batch.images):
                return batch.row(passed)
            passed -= len(batch.images)
        raise InputError(f"position {position} does not exist; an epoch has {position - passed} images, from 0")


@dataclass(eq=False)
class _Reader(IterableDataset[Batch | Failure]):
    """Reads one rank's batches of an epoch in the DataLoader workers; images are uint8. In training, only the batches
    of `steps` are read.

    There is one stream per worker, and at least one. With `skip`, shards and images that cannot be read are skipped.
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
            hint = "" if self.skip else f"; restore it, or have such skipped ({SKIPPED_IN_A_RUN})"
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
        passed = steps[0] // self.streams * len(rows)  # rows of this stream's batches before
        samples = islice(self._shuffled(stream), passed // self.sampling.repeats, None)
        images = islice(self._images(samples), passed % self.sampling.repeats, None)
        for step in steps:
            positions = (step * self.sampling.batch_size + rows).tolist()
            labelled = zip(positions, images, strict=False)
            yield self._batch([(self.transform(image, self.epoch, at), label, at) for at, (image, label) in labelled])

    def _test(self, stream: int) -> Iterator[Batch]:
        size = max(1, self.sampling.batch_size // self.sampling.world_size)
        rows: list[tuple[Tensor, int, int]] = []
        for sample in self._samples(range(len(self.dataset.shards)), stream):
            decoded = self._decoded(sample)
            if decoded is None:
                continue
            try:
                pixels = self.transform(decoded[0], 0, 0)
            except InputError as error:
                self._pass_over(f"{name_of(sample)!r} cannot be fitted: {error}")
                continue
            rows.append((pixels, decoded[1], sample["__index__"]))
            if len(rows) == size:
                yield self._batch(rows)
                rows = []
        if rows or self.skipped:
            yield self._batch(rows)

    def _batch(self, rows: list[tuple[Tensor, int, int]]) -> Batch:
        """A batch from (pixels, label, index) of each image."""
        images = stacked([image for image, *_ in rows], [f"image {index}" for *_, index in rows])
        labels, index = (torch.tensor([row[i] for row in rows], dtype=torch.int64) for i in (1, 2))
        skipped, self.skipped = tuple(self.skipped), []
        return Batch(images, labels, index, self.sampling.batch_size, skipped=skipped)

    def _images(self, samples: Iterable[Sample]) -> Iterator[tuple[Image.Image, int]]:
        """The labelled training images. An unreadable image is replaced by the next readable one.

        So no other image changes its position, and an epoch can begin at any step without decoding earlier images.
        """
        most = min(len(self.dataset), _MOST_UNREADABLE)
        waiting = 0
        for sample in samples:
            waiting += 1
            decoded = self._decoded(sample)
            if decoded is not None:
                yield from repeat(decoded, waiting * self.sampling.repeats)
                waiting = 0
            elif waiting >= most:
                raise Unreadable(f"not one of {most} images in a row could be read (the last: {name_of(sample)!r})")

    def _decoded(self, sample: Sample) -> tuple[Image.Image, int] | None:
        """The image and label of a sample; None if it is skipped."""
        try:
            with quiet():
                return self.dataset.decode(sample)
        except Unreadable as error:
            self._pass_over(str(error))
            return None

    def _shuffled(self, stream: int) -> Iterator[Sample]:
        """An endless iterator over the samples of a stream in random order. Each round assigns shards anew."""
        import webdataset as wds

        shards, buffer = len(self.dataset.shards), self.dataset.buffer
        in_vain = 0
        for turn in count():
            key = self.sampling.seed, self.epoch, _PURPOSE, turn
            order = RandomStream(*key).permutation(shards).tolist()
            drawn = RandomStream(*key, self.sampling.rank, stream).integers(0, 2**31 - 1, 1)
            shuffle = wds.shuffle(bufsize=buffer, initial=-(-buffer // 4), rng=random.Random(int(drawn[0])))
            in_vain += -(-shards // (self.sampling.world_size * self.streams))
            for sample in wds.DataPipeline(partial(self._samples, order, stream), shuffle):
                in_vain = 0
                yield sample
            if in_vain >= shards:
                first = f" (the first: {self.skipped[0]})" if self.skipped else ""
                raise Unreadable(f"not one image can be read from {shards} shards{first}")

    def _samples(self, order: Iterable[int], stream: int) -> Iterator[Sample]:
        """The samples of a stream's shards in this order."""
        shared = len(self.dataset.shards) < self.sampling.world_size
        first, step = self.sampling.rank + stream * self.sampling.world_size, self.streams * self.sampling.world_size
        stream_shards = order if shared else islice(order, first, None, step)
        samples = chain.from_iterable(map(self._read, stream_shards))
        return islice(samples, self.sampling.rank, None, self.sampling.world_size) if shared else samples

    def _read(self, number: int) -> Iterator[Sample]:
        """The samples of a shard, each with a unique index; a truncated shard is an error at its end."""
        import webdataset as wds

        shard, shards = self.dataset.shards[number], len(self.dataset.shards)
        samples = wds.tarfile_to_samples(select_files=lambda path: not is_system_or_hidden(path))
        images, dotted = 0, False
        try:
            for sample in wds.DataPipeline(wds.SimpleShardList([shard]), samples):
                dotted = dotted or any("." in part for part in sample if not part.startswith("__"))
                yield {**sample, "__index__": images * shards + number}
                images += 1
            # A tar file that is cut off between two images ends like a whole one.
            expected = self.dataset.lengths.get(shard, images)
            reason = f"it ends after {images} of {expected} images" + (f". {DOTS}" if dotted else "")
            cut = images < expected
            if not cut and shard in self.dataset.cut_off:
                reason, cut = f"it is cut off after {images} images", True
        except Exception as error:  # from tarfile, decompression or a connection
            # webdataset appends the stream that it was reading to the message and arguments of the error.
            message = error.args[0] if error.args and isinstance(error.args[0], str) else one_line(error)
            reason, cut = f"{type(error).__name__}: {' '.join(message.partition(' @ <')[0].split())}", True
        if cut:
            self._pass_over(f"shard {shard!r} cannot be read to its end ({reason})")

    def _pass_over(self, message: str) -> None:
        if not self.skip:
            raise Unreadable(message)
        if message not in self.reported:
            self.reported.add(message)
            self.skipped.append(message)
