"""COCO's evaluation: which detections match an object, and average precision and recall over images.

The matches are those of pycocotools (`COCOeval.evaluateImg`). As they are within an image, a sample of images that are
drawn with replacement needs no new ones: an image counts as often as it was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regard.data.codes import library
from regard.detection.table import Kind, Table

if TYPE_CHECKING:
    from regard.detection.results import Results

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the intersection over union
RECALLS = np.linspace(0, 1, 101)
# Of the area of objects, in pixels: all, small, medium and large.
RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))

_WRONG, _RIGHT, _IGNORED = 0, 1, 2
_MOST = 100  # detections of a class in an image
_ELEMENTS = 2**22  # of an array at a time
# Name -> number of the range of areas, and the thresholds that the mean is over.
_PRECISIONS = {"AP": (0, slice(None)), "AP50": (0, slice(0, 1)), "AP75": (0, slice(5, 6))}
_PRECISIONS |= {"APs": (1, slice(None)), "APm": (2, slice(None)), "APl": (3, slice(None))}
# Name -> number of the range of areas, and the detections of a class in an image, at the most.
_RECALLS = {"AR1": (0, 1), "AR10": (0, 10), "AR100": (0, 100), "ARs": (1, 100), "ARm": (2, 100), "ARl": (3, 100)}

PRECISIONS = tuple(_PRECISIONS)
"""The numbers of `Matches.precisions`."""

MEASURES = (*_PRECISIONS, *_RECALLS)
"""COCO's twelve numbers, 0 to 1, NaN where there is no object to find."""


