"""The report of an evaluation: every image's row, and what they come to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.bias.measures import check_pixels, check_threshold
from regard.bias.rows import Rows, checked_columns, holds_rows, read_rows, write_rows
from regard.bias.summary import Rate, Summary, by_size, summarise
from regard.errors import InputError, first_line
from regard.files import MOST_BYTES, check_written, read_regular, utf8, written_aside
from regard.formatting import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_FORMAT = "regard bias report"
_VERSION = 2
_SETTINGS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model", "dataset", "split", "method", "layer", "target"), str),
    "threshold": (float, int),
    "margin": int,
    "tolerance": int,
    "scored": bool,
}
_NAMES = ("classes", "outputs", "skipped")


@dataclass(frozen=True, eq=False)
class Report:
    """Where a model looks on the images of a set.

    Attributes:
        model: its name.
        dataset: the name of the set.
        split: of the set; "" where it has none.
        method: of the maps.
        layer: the tapped layers, joined by "+"; "" where the method has its own way.
        target: whose maps: of the "predicted" class or of the "label".
        threshold: of the focus.
        classes: names of the classes of the set; `label` is an index into them.
        rows: name -> NumPy array (N,), entry i belongs to image i of the set: `label` (-1: none), `predicted` and
            `explained` (outputs of the model), `probability` (softmax of the explained class), `correct`, and the
            measures under the names of `Measures` (bool or float32).
        outputs: names of the model's outputs.
        scored: whether the labels are outputs of the model, so that it can be right or wrong; if not, `correct` is
            False throughout and means nothing.
        keys: (N,), what each image is called, as UTF-8 can have it; its number where it has no name.
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
        object.__setattr__(self, "rows", checked_columns(self.rows, count))
        object.__setattr__(self, "keys", tuple(map(utf8, self.keys)) or tuple(map(str, range(count))))
        object.__setattr__(self, "outputs", tuple(self.outputs) or tuple(self.classes))
        if len(self.keys) != count:
            raise InputError(f"{len(self.keys)} keys for {count} rows; expected one for each")

    def __len__(self) -> int:
        return len(self.rows["label"])

    @property
    def layers(self) -> tuple[str, ...]:
        """The tapped layers, as `maps.create` takes them; empty where the method has its own way."""
        return tuple(filter(None, self.layer.split("+")))

    @cached_property
    def overall(self) -> Summary:
        """Of all images."""
        return self._summary(None)

    @cached_property
    def right(self) -> Summary:
        """Of the images predicted right; of none if the report is not scored."""
        return self._summary(self.rows["correct"])

    @cached_property
    def wrong(self) -> Summary:
        """Of the images predicted wrong: with a label, and another class the highest. Of none if not scored."""
        return self._summary(~self.rows["correct"] & (self.rows["label"] >= 0) & self.scored)

    @cached_property
    def by_class(self) -> dict[str, Summary]:
        """Class of the set -> its images, by label; classes that share a name get their number behind it."""
        counts = Counter(self.classes)
        names = [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(self.classes)]
        order = np.argsort(self.rows["label"], kind="stable")  # once, not a pass over all images for each class
        ends = np.searchsorted(self.rows["label"][order], np.arange(len(names) + 1))
        return {name: self._summary(order[ends[i] : ends[i + 1]]) for i, name in enumerate(names)}

    @cached_property
    def by_size(self) -> dict[str, Summary]:
        """Size of the region -> the images with one of that size: see `summary.SIZES`."""
        return {name: self._summary(which) for name, which in by_size(self.rows).items()}

    def _summary(self, which: np.ndarray | None) -> Summary:
        return summarise(self.rows, which, scored=self.scored)

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
        """Everything but the rows, JSON-ready: settings and summaries. What is no number is None."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            **{name: getattr(self, name) for name in _SETTINGS},
            **{name: list(getattr(self, name)) for name in _NAMES},
            "images": len(self),
            "provenance": dict(self.provenance),
            "summary": {
                **{part: getattr(self, part).to_dict() for part in ("overall", "right", "wrong")},
                **{
                    parts: {name: summary.to_dict() for name, summary in getattr(self, parts).items()}
                    for parts in ("by_size", "by_class")
                },
            },
        }

    def save(self, path: str | Path) -> Path:
        """Writes settings and summaries as JSON, and the rows, one an image, as a Parquet file beside it.

        Each is written aside and then renamed, the JSON file last, so that what was there is never half lost.

        Args:
            path: of the JSON file; the other has its name with `.parquet`. The folder is made if need be.

        Returns:
            The path.

        Raises:
            InputError: the place cannot be written, or is the Parquet file's.
        """
        path = Path(path)
        beside = _rows_file(path)
        values = {**self.to_dict(), "rows": beside.name}
        text = json.dumps(values, allow_nan=False, separators=(",", ":"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_rows(beside, Rows(self.keys, self.rows))
            with written_aside(path) as aside:
                aside.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}; give another place") from None
        return path

    @staticmethod
    def check_place(path: str | Path) -> None:
        """Whether `save` loses nothing there.

        Raises:
            InputError: there is a file of its name, or of that of its rows, which is no report.
        """
        path = Path(path)
        beside = _rows_file(path)
        check_written(path, f'"format":"{_FORMAT}"')
        if not path.exists() and beside.exists() and not (beside.is_file() and holds_rows(beside)):
            raise InputError(f"{beside} is not overwritten, for it holds no rows of a report; choose another folder")

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Reads a report that `save` wrote, with the rows beside it; summaries are worked out anew from the rows.

        Raises:
            InputError: no such files, or not a report.
        """
        path = Path(path)
        try:
            values = json.loads(read_regular(path, MOST_BYTES))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}; give the file of a bias report") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is no bias report ({first_line(error)}); give one that save() wrote") from None
        try:
            found = f"{values['format']} {values['version']}"
            if found != f"{_FORMAT} {_VERSION}":
                raise InputError(f"a {found}; expected {_FORMAT} {_VERSION}; measure again with this regard")
            settings: dict[str, Any] = {name: values[name] for name in (*_SETTINGS, "provenance")}
            settings |= {name: tuple(values[name]) for name in _NAMES}
            _check_settings(settings)
            images = int(values["images"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is no bias report ({type(error).__name__}: {error}); give one that save() wrote"
            ) from None
        rows, _ = read_rows(_rows_file(path))
        if len(rows) != images:
            raise InputError(f"{path} is of {images} images, {_rows_file(path)} of {len(rows)}; measure again")
        return cls(**settings, rows=rows.columns, keys=rows.keys)

    def table(self, classes: bool = True) -> Table:
        """The summaries as a table for a terminal; `classes`: with a line a class."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(self._title(), style="table.title"),
            caption=Text(self._caption(), style="table.caption"),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for i, heading in enumerate(_HEADINGS):
            # Two lines a heading and a rate, so that the table fits 80 columns.
            heading = heading.replace(" ", "\n")
            table.add_column(heading, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
        for name, *numbers in self._cells(classes):
            table.add_row(Text(name), *map(_two_lines, numbers))
        return table

    def __str__(self) -> str:
        lines = [_HEADINGS, *self._cells(classes=True)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        layout = "  ".join(f"{{:{'>' if i else '<'}{width}}}" for i, width in enumerate(widths))
        return "\n".join([self._title(), *(layout.format(*cells).rstrip() for cells in lines), self._caption()])

    def _title(self) -> str:
        where = f" at {self.layer}" if self.layer else ""
        data = f"{self.dataset} {self.split}".strip()
        said = f"{self.model} on {data}: {self.method}{where}, {self.target} class, focus at {self.threshold:g}"
        return printable(said)

    def _caption(self) -> str:
        whole = self.overall
        said = (
            f"Rates in % with 95% Wilson intervals. Left out of all but accuracy: {whole.flat_maps} flat maps, "
            f"{whole.empty_regions} empty regions."
        )
        if self.margin:
            said += f" Range bias: further than {self.margin} pixels beyond the region."
        if not self.scored:
            said += " The labels of the set are no outputs of the network: there is no accuracy."
        return f"{said} {len(self.skipped)} images could not be read." if self.skipped else said

    def _cells(self, classes: bool) -> list[tuple[str, ...]]:
        parts = {"all": self.overall, **({"right": self.right, "wrong": self.wrong} if self.scored else {})}
        lines = [_line(name, summary) for name, summary in parts.items()]
        lines += [_line(f"{name} objects", summary) for name, summary in self.by_size.items() if summary.images]
        if classes:
            lines += [_line(printable(f"class {name}"), summary) for name, summary in self.by_class.items()]
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
        *(f"{m.value:.2f}" if m.count else "-" for m in means),
    )


def _two_lines(cell: str) -> Text:
    """A rate and its interval, one below the other."""
    from rich.text import Text

    value, _, interval = cell.partition(" (")
    text = Text(value)
    return text.append("\n").append(interval.removesuffix(")"), "dim") if interval else text


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raises TypeError or InputError for settings that no report has."""
    for name, kind in {**_SETTINGS, "provenance": dict}.items():
        if not isinstance(settings[name], kind):
            raise TypeError(f"{name} is a {type(settings[name]).__name__}")
    for name in _NAMES:
        if not all(isinstance(one, str) for one in settings[name]):
            raise TypeError(f"{name} holds more than text")
    check_threshold(settings["threshold"])
    check_pixels("margin", settings["margin"])
    check_pixels("tolerance", settings["tolerance"])


def _rows_file(path: Path) -> Path:
    beside = path.with_suffix(".parquet")
    if beside == path:
        raise InputError(f"{path} is where the rows would go; give the report a name that ends in .json")
    return beside
