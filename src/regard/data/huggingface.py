"""Streamed data sets of Hugging Face, read with the library `datasets`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image
from torch import Tensor

from regard.data.dataset import ImageDataset, Splits
from regard.data.decode import Unreadable, read_image
from regard.data.file_dataset import files_digest, open_regular
from regard.data.listing import TEST_NAMES, quote_names
from regard.data.registry import register_splits
from regard.data.text_files import Strings
from regard.errors import InputError, one_line
from regard.optional import require

_MAX_CLASSES = 100_000
_UNLABELLED = {-1, None}


class HuggingFaceDataset(ImageDataset):
    """A split of a data set. `images` is a table with one column of encoded images; `labels` are int64 (N,)."""

    name = "hfds"
    has_masks = False

    def __init__(self, split: str, images: Any, labels: Tensor, classes: tuple[str, ...]) -> None:
        import pyarrow.compute

        self.split, self.labels, self.classes = split, labels, classes
        (self._column,) = images.column_names
        paths = pyarrow.compute.struct_field(images.data.column(self._column), "path").to_pylist()
        self.keys = Strings(path or f"image {i}" for i, path in enumerate(paths))
        self._images = images

    def image(self, index: int) -> Image.Image:
        with self._open(index) as file:
            return read_image(Path(self.keys[index]), file)[0]

    def mask(self, index: int) -> None:
        return None

    def fingerprint(self) -> str:
        """A digest of all labels, and of the name, size and first bytes of up to 8,192 evenly spaced images."""
        return files_digest(self.labels, self._name, self._open).hexdigest()

    def _name(self, index: int) -> str:
        """The key of an image, without the absolute path of its folder, which differs between machines."""
        return os.path.basename(self.keys[index]) if os.path.isabs(self.keys[index]) else self.keys[index]

    def _open(self, index: int) -> IO[bytes]:
        record = self._images[index][self._column] or {}
        if record.get("bytes"):
            return io.BytesIO(record["bytes"])
        if record.get("path"):
            return open_regular(Path(record["path"]))
        raise Unreadable(f"{self.keys[index]!r} has no image")


@register_splits("hfds", streamed=True)
def load_hfds(
    path: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    dataset: str | None = None,
    train: str = "train",
    test: str | None = None,
    input_key: str = "image",
    target_key: str = "label",
) -> Splits[HuggingFaceDataset]:
    """Opens a training and a test split of a data set.

    Args:
        path: cache folder of the library `datasets`, None for its default; without `dataset`, the folder of the data
            set.
        download: download the data set if it is not in the cache.
        dataset: name on the Hugging Face hub, or a folder of Parquet files or images.
        train: name of the training split.
        test: name of the test split; None for the first available of test, val, valid and validation.
        input_key: column of the images.
        target_key: column of the labels: ClassLabel, integers or class names. Images with the label -1 or None, as of
            many test splits, have no label.
    """
    if dataset is None and path is None:
        raise InputError(
            "data set 'hfds' needs a name or a folder; give one (--data.options.dataset, or --data.folder)"
        )
    folder = None if path is None else os.path.expanduser(path)
    dataset, cache = (folder or "", None) if dataset is None else (dataset, folder)
    if os.path.sep in dataset and dataset.startswith((".", "~", os.path.sep)):
        dataset = os.path.expanduser(dataset)
        if not os.path.isdir(dataset):
            raise InputError(f"no folder {dataset!r}; give one with Parquet files or images, or the name of a data set")
    train_table, test_table = _tables(dataset, cache, train, test, download)
    columns = ", ".join(map(repr, train_table.column_names))
    for option, column, role in (("input_key", input_key, "images"), ("target_key", target_key, "classes")):
        if column not in train_table.column_names:
            raise InputError(
                f"{dataset!r} has no column {column!r} with {role}, but {columns}; name the column of the {role} "
                f"(--data.options.{option})"
            )
    if train_table.features[target_key] != test_table.features[target_key]:
        raise InputError(
            f"the splits {train!r} and {test!r} of {dataset!r} have different classes; give splits with the same"
        )
    classes, label_of = _classes(train_table, target_key, dataset)
    sets = []
    for split, table in (("train", train_table), ("test", test_table)):
        labels = _labels(table.data.column(target_key).to_pylist(), label_of, split)
        sets.append(HuggingFaceDataset(split, _encoded_images(table, input_key), labels, classes))
    return Splits(*sets)


def _tables(dataset: str, cache: str | None, train: str, test: str | None, download: bool) -> list[Any]:
    """Both splits as `datasets.Dataset`."""
    require("the data set hfds", "datasets")
    import datasets

    try:
        with _quietly(offline=not download):
            if test is None:
                splits = datasets.load_dataset(dataset, cache_dir=cache)
                test = next((name for name in TEST_NAMES if name in splits), None)
            if test is not None:
                return list(datasets.load_dataset(dataset, cache_dir=cache, split=[train, test]))
    except Exception as error:  # the hub and Arrow raise various exceptions
        reason = one_line(error)
        hint = "; have it downloaded (--data.download true), or give its folder"
        hint = "" if download or "Unknown split" in reason else hint
        raise InputError(f"data set {dataset!r} cannot be opened ({reason[:300]}){hint}") from error
    raise InputError(
        f"{dataset!r} has no split {', '.join(TEST_NAMES[:-1])} or {TEST_NAMES[-1]}; name the split to test on "
        "(--data.options.test)"
    )


def _encoded_images(table: Any, column: str) -> Any:
    """A table of only the column of images, not decoded."""
    import datasets

    try:
        return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # Arrow cannot cast other types to images
        raise InputError(
            f"column {column!r} has no images ({one_line(error)[:300]}); name the column of the images "
            "(--data.options.input_key)"
        ) from error


@contextlib.contextmanager
def _quietly(*, offline: bool) -> Iterator[None]:
    """Disables the library's progress bars, and with `offline` its access to the network."""
    import datasets
    from huggingface_hub import constants

    bars_disabled = datasets.are_progress_bars_disabled()
    offline_flags = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.disable_progress_bars()
    if offline:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = offline_flags
        if not bars_disabled:
            datasets.enable_progress_bars()


def _classes(table: Any, column: str, dataset: str) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The class names, and the class index of each value in the column."""
    import datasets

    names = getattr(table.features[column], "names", None)
    if names is not None:  # ClassLabel
        return tuple(names), {label: label for label in range(len(names))}
    is_scalar = isinstance(table.features[column], datasets.Value)
    values: set[Any] = set(table.data.column(column).to_pylist()) - _UNLABELLED if is_scalar else set()
    if values and len(values) <= _MAX_CLASSES and all(isinstance(value, str) for value in values):
        return tuple(sorted(values)), {value: label for label, value in enumerate(sorted(values))}
    if values and all(isinstance(value, int) and 0 <= value < _MAX_CLASSES for value in values):
        labels = range(max(values) + 1)
        return tuple(map(str, labels)), {label: label for label in labels}
    examples = quote_names(list(values), 1) or "other values"
    raise InputError(
        f"column {column!r} of {dataset!r} has no classes (but {examples}); name the column of the classes "
        "(--data.options.target_key)"
    )


def _labels(values: list[Any], label_of: dict[Any, int], split: str) -> Tensor:
    try:
        return torch.tensor([-1 if value in _UNLABELLED else label_of[value] for value in values], dtype=torch.int64)
    except KeyError as error:
        raise InputError(
            f"{split} images have the label {error}, which is not a class of the training images; leave them out"
        ) from error
