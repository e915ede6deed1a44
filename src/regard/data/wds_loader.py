"""Batches of a `WebDataset`, read from its shards on webdataset's pipeline.

Shards are dealt to processes, and those of a process to its DataLoader workers. Each worker makes whole batches (its
process's rows of them) from shards of its own: batch b of an epoch comes from stream b % workers. Where there are fewer
shards than processes, each process reads all shards, and takes every world_size-th image.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, count, islice, repeat

import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from regard.data.batch import Batch, Loader, rank_rows
from regard.data.decode import Unreadable, quiet
from regard.data.draws import Draws
from regard.data.fileset import FileSet
from regard.data.listing import is_system_or_hidden
from regard.data.normalisation import Prefetcher
from regard.data.transforms import TrainingTransform, Transform
from regard.data.wds import DOTS, Sample, WebDataset, name_of
from regard.data.workers import Failure, Workers
from regard.errors import InputError, one_line

_PURPOSE = 9  # of the random stream, among those of a seed
_MOST_UNREADABLE = 10_000  # images in a row


class ShardLoader(Loader):
    """The batches of a set of shards; see `create_loader`.

    In training only full batches come. In order, ranks may have any number of batches.
    """

    dataset: FileSet

    def __init__(
        self,
        dataset: FileSet,
        batch_size: int,
        transform: Transform,
        varied: TrainingTransform | None,
        *,
        shuffle: bool,
        seed: int,
        rank: int,
        world_size: int,
        device: torch.device,
        prefetch: Prefetcher,
        workers: int,
        skip: bool,
    ) -> None:
        super().__init__(
            dataset,
            batch_size,
            augmentation=transform.augmentation,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            device=device,
            image_size=transform.size,
            drop_last=shuffle,
        )
        self._transform, self._varied, self._prefetch = transform, varied, prefetch
        self._worker_count, self._skip = workers, skip

    def _batches(self, number: int, start: int) -> Iterator[Batch]:
        assert isinstance(self.dataset.source, WebDataset)
        reader = ShardReader(
            self.dataset.source,
            self._transform,
            self._varied,
            seed=self._seed,
            epoch=number,
            steps=range(start, len(self)),
            batch_size=self.batch_size,
            rank=self._rank,
            world_size=self._world_size,
            training=self._shuffle,
            skip=self._skip,
            repeats=self._repeats,
            workers=self._worker_count,
        )
        parts = Workers(reader, reader.workers, pinned=self.device.type == "cuda").read()
        return self._prefetch(parts if self._shuffle else islice(parts, start, None))


class ShardReader(IterableDataset[Batch | Failure]):
    """One process's batches in an epoch, images uint8, and in place of the next a failure.

    Args:
        dataset: what is read.
        transform: makes an image what the network sees in tests.
        varied: makes it that in training.
        seed: of all that is random.
        epoch: its number.
        steps: which of its batches; of tests all are given.
        batch_size: over all processes.
        rank: whose rows of the batches.
        world_size: of the processes.
        training: shards and images in random order, and as often as batches need them; else all images once.
        skip: whether shards and images that cannot be read are passed over.
        repeats: how often each image comes in a row in training; a batch may end between two of them.
        workers: DataLoader workers that there may be.

    Attributes:
        workers: DataLoader workers to use: each has at least one shard.
    """

    def __init__(
        self,
        dataset: WebDataset,
        transform: Transform,
        varied: TrainingTransform | None,
        *,
        seed: int,
        epoch: int,
        steps: range,
        batch_size: int,
        rank: int,
        world_size: int,
        training: bool,
        skip: bool,
        repeats: int = 1,
        workers: int = 0,
    ) -> None:
        self._dataset, self._transform, self._varied = dataset, transform, varied
        self._seed, self._epoch, self._steps, self._batch_size = seed, epoch, steps, batch_size
        self._rank, self._world_size, self._training = rank, world_size, training
        self._skip, self._repeats = skip, repeats
        self.workers = min(workers, max(1, len(dataset.shards) // world_size))
        self._streams = max(1, self.workers)
        self._skipped: list[str] = []
        self._reported: set[str] = set()

    def __iter__(self) -> Iterator[Batch | Failure]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        try:
            yield from self._train(number) if self._training else self._test(number)
        except Unreadable as error:
            hint = "" if self._skip else "; restore it, or have such skipped (--data.unreadable skip)"
            yield Failure(f"{error}{hint}", traceback.format_exc())
        except InputError as error:
            yield Failure(str(error), traceback.format_exc())

    def _train(self, worker: int) -> Iterator[Batch]:
        # The DataLoader takes from its workers in turn, the first batch from the first.
        steps = self._steps[worker :: self._streams]
        if not steps:
            return
        stream = steps[0] % self._streams
        rows = rank_rows(self._batch_size, self._rank, self._world_size)
        passed = steps[0] // self._streams * len(rows)  # rows of this stream's batches before
        samples = islice(self._shuffled(stream), passed // self._repeats, None)
        images = islice(self._images(samples), passed % self._repeats, None)
        for step in steps:
            positions = (step * self._batch_size + rows).tolist()
            yield self._batch([(*found, at) for at, found in zip(positions, images, strict=False)])

    def _test(self, stream: int) -> Iterator[Batch]:
        decoded = map(self._decoded, self._samples(range(len(self._dataset.shards)), stream))
        images = (found for found in decoded if found is not None)
        while found := list(islice(images, max(1, self._batch_size // self._world_size))):
            yield self._batch(found)
        if self._skipped:
            yield self._batch([])

    def _batch(self, found: list[tuple[Image.Image, int, int]]) -> Batch:
        """Of images, each with label and index."""
        shown = [self._seen(image, index) for image, _, index in found]
        images = torch.stack(shown) if shown else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
        labels, index = (torch.tensor([row[i] for row in found], dtype=torch.int64) for i in (1, 2))
        skipped, self._skipped = tuple(self._skipped), []
        return Batch(images, labels, index, self._batch_size, None, skipped)

    def _seen(self, image: Image.Image, position: int) -> torch.Tensor:
        return self._transform.image(image) if self._varied is None else self._varied(image, self._epoch, position)

    def _images(self, samples: Iterable[Sample]) -> Iterator[tuple[Image.Image, int]]:
        """The images to train on, with labels. The next one that can be read is also seen in place of one that cannot.

        So no image changes its place, and an epoch can begin in its middle without decoding what came before.
        """
        most = min(len(self._dataset), _MOST_UNREADABLE)
        waiting = 0
        for sample in samples:
            waiting += 1
            found = self._decoded(sample)
            if found is not None:
                yield from repeat(found[:2], waiting * self._repeats)
                waiting = 0
            elif waiting >= most:
                raise Unreadable(f"not one of {most} images in a row could be read (the last: {name_of(sample)!r})")

    def _decoded(self, sample: Sample) -> tuple[Image.Image, int, int] | None:
        """Image, label and index of a sample; None if it is to be passed over."""
        try:
            with quiet():
                found = self._dataset.decode(sample)
        except Unreadable as error:
            self._pass_over(str(error))
            return None
        return None if found is None else (*found, sample["__index__"])

    def _shuffled(self, stream: int) -> Iterator[Sample]:
        """The samples of a stream in random order, again and again: each turn from other shards."""
        import webdataset as wds

        shards = len(self._dataset.shards)
        in_vain = 0
        for turn in count():
            order = Draws(self._seed, self._epoch, _PURPOSE, turn).permutation(shards).tolist()
            key = self._seed, self._epoch, _PURPOSE, turn, self._rank, stream
            drawn = random.Random(int(Draws(*key).integers(0, 2**31 - 1, 1)[0]))
            buffer = self._dataset.buffer
            shuffle = wds.shuffle(bufsize=buffer, initial=-(-buffer // 4), rng=drawn)
            in_vain += -(-shards // (self._world_size * self._streams))
            for sample in wds.DataPipeline(partial(self._samples, order, stream), shuffle):
                in_vain = 0
                yield sample
            if in_vain >= shards:
                first = f" (the first: {self._skipped[0]})" if self._skipped else ""
                raise Unreadable(f"not one image can be read from {shards} shards{first}")

    def _samples(self, order: Iterable[int], stream: int) -> Iterator[Sample]:
        """The samples of a stream's part of the shards in this order."""
        rank, processes = self._rank, self._world_size
        shared = len(self._dataset.shards) < processes
        own = order if shared else islice(order, rank + stream * processes, None, self._streams * processes)
        samples = chain.from_iterable(map(self._read, own))
        return islice(samples, rank, None, processes) if shared else samples

    def _read(self, number: int) -> Iterator[Sample]:
        """The samples of a shard, each with an index of its own; a shard that is cut off is an error at its end."""
        import webdataset as wds

        shard, shards = self._dataset.shards[number], len(self._dataset.shards)
        pipeline = wds.DataPipeline(wds.SimpleShardList([shard]), wds.tarfile_to_samples(select_files=_is_read))
        found, dotted = 0, False
        try:
            for sample in pipeline:
                dotted = dotted or any("." in part for part in sample if not part.startswith("__"))
                yield {**sample, "__index__": found * shards + number}
                found += 1
            # A tar file that is cut off between two images ends like a whole one.
            expected = self._dataset.lengths.get(shard, found)
            reason = f"it ends after {found} of {expected} images" + (f". {DOTS}" if dotted else "")
            cut = found < expected
        except Exception as error:  # of tarfile, of decompression, of a connection
            reason, cut = f"{type(error).__name__}: {one_line(error)}", True
        if cut:
            self._pass_over(f"shard {shard!r} cannot be read to its end ({reason})")

    def _pass_over(self, message: str) -> None:
        if not self._skip:
            raise Unreadable(message)
        if message not in self._reported:
            self._reported.add(message)
            self._skipped.append(message)


def _is_read(path: str) -> bool:
    return not is_system_or_hidden(path)
