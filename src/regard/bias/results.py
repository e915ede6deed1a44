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
from regard.bias.interventions import VARIANTS
from regard.bias.metrics import CURVE_THRESHOLDS, check_pixels, check_threshold, focus_measures
from regard.errors import InputError, first_line, unknown
from regard.files import MOST_BYTES, check_written, read_regular, utf8, written_aside
from regard.notebook import Tabular, records_html
from regard.optional import require
from regard.stats import Estimate, mean, proportion, without_nan

if TYPE_CHECKING:
    import pyarrow
    from matplotlib.figure import Figure

_PARQUET = "a Parquet file"
# Column -> its type, in the order of a file.
COLUMNS: dict[str, type[np.generic]] = {
    **dict.fromkeys(("label", "predicted", "explained"), np.int64),
    "probability": np.float32,
    **dict.fromkeys(("correct", "position_bias", "range_bias"), np.bool_),
    **dict.fromkeys(("spill", "miss", "iou", "mean_iou", "best_iou"), np.float32),
    "pointing": np.bool_,
    **dict.fromkeys(("energy_inside", "auc", "rank_accuracy", "top_k", "focus_area", "region_area"), np.float32),
    "constant": np.bool_,
}
# Columns that results may lack, besides `VARIANTS`. Curves are (N, 101) whole numbers, of as few bytes as they need.
CURVES = ("focus_inside", "focus_outside", "levels_beyond")
MAPS = "map"
RATES = ("accuracy", "position_bias", "range_bias", "pointing")
MEANS = tuple(name for name, dtype in COLUMNS.items() if dtype is np.float32 and name != "probability")
# Size of a region -> the share of the image's pixels that it takes at least, and stays below: the bounds are squares of
# a quarter and of half the image's side.
SIZES = {"small": (0.0, 1 / 16), "medium": (1 / 16, 1 / 4), "large": (1 / 4, math.inf)}
# The same of a detection, in pixels of its region, as COCO has them.
DETECTION_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
DETECTION = "detection"
"""The target of results that have a row for each detection; see `bias.evaluate_detector`."""

_SHOWN = ("images", "accuracy", "position_bias", "range_bias", "energy_inside", "spill", "miss")  # in a notebook
_KEY = "image"  # the column of the images' names
_SHAPE = ("map_height", "map_width")
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


@dataclass(frozen=True)
class Summary:
    """Rates and means over some images.

    Accuracy counts every image that has a label. All others leave out images whose map is constant or whose region is
    empty. Rates have Wilson's intervals, means Student's, cut to 0 to 1.

    Attributes:
        images: how many.
        constant_maps: images whose map is constant.
        empty_regions: images whose region is empty.
        accuracy: share of images whose highest class score is the label's; n = 0 if the results are not scored.
        position_bias: share of images.
        range_bias: likewise.
        pointing: likewise.
        means: name of measure -> mean over the images where it is a number.
        interventions: variant -> accuracy on it, over the images that have it; empty where it was not measured.
    """

    images: int
    constant_maps: int
    empty_regions: int
    accuracy: Estimate
    position_bias: Estimate
    range_bias: Estimate
    pointing: Estimate
    means: dict[str, Estimate]
    interventions: dict[str, Estimate] = field(default_factory=dict)

    def estimates(self) -> dict[str, Estimate]:
        """Name of measure -> its rate or mean."""
        return {**{name: getattr(self, name) for name in RATES}, **self.means, **self.interventions}

    @classmethod
    def of(cls, rows: Mapping[str, np.ndarray], which: np.ndarray | None = None, *, scored: bool = True) -> Summary:
        """The summary of rows.

        Args:
            rows: name -> (N,), as in `Results`.
            which: bool (N,) or indices: of these alone; None: of all.
            scored: whether `correct` means anything.
        """
        names = [name for name in (*COLUMNS, *VARIANTS) if name in rows]
        rows = {name: rows[name] if which is None else rows[name][which] for name in names}
        counted = comparable(rows)

        def rate(flags: np.ndarray) -> Estimate:
            return proportion(int(flags.sum()), len(flags))

        return cls(
            images=len(counted),
            constant_maps=int(rows["constant"].sum()),
            empty_regions=int((rows["region_area"] == 0).sum()),
            accuracy=rate(rows["correct"][(rows["label"] >= 0) & scored]),
            position_bias=rate(rows["position_bias"][counted]),
            range_bias=rate(rows["range_bias"][counted]),
            pointing=rate(rows["pointing"][counted]),
            means={name: mean(rows[name][counted], 0, 1) for name in MEANS},
            interventions={name: rate(rows[name][~np.isnan(rows[name])] == 1) for name in VARIANTS if name in rows},
        )


