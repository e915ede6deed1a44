"""COCO's evaluation: matches detections to objects, and computes average precision and recall over images.

Detections are matched as in pycocotools (`COCOeval.evaluateImg`). Each image is matched on its own, so a bootstrap
sample of images reuses the matches: an image counts as often as it was drawn.
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

# Row numbers of detections (…, D) and objects (…, G), and their overlaps (…, D, G).
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # intersection over union
RECALLS = np.linspace(0, 1, 101)
# Object areas in pixels: all, small, medium and large.
RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))

_WRONG, _RIGHT, _IGNORED = 0, 1, 2
_MAX_DETECTIONS = 100  # per class and image
_MAX_ELEMENTS = 2**22  # of an array
# Name -> index in RANGES, and thresholds to average over.
_PRECISIONS = {"AP": (0, slice(None)), "AP50": (0, slice(0, 1)), "AP75": (0, slice(5, 6))}
_PRECISIONS |= {"APs": (1, slice(None)), "APm": (2, slice(None)), "APl": (3, slice(None))}
# Name -> index in RANGES, and largest number of detections per class and image.
_RECALLS = {"AR1": (0, 1), "AR10": (0, 10), "AR100": (0, 100), "ARs": (1, 100), "ARm": (2, 100), "ARl": (3, 100)}

PRECISIONS = tuple(_PRECISIONS)
"""The numbers of `Matches.precisions`."""

MEASURES = (*_PRECISIONS, *_RECALLS)
"""COCO's twelve numbers, in [0, 1], or NaN without objects."""


def evaluate_matches(matches: Matches) -> tuple[dict[str, float], list[dict[str, float]]]:
    """COCO's twelve numbers, averaged over all classes and for each class."""
    images = matches.counted.shape[2]
    precision = matches.by_class(np.ones((1, images), dtype=np.int32))[:, :, 0]
    arrays = {name: precision[size, levels] for name, (size, levels) in _PRECISIONS.items()}
    arrays |= {name: matches.recall(size, limit) for name, (size, limit) in _RECALLS.items()}
    by_class = [
        {name: float(array[:, label].mean()) for name, array in arrays.items()} for label in range(precision.shape[2])
    ]
    values = {name: array[~np.isnan(array)] for name, array in arrays.items()}
    return {name: float(array.mean()) if array.size else math.nan for name, array in values.items()}, by_class


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections on a data set, matched to its objects.

    Attributes:
        detections: N detections, sorted by image, class and falling score, at most 100 per image and class.
        rank: int64 (N,), rank of a detection within its image and class, from 0.
        state: uint8 (ranges of area, thresholds, N): right, wrong or ignored.
        inside: bool (ranges, N), whether the area of a detection is in the range, so that it counts if unmatched.
        counted: int32 (ranges, classes, images), the number of objects to find.
    """

    detections: Table
    rank: NDArray[np.int64]
    state: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    counted: NDArray[np.int32]

    @classmethod
    def of(cls, results: Results, kind: Kind) -> Matches:
        """Matches the boxes or masks of `results`."""
        images, classes = len(results), len(results.classes)
        detections, truth = _sorted(results.detections), _sorted(results.truth)
        group = detections.image * classes + detections.label
        rank = np.arange(len(detections)) - np.searchsorted(group, group)
        detections, rank = detections.where(rank < _MAX_DETECTIONS), rank[rank < _MAX_DETECTIONS]
        low, high = np.array(RANGES).T[:, :, None]
        areas = detections.areas(results.sizes, kind)
        inside = (areas >= low) & (areas <= high)
        ignored = truth.crowd | (truth.area < low) | (truth.area > high)
        state = np.where(inside, _WRONG, _IGNORED).astype(np.uint8)[:, None].repeat(len(THRESHOLDS), 1)
        for rows, columns, overlaps in _batches(detections, truth, results, kind):
            _match(state, rows, overlaps, truth.crowd[columns], ignored[:, columns])
        counted = np.zeros((len(RANGES), classes, images), dtype=np.int32)
        for counts, to_find in zip(counted, ~ignored, strict=True):
            np.add.at(counts, (truth.label[to_find], truth.image[to_find]), 1)
        return cls(detections, rank, state, inside, counted)

    def precisions(self, weights: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
        """COCO's six average precisions for B samples of images, each (B,), NaN for samples without objects; `weights`,
        int (B, images), is how often each image is in a sample."""
        by_class = self.by_class(weights)
        valid = ~np.isnan(by_class)
        with np.errstate(invalid="ignore"):
            mean = np.where(valid, by_class, 0).sum(-1) / valid.sum(-1)  # (ranges, thresholds, B)
        return {name: mean[size, levels].mean(0) for name, (size, levels) in _PRECISIONS.items()}

    def by_class(self, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        """Average precision of each class for samples of images, (ranges, thresholds, B, classes)."""
        return np.stack([self._class_precision(label, weights) for label in range(self.counted.shape[1])], axis=-1)

    def recall(self, size: int, limit: int) -> NDArray[np.float64]:
        """Recall of each class, (thresholds, classes), in range `size` with at most `limit` detections per image."""
        counted = self.counted[size].sum(1)
        labels = [self.detections.label[(state == _RIGHT) & (self.rank < limit)] for state in self.state[size]]
        right = np.array([np.bincount(label, minlength=len(counted)) for label in labels])
        return right / np.where(counted > 0, counted, np.nan)

    def _class_precision(self, label: int, weights: NDArray[np.int32]) -> NDArray[np.float64]:
        """Average precision of a class, (ranges, thresholds, B)."""
        rows = np.flatnonzero(self.detections.label == label)
        rows = rows[np.argsort(-self.detections.score[rows], kind="stable")]
        image = self.detections.image[rows]
        result = np.full((*self.state.shape[:2], len(weights)), np.nan)
        step = max(1, _MAX_ELEMENTS // max(1, len(rows)))
        for start in range(0, len(weights), step):
            sample = weights[start : start + step]
            times = sample[:, image]
            for size, (inside, states) in enumerate(zip(self.inside[:, rows], self.state[:, :, rows], strict=True)):
                total = sample @ self.counted[size, label]
                counts = np.cumsum(times * inside, axis=1, dtype=times.dtype)
                for level, state in enumerate(states):
                    # Often a threshold changes nothing.
                    is_same = level and np.array_equal(state, states[level - 1])
                    result[size, level, start : start + step] = (
                        result[size, level - 1, start : start + step]
                        if is_same
                        else _average_precision(times, counts, inside, state, total)
                    )
        return result


def _average_precision(
    times: NDArray[np.int32],
    counts: NDArray[np.int32],
    inside: NDArray[np.bool_],
    state: NDArray[np.uint8],
    total: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Average precision of B samples, (B,); NaN without objects.

    Args:
        times: int (B, n), how often each detection is in a sample, by falling score.
        counts: int (B, n), cumulative number of detections `inside` the range of areas.
        inside: bool (n,).
        state: uint8 (n,).
        total: int (B,), number of objects to find.
    """
    right = np.flatnonzero(state == _RIGHT)
    result = np.where(total > 0, 0.0, np.nan)
    if not len(right):
        return result
    counts = counts[:, right]
    # Matched detections count by their state, not by their own area: adds the cumulative difference.
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
    """Sorts rows by image, class and falling score."""
    return table.where(np.lexsort((-table.score, table.label, table.image)))