def evaluate_matches(matches: Matches) -> tuple[dict[str, float], list[dict[str, float]]]:
    """COCO's twelve numbers over all classes, and of each."""
    images = matches.counted.shape[2]
    precision = matches.by_class(np.ones((1, images), dtype=np.int32))[:, :, 0]
    arrays = {name: precision[size, levels] for name, (size, levels) in _PRECISIONS.items()}
    arrays |= {name: matches.recall(size, most) for name, (size, most) in _RECALLS.items()}
    by_class = [
        {name: float(array[:, label].mean()) for name, array in arrays.items()} for label in range(precision.shape[2])
    ]
    known = {name: array[~np.isnan(array)] for name, array in arrays.items()}
    return {name: float(array.mean()) if array.size else math.nan for name, array in known.items()}, by_class


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections of a data set of `images` images and `classes` classes, matched to its objects.

    Attributes:
        detections: (N,), sorted by image, class and falling score, at most 100 of each.
        rank: int64 (N,), of a detection among those of its image and class, from 0.
        state: uint8 (ranges of area, thresholds, N): right, wrong or ignored.
        inside: bool (ranges, N), whether an unmatched detection counts, by its area.
        counted: int32 (ranges, classes, images), the number of objects to find.
    """

    detections: Table
    rank: NDArray[np.int64]
    state: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    counted: NDArray[np.int32]

    @classmethod
    def of(cls, results: Results, kind: Kind) -> Matches:
        """Match the boxes, or the masks, of some results."""
        images, classes = len(results), len(results.classes)
        detections, truth = _sorted(results.detections), _sorted(results.truth)
        group = detections.image * classes + detections.label
        rank = np.arange(len(detections)) - np.searchsorted(group, group)
        detections, rank = detections.where(rank < _MOST), rank[rank < _MOST]
        low, high = np.array(RANGES).T[:, :, None]
        areas, area = detections.areas(results.sizes, kind), truth.area
        inside, apart = (areas >= low) & (areas <= high), truth.crowd | (area < low) | (area > high)
        state = np.where(inside, _WRONG, _IGNORED).astype(np.uint8)[:, None].repeat(len(THRESHOLDS), 1)
        for rows, columns, overlaps in _batches(detections, truth, results, kind):
            _match(state, rows, overlaps, truth.crowd[columns], apart[:, columns])
        counted = np.zeros((len(RANGES), classes, images), dtype=np.int32)
        for part, ignored in zip(counted, apart, strict=True):
            np.add.at(part, (truth.label[~ignored], truth.image[~ignored]), 1)
        return cls(detections, rank, state, inside, counted)

    def precisions(self, weights: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
        """COCO's six numbers of average precision for samples of images.

        Args:
            weights: int (B, images), how often each image is in a sample.

        Returns:
            name -> (B,), 0 to 1; NaN where a sample has no object.
        """
        by_class = self.by_class(weights)
        known = ~np.isnan(by_class)
        total, number = np.where(known, by_class, 0).sum(-1), known.sum(-1)
        with np.errstate(invalid="ignore"):
            mean = total / number  # (ranges, thresholds, B)
        return {name: mean[size, levels].mean(0) for name, (size, levels) in _PRECISIONS.items()}

    def by_class(self, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        """Average precision of each class for samples of images, (ranges, thresholds, B, classes)."""
        return np.stack([self._of_class(label, weights) for label in range(self.counted.shape[1])], axis=-1)

    def recall(self, size: int, most: int) -> NDArray[np.float64]:
        """Recall of each class in a range of areas by so many detections in each image, (thresholds, classes)."""
        counted = self.counted[size].sum(1)
        labels = [self.detections.label[(state == _RIGHT) & (self.rank < most)] for state in self.state[size]]
        right = np.array([np.bincount(label, minlength=len(counted)) for label in labels])
        return right / np.where(counted > 0, counted, np.nan)

    def _of_class(self, label: int, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        """Average precision of a class, (ranges, thresholds, B)."""
        which = np.flatnonzero(self.detections.label == label)
        which = which[np.argsort(-self.detections.score[which], kind="stable")]
        image = self.detections.image[which]
        result = np.full((*self.state.shape[:2], len(weights)), np.nan)
        step = max(1, _ELEMENTS // max(1, len(which)))
        for start in range(0, len(weights), step):
            sample = weights[start : start + step]
            times = sample[:, image]
            for size, (inside, state) in enumerate(zip(self.inside[:, which], self.state[:, :, which], strict=True)):
                total = sample @ self.counted[size, label]
                before = np.cumsum(times * inside, axis=1, dtype=times.dtype)
                for level, outcome in enumerate(state):
                    # Often a threshold changes nothing.
                    same = level and np.array_equal(outcome, state[level - 1])
                    result[size, level, start : start + step] = (
                        result[size, level - 1, start : start + step]
                        if same
                        else _average_precision(times, before, inside, outcome, total)
                    )
        return result


def _average_precision(
    times: NDArray[np.int32],
    before: NDArray[np.int32],
    inside: NDArray[np.bool_],
    state: NDArray[np.uint8],
    total: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Average precision of B samples, (B,), NaN without objects.

    Args:
        times: int (B, n), how often each of the detections, by falling score, is in a sample.
        before: the number of detections up to each, (B, n), if those `inside`, bool (n,), count.
        inside: which these are.
        state: (n,), of each detection.
        total: (B,), number of objects to find.
    """
    right = np.flatnonzero(state == _RIGHT)
    result = np.where(total > 0, 0.0, np.nan)
    if not len(right):
        return result
    counts = before[:, right]
    # Matched detections may count otherwise than by their area: the difference, up to each right one.
    change = (state != _IGNORED).astype(times.dtype) - inside
    changed = np.flatnonzero(change)
    if len(changed):
        changes = np.zeros((len(times), 1 + len(changed)), times.dtype)
        np.cumsum(times[:, changed] * change[changed], axis=1, out=changes[:, 1:])
        counts += changes[:, np.searchsorted(changed, right, side="right")]
    matched = np.cumsum(times[:, right], axis=1, dtype=times.dtype)
    precision = matched / (counts + np.spacing(1))
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, matched / np.maximum(total, 1)[:, None], side="right")
    reached[:, 1:] -= reached[:, :-1].copy()
    return result + np.einsum("bk,bk->b", highest, reached) / len(RECALLS)


