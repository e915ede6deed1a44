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
from regard.files import MAX_BYTES, atomic_write, check_overwritable, read_regular, utf8, write_errors
from regard.notebook import Tabular, records_html
from regard.stats import Estimate, mean, without_nan

if TYPE_CHECKING:
    import pyarrow
    from matplotlib.figure import Figure

# Size of a region -> its lower (inclusive) and upper (exclusive) bound, as a share of the image's pixels; the bounds
# are squares of a quarter and of half the image's side.
SIZES = {"small": (0.0, 1 / 16), "medium": (1 / 16, 1 / 4), "large": (1 / 4, math.inf)}
# The same for detections, in pixels, as in COCO.
DETECTION_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
DETECTION = "detection"
"""The target of results with one row per detection; see `bias.evaluate_detector`."""

_NOTEBOOK = ("images", "accuracy", "position_bias", "range_bias", "energy_inside", "spill", "miss")
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
        model: name of the model.
        dataset: name of the data set.
        split: split of the data set; "" if it has none.
        method: CAM method.
        layer: layers of the maps, joined by "+"; "" if the method has none.
        target: class of the maps, "predicted" or "label"; or "detection" if each row is a detection instead of an
            image.
        threshold: threshold of the focus.
        classes: names of the classes of the data set; `label` is an index into them.
        rows: name -> NumPy array (N,), one entry per image: `label` (-1: none), `predicted` and `explained` (outputs of
            the model), `probability` (softmax of the explained class), `correct`, and the measures by their names in
            `Measures` (bool or float32). Optionally the `Curves` as `focus_inside`, `focus_outside` (N, 101) and
            `levels_beyond`; the maps as `map`, arrays (h, w), uint8, 255 times the map scaled to [0, 1]; and the
            `VARIANTS` of interventions, float32: 1 if the model is right on the changed image, 0 if it is wrong, NaN if
            there is no such image.
        outputs: names of the model's outputs.
        scored: whether the labels are outputs of the model, so that predictions can be right or wrong; otherwise
            `correct` is False for all images.
        keys: (N,), names of the images, encodable as UTF-8, or their numbers.
        skipped: the images that could not be read and have no row, each with the reason.
        provenance: what else the numbers depend on: fingerprints, preprocessing, versions; JSON-ready.
        margin: margin of range bias, in pixels; see `measure`.
        tolerance: tolerance of the pointing game, likewise.
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
        """Whether each row is a detection instead of an image."""
        return self.target == DETECTION

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of the maps, as for `maps.create`; empty if the method has none."""
        return tuple(filter(None, self.layer.split("+")))

    @cached_property
    def overall(self) -> Summary:
        """The summary of all images."""
        return self._summary(None)

    @cached_property
    def right(self) -> Summary:
        """The summary of correctly predicted images; of no image if the results are not scored."""
        return self._summary(self.rows["correct"])

    @cached_property
    def wrong(self) -> Summary:
        """The summary of labelled images that are predicted wrong; of no image if the results are not scored."""
        return self._summary(~self.rows["correct"] & (self.rows["label"] >= 0) & self.scored)

    @cached_property
    def by_class(self) -> dict[str, Summary]:
        """Class of the data set -> summary; classes that share a name get their number appended."""
        counts = Counter(self.classes)
        names = [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(self.classes)]
        order = np.argsort(self.rows["label"], kind="stable")  # instead of one pass over all images per class
        ends = np.searchsorted(self.rows["label"][order], np.arange(len(names) + 1))
        return {name: self._summary(order[ends[i] : ends[i + 1]]) for i, name in enumerate(names)}

    @cached_property
    def by_size(self) -> dict[str, Summary]:
        """Size of the region, one of `SIZES` -> summary; images with an empty region are left out."""
        return {name: self._summary(which) for name, which in self.sizes.items()}

    @cached_property
    def sizes(self) -> dict[str, np.ndarray]:
        """Size of the region, one of `SIZES` or `DETECTION_SIZES` -> mask of the rows, bool (N,)."""
        area, sizes = self.rows["region_area"], SIZES
        if self.of_detections:
            area, sizes = self._curve(CURVES[0])[:, 0], DETECTION_SIZES
        return {name: (area > 0) & (low <= area) & (area < high) for name, (low, high) in sizes.items()}

    def by_group(self, groups: Sequence[str]) -> dict[str, Summary]:
        """Group -> summary, sorted by name, for the group of each image (N,), such as class and background."""
        if len(groups) != len(self):
            raise InputError(f"{len(groups)} groups for {len(self)} rows; expected one per row")
        names = np.asarray(groups)
        return {str(name): self._summary(names == name) for name in np.unique(names)}

    @cached_property
    def by_bias(self) -> dict[str, Summary]:
        """Summaries of the images with a focus and a region: "yes" with position bias, "no" without."""
        biased = self.rows["position_bias"]
        counted = comparable(self.rows)
        return {"yes": self._summary(counted & biased), "no": self._summary(counted & ~biased)}

    def _summary(self, which: np.ndarray | None) -> Summary:
        return Summary.of(self.rows, which, scored=self.scored)

    @property
    def accuracy(self) -> Estimate:
        """Accuracy on all images with a label."""
        return self.overall.accuracy

    @property
    def position_bias(self) -> Estimate:
        """Position bias of the images with a focus and a region."""
        return self.overall.position_bias

    @property
    def range_bias(self) -> Estimate:
        """Range bias of the images with a focus and a region."""
        return self.overall.range_bias

    def at(self, threshold: float) -> Results:
        """The same results with the focus at another threshold, computed from the curves.

        Position bias, range bias, spill, miss, IoU and focus area equal those of `evaluate` with this threshold.

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
        """Measure -> rates or means over the images with a focus and a region, at thresholds 0, 0.01, …, 1.

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
        """A matplotlib figure of these `curves` over the threshold, with their 95% intervals as bands.

        Raises:
            InputError: an unknown measure, or results without curves.
        """
        for name in measures:
            if name not in self.curves:
                raise unknown("measure", name, self.curves)
        return threshold_figure({name.replace("_", " "): self.curves[name] for name in measures})

    def _focus_measures(self, level: int) -> dict[str, np.ndarray]:
        """The columns that depend on the threshold, at the threshold `level` / 100."""
        inside, outside, region, background = (
            torch.from_numpy(self._curve(name)[:, i].astype(np.int64)) for i in (level, 0) for name in CURVES[:2]
        )
        beyond = torch.from_numpy(level < self._curve(CURVES[2]))
        measures = focus_measures(inside, outside, region, region + background, beyond, torch.float32)
        return {name: values.numpy() for name, values in measures.items()}

    def _curve(self, name: str) -> np.ndarray:
        if name not in self.rows:
            raise InputError("the results have no curves; evaluate again")
        return self.rows[name]

    def to_records(self) -> list[dict[str, Any]]:
        """Every rate and mean of every subset of the images, JSON-ready: NaN becomes None.

        Returns:
            Dicts with `model`; `part`: "all", "prediction", "position bias", "size" or "class"; `name`: the subset,
            such as "right" or "small"; `measure`; `value`, `low`, `high` (95% interval) and `n` (images). The counts
            `images`, `constant_maps` and `empty_regions` are measures too, without an interval.
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
            if record["n"] and record["measure"] in _NOTEBOOK:
                part, name, measure = record["part"], record["name"], record["measure"]
                row = rows.setdefault((part, name), {"images with": f"{part} {name}".strip()})
                row |= {measure: record["value"]} | {f"{measure}_{end}": record[end] for end in ("low", "high")}
        method = f"{self.method} at {self.layer}" if self.layer else self.method
        data = f"{self.dataset} {self.split}".strip()
        caption = f"{self.model} on {data}: {method}, threshold {self.threshold}"
        return records_html(list(rows.values()), caption=caption)

    def to_arrow(self) -> pyarrow.Table:
        """The rows as a pyarrow table, with the column `image` for the keys; NaN becomes null."""
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
        """Writes options and summaries as a JSON file, and the rows as a Parquet file with suffix `.parquet` beside it.

        Missing folders are created. Both files are written under another name and then renamed, the JSON file last, so
        that a failure leaves no partial file. Returns the path of the JSON file.

        Raises:
            InputError: the path cannot be written, or has the suffix of the Parquet file.
        """
        path = Path(path)
        rows_path = _rows_path(path)
        text = json.dumps({**self.to_dict(), "rows": rows_path.name}, allow_nan=False, separators=(",", ":"))
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            Rows(self.keys, self.rows).write(rows_path)
            with atomic_write(path) as aside:
                aside.write_text(text, encoding="utf-8")
        return path

    @staticmethod
    def check_path(path: str | Path) -> None:
        """Raises InputError if `save` would overwrite files that are not results."""
        path = Path(path)
        rows_path = _rows_path(path)
        check_overwritable(path, f'"format":"{_FORMAT}')
        if not path.exists() and rows_path.exists() and not Rows.is_rows_file(rows_path):
            raise InputError(f"{rows_path} is not overwritten, for it holds no rows of results; choose another folder")

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Reads the files of `save`; summaries are computed from the rows.

        Raises:
            InputError: a file is missing, or is not one of results.
        """
        path = Path(path)
        try:
            values = json.loads(read_regular(path, MAX_BYTES))
            kind = f"{values['format']} {values['version']}"
            if kind != f"{_FORMAT} {_VERSION}":
                raise InputError(f"found {kind}; expected {_FORMAT} {_VERSION}; evaluate again with this version")
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
            raise InputError(f"{path} holds no bias results ({detail}); evaluate again") from None
        rows = Rows.read(_rows_path(path))
        if len(rows) != images:
            raise InputError(f"{path} has {images} images, {_rows_path(path)} has {len(rows)}; evaluate again")
        return cls(**options, rows=rows.columns, keys=rows.keys)


def threshold_figure(curves: Mapping[str, Sequence[Estimate]], *, legend: bool = True) -> Figure:
    """A figure of rates or means over the threshold of the focus, with their 95% intervals as bands.

    `curves` has for each label the values at thresholds 0, 0.01, …, 1, of which the first is left out.
    """
    lines = {label: [dict(zip(CURVE_THRESHOLDS[1:], curve[1:], strict=True))] for label, curve in curves.items()}
    return figures.curves(lines, xlabel="threshold of the focus", percent=True, legend=legend)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises TypeError or InputError for invalid options."""
    for name, kind in {**_OPTIONS, "provenance": dict}.items():
        if not isinstance(options[name], kind):
            raise TypeError(f"{name} is a {type(options[name]).__name__}")
    for name in _NAMES:
        if not all(isinstance(text, str) for text in options[name]):
            raise TypeError(f"{name} holds more than text")
    check_focus(options["threshold"], options["margin"], options["tolerance"])


def _rows_path(path: Path) -> Path:
    rows_path = path.with_suffix(".parquet")
    if rows_path == path:
        raise InputError(f"{path} is the path of the rows; give the results a name that ends in .json")
    return rows_path