def _batches(detections: Table, truth: Table, results: Results, kind: Kind) -> Iterator[Pairs]:
    """Yields batches of P pairs of an image and a class: its detections with an overlap of at least 0.5, by falling
    score, and its objects. Padding has row number 0 and overlap -1."""
    keys = detection_keys, truth_keys = [
        table.image * len(results.classes) + table.label for table in (detections, truth)
    ]
    shapes = [table.box if kind == "boxes" else table.codes(results.sizes) for table in (detections, truth)]
    crowd = truth.crowd.astype(np.uint8).tolist()
    common = np.intersect1d(detection_keys, truth_keys)
    ends = [np.searchsorted(table_keys, [common, common + 1]).T.tolist() for table_keys in keys]
    pairs: dict[int, list[Pairs]] = {}
    for (first, last), (start, end) in zip(*ends, strict=True):
        overlaps = np.asarray(library().iou(shapes[0][first:last], shapes[1][start:end], crowd[start:end]))
        close = np.flatnonzero((overlaps >= THRESHOLDS[0]).any(1))
        if len(close):
            pair = first + close, np.arange(start, end), overlaps[close]
            pairs.setdefault((end - start - 1).bit_length(), []).append(pair)
    for size, group in pairs.items():
        step = max(1, _MAX_ELEMENTS // (len(RANGES) * len(THRESHOLDS) << size))
        for i in range(0, len(group), step):
            yield _pad(group[i : i + step])


def _pad(pairs: Sequence[Pairs]) -> Pairs:
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
    ignored: NDArray[np.bool_],
) -> None:
    """Writes the state of the detections of P pairs of `_batches`, in order of falling score.

    A detection matches the free object with the largest overlap (the last of equal ones). Ignored objects are matched
    only if no other object is left. A crowd can be matched many times.

    Args:
        state: uint8 (ranges, thresholds, N), written in place.
        rows, overlaps: see `_batches`.
        crowd: bool (P, G).
        ignored: bool (ranges, P, G).
    """
    ranges, thresholds = state.shape[:2]
    matched = np.zeros((ranges, thresholds, *crowd.shape), dtype=np.bool_)
    for rank in range(rows.shape[1]):
        pairs = np.flatnonzero(overlaps[:, rank].max(1) >= 0)
        overlap = overlaps[pairs, rank]
        candidates = (overlap >= THRESHOLDS[:, None, None]) & (~matched[:, :, pairs] | crowd[pairs])
        result = np.full(candidates.shape[:3], _RIGHT)
        best = np.full(candidates.shape[:3], -1)  # index of the matched object
        for group, outcome in ((~ignored[:, None, pairs], _RIGHT), (ignored[:, None, pairs], _IGNORED)):
            values = np.where(candidates & group, overlap, -1.0)[..., ::-1]
            last = values.shape[-1] - 1 - values.argmax(-1)
            new = (best < 0) & (values.max(-1) >= 0)
            best[new], result[new] = last[new], outcome
        size, level, pair = np.nonzero(best >= 0)
        matched[size, level, pairs[pair], best[size, level, pair]] = True
        state[size, level, rows[pairs[pair], rank]] = result[size, level, pair]