def _sorted(table: Table) -> Table:
    """By image, class and falling score."""
    return table.where(np.lexsort((-table.score, table.label, table.image)))


def _batches(
    detections: Table, truth: Table, results: Results, kind: Kind
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """What may match, in batches of pairs of an image and a class.

    Yields:
        of P pairs the detections that overlap an object by half or more, (P, D), by falling score; the objects, (P, G);
        and their overlaps, (P, D, G). Where a pair has less, numbers are 0 and overlaps -1.
    """
    keys = detection_keys, truth_keys = [
        table.image * len(results.classes) + table.label for table in (detections, truth)
    ]
    shapes = [table.box if kind == "boxes" else table.codes(results.sizes) for table in (detections, truth)]
    crowd = truth.crowd.astype(np.uint8).tolist()
    common = np.intersect1d(detection_keys, truth_keys)
    ends = [np.searchsorted(one, [common, common + 1]).T.tolist() for one in keys]
    pairs: dict[int, list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]] = {}
    for (first, last), (start, end) in zip(*ends, strict=True):
        overlaps = np.asarray(library().iou(shapes[0][first:last], shapes[1][start:end], crowd[start:end]))
        close = np.flatnonzero((overlaps >= THRESHOLDS[0]).any(1))
        if len(close):
            pair = first + close, np.arange(start, end), overlaps[close]
            pairs.setdefault((end - start - 1).bit_length(), []).append(pair)
    for size, several in pairs.items():
        step = max(1, _ELEMENTS // (len(RANGES) * len(THRESHOLDS) << size))
        for i in range(0, len(several), step):
            yield _padded(several[i : i + step])


def _padded(
    pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    shape = tuple(max(pair[2].shape[axis] for pair in pairs) for axis in (0, 1))
    rows, columns = (np.zeros((len(pairs), side), dtype=np.int64) for side in shape)
    overlaps = np.full((len(pairs), *shape), -1.0)
    for i, (row, column, overlap) in enumerate(pairs):
        rows[i, : len(row)], columns[i, : len(column)] = row, column
        overlaps[i, : len(row), : len(column)] = overlap
    return rows, columns, overlaps


def _match(
    state: NDArray[np.uint8],
    rows: NDArray[np.int64],
    overlaps: NDArray[np.float64],
    crowd: NDArray[np.bool_],
    apart: NDArray[np.bool_],
) -> None:
    """Write the state of the detections of P pairs, one after another by falling score; see `_batches`.

    A detection takes the free object that it overlaps most, of two alike the later one, and only where no object is
    left that counts, one that is ignored. Crowds stay free.

    Args:
        state: uint8 (ranges, thresholds, N).
        rows: of the detections, (P, D).
        overlaps: (P, D, G).
        crowd: bool (P, G).
        apart: bool (ranges, P, G), whether an object is ignored.
    """
    ranges, thresholds = state.shape[:2]
    taken = np.zeros((ranges, thresholds, *crowd.shape), dtype=np.bool_)
    for rank in range(rows.shape[1]):
        pairs = np.flatnonzero(overlaps[:, rank].max(1) >= 0)
        overlap = overlaps[pairs, rank]
        open_to = (overlap >= THRESHOLDS[:, None, None]) & (~taken[:, :, pairs] | crowd[pairs])
        ignored = np.zeros(open_to.shape[:3], dtype=np.bool_)
        chosen = np.full(open_to.shape[:3], -1)
        for group, ignore in ((~apart[:, None, pairs], False), (apart[:, None, pairs], True)):
            values = np.where(open_to & group, overlap, -1.0)[..., ::-1]
            last = values.shape[-1] - 1 - values.argmax(-1)
            new = (chosen < 0) & (values.max(-1) >= 0)
            chosen[new], ignored[new] = last[new], ignore
        at, level, pair = np.nonzero(chosen >= 0)
        taken[at, level, pairs[pair], chosen[at, level, pair]] = True
        state[at, level, rows[pairs[pair], rank]] = np.where(ignored[at, level, pair], _IGNORED, _RIGHT)
