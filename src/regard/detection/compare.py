"""Detectors on the same images, compared by drawing the images with replacement."""

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

_PURPOSE = 22  # of the stream, among those of a seed
_SAMPLES = 1000  # at a time


@dataclass(frozen=True)
class Comparison(Tabular):
    """Differences between two results.

    Attributes:
        model: name of the first model.
        reference: name of the second.
        differences: ("boxes" or "masks", COCO's number of average precision) -> the first minus the second.
    """

    model: str
    reference: str
    differences: dict[tuple[Kind, str], Difference]

    def plot(self, kind: Kind = "boxes") -> Figure:
        """A matplotlib figure of the differences of boxes, or of masks, with their 95% intervals.

        Raises:
            InputError: they are not compared.
        """
        rows = {name: difference for (of, name), difference in self.differences.items() if of == kind}
        if not rows:
            raise unknown("kind of detections", kind, dict.fromkeys(of for of, _ in self.differences))
        return figures.intervals(rows, xlabel=f"{self.model} minus {self.reference}", level=0)

    def to_records(self) -> list[dict[str, Any]]:
        """A dict per number, JSON-ready: `model`, `reference`, `kind`, `measure`, fields of `Difference`, `significant`
        (None without a test)."""
        return [
            {
                "model": self.model,
                "reference": self.reference,
                "kind": kind,
                "measure": measure,
                **difference.to_record(),
            }
            for (kind, measure), difference in self.differences.items()
        ]


def compare(results: Results, reference: Results, *, samples: int = 2000, seed: int = 0) -> Comparison:
    """Differences in average precision between two detectors on the same images: the first minus the second.

    Average precision is no mean over images. So images are drawn with replacement, the same for both detectors, and the
    difference is computed in each sample (paired bootstrap; Efron 1979). All differences are corrected together (Holm).
    They are about all images of this kind, not about another training run.

    Args:
        results: of the first detector.
        reference: of the second.
        samples: number of samples of images, 100 or more.
        seed: of the samples.

    Raises:
        InputError: the results are of different images, objects or classes.
    """
    return compare_all([reference, results], samples=samples, seed=seed)[0]


def compare_all(results: Sequence[Results], *, samples: int = 2000, seed: int = 0) -> list[Comparison]:
    """Each later results against the first, as `compare` does, all differences corrected together (Holm)."""
    if samples < 100:
        raise InputError(f"samples is {samples}; give 100 or more, as an interval is read off them")
    first, *others = results
    for other in others:
        _check_same(other, first)
    kinds: list[Kind] = [kind for kind in first.kinds if all(kind in other.kinds for other in others)]
    differences: dict[tuple[int, Kind, str], Difference] = {}
    for kind in kinds:
        reference = _precisions(first, kind, samples, seed)
        for i, other in enumerate(others):
            drawn = _precisions(other, kind, samples, seed)
            for name in PRECISIONS:
                # The first row is of the images themselves.
                value, *apart = (drawn[name] - reference[name]).tolist()
                differences[i, kind, name] = bootstrap(value, apart, len(first))
    corrected = holm(differences)
    return [
        Comparison(
            other.model, first.model, {(kind, name): corrected[i, kind, name] for kind in kinds for name in PRECISIONS}
        )
        for i, other in enumerate(others)
    ]


def _precisions(results: Results, kind: Kind, samples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Average precision of the images, and of samples of them, (1 + samples,)."""
    matches, images = Matches.of(results, kind), len(results)
    parts = [matches.precisions(np.ones((1, images), dtype=np.int32))]
    for start in range(0, samples, _SAMPLES):
        count = min(_SAMPLES, samples - start)
        drawn = RandomStream(check_seed(seed), _PURPOSE, start).integers(0, images - 1, (count, images))
        weights = np.stack([np.bincount(row, minlength=images).astype(np.int32) for row in drawn])
        parts.append(matches.precisions(weights))
    return {name: np.concatenate([part[name] for part in parts]) for name in PRECISIONS}


def _check_same(one: Results, other: Results) -> None:
    """Raises InputError if two results are not of the same images and objects."""
    if one.keys != other.keys or one.classes != other.classes:
        raise InputError(
            f"{one.model} is evaluated on {len(one)} images of {len(one.classes)} classes, {other.model} on "
            f"{len(other)} of {len(other.classes)}, and they are not the same; evaluate both on the same data"
        )
    if not (np.array_equal(one.truth.label, other.truth.label) and np.array_equal(one.truth.box, other.truth.box)):
        raise InputError(f"{one.model} and {other.model} are evaluated with different objects; evaluate both again")
