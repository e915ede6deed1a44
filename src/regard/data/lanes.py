"""Shards read in lanes: so that what a batch holds depends neither on workers nor on processes.

A lane goes through its own part of the shards, in an order of its own; every batch takes as many images from each. As
many lanes are read on however many processes, each by one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from regard.data.decode import Unreadable, quiet, upright
from regard.data.draws import Draws
from regard.data.listing import is_system_or_hidden
from regard.data.part import Part
from regard.data.shards import MOST_LANES, OF_ENDINGS, Shards, copied
from regard.data.share import Share
from regard.data.transform import Transform
from regard.errors import InputError

_PURPOSE = 9  # of the stream, among those of a seed
_IN_VAIN = 10_000  # images in a row that cannot be read


class _Some(NamedTuple):
    """What one process that reads has of a batch.

    Attributes:
        step: of the batch.
        images: uint8 (B, 3, size, size).
        labels: int64 (B,).
        index: int64 (B,), a number for each image.
        rows: int64 (B,), where the images are in the batch.
        skipped: what could not be read, and why.
    """

    step: int
    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # in place of tuple.index, which is no use here
    rows: Tensor
    skipped: tuple[str, ...]


def _some(step: int, found: list[tuple[Tensor, int, int, int]], skipped: list[str]) -> _Some:
    """From images, each with label, index and row."""
    pixels = torch.stack([image for image, *_ in found]) if found else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    labels, index, rows = torch.tensor([rest for _, *rest in found], dtype=torch.int64).reshape(-1, 3).T.contiguous()
    return _Some(step, pixels, labels, index, rows, tuple(skipped))


def lanes_of(shards: Shards, batch_size: int, share: Share) -> int:
    """The number of lanes in training.

    Raises:
        InputError: there cannot be so many, or the processes cannot share them.
    """

    def fits(lanes: int) -> bool:
        # As many images from each, both of a pair that may be mixed from the same; see Share.
        return batch_size % (lanes if batch_size % 2 else 2 * lanes) == 0

    def shared(lanes: int) -> bool:
        return lanes % share.count == 0 and batch_size % (share.count * (1 if batch_size % 2 else 2)) == 0

    possible = [lanes for lanes in range(1, len(shards.names) + 1) if fits(lanes)]
    usable = [lanes for lanes in possible if shared(lanes)]
    lanes = shards.lanes or max(lanes for lanes in possible if lanes <= MOST_LANES)
    if lanes in usable:
        return lanes
    if not usable:
        raise InputError(
            f"batches of {batch_size} images from {len(shards.names)} shards cannot be shared by {share.count} "
            f"processes: each reads shards of its own, as many images as the others; give a batch size that "
            f"{2 * share.count} divides, and at least {share.count} shards"
        )
    nearest = sorted(usable, key=lambda other: (abs(other - lanes), other))[:6]
    raise InputError(
        f"{lanes} lanes of shards do not go with batch size {batch_size}, {len(shards.names)} shards and {share.count} "
        f"processes; give {' or '.join(map(str, sorted(nearest)))} (--data.options.lanes)"
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
        self._failed: list[str] = []  # not told yet
        self._named: set[str] = set()  # the shards that failed
        self._image_error = ""
        self._decode: Any = None

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
                first = f" (the first: {self._failed[0]})" if self._failed else ""
                raise Unreadable(f"not one image can be read from the shards of lane {self._number}{first}")
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
        self._decode = stages[-2]
        self._decode.kw["handler"] = self._on_image_error
        del stages[-2:]
        dealt = stages.index(reader._split_by_node_and_worker)
        stages[dealt + 1].kw["select_files"] = _is_read  # the one that opens them
        stages.insert(dealt + 2, self._counted)
        stages.insert(dealt + 1, self._noted)
        for sample in reader.ds:
            self._check()
            yield sample
        self._check()

    def decoded(self, sample: dict[str, Any]) -> tuple[Image.Image, int] | None:
        """The image of a sample, RGB, and its label; None if it is not labelled.

        Raises:
            Unreadable: there is none, or it is broken.
        """
        name = name_of(sample)
        self._check_parts(name, [part for part in sample if not part.startswith("__")])
        self._image_error = ""
        try:
            with quiet():
                found = next(iter(self._decode([sample])), None)
                if self._image_error:
                    raise Unreadable(f"{name!r} is broken ({self._image_error})")
                if found is None:
                    return None
                image = next(value for value in found.values() if isinstance(value, Image.Image))
                return upright(image), int(found["target"] if "target" in found else found["cls"])
        except Unreadable:
            raise
        except Exception as error:  # a decoder may raise anything at all on broken bytes
            raise Unreadable(f"{name!r} is broken ({_reason(error)})") from error

    def _check_parts(self, name: str, parts: list[str]) -> None:
        """Has a sample have an image, and a label. Raises Unreadable."""
        reader = self._shards.reader
        images = [ending.strip() for ending in reader.input_key.split(";")]
        label = "json" if reader.target_key or reader.split_info.alt_label else "cls"
        lacking = ["image"] if not set(images) & set(parts) else []
        lacking += [] if label in parts else [f"label (.{label})"]
        if lacking:
            first = ", ".join(f".{part}" for part in parts[:3]) + (", …" if len(parts) > 3 else "")
            reason = f". {OF_ENDINGS}" if any("." in part for part in parts) else ""
            raise Unreadable(f"{name!r} has no {' and no '.join(lacking)}, but {first}{reason}")

    def failed(self) -> list[str]:
        """Shards that could not be read, or not to their end, since this was last asked, and why."""
        found, self._failed = self._failed, []
        return found

    def _noted(self, shards: Any) -> Iterator[Any]:
        for shard in shards:
            self._shard = shard["url"]
            yield shard

    def _counted(self, samples: Any) -> Iterator[Any]:
        # A tar file that is cut off between two images ends like a whole one.
        shard, count, dotted = "", 0, False
        for sample in samples:
            if sample["__url__"] != shard:
                self._check_count(shard, count, dotted)
                shard, count, dotted = sample["__url__"], 0, False
            count += 1
            dotted = dotted or any("." in part for part in sample if not part.startswith("__"))
            yield sample
        self._check_count(shard, count, dotted)

    def _check_count(self, shard: str, count: int, dotted: bool) -> None:
        expected = self._shards.lengths.get(shard, count)
        if count < expected:
            reason = f". {OF_ENDINGS}" if dotted else ""
            self._fail(shard, f"it ends after {count} of {expected} images{reason}")

    def _on_error(self, error: Exception) -> bool:
        self._fail(self._shard, _reason(error))
        return self._skip

    def _fail(self, shard: str, reason: str) -> None:
        # More than one stage may have something to say of a shard.
        if shard not in self._named:
            self._named.add(shard)
            self._failed.append(f"shard {shard!r} cannot be read to its end ({reason})")

    def _on_image_error(self, error: Exception) -> bool:
        self._image_error = _reason(error)
        return True

    def _check(self) -> None:
        if self._failed and not self._skip:
            raise Unreadable(self._failed[0])


def _is_read(path: str) -> bool:
    return not is_system_or_hidden(path)


def name_of(sample: dict[str, Any]) -> str:
    """The shard of a sample, and its key in it."""
    return f"{sample.get('__url__', '')}/{sample['__key__']}"


def _reason(error: BaseException) -> str:
    # webdataset adds the file and the shard to the arguments.
    first = error.args[0] if error.args and not isinstance(error, OSError) else error
    # Objects say where they are in memory, which is another place every time.
    text = " ".join(re.sub(r"(@ )?<[^<>]*>", "", str(first)).split())
    return f"{type(error).__name__}: {text[:200]}"


class Lanes(IterableDataset[_Some | str]):
    """The lanes of one process in an epoch: in other processes that read, some of each step, or what is wrong in one
    line; `gathered` puts these together.

    Args:
        shards: what is read.
        transform: what happens to an image.
        seed: of all that is random.
        epoch: its number.
        steps: which of its steps; without `count` from the first of them to the end of the shards.
        batch_size: over all processes.
        share: whose lanes.
        count: of the lanes, in random order and as many images from each; 0: all images once, in the order of shards.
        skip: whether shards and images that cannot be read are passed over.
        repeats: how often each image comes in a row, with `count`; a batch may end between two of them.
    """

    def __init__(
        self,
        shards: Shards,
        transform: Transform,
        *,
        seed: int,
        epoch: int,
        steps: range,
        batch_size: int,
        share: Share,
        count: int,
        skip: bool,
        repeats: int = 1,
    ) -> None:
        self._shards, self._transform, self._seed, self._epoch = shards, transform, seed, epoch
        self._steps, self._batch_size, self._skip, self._repeats = steps, batch_size, skip, repeats
        self._training = count > 0
        self._lanes = count or _testing_lanes(shards, share)
        each = self._lanes // share.count
        first = share.rank * each
        self._own = list(range(first, first + each) if count else range(share.rank, self._lanes, share.count))

    def workers(self, wanted: int) -> int:
        """How many processes can read at a time, at most so many."""
        return min(wanted, len(self._own))

    def gathered(self, found: Iterator[_Some | str]) -> Iterator[Part | str]:
        """The parts of batches from what the processes that read have of them, which comes step by step."""
        waiting: list[_Some] = []
        for some in found:
            if isinstance(some, str):
                yield some
                return
            if waiting and waiting[0].step != some.step:
                yield self._joined(waiting)
                waiting = []
            waiting.append(some)
        if waiting:
            yield self._joined(waiting)

    def _joined(self, several: list[_Some]) -> Part:
        skipped = tuple(reason for some in several for reason in some.skipped)
        several = [some for some in several if len(some.rows)] or several[:1]
        if len(several) == 1 and bool((several[0].rows.diff() > 0).all()):
            images, labels, index = several[0][1:4]
            return Part(images, labels, index, self._batch_size, skipped)
        places = torch.cat([some.rows for some in several]).argsort().argsort()
        shape = len(places), *several[0].images.shape[1:]
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=several[0].images.is_pinned())
        labels, index = torch.empty_like(places), torch.empty_like(places)
        for some, here in zip(several, places.split([len(some.rows) for some in several]), strict=True):
            images[here], labels[here], index[here] = some.images, some.labels, some.index
        return Part(images, labels, index, self._batch_size, skipped)

    def __iter__(self) -> Iterator[_Some | str]:
        worker = get_worker_info()
        own = self._own if worker is None else self._own[worker.id :: worker.num_workers]
        try:
            yield from self._trained(own) if self._training else self._tested(own)
        except Unreadable as error:
            hint = "" if self._skip else "; restore it, or have such skipped (--data.unreadable skip)"
            yield f"{error}{hint}"
        except InputError as error:
            yield str(error)

    def _trained(self, own: list[int]) -> Iterator[_Some]:
        each = self._batch_size // self._lanes
        sources = []
        for number in own:
            read = Lane(self._shards, number, self._lanes, skip=self._skip)
            rows = Share(number, self._lanes).rows(self._batch_size).tolist()
            samples = read.endless(self._seed, self._epoch)
            sources.append((_Ahead(read, samples, self._steps.start * each // self._repeats), rows))
        current: dict[int, tuple[Image.Image, int]] = {}  # by lane, the image that is repeated
        for step in self._steps:
            found: list[tuple[Tensor, int, int, int]] = []
            skipped: list[str] = []
            for lane, (source, rows) in enumerate(sources):
                for turn, row in enumerate(rows, start=step * each):
                    if turn % self._repeats == 0 or lane not in current:
                        current[lane] = self._next_readable(source, skipped)
                    image, label = current[lane]
                    position = step * self._batch_size + row
                    found.append((self._transform(image, self._epoch, position), label, position, row))
                skipped += source.lane.failed()
            yield _some(step, found, skipped)

    def _next_readable(self, source: _Ahead, skipped: list[str]) -> tuple[Image.Image, int]:
        # The next image that can be read is seen in place of one that cannot, and again in its own place: so no image
        # changes its place, and an epoch can go on from its middle without decoding what came before.
        for away in range(_IN_VAIN):
            sample = source.peek(away)
            found = self._decoded(source.lane, sample, skipped)
            if found is not None:
                source.go_on()
                return found
        raise Unreadable(f"not one of {_IN_VAIN} images in a row could be read (the last: {name_of(sample)!r})")

    def _tested(self, own: list[int]) -> Iterator[_Some]:
        each = max(1, self._batch_size // self._lanes)
        lanes = [Lane(self._shards, number, self._lanes, skip=self._skip) for number in own]
        sources = [islice(lane.samples(), self._steps.start * each, None) for lane in lanes]
        for step in count(self._steps.start):
            found: list[tuple[Tensor, int, int, int]] = []
            skipped: list[str] = []
            ended = True
            for lane, number, source in zip(lanes, own, sources, strict=True):
                for turn, sample in enumerate(islice(source, each)):
                    ended = False
                    decoded = self._decoded(lane, sample, skipped)
                    if decoded is not None:
                        index = (step * each + turn) * self._lanes + number
                        shown = self._transform(decoded[0], self._epoch, index)
                        found.append((shown, decoded[1], index, number * each + turn))
                skipped += lane.failed()
            if not ended or skipped:
                yield _some(step, found, skipped)
            if ended:
                return

    def _decoded(self, lane: Lane, sample: dict[str, Any], skipped: list[str]) -> tuple[Image.Image, int] | None:
        try:
            found = lane.decoded(sample)
        except Unreadable as error:
            if not self._skip:
                raise
            skipped.append(str(error))
            return None
        if found is not None and not 0 <= found[1] < self._shards.classes:
            raise InputError(
                f"{name_of(sample)!r} has label {found[1]}, and there are {self._shards.classes} classes, from 0; give "
                "as many as there are (--data.options.classes)"
            )
        return found


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


def _testing_lanes(shards: Shards, share: Share) -> int:
    """The number of lanes in testing: the more, the more workers have to do, up to 16 for all processes together."""
    return min(len(shards.names), max(1, MOST_LANES // share.count) * share.count)
