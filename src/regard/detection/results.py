"""`Results`: the detections of one detector on a data set, with COCO's evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from regard.detection.matching import Matches, evaluate_matches
from regard.detection.table import COLUMNS, Kind, Table
from regard.errors import InputError, first_line
from regard.files import atomic_write, write_errors, write_text
from regard.notebook import Tabular
from regard.stats import without_nan

_FORMAT = "regard detections 1"
_NAMES = ("model", "dataset", "split", "classes", "category_ids", "keys", "image_ids", "skipped")


@dataclass(frozen=True, eq=False)
class Results(Tabular):
    """The detections of one detector on a data set.

    COCO's evaluation (Lin et al. 2014, arXiv 1405.0312) gives twelve numbers: the average precisions `AP`, averaged
    over the thresholds 0.5 to 0.95 of the intersection over union, `AP50`, `AP75`, and `APs`, `APm`, `APl` for small,
    medium and large objects; the recalls `AR1`, `AR10`, `AR100` with at most 1, 10 and 100 detections per image, and
    `ARs`, `ARm`, `ARl`. All are in [0, 1], and NaN without objects.

    Attributes:
        model: name of the model.
        dataset: name of the data set.
        split: split of the data set.
        classes: names of the classes.
        category_ids: id of each class in the annotation file, for `coco_results`.
        keys: name of each image.
        image_ids: id of each image in the annotation file.
        sizes: int64 (images, 2), width and height of each image.
        truth: the objects.
        detections: the detections.
        skipped: "key: reason" for each image that could not be read and is left out.
    """

    model: str
    dataset: str
    split: str
    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    keys: tuple[str, ...]
    image_ids: tuple[int | str, ...]
    sizes: NDArray[np.int64]
    truth: Table
    detections: Table
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The evaluated kinds: "boxes", and "masks" if both objects and detections have them."""
        has_masks = self.truth.counts is not None and self.detections.counts is not None
        return ("boxes", "masks") if has_masks else ("boxes",)

    @property
    def boxes(self) -> dict[str, float]:
        """The twelve numbers for boxes."""
        return self._evaluated["boxes"][0]

    @property
    def masks(self) -> dict[str, float] | None:
        """The twelve numbers for masks; None without masks."""
        return self._evaluated["masks"][0] if "masks" in self.kinds else None

    @property
    def by_class(self) -> dict[Kind, dict[str, dict[str, float]]]:
        """Kind -> class name -> the twelve numbers."""
        return {kind: dict(zip(self.classes, self._evaluated[kind][1], strict=True)) for kind in self.kinds}

    @cached_property
    def _evaluated(self) -> dict[Kind, tuple[dict[str, float], list[dict[str, float]]]]:
        return {kind: evaluate_matches(Matches.of(self, kind)) for kind in self.kinds}

    def to_records(self) -> list[dict[str, Any]]:
        """For each kind, one JSON-ready dict for all classes, then one per class: `model`, `dataset`, `split`, `kind`,
        `class` (None for all), `images`, `objects` (without crowds), and the twelve numbers."""
        names = {"model": self.model, "dataset": self.dataset, "split": self.split}
        objects = np.bincount(self.truth.label[~self.truth.crowd], minlength=len(self.classes)).tolist()
        records = []
        for kind in self.kinds:
            overall, by_class = self._evaluated[kind]
            rows = [(None, sum(objects), overall), *zip(self.classes, objects, by_class, strict=True)]
            records += [
                without_nan({**names, "kind": kind, "class": name, "images": len(self), "objects": count, **numbers})
                for name, count, numbers in rows
            ]
        return records

    def coco_results(self, kind: Kind = "boxes") -> list[dict[str, Any]]:
        """The detections in COCO's results format, with the ids of the annotation file.

        Raises:
            InputError: there are no masks.
        """
        table = self.detections
        if kind == "boxes":
            shapes: list[Any] = table.box.tolist()
        elif table.counts is None:
            raise InputError(f"the detections of {self.model} have no masks; use boxes")
        else:
            shapes = [{**code, "counts": code["counts"].decode()} for code in table.codes(self.sizes)]
        field = "bbox" if kind == "boxes" else "segmentation"
        columns = zip(table.image.tolist(), table.label.tolist(), shapes, table.score.tolist(), strict=True)
        return [
            {"image_id": self.image_ids[image], "category_id": self.category_ids[label], field: shape, "score": score}
            for image, label, shape, score in columns
        ]

    def save_coco(self, path: str | Path, kind: Kind = "boxes") -> Path:
        """Writes `coco_results` as a JSON file for COCO's tools and servers."""
        return write_text(path, json.dumps(self.coco_results(kind)))

    def save(self, path: str | Path) -> Path:
        """Writes a file for `load`. Raises InputError if it cannot be written."""
        path = Path(path)
        arrays: dict[str, Any] = {"sizes": self.sizes}
        for name in ("truth", "detections"):
            table: Table = getattr(self, name)
            arrays |= {f"{name}.{column}": getattr(table, column) for column in COLUMNS}
            if table.counts is not None:
                arrays[f"{name}.counts"] = np.frombuffer(b"".join(table.counts), np.uint8)
                arrays[f"{name}.lengths"] = np.array([len(code) for code in table.counts], np.int64)
        notes = {"format": _FORMAT, **{name: getattr(self, name) for name in _NAMES}}
        arrays["notes"] = np.frombuffer(json.dumps(notes).encode(), np.uint8)
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Reads a file of `save`. Raises InputError if it is missing or has another format."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                notes = json.loads(arrays["notes"].tobytes())
                if notes.pop("format") != _FORMAT:
                    raise ValueError(f"it is not of the format {_FORMAT!r}")
                tables = [_table(arrays, name) for name in ("truth", "detections")]
                attributes: dict[str, Any] = {
                    key: tuple(value) if isinstance(value, list) else value for key, value in notes.items()
                }
                return cls(**attributes, sizes=arrays["sizes"], truth=tables[0], detections=tables[1])
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}; give a file of detections") from None
        except (AttributeError, BadZipFile, KeyError, TypeError, ValueError, EOFError) as error:
            raise InputError(f"{path} holds no detections ({first_line(error)}); evaluate again") from None


def _table(arrays: Mapping[str, NDArray[Any]], name: str) -> Table:
    columns = {column: arrays[f"{name}.{column}"] for column in COLUMNS}
    counts = None
    if f"{name}.counts" in arrays:
        codes, ends = arrays[f"{name}.counts"].tobytes(), np.cumsum(arrays[f"{name}.lengths"]).tolist()
        counts = tuple(codes[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)) if ends else ()
    return Table(**columns, counts=counts)
