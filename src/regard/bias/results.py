"""Results of an evaluation: one row per image, summaries with intervals, and their files."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from regard import figures
from regard.bias.metrics import CURVE_THRESHOLDS, check_focus, focus_measures
from regard.bias.rows import CURVES, Rows
from regard.bias.summary import Summary, comparable, rate
from regard.errors import InputError, first_line, unknown
from regard.files import MOST_BYTES, atomic_write, check_overwritable, read_regular, utf8, write_errors
from regard.notebook import Tabular, records_html
from regard.stats import Estimate, mean, without_nan

if TYPE_CHECKING:
    import pyarrow
    from matplotlib.figure import Figure

# Size of a region -> the share of the image's pixels that it takes at least, and stays below: the bounds are squares of
# a quarter and of half the image's side.
SIZES = {"small": (0.0, 1 / 16), "medium": (1 / 16, 1 / 4), "large": (1 / 4, math.inf)}
# The same of a detection, in pixels of its region, as COCO has them.
DETECTION_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
DETECTION = "detection"
"""The target of results that have a row for each detection; see `bias.evaluate_detector`."""

_SHOWN = ("images", "accuracy", "position_bias", "range_bias", "energy_inside", "spill", "miss")  # in a notebook
_FORMAT = "regard bias"
_VERSION = 3
_OPTIONS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model", "dataset", "split", "method", "layer", "target"), str),
    "threshold": (float, int),
    "margin": int,
    "tolerance": int,
    "scored": bool,
}
_NAMES = ("classes", "outputs", "skipped")


@dataclass(frozen=True, eq=False)
class Results(Tabular):
    """Measures of a model's maps on the images of a data set.

    Attributes:
        model: its name.
        dataset: name of the data set.
        split: of the data set; "" where it has none.
        method: CAM method.
        layer: layers of the maps, joined by "+"; "" where the method has none.
        target: class whose maps these are: the "predicted" one or the "label"; or "detection", where each row is of a
            detection in place of an image.
        threshold: of the focus.
        classes: names of the classes of the data set; `label` is an index into them.
        rows: name -> NumPy array (N,), entry i belongs to image i: `label` (-1: none), `predicted` and `explained`
            (outputs of the model), `probability` (softmax of the explained class), `correct`, and the measures under
            the names of `Measures` (bool or float32). Besides, where they were measured, the `Curves` as
            `focus_inside`, `focus_outside` (N, 101) and `levels_beyond`; where they were kept, the maps as `map`:
            arrays (h, w), uint8, 255 times the map scaled to [0, 1]; and, where they were measured, the `VARIANTS` of
            interventions, float32: 1 where the model is right on the changed image, else 0; NaN where there is none.
        outputs: names of the model's outputs.
        scored: whether the labels are outputs of the model, so that it can be right or wrong; if not, `correct` is
            False throughout.
        keys: (N,), name of each image as UTF-8 can have it; its number where it has no name.
        skipped: the images that could not be read and have no row, each with the reason.
        provenance: what else the numbers depend on: fingerprints, preprocessing, versions; JSON-ready.
        margin: of range bias, in pixels; see `measure`.
        tolerance: of the pointing game, likewise.
    """

    model: str
    dataset: str
    split: str
    method: str
    layer: str
    target: str
    threshold: float
    classes: tuple[str, ...]
    rows: Mapping[str, np.ndarray] = field(repr=False)
    outputs: tuple[str, ...] = field(default=(), repr=False)
    scored: bool = True
    keys: tuple[str, ...] = field(default=(), repr=False)
    skipped: tuple[str, ...] = field(default=(), repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    margin: int = 0
    tolerance: int = 0

    def __post_init__(self) -> None:
        keys = self.keys or map(str, range(len(self.rows.get("label", ()))))
        object.__setattr__(self, "keys", tuple(map(utf8, keys)))
        object.__setattr__(self, "rows", Rows(self.keys, self.rows).columns)
        object.__setattr__(self, "outputs", tuple(self.outputs) or tuple(self.classes))

    def __len__(self) -> int:
        return len(self.rows["label"])

    @property
    def of_detections(self) -> bool:
        """Whether each row is of a detection, in place of an image."""
        return self.target == DETECTION

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of the maps, as `maps.create` takes them; empty where the method has none."""
        return tuple(filter(None, self.layer.split("+")))

    @cached_property
    def overall(self) -> Summary:
        """Of all images."""
        return self._summary(None)

    @cached_property
    def right(self) -> Summary:
        """Of the images predicted right; of none if the results are not scored."""
        return self._summary(self.rows["correct"])

    @cached_property
    def wrong(self) -> Summary:
        """Of the images with a label that are predicted wrong; of none if the results are not scored."""
        return self._summary(~self.rows["correct"] & (self.rows["label"] >= 0) & self.scored)

    @cached_property
    def by_class(self) -> dict[str, Summary]:
        """Class of the data set -> its images, by label; classes that share a name get their number behind it."""
        counts = Counter(self.classes)
        names = [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(self.classes)]
        order = np.argsort(self.rows["label"], kind="stable")  # once, not a pass over all images for each class
        ends = np.searchsorted(self.rows["label"][order], np.arange(len(names) + 1))
        return {name: self._summary(order[ends[i] : ends[i + 1]]) for i, name in enumerate(names)}

    @cached_property
    def by_size(self) -> dict[str, Summary]:
        """Size of the region, one of `SIZES` -> the images with a region of that size; an empty region has none."""
        return {name: self._summary(which) for name, which in self.sizes.items()}

    @cached_property
    def sizes(self) -> dict[str, np.ndarray]:
        """Size of the region, one of `SIZES` or `DETECTION_SIZES` -> which rows have it, bool (N,)."""
        area, sizes = self.rows["region_area"], SIZES
        if self.of_detections:
            area, sizes = self._curve(CURVES[0])[:, 0], DETECTION_SIZES
        return {name: (area > 0) & (least <= area) & (area < below) for name, (least, below) in sizes.items()}

    def by_group(self, groups: Sequence[str]) -> dict[str, Summary]:
        """Group -> its images, sorted; `groups`: that of each image, (N,), such as class and background."""
        if len(groups) != len(self):
            raise InputError(f"{len(groups)} groups for {len(self)} rows; expected one for each")
        names = np.asarray(groups)
        return {str(name): self._summary(names == name) for name in np.unique(names)}

    @cached_property
    def by_bias(self) -> dict[str, Summary]:
        """Summaries of the images with a focus and a region, "yes" of those with position bias, "no" of the others."""
        biased = self.rows["position_bias"]
        counted = comparable(self.rows)
        return {"yes": self._summary(counted & biased), "no": self._summary(counted & ~biased)}

    def _summary(self, which: np.ndarray | None) -> Summary:
        return Summary.of(self.rows, which, scored=self.scored)

    @property
    def accuracy(self) -> Estimate:
        """Of all images with a label."""
        return self.overall.accuracy

    @property
    def position_bias(self) -> Estimate:
        """Of the images with a focus and a region."""
        return self.overall.position_bias

    @property
    def range_bias(self) -> Estimate:
        """Of the images with a focus and a region."""
        return self.overall.range_bias

    def at(self, threshold: float) -> Results:
        """The same results with the focus at another threshold, without another look at the images.

        Position bias, range bias, spill, miss, IoU and focus area are exactly those of `evaluate` with this threshold.

        Args:
            threshold: 0.01, 0.02, … or 1.

        Raises:
            InputError: another threshold, or results without curves.
        """
        if threshold == self.threshold:
            return self
        check_focus(threshold)
        level = round(100 * threshold)
        if CURVE_THRESHOLDS[level] != threshold or not level:
            raise InputError(f"threshold {threshold}; curves are at multiples of 0.01, from 0.01 to 1")
        return replace(self, threshold=threshold, rows={**self.rows, **self._focus_measures(level)})

    @cached_property
    def curves(self) -> dict[str, list[Estimate]]:
        """Measure -> its rate or mean over the images with a focus and a region, at each threshold 0, 0.01, …, 1.

        The measures are `position_bias`, `range_bias`, `spill`, `miss`, `iou` and `focus_area`.

        Raises:
            InputError: results without curves.
        """
        counted = comparable(self.rows)
        curves: dict[str, list[Estimate]] = {}
        for level in range(len(CURVE_THRESHOLDS)):
            for name, values in self._focus_measures(level).items():
                values = values[counted]
                estimate = rate(values) if values.dtype == np.bool_ else mean(values, 0, 1)
                curves.setdefault(name, []).append(estimate)
        return curves

    def plot(self, measures: Sequence[str] = ("position_bias", "range_bias")) -> Figure:
        """A matplotlib figure of rates, or means, over thresholds, with their 95% intervals as bands.

        Args:
            measures: of `curves`.

        Raises:
            InputError: a measure that `curves` does not have, or results without curves.
        """
        for name in measures:
            if name not in self.curves:
                raise unknown("measure", name, self.curves)
        return threshold_figure({name.replace("_", " "): self.curves[name] for name in measures})

    def _focus_measures(self, level: int) -> dict[str, np.ndarray]:
        """The columns that depend on the threshold, at the threshold `level` / 100."""
        inside, outside, region, rest = (
            torch.from_numpy(self._curve(name)[:, i].astype(np.int64)) for i in (level, 0) for name in CURVES[:2]
        )
        beyond = torch.from_numpy(level < self._curve(CURVES[2]))
        measures = focus_measures(inside, outside, region, region + rest, beyond, torch.float32)
        return {name: values.numpy() for name, values in measures.items()}

    def _curve(self, name: str) -> np.ndarray:
        if name not in self.rows:
            raise InputError("the results have no curves; measure again")
        return self.rows[name]

    def to_records(self) -> list[dict[str, Any]]:
        """Every rate and mean of every part of the images, JSON-ready: NaN is None.

        Returns:
            Dicts with `model`; `part`: "all", "prediction", "position bias", "size" or "class"; `name`: of the part,
            such as "right" or "small"; `measure`; `value`, `low`, `high` (95% interval) and `n` (images). The counts
            `images`, `constant_maps` and `empty_regions` are among the measures, without an interval.
        """
        parts = {
            "all": {"": self.overall},
            "prediction": {"right": self.right, "wrong": self.wrong} if self.scored else {},
            "position bias": self.by_bias if self.scored else {},
            "size": self.by_size,
            "class": self.by_class,
        }
        records = []
        for part, summaries in parts.items():
            for name, summary in summaries.items():
                counts = {key: getattr(summary, key) for key in ("images", "constant_maps", "empty_regions")}
                estimates = {key: Estimate(count, math.nan, math.nan, summary.images) for key, count in counts.items()}
                for measure, estimate in {**estimates, **summary.estimates()}.items():
                    record = {"model": self.model, "part": part, "name": name, "measure": measure, **asdict(estimate)}
                    records.append(without_nan(record))
        return records

    def _repr_html_(self) -> str:
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for record in self.to_records():
            if record["n"] and record["measure"] in _SHOWN:
                part, name, measure = record["part"], record["name"], record["measure"]
                row = rows.setdefault((part, name), {"images with": f"{part} {name}".strip()})
                row |= {measure: record["value"]} | {f"{measure}_{end}": record[end] for end in ("low", "high")}
        at = f"{self.method} at {self.layer}" if self.layer else self.method
        data = f"{self.dataset} {self.split}".strip()
        caption = f"{self.model} on {data}: {at}, threshold {self.threshold}"
        return records_html(list(rows.values()), caption=caption)

    def to_arrow(self) -> pyarrow.Table:
        """The rows as a pyarrow table: the column `image`, and those of `rows`; NaN is null."""
        return Rows(self.keys, self.rows).to_arrow()

    def to_dict(self) -> dict[str, Any]:
        """Options, names and summaries, without the rows, JSON-ready."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            **{name: getattr(self, name) for name in _OPTIONS},
            **{name: list(getattr(self, name)) for name in _NAMES},
            "images": len(self),
            "provenance": dict(self.provenance),
            "summary": self.to_records(),
        }

    def save(self, path: str | Path) -> Path:
        """Writes options and summaries as JSON, and the rows as a Parquet file beside it.

        Each is written aside and then renamed, the JSON file last, so that what was there is never half lost.

        Args:
            path: of the JSON file; the other has its name with `.parquet`. The folder is made if need be.

        Returns:
            The path.

        Raises:
            InputError: the path cannot be written, or is the Parquet file's.
        """
        path = Path(path)
        beside = _rows_file(path)
        text = json.dumps({**self.to_dict(), "rows": beside.name}, allow_nan=False, separators=(",", ":"))
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            Rows(self.keys, self.rows).write(beside)
            with atomic_write(path) as aside:
                aside.write_text(text, encoding="utf-8")
        return path

    @staticmethod
    def check_path(path: str | Path) -> None:
        """Whether `save` replaces nothing but results.

        Raises:
            InputError: there is a file of its name, or of that of its rows, which is not of `save`.
        """
        path = Path(path)
        beside = _rows_file(path)
        check_overwritable(path, f'"format":"{_FORMAT}')
        if not path.exists() and beside.exists() and not Rows.are_in(beside):
            raise InputError(f"{beside} is not overwritten, for it holds no rows of results; choose another folder")

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Reads results that `save` wrote, with the rows beside them; summaries are computed anew from the rows.

        Raises:
            InputError: no such files, or not results.
        """
        path = Path(path)
        try:
            values = json.loads(read_regular(path, MOST_BYTES))
            kind = f"{values['format']} {values['version']}"
            if kind != f"{_FORMAT} {_VERSION}":
                raise InputError(f"a {kind}; expected {_FORMAT} {_VERSION}; measure again with this regard")
            options: dict[str, Any] = {name: values[name] for name in (*_OPTIONS, "provenance")}
            options |= {name: tuple(values[name]) for name in _NAMES}
            _check_options(options)
            images = int(values["images"])
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}; give the file of bias results") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            detail = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"{path} holds no bias results ({detail}); measure again") from None
        rows = Rows.read(_rows_file(path))
        if len(rows) != images:
            raise InputError(f"{path} is of {images} images, {_rows_file(path)} of {len(rows)}; measure again")
        return cls(**options, rows=rows.columns, keys=rows.keys)


def threshold_figure(curves: Mapping[str, Sequence[Estimate]], *, legend: bool = True) -> Figure:
    """A matplotlib figure of rates or means over the threshold of the focus, with their 95% intervals as bands.

    Args:
        curves: label -> the values at thresholds 0, 0.01, …, 1, of which the first is left out.
        legend: whether labels stand below the figure.
    """
    lines = {label: [dict(zip(CURVE_THRESHOLDS[1:], curve[1:], strict=True))] for label, curve in curves.items()}
    return figures.curves(lines, xlabel="threshold of the focus", percent=True, legend=legend)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises TypeError or InputError for options that no results have."""
    for name, kind in {**_OPTIONS, "provenance": dict}.items():
        if not isinstance(options[name], kind):
            raise TypeError(f"{name} is a {type(options[name]).__name__}")
    for name in _NAMES:
        if not all(isinstance(one, str) for one in options[name]):
            raise TypeError(f"{name} holds more than text")
    check_focus(options["threshold"], options["margin"], options["tolerance"])


def _rows_file(path: Path) -> Path:
    beside = path.with_suffix(".parquet")
    if beside == path:
        raise InputError(f"{path} is where the rows would go; give the results a name that ends in .json")
    return beside
