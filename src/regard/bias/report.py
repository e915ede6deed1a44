"""The report of an evaluation: every image's row, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.bias.summary import Rate, Summary, summarise
from regard.errors import InputError
from regard.files import written_aside

if TYPE_CHECKING:
    from rich.table import Table

_FORMAT = "regard bias report"
_VERSION = 1
_DTYPES: dict[str, type[np.generic]] = {
    "label": np.int64,
    "predicted": np.int64,
    "correct": np.bool_,
    "position_bias": np.bool_,
    "range_bias": np.bool_,
    "spill": np.float32,
    "miss": np.float32,
    "iou": np.float32,
    "pointing": np.bool_,
    "energy_inside": np.float32,
    "auc": np.float32,
    "rank_accuracy": np.float32,
    "top_k": np.float32,
    "focus_area": np.float32,
    "region_area": np.float32,
    "flat": np.bool_,
}


@dataclass(frozen=True, eq=False)
class Report:
    """Where a model looks on the images of a set.

    Attributes:
        model: its name.
        dataset: the name of the set.
        split: of the set; "" where it has none.
        method: of the maps.
        layer: the tapped layer; "" where the method has its own way.
        target: whose maps: of the "predicted" class or of the "label".
        threshold: of the focus.
        classes: names of the classes.
        rows: name -> NumPy array (N,), entry i belongs to image i of the set: `label` and `predicted` (int64),
            `correct` (bool), and the measures under the names of `Measures` (bool or float32).
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

    def __post_init__(self) -> None:
        missing = [name for name in _DTYPES if name not in self.rows]
        lengths = {len(values) for values in self.rows.values()}
        if missing or len(lengths) != 1:
            raise InputError(f"rows lack {missing or 'entries'}; expected columns of one length for {list(_DTYPES)}")
        rows = {name: np.asarray(self.rows[name]).astype(dtype) for name, dtype in _DTYPES.items()}
        object.__setattr__(self, "rows", rows)

    def __len__(self) -> int:
        return len(self.rows["label"])

    @cached_property
    def overall(self) -> Summary:
        """Of all images."""
        return summarise(self.rows)

    @cached_property
    def right(self) -> Summary:
        """Of the images predicted right."""
        return summarise(self.rows, self.rows["correct"])

    @cached_property
    def wrong(self) -> Summary:
        """Of the images predicted wrong."""
        return summarise(self.rows, ~self.rows["correct"])

    @cached_property
    def by_class(self) -> dict[str, Summary]:
        """Class -> its images, by label; classes that share a name get their number behind it."""
        names = [f"{name} ({i})" if self.classes.count(name) > 1 else name for i, name in enumerate(self.classes)]
        return {name: summarise(self.rows, self.rows["label"] == i) for i, name in enumerate(names)}

    @property
    def accuracy(self) -> Rate:
        """Of all images, with its 95% interval."""
        return self.overall.accuracy

    @property
    def position_bias(self) -> Rate:
        """Of the images with a focus and a region, with its 95% interval."""
        return self.overall.position_bias

    @property
    def range_bias(self) -> Rate:
        """Of the images with a focus and a region, with its 95% interval."""
        return self.overall.range_bias

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready: settings, summaries, and the rows as columns. What is no number is None."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            **{name: getattr(self, name) for name in ("model", "dataset", "split", "method", "layer", "target")},
            "threshold": self.threshold,
            "classes": list(self.classes),
            "summary": {
                "overall": self.overall.to_dict(),
                "right": self.right.to_dict(),
                "wrong": self.wrong.to_dict(),
                "by_class": {name: summary.to_dict() for name, summary in self.by_class.items()},
            },
            "rows": {name: _column(values) for name, values in self.rows.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The report that `to_dict` gave; summaries are worked out anew from the rows.

        Raises:
            InputError: it is none.
        """
        try:
            if values["format"] != _FORMAT or values["version"] != _VERSION:
                found = f"{values['format']} {values['version']}"
                raise InputError(f"found {found}; expected {_FORMAT} {_VERSION}; evaluate again with this regard")
            names = ("model", "dataset", "split", "method", "layer", "target", "threshold")
            rows = {
                name: np.array([np.nan if value is None else value for value in values["rows"][name]], dtype=dtype)
                for name, dtype in _DTYPES.items()
            }
            settings = {name: values[name] for name in names}
            return cls(**settings, classes=tuple(values["classes"]), rows=rows)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"not a bias report ({type(error).__name__}: {error}); give one that save() wrote"
            ) from None

    def save(self, path: str | Path) -> Path:
        """Writes the report as JSON, aside first and then renamed, so that what was there is never half lost.

        Args:
            path: of the file; its folder is made if need be.

        Returns:
            The path.

        Raises:
            InputError: the place cannot be written.
        """
        path = Path(path)
        text = json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as aside:
                aside.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}; give another place") from None
        return path

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Reads a report that `save` wrote.

        Raises:
            InputError: no such file, or not a report.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}; give the file of a bias report") from None
        except ValueError as error:
            raise InputError(f"{path} is no bias report ({error}); give one that save() wrote") from None
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def table(self, classes: bool = True) -> Table:
        """The summaries as a table for a terminal; `classes`: with a line a class."""
        from rich import box
        from rich.table import Table

        table = Table(
            title=self._title(),
            caption=self._caption(),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for i, heading in enumerate(_HEADINGS):
            # Two lines a heading and a rate, so that the table fits 80 columns.
            table.add_column(heading.replace(" ", "\n"), justify="right" if i else "left", no_wrap=True)
        for cells in self._cells(classes):
            table.add_row(*(cell.replace(" (", "\n[dim]").replace(")", "[/dim]") for cell in cells))
        return table

    def __str__(self) -> str:
        lines = [_HEADINGS, *self._cells(classes=True)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        layout = "  ".join(f"{{:{'>' if i else '<'}{width}}}" for i, width in enumerate(widths))
        return "\n".join([self._title(), *(layout.format(*cells).rstrip() for cells in lines), self._caption()])

    def _title(self) -> str:
        where = f" at {self.layer}" if self.layer else ""
        data = f"{self.dataset} {self.split}".strip()
        return f"{self.model} on {data}: {self.method}{where}, {self.target} class, focus at {self.threshold:g}"

    def _caption(self) -> str:
        whole = self.overall
        return (
            f"Rates in % with 95% Wilson intervals. Left out of all but accuracy: {whole.flat_maps} flat maps, "
            f"{whole.empty_regions} empty regions."
        )

    def _cells(self, classes: bool) -> list[tuple[str, ...]]:
        parts = {"all": self.overall, "right": self.right, "wrong": self.wrong}
        lines = [_line(name, summary) for name, summary in parts.items()]
        if classes:
            lines += [_line(f"class {name}", summary) for name, summary in self.by_class.items()]
        return lines


_MEANS = {"spill": "spill", "energy_inside": "energy", "auc": "AUC"}  # the other measures are in `to_dict`
_HEADINGS = ("images", "number", "accuracy", "position bias", "range bias", *_MEANS.values())


def _line(name: str, summary: Summary) -> tuple[str, ...]:
    rates = (summary.accuracy, summary.position_bias, summary.range_bias)
    means = (summary.means[measure] for measure in _MEANS)
    return (
        name,
        f"{summary.images:,}",
        *(f"{100 * r.value:.1f} ({100 * r.low:.1f}–{100 * r.high:.1f})" if r.total else "-" for r in rates),
        *(f"{m.value:.3f}" if m.count else "-" for m in means),
    )


def _column(values: np.ndarray) -> list[Any]:
    """Whole numbers as such, booleans as 0 and 1, others in the fewest digits that give the same float32 again."""
    if values.dtype.kind != "f":
        return [int(value) for value in values]
    return [None if np.isnan(value) else float(str(value)) for value in values]
