"""The columns of results, with one row per image, and their Parquet file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard.bias.interventions import VARIANTS
from regard.bias.metrics import CURVE_THRESHOLDS
from regard.errors import InputError, first_line
from regard.files import atomic_write, utf8
from regard.optional import require

if TYPE_CHECKING:
    import pyarrow

# Column -> type, in the order of the file.
COLUMNS: dict[str, type[np.generic]] = {
    **dict.fromkeys(("label", "predicted", "explained"), np.int64),
    "probability": np.float32,
    **dict.fromkeys(("correct", "position_bias", "range_bias"), np.bool_),
    **dict.fromkeys(("spill", "miss", "iou", "mean_iou", "best_iou"), np.float32),
    "pointing": np.bool_,
    **dict.fromkeys(("energy_inside", "auc", "rank_accuracy", "top_k", "focus_area", "region_area"), np.float32),
    "constant": np.bool_,
}
# Optional columns, besides `VARIANTS`. Curves are (N, 101) integers of the smallest sufficient type.
CURVES = ("focus_inside", "focus_outside", "levels_beyond")
MAPS = "map"

_NO_COLUMNS = {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}
_PARQUET = "a Parquet file"
_KEY = "image"  # the column of the images' names
_SHAPE = ("map_height", "map_width")


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of images, in the order of the data set.

    Attributes:
        keys: (N,), names of the images.
        columns: name -> (N,), for `COLUMNS` and optionally `VARIANTS`, `CURVES` and `MAPS`; the first two curves are
            (N, 101).
        skipped: the images that could not be read and have no row, each with the reason.
        outputs: number of the model's outputs; 0 if the model has not run.
    """

    keys: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    skipped: tuple[str, ...] = ()
    outputs: int = 0

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if name not in self.columns]
        if missing:
            raise InputError(f"the rows lack {', '.join(missing)}; expected columns {', '.join(COLUMNS)}")
        types = COLUMNS | {name: np.float32 for name in VARIANTS if name in self.columns}
        columns = {name: np.asarray(self.columns[name]).astype(dtype, copy=False) for name, dtype in types.items()}
        for name, values in columns.items():
            if values.shape != (len(self),):
                raise InputError(f"column {name} has shape {values.shape}; expected ({len(self)},), one value per key")
        columns |= {name: self.columns[name] for name in (*CURVES, MAPS) if name in self.columns}
        object.__setattr__(self, "columns", columns)

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """Concatenates rows."""
        present = [part.columns for part in parts if len(part)] or [_NO_COLUMNS]
        return cls(
            tuple(key for part in parts for key in part.keys),
            {name: np.concatenate([columns[name] for columns in present]) for name in present[0]},
            tuple(name for part in parts for name in part.skipped),
            max((part.outputs for part in parts), default=0),
        )

    def to_arrow(self) -> pyarrow.Table:
        """A table with the keys as column `image`; NaN becomes null, `skipped` and `outputs` are metadata."""
        require(_PARQUET, "pyarrow")
        import pyarrow as pa

        arrays = {_KEY: pa.array([utf8(key) for key in self.keys], pa.string())}
        for name, values in self.columns.items():
            if name == MAPS:
                arrays[name] = pa.array([array.tobytes() for array in values], pa.binary())
                arrays |= {_SHAPE[i]: pa.array([array.shape[i] for array in values], pa.uint16()) for i in (0, 1)}
            elif values.ndim == 2:
                arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            else:
                arrays[name] = pa.array(values, from_pandas=values.dtype.kind == "f")
        return pa.table(arrays, metadata={"skipped": json.dumps(self.skipped), "outputs": str(self.outputs)})

    def write(self, path: Path) -> None:
        """Writes a Parquet file in an existing folder, under another name and then renamed."""
        require(_PARQUET, "pyarrow")
        from pyarrow import parquet

        with atomic_write(path) as aside, aside.open("wb") as file:  # pyarrow rejects paths that are not UTF-8
            # Neighbouring counts of a curve are close, so delta coding before zstd saves a third.
            curves = {f"{name}.list.element": "DELTA_BINARY_PACKED" for name in CURVES[:2] if name in self.columns}
            parquet.write_table(
                self.to_arrow(), file, compression="zstd", use_dictionary=False, column_encoding=curves or None
            )

    @classmethod
    def read(cls, path: Path) -> Rows:
        """Reads a file of `write`; raises InputError if it is missing, truncated or something else."""
        require(_PARQUET, "pyarrow")
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with path.open("rb") as file:
                table = parquet.read_table(file)
        except FileNotFoundError:
            raise InputError(f"there is no {path}, which holds the rows of the results; evaluate again") from None
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} cannot be read as Parquet ({first_line(error)}); evaluate again") from None
        try:
            keys = tuple(table.column(_KEY).to_pylist())
            present = [name for name in (*COLUMNS, *VARIANTS) if name in table.column_names]
            columns = {name: table.column(name).to_numpy().copy() for name in present}  # not read-only
            if set(CURVES) <= set(table.column_names):
                for name in CURVES[:2]:
                    flat = table.column(name).combine_chunks().flatten().to_numpy()
                    columns[name] = flat.reshape(len(table), len(CURVE_THRESHOLDS))
                columns[CURVES[2]] = table.column(CURVES[2]).to_numpy()
            if MAPS in table.column_names:
                shapes = zip(*(table.column(name).to_pylist() for name in _SHAPE), strict=True)
                maps = zip(table.column(MAPS).to_pylist(), shapes, strict=True)
                columns[MAPS] = _objects([np.frombuffer(data, np.uint8).reshape(shape) for data, shape in maps])
            metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            return cls(keys, columns, tuple(json.loads(metadata["skipped"])), int(metadata["outputs"]))
        except (AttributeError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{path} holds no rows of results ({first_line(error)}); evaluate again") from None

    @staticmethod
    def is_rows_file(path: Path) -> bool:
        """Whether a file is one of `write`, by the names of its columns."""
        require(_PARQUET, "pyarrow")
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with path.open("rb") as file:
                return parquet.read_schema(file).names[: 1 + len(COLUMNS)] == [_KEY, *COLUMNS]
        except (pa.ArrowException, OSError):
            return False


def columns_of(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    """Concatenates the columns of batches and copies them to the host."""
    if not batches:
        return _NO_COLUMNS
    names = (*COLUMNS, *CURVES, *(name for name in VARIANTS if name in batches[0]))
    columns = {name: torch.cat([batch[name] for batch in batches]).cpu().numpy() for name in names}
    counts = {name: np.uint16 if columns[name].max() < 1 << 16 else np.uint32 for name in CURVES[:2]}
    columns |= {name: columns[name].astype(dtype) for name, dtype in {**COLUMNS, **counts}.items()}
    if MAPS in batches[0]:
        columns[MAPS] = _objects([array for batch in batches for array in batch[MAPS].cpu().numpy()])
    return columns


def _objects(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of any shapes as an object array (N,)."""
    objects = np.empty(len(arrays), object)
    objects[:] = arrays
    return objects
