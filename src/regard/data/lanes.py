"""Shards read in lanes: so that what a batch holds depends neither on workers nor on processes.

A lane goes through its own part of the shards, in an order of its own; every batch takes as many images from each. As
many lanes are read on however many processes, each by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from regard.data.decode import Unreadable, quiet, upright
from regard.data.draws import Draws
from regard.data.share import Share
from regard.data.shards import MOST_LANES, Shards, copied
from regard.data.transform import Transform
from regard.errors import InputError, one_line

_PURPOSE = 9  # of the stream, among those of a seed
_IN_VAIN = 10_000  # images in a row that cannot be read


class Part(NamedTuple):
    """What one process that reads has of a batch.

    Attributes:
        step: of the batch.
        images: uint8 (B, 3, size, size).
        labels: int64 (B,).
        index: int64 (B,), the place of each image, or a number for it.
        rows: int64 (B,), where the images are in the batch.
        skipped: what could not be read, and why.
    """

    step: int
    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # in place of tuple.index, which is no use here
    rows: Tensor
    skipped: tuple[tuple[str, str], ...] = ()


def part(step: int, found: list[tuple[Tensor, int, int, int]], size: int, skipped: list[tuple[str, str]]) -> Part:
    """A part of a batch from its images, each with label, index and row."""
    pixels = torch.stack([image for image, *_ in found]) if found else torch.empty(0, 3, size, size, dtype=torch.uint8)
    numbers = torch.tensor([rest for _, *rest in found], dtype=torch.int64).reshape(-1, 3).T.contiguous()
    return Part(step, pixels, *numbers, tuple(skipped))


def lanes_of(shards: Shards, batch_size: int, share: Share, repeats: int) -> int:
    """The number of lanes in training.

    Raises:
        InputError: there cannot be so many, or the processes cannot share them.
    """

    def fits(lanes: int) -> bool:
        # As many images from each, both of a pair that may be mixed from the same; see Share.
        return batch_size % (lanes * repeats) == 0 and (batch_size % 2 == 1 or batch_size % (2 * lanes) == 0)

    def shared(lanes: int) -> bool:
        return lanes % share.count == 0 and batch_size % (share.count * (1 if batch_size % 2 else 2)) == 0

    possible = [lanes for lanes in range(1, len(shards.names) + 1) if batch_size % lanes == 0 and fits(lanes)]
    if not possible:
        raise InputError(f"batch size {batch_size} cannot be read from shards with repeats {repeats}; give another")
    usable = [lanes for lanes in possible if shared(lanes)]
    lanes = shards.lanes or max(lanes for lanes in possible if lanes <= MOST_LANES)
    if lanes in usable:
        return lanes
    if not usable:
        raise InputError(
            f"batches of {batch_size} images from {len(shards.names)} shards cannot be shared by {share.count} "
            f"processes: each reads shards of its own, as many images as the others; give a batch size that "
            f"{2 * share.count * repeats} divides, and at least {share.count} shards"
        )
    nearest = sorted(usable, key=lambda other: (abs(other - lanes), other))[:6]
    raise InputError(
        f"{lanes} lanes of shards do not go with batch size {batch_size}, {len(shards.names)} shards"
        f"{f', repeats {repeats}' if repeats > 1 else ''} and {share.count} processes; give "
        f"{' or '.join(map(str, sorted(nearest)))} (--data.options.lanes)"
    )


class Lane:
    """One lane of shards.

    Args:
        shards: all of them.
        number: of the lane, from 0.
        count: of the lanes.
        skip: whether shards and images that cannot be read are passed over.
    """

    def __init__(self, shards: Shards, number: int, count: int, *, skip: bool) -> None:
        self._shards, self._number, self._count, self._skip = shards, number, count, skip
        self._shard = ""  # that is read
        self._failed: list[tuple[str, str]] = []
        self._stages: list[Any] = []

    def samples(self) -> Iterator[dict[str, Any]]:
        """All images of the lane once, in the order of shards, not decoded."""
        return self._samples(training=False, seeds=(0, 0))

    def endless(self, seed: int, epoch: int) -> Iterator[dict[str, Any]]:
        """The images of the lane in random order, not decoded, again and again."""
        turn = 0
        while True:
            drawn = Draws(seed, epoch, _PURPOSE, turn).integers(0, 2**31 - 1, 1 + self._count).tolist()
            empty = True
            # Shards are dealt out by the order of them all, and so by one seed for all lanes.
            for sample in self._samples(training=True, seeds=(drawn[0], drawn[1 + self._number])):
                empty = False
                yield sample
            if empty:
                reasons = "".join(f"; {name}: {reason}" for name, reason in self._failed[:3])
                raise Unreadable(f"not one image could be read from the shards of lane {self._number}{reasons}")
            turn += 1

    def _samples(self, *, training: bool, seeds: tuple[int, int]) -> Iterator[dict[str, Any]]:
        reader = copied(self._shards.reader)
        reader.is_training = training
        # Lanes are what timm takes for workers. With a worker_info of ours it does not look for those of torch.
        reader.worker_info = self
        reader.global_worker_id, reader.global_num_workers = self._number, self._count
        reader.common_seed, reader.worker_seed = seeds
        reader.sample_shuffle_size = self._shards.buffer
        reader.sample_initial_size = -(-self._shards.buffer // 4)
        reader._lazy_init()
        stages = reader.ds.pipeline
        for stage in stages:
            # Of what fails timm only says something to a logger.
            if "handler" in getattr(stage, "kw", ()):
                stage.kw["handler"] = self._on_error
        # The last two stages decode and name the parts; decoding waits until an image is wanted.
        self._stages = stages[-2:-1]
        del stages[-2:]
        stages.insert(stages.index(reader._split_by_node_and_worker) + 1, self._noted)
        for sample in reader.ds:
            self._check()
            yield sample
        self._check()

    def decoded(self, sample: dict[str, Any]) -> tuple[Image.Image, int] | None:
        """The image of a sample, RGB, and its label; None if it is not labelled.

        Raises:
            Unreadable: there is none, or it is broken.
        """
        before = len(self._failed)
        self._shard = name_of(sample)
        try:
            with quiet():
                found = next(iter(self._stages[0]([sample])), None)
                if len(self._failed) > before:
                    raise Unreadable(f"{self._shard!r} is broken ({self._failed.pop()[1]})")
                if found is None:
                    return None
                image = next(value for value in found.values() if isinstance(value, Image.Image))
                return upright(image), int(found["target"] if "target" in found else found["cls"])
        except Unreadable:
            raise
        except Exception as error:  # a decoder may raise anything at all on broken bytes
            raise Unreadable(f"{self._shard!r} is broken ({_reason(error)})") from error

    def failed(self) -> list[tuple[str, str]]:
        """Shards that could not be read, or not to their end, since this was last asked."""
        found, self._failed = self._failed, []
        return found

    def _noted(self, shards: Any) -> Iterator[Any]:
        for shard in shards:
            self._shard = shard["url"]
            yield shard

    def _on_error(self, error: Exception) -> bool:
        self._failed.append((self._shard, _reason(error)))
        return self._skip

    def _check(self) -> None:
        if self._failed and not self._skip:
            name, reason = self._failed[0]
            raise Unreadable(f"shard {name!r} cannot be read to its end ({reason})")


def name_of(sample: dict[str, Any]) -> str:
    """The shard of a sample, and its key in it."""
    return f"{sample.get('__url__', '')}/{sample['__key__']}"


def _reason(error: BaseException) -> str:
    # webdataset adds the file and the shard to the arguments.
    first = error.args[0] if error.args and not isinstance(error, OSError) else error
    return f"{type(error).__name__}: {' '.join(str(first).split())[:200]}"


class Lanes(IterableDataset[Part | str]):
    """What processes read of the lanes of this process: a part of each step of an epoch, or what is wrong, in one line.

    Args:
        shards: what is read.
        batch_size: over all processes.
        share: whose lanes.
        transform: what happens to an image.
        size: side of the images.
        classes: how many there are.
        seed: of all that is random.
        skip: whether shards and images that cannot be read are passed over.
        training: in random order, as many from every lane, for `steps`; else all once, in the order of shards.
        lanes: how many there are.
        steps: of an epoch in training.
        repeats: of every image in training.
    """

    def __init__(
        self,
        shards: Shards,
        batch_size: int,
        share: Share,
        transform: Transform,
        size: int,
        classes: int,
        seed: int,
        *,
        skip: bool,
        training: bool,
        lanes: int,
        steps: int,
        repeats: int,
    ) -> None:
        self._shards, self._batch_size, self._share, self._transform = shards, batch_size, share, transform
        self._size, self._classes, self._seed, self._skip = size, classes, seed, skip
        self._training, self._lanes, self._steps, self._repeats = training, lanes, steps, repeats
        if training:
            each = lanes // share.count
            self.own = list(range(share.rank * each, (share.rank + 1) * each))
        else:
            self.own = list(range(share.rank, lanes, share.count))
        # Epoch and step to begin at: shared, for the processes are there before they are known.
        self._at = torch.zeros(2, dtype=torch.int64).share_memory_()

    def begin(self, epoch: int, start: int) -> None:
        """What to read next time."""
        self._at[0], self._at[1] = epoch, start

    def __iter__(self) -> Iterator[Part | str]:
        epoch, start = self._at.tolist()
        worker = get_worker_info()
        own = self.own if worker is None else self.own[worker.id :: worker.num_workers]
        try:
            yield from self._trained(own, epoch, start) if self._training else self._tested(own, epoch, start)
        except (Unreadable, InputError) as error:
            hint = "" if self._skip else "; replace it, or have such skipped (--data.unreadable skip)"
            yield f"{error}{hint}"

    def _trained(self, own: list[int], epoch: int, start: int) -> Iterator[Part]:
        each = self._batch_size // self._lanes // self._repeats
        sources = []
        for number in own:
            lane = Lane(self._shards, number, self._lanes, skip=self._skip)
            rows = Share(number, self._lanes).rows(self._batch_size).tolist()
            sources.append((_Ahead(lane, lane.endless(self._seed, epoch), start * each), rows))
        for step in range(start, self._steps):
            found, skipped = [], []
            for source, rows in sources:
                for turn in range(each):
                    image, label = self._next_readable(source, skipped)
                    for row in rows[turn * self._repeats : (turn + 1) * self._repeats]:
                        position = step * self._batch_size + row
                        found.append((self._transform(image, epoch, position), label, position, row))
                skipped += source.lane.failed()
            yield part(step, found, self._size, skipped)

    def _next_readable(self, source: _Ahead, skipped: list[tuple[str, str]]) -> tuple[Image.Image, int]:
        # The next image that can be read is seen in place of one that cannot, and again in its own place: so no image
        # changes its place, and an epoch can go on from its middle without decoding what came before.
        for away in range(_IN_VAIN):
            sample = source.peek(away)
            found = self._decoded(source.lane, sample, skipped)
            if found is not None:
                source.go_on()
                return found
        raise Unreadable(f"not one of {_IN_VAIN} images in a row could be read (the last: {name_of(sample)!r})")

    def _tested(self, own: list[int], epoch: int, start: int) -> Iterator[Part]:
        each = max(1, self._batch_size // self._lanes)
        lanes = [Lane(self._shards, number, self._lanes, skip=self._skip) for number in own]
        sources = [lane.samples() for lane in lanes]
        places = [start * each] * len(own)
        for source in sources:
            for _ in range(start * each):
                next(source, None)
        step = start
        while True:
            found, skipped, empty = [], [], True
            for i, number in enumerate(own):
                for sample in _some(sources[i], each):
                    empty = False
                    decoded = self._decoded(lanes[i], sample, skipped)
                    if decoded is not None:
                        index = places[i] * self._lanes + number
                        image = self._transform(decoded[0], epoch, index)
                        found.append((image, decoded[1], index, number * each + places[i] % each))
                    places[i] += 1
                skipped += lanes[i].failed()
            if not empty or skipped:
                yield part(step, found, self._size, skipped)
            if empty:
                return
            step += 1

    def _decoded(
        self, lane: Lane, sample: dict[str, Any], skipped: list[tuple[str, str]]
    ) -> tuple[Image.Image, int] | None:
        try:
            found = lane.decoded(sample)
        except Unreadable as error:
            if not self._skip:
                raise
            skipped.append((name_of(sample), str(error)))
            return None
        if found is not None and not 0 <= found[1] < self._classes:
            raise InputError(
                f"{name_of(sample)!r} has label {found[1]}, and there are {self._classes} classes, from 0; give as many "
                "as there are (--data.options.classes)"
            )
        return found


def _some(source: Iterator[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        sample = next(source, None)
        if sample is None:
            return
        yield sample


@dataclass
class _Ahead:
    """The samples of a lane, with a look at those to come."""

    lane: Lane
    samples: Iterator[dict[str, Any]]
    passed: int

    def __post_init__(self) -> None:
        self._known: deque[dict[str, Any]] = deque()
        for _ in range(self.passed):
            next(self.samples)

    def peek(self, away: int) -> dict[str, Any]:
        while len(self._known) <= away:
            self._known.append(next(self.samples))
        return self._known[away]

    def go_on(self) -> None:
        self._known.popleft()


def testing_lanes(shards: Shards, share: Share) -> int:
    """The number of lanes in testing: the more, the more workers have to do, up to 16 for all processes together."""
    return int(np.clip(len(shards.names), 1, max(1, MOST_LANES // share.count) * share.count))
