"""Compares detectors on the same images by a paired bootstrap over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regard import figures
from regard.data.random import RandomStream, check_seed
from regard.detection.matching import PRECISIONS, Matches
from regard.detection.results import Results
from regard.detection.table import Kind
from regard.errors import InputError, unknown
from regard.notebook import Tabular
from regard.stats import Difference, bootstrap, holm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PURPOSE = 22  # key of the random stream
_CHUNK = 1000  # bootstrap samples at a time


@dataclass(frozen=True)
class Comparison(Tabular):
    """Differences between two results.

    Attributes:
        model: name of the first model.
        reference: name of the second.
        differences: ("boxes" or "masks", COCO's name of an average precision) -> the first model minus the second.
    """

    model: str
    reference: str
    differences: dict[tuple[Kind, str], Difference]

    def plot(self, kind: Kind = "boxes") -> Figure:
        """A matplotlib figure of the differences for boxes or masks, with their 95% intervals.

        Raises:
            InputError: the comparison does not have this kind.
        """
        rows = {name: difference for (key, name), difference in self.differences.items() if key == kind}
        if not rows:
            raise unknown("kind of detections", kind, dict.fromkeys(key for key, _ in self.differences))
        return figures.intervals(rows, xlabel=f"{self.model} minus {self.reference}", level=0)

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-ready dict per difference: `model`, `reference`, `kind`, `measure`, the fields of `Difference`, and
        `significant` (None without a test)."""
        names = {"model": self.model, "reference": self.reference}
        return [
            {**names, "kind": kind, "measure": measure, **difference.to_record()}
            for (kind, measure), difference in self.differences.items()
        ]


def compare(results: Results, reference: Results, *, samples: int = 2000, seed: int = 0) -> Comparison:
    """Differences in average precision between two detectors on the same images: the first minus the second.

    Average precision is no mean over images. Therefore the difference is computed in samples of images, drawn with
    replacement and the same for both detectors (paired bootstrap; Efron 1979). All differences are corrected together
    (Holm). They generalise to other images of this kind, not to another training run.

    Args:
        results: results of the first detector.
        reference: results of the second detector.
        samples: number of bootstrap samples, at least 100.
        seed: seed of the samples.

    Raises:
        InputError: the results have different images, objects or classes, or `samples` is below 100.
    """
    return compare_all([reference, results], samples=samples, seed=seed)[0]


def compare_all(results: Sequence[Results], *, samples: int = 2000, seed: int = 0) -> list[Comparison]:
    """Compares each of the later results with the first, like `compare`; all differences are corrected together."""
    if samples < 100:
        raise InputError(f"samples is {samples}; give 100 or more, as an interval needs")
    first, *others = results
    for other in others:
        _check_same(other, first)
    kinds: list[Kind] = [kind for kind in first.kinds if all(kind in other.kinds for other in others)]
    differences: dict[tuple[int, Kind, str], Difference] = {}
    for kind in kinds:
        reference = _precisions(first, kind, samples, seed)
        for i, other in enumerate(others):
            precisions = _precisions(other, kind, samples, seed)
            for name in PRECISIONS:
                value, *resampled = (precisions[name] - reference[name]).tolist()
                differences[i, kind, name] = bootstrap(value, resampled, len(first))
    corrected = holm(differences)
    return [
        Comparison(
            other.model, first.model, {(kind, name): corrected[i, kind, name] for kind in kinds for name in PRECISIONS}
        )
        for i, other in enumerate(others)
    ]


def _precisions(results: Results, kind: Kind, samples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Average precisions (1 + samples,): of all images, then of bootstrap samples."""
    matches, images = Matches.of(results, kind), len(results)
    chunks = [matches.precisions(np.ones((1, images), dtype=np.int32))]
    for start in range(0, samples, _CHUNK):
        count = min(_CHUNK, samples - start)
        indices = RandomStream(check_seed(seed), _PURPOSE, start).integers(0, images - 1, (count, images))
        weights = np.stack([np.bincount(row, minlength=images).astype(np.int32) for row in indices])
        chunks.append(matches.precisions(weights))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in PRECISIONS}


def _check_same(first: Results, second: Results) -> None:
    """Raises InputError if two results have different images, classes or objects."""
    if first.keys != second.keys or first.classes != second.classes:
        raise InputError(
            f"{first.model} is evaluated on {len(first)} images of {len(first.classes)} classes, {second.model} on "
            f"{len(second)} of {len(second.classes)}, which differ; evaluate both on the same data"
        )
    truths = first.truth, second.truth
    if not all(np.array_equal(*columns) for columns in ([t.label for t in truths], [t.box for t in truths])):
        raise InputError(f"{first.model} and {second.model} are evaluated with different objects; evaluate both again")