def comparable(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which images have both a focus and a region, bool (N,)."""
    return ~rows["constant"] & (rows["region_area"] > 0)


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
        count = len(self.rows.get("label", ()))
        object.__setattr__(self, "rows", _checked(self.rows, count))
        object.__setattr__(self, "keys", tuple(map(utf8, self.keys)) or tuple(map(str, range(count))))
        object.__setattr__(self, "outputs", tuple(self.outputs) or tuple(self.classes))
        if len(self.keys) != count:
            raise InputError(f"{len(self.keys)} keys for {count} rows; expected one for each")

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
            area, sizes = self._pixels_of_regions(), DETECTION_SIZES
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

    def _pixels_of_regions(self) -> np.ndarray:
        if CURVES[0] not in self.rows:
            raise InputError("the results have no curves; measure again")
        return self.rows[CURVES[0]][:, 0]

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
        level = round(100 * check_threshold(threshold))
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
                is_rate = values.dtype == np.bool_
                estimate = proportion(int(values.sum()), len(values)) if is_rate else mean(values, 0, 1)
                curves.setdefault(name, []).append(estimate)
        return curves

    def plot(self, measures: Sequence[str] = ("position_bias", "range_bias")) -> Figure:
        """A matplotlib figure of rates, or means, over thresholds, with their 95% intervals as bands.

        Args:
            measures: of `curves`.

        Raises:
            InputError: a measure that `curves` does not have, or results without curves.
        """
        curves = {}
        for name in measures:
            if name not in self.curves:
                raise unknown("measure", name, self.curves)
            curves[name.replace("_", " ")] = dict(zip(CURVE_THRESHOLDS[1:], self.curves[name][1:], strict=True))
        return figures.curves(
            {label: [{x: one.value for x, one in curve.items()}] for label, curve in curves.items()},
            bands={label: {x: (one.low, one.high) for x, one in curve.items()} for label, curve in curves.items()},
            xlabel="threshold of the focus",
            percent=True,
        )

    def _focus_measures(self, level: int) -> dict[str, np.ndarray]:
        """The columns that depend on the threshold, at the threshold `level` / 100."""
        if "focus_inside" not in self.rows:
            raise InputError("the results have no curves; measure again")
        inside, outside, region, rest = (
            torch.from_numpy(self.rows[name][:, i].astype(np.int64)) for i in (level, 0) for name in CURVES[:2]
        )
        beyond = torch.from_numpy(level < self.rows[CURVES[2]])
        measures = focus_measures(inside, outside, region, region + rest, beyond, torch.float32)
        return {name: values.numpy() for name, values in measures.items()}

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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Rows(self.keys, self.rows).write(beside)
            with written_aside(path) as aside:
                aside.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}; give another path") from None
        return path

    @staticmethod
    def check_path(path: str | Path) -> None:
        """Whether `save` replaces nothing but results.

        Raises:
            InputError: there is a file of its name, or of that of its rows, which is not of `save`.
        """
        path = Path(path)
        beside = _rows_file(path)
        check_written(path, f'"format":"{_FORMAT}')
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


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of images, in the order of the data set, and their Parquet file.

    Attributes:
        keys: (N,), names of the images.
        columns: name -> (N,), those of `COLUMNS`, and, where there are any, of `VARIANTS`, (N, 101) of `CURVES`, and of
            `MAPS`.
        skipped: the images that could not be read and have no row, each with the reason.
        outputs: number of the model's outputs; 0 if it has not been called.
    """

    keys: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    skipped: tuple[str, ...] = ()
    outputs: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several parts, one after another."""
        present = [part.columns for part in parts if len(part)]
        return cls(
            tuple(key for part in parts for key in part.keys),
            {name: np.concatenate([columns[name] for columns in present]) for name in present[0]}
            if present
            else {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()},
            tuple(name for part in parts for name in part.skipped),
            max((part.outputs for part in parts), default=0),
        )

    def to_arrow(self) -> pyarrow.Table:
        """A table with the column `image` and all others; NaN is null, `skipped` and `outputs` are metadata."""
        require(_PARQUET, "pyarrow")
        import pyarrow as pa

        arrays = {_KEY: pa.array([utf8(key) for key in self.keys], pa.string())}
        for name, values in self.columns.items():
            if name == MAPS:
                arrays[name] = pa.array([one.tobytes() for one in values], pa.binary())
                arrays |= {_SHAPE[i]: pa.array([one.shape[i] for one in values], pa.uint16()) for i in (0, 1)}
            elif values.ndim == 2:
                arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            else:
                arrays[name] = pa.array(values, from_pandas=values.dtype.kind == "f")
        return pa.table(arrays, metadata={"skipped": json.dumps(self.skipped), "outputs": str(self.outputs)})

    def write(self, path: Path) -> None:
        """Writes a Parquet file, aside and then renamed, in a folder that is there."""
        require(_PARQUET, "pyarrow")
        from pyarrow import parquet

        with written_aside(path) as aside, aside.open("wb") as file:  # pyarrow takes no path that is not UTF-8
            # Each count of a curve is close to the one before: delta coding, and zstd on top of it, take a third off.
            curves = {f"{name}.list.element": "DELTA_BINARY_PACKED" for name in CURVES[:2] if name in self.columns}
            parquet.write_table(
                self.to_arrow(), file, compression="zstd", use_dictionary=False, column_encoding=curves or None
            )

    @classmethod
    def read(cls, path: Path) -> Rows:
        """Reads a file of `write`.

        Raises:
            InputError: it is not there, cut short, or holds something else.
        """
        require(_PARQUET, "pyarrow")
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with path.open("rb") as file:
                table = parquet.read_table(file)
        except FileNotFoundError:
            raise InputError(f"there is no {path}, which holds the rows of the results beside it") from None
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} cannot be read as Parquet ({first_line(error)}); measure again") from None
        missing = [name for name in (_KEY, *COLUMNS) if name not in table.column_names]
        if missing:
            raise InputError(f"{path} lacks the columns {', '.join(missing)}; measure again with this regard")
        try:
            columns = {name: table.column(name).to_numpy().astype(dtype) for name, dtype in COLUMNS.items()}
            present = [name for name in VARIANTS if name in table.column_names]
            columns |= {name: table.column(name).to_numpy().astype(np.float32) for name in present}
            if set(CURVES) <= set(table.column_names):
                for name in CURVES[:2]:
                    flat = table.column(name).combine_chunks().flatten().to_numpy()
                    columns[name] = flat.reshape(len(table), len(CURVE_THRESHOLDS))
                columns[CURVES[2]] = table.column(CURVES[2]).to_numpy()
            if MAPS in table.column_names:
                shapes = zip(*(table.column(name).to_pylist() for name in _SHAPE), strict=True)
                maps = zip(table.column(MAPS).to_pylist(), shapes, strict=True)
                columns[MAPS] = objects([np.frombuffer(one, np.uint8).reshape(shape) for one, shape in maps])
            notes = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            skipped, outputs = tuple(json.loads(notes["skipped"])), int(notes["outputs"])
        except (AttributeError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{path} holds no rows of results ({first_line(error)}); measure again") from None
        return cls(tuple(table.column(_KEY).to_pylist()), columns, skipped, outputs)

    @staticmethod
    def are_in(path: Path) -> bool:
        """Whether a file is one of `write`; reads the names of its columns only."""
        require(_PARQUET, "pyarrow")
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with path.open("rb") as file:
                return parquet.read_schema(file).names[: 1 + len(COLUMNS)] == [_KEY, *COLUMNS]
        except (pa.ArrowException, OSError):
            return False


def _checked(columns: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    """The columns as arrays of their types."""
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise InputError(f"the rows lack {', '.join(missing)}; expected columns {', '.join(COLUMNS)}")
    arrays = {name: np.asarray(columns[name]).astype(dtype, copy=False) for name, dtype in COLUMNS.items()}
    for name, array in arrays.items():
        if array.shape != (count,):
            raise InputError(f"column {name} has shape {array.shape}; expected ({count},), an entry for each image")
    return arrays | {name: columns[name] for name in (*VARIANTS, *CURVES, MAPS) if name in columns}


def objects(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of any shapes as the entries of one, (N,)."""
    objects = np.empty(len(arrays), object)
    objects[:] = arrays
    return objects


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises TypeError or InputError for options that no results have."""
    for name, kind in {**_OPTIONS, "provenance": dict}.items():
        if not isinstance(options[name], kind):
            raise TypeError(f"{name} is a {type(options[name]).__name__}")
    for name in _NAMES:
        if not all(isinstance(one, str) for one in options[name]):
            raise TypeError(f"{name} holds more than text")
    check_threshold(options["threshold"])
    check_pixels("margin", options["margin"])
    check_pixels("tolerance", options["tolerance"])


def _rows_file(path: Path) -> Path:
    beside = path.with_suffix(".parquet")
    if beside == path:
        raise InputError(f"{path} is where the rows would go; give the results a name that ends in .json")
    return beside
