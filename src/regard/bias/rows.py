"""A row an image: their columns, and how they lie on disk (Parquet)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard.errors import InputError, first_line
from regard.files import utf8, written_aside

# Column -> its type, in the order of a file.
COLUMNS: dict[str, type[np.generic]] = {
    "label": np.int64,
    "predicted": np.int64,
    "explained": np.int64,
    "probability": np.float32,
    "correct": np.bool_,
    "position_bias": np.bool_,
    "range_bias": np.bool_,
    "spill": np.float32,
    "miss": np.float32,
    "iou": np.float32,
    "mean_iou": np.float32,
    "best_iou": np.float32,
    "pointing": np.bool_,
    "energy_inside": np.float32,
    "auc": np.float32,
    "rank_accuracy": np.float32,
    "top_k": np.float32,
    "focus_area": np.float32,
    "region_area": np.float32,
    "flat": np.bool_,
}

_KEY = "image"  # the column of the images' names


@dataclass(frozen=True, eq=False)
class Rows:
    """Images in the order of their set.

    Attributes:
        keys: (N,), what each is called.
        columns: name -> (N,), those of `COLUMNS`.
    """

    keys: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several parts, one after another."""
        keys = tuple(key for part in parts for key in part.keys)
        columns = {
            name: np.concatenate([part.columns[name] for part in parts] or [np.empty(0, dtype)])
            for name, dtype in COLUMNS.items()
        }
        return cls(keys, columns)


def checked_columns(columns: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    """The columns as arrays of their types.

    Raises:
        InputError: one is missing or has another length.
    """
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise InputError(f"the rows lack {', '.join(missing)}; expected columns {', '.join(COLUMNS)}")
    arrays = {name: np.asarray(columns[name]).astype(dtype, copy=False) for name, dtype in COLUMNS.items()}
    lengths = {name: array.shape for name, array in arrays.items() if array.shape != (count,)}
    if lengths:
        name, shape = next(iter(lengths.items()))
        raise InputError(f"column {name} has shape {shape}; expected ({count},), an entry for each image")
    return arrays


def write_rows(path: Path, rows: Rows, notes: Mapping[str, str] | None = None) -> None:
    """Writes rows as a Parquet file, aside and then renamed.

    Args:
        path: of the file, in a folder that is there.
        rows: to write.
        notes: kept in the file's metadata.
    """
    import pyarrow as pa
    from pyarrow import parquet

    # What is no number in a row is null for whoever reads the file.
    arrays = {_KEY: pa.array([utf8(key) for key in rows.keys], pa.string())}
    for name, values in rows.columns.items():
        arrays[name] = pa.array(values, from_pandas=values.dtype.kind == "f")
    table = pa.table(arrays)
    if notes:
        table = table.replace_schema_metadata({key.encode(): value.encode() for key, value in notes.items()})
    with written_aside(path) as aside, aside.open("wb") as file:  # pyarrow takes no path that is no text
        parquet.write_table(table, file, compression="zstd")


def holds_rows(path: Path) -> bool:
    """Whether a file is one of `write_rows`; reads its columns' names only."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            return parquet.read_schema(file).names == [_KEY, *COLUMNS]
    except (pa.ArrowException, OSError):
        return False


def read_rows(path: Path) -> tuple[Rows, dict[str, str]]:
    """The rows of a Parquet file, and its notes.

    Raises:
        InputError: it is not there, cut short, or holds something else.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            table = parquet.read_table(file)
    except FileNotFoundError:
        raise InputError(f"there is no {path}, which holds the rows of the report beside it") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet ({first_line(error)}); measure again") from None
    missing = [name for name in (_KEY, *COLUMNS) if name not in table.column_names]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; measure again with this regard")
    columns = {}
    for name, dtype in COLUMNS.items():
        values = table.column(name).to_numpy()
        columns[name] = values.astype(dtype)
    metadata = table.schema.metadata or {}
    notes = {key.decode(): value.decode() for key, value in metadata.items()}
    return Rows(tuple(table.column(_KEY).to_pylist()), columns), notes
