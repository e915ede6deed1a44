"""Streamed data sets of Hugging Face, through timm's reader."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from regard.data.dataset import ImageDataset, Splits
from regard.data.decode import Unreadable, read_image
from regard.data.file_dataset import files_digest
from regard.data.listing import TEST_NAMES
from regard.data.registry import register_splits
from regard.data.strings import Keys
from regard.errors import InputError, one_line

_MANY = 100_000  # more classes than that are a wrong column


class HuggingFaceDataset(ImageDataset):
    """A split of a data set, as timm's reader gives its images."""

    name = "hfds"
    has_masks = False

    def __init__(self, split: str, reader: Any, labels: Tensor, classes: tuple[str, ...]) -> None:
        self.split, self.labels, self.classes = split, labels, classes
        self.keys = _Names(reader)
        self._reader = reader

    def image(self, index: int) -> Image.Image:
        name = self.keys[index]
        try:
            with self._open(index) as file:
                return read_image(Path(name), file)[0]
        except OSError as error:
            raise Unreadable(f"{name!r} cannot be opened ({error.strerror or error})") from error

    def mask(self, index: int) -> None:
        return None

    def fingerprint(self) -> str:
        """Of all labels, and of name, size and first bytes of up to 8,192 images; see `FileDataset.fingerprint`."""
        return files_digest(self.labels, lambda i: _inside(self.keys[i]), self._open).hexdigest()

    def _open(self, index: int) -> IO[bytes]:
        try:
            return self._reader[index][0]
        except (AssertionError, KeyError, TypeError) as error:  # as timm fails to take what is empty
            raise Unreadable(f"{self.keys[index]!r} has no image") from error


class _Names(Keys):
    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __len__(self) -> int:
        return len(self._reader)

    def _key(self, index: int) -> str:
        try:
            return self._reader.filename(index, absolute=True) or f"image {index}"
        except TypeError:  # of what is empty
            return f"image {index}"


def _inside(name: str) -> str:
    """A path without the folder of the set, which may be anywhere."""
    return os.path.basename(name) if os.path.isabs(name) else name


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
    """Open two splits of a data set.

    Args:
        path: where the library `datasets` keeps what it prepares, by default its own cache; without `dataset` the
            folder of the data set itself.
        download: whether it may be fetched if it is not there.
        dataset: its name on the hub, or a folder of Parquet files or images.
        train: the split to train on.
        test: the one to test on; None for the first there is of test, val, valid and validation.
        input_key: the column of the images.
        target_key: that of their classes: ClassLabel, whole numbers, or names.

    Raises:
        InputError: the library is not installed, no such data set, split or column, or labels that are none.
    """
    if dataset is None:
        if path is None:
            raise InputError(
                "data set 'hfds' needs a name or a folder; give one (--data.options.dataset, or --data.folder)"
            )
        dataset, cache = os.path.expanduser(path), None
    else:
        cache = None if path is None else os.path.expanduser(path)
    if os.path.sep in dataset and dataset.startswith((".", "~", os.path.sep)):
        dataset = os.path.expanduser(dataset)
        if not os.path.isdir(dataset):
            raise InputError(f"no folder {dataset!r}; give one with Parquet files or images, or the name of a data set")

    def opened(split: str, classes: dict[Any, int] | None = None) -> Any:
        return _reader(dataset, cache, split, input_key, target_key, classes, download)

    first = opened(train)
    second = opened(test) if test is not None else _first_of(opened, dataset)
    classes = tuple(map(str, first.class_to_idx))
    if not classes:  # not ClassLabel
        values = _distinct(first, target_key, dataset)
        if all(isinstance(value, int) for value in values):
            classes = tuple(map(str, range(max(values) + 1)))
        else:
            classes = tuple(map(str, values))
            numbers = {value: label for label, value in enumerate(values)}
            first, second = opened(train, numbers), opened(second.split, numbers)
    elif tuple(map(str, second.class_to_idx)) != classes:
        raise InputError(
            f"split {second.split!r} of {dataset!r} has other classes than split {train!r}; give two with the same"
        )
    return Splits(
        HuggingFaceDataset("train", first, _labels(first, target_key, classes), classes),
        HuggingFaceDataset("test", second, _labels(second, target_key, classes), classes),
    )


def _first_of(opened: Any, dataset: str) -> Any:
    for name in TEST_NAMES:
        with contextlib.suppress(_NoSplit):
            return opened(name)
    raise InputError(
        f"{dataset!r} has no split {', '.join(TEST_NAMES[:-1])} or {TEST_NAMES[-1]}; say which one to test on "
        "(--data.options.test)"
    )


class _NoSplit(InputError):
    """The data set has no such split."""


def _reader(
    dataset: str,
    cache: str | None,
    split: str,
    input_key: str,
    target_key: str,
    classes: dict[Any, int] | None,
    download: bool,
) -> Any:
    try:
        # Not by timm's create_reader, of which older releases write paths in small letters.
        from timm.data.readers.reader_hfds import ReaderHfds
    except ImportError as error:
        raise InputError("the library datasets is not installed; install it (pip install datasets)") from error
    try:
        with _quietly(offline=not download):
            reader = ReaderHfds(
                dataset,
                cache,
                split,
                input_key=input_key,
                target_key=target_key,
                class_map=classes,  # type: ignore[arg-type]  # None for none
                download=download,
            )
    except Exception as error:  # of the hub, of Arrow, of a column that is not there: almost any
        reason = one_line(error)
        if "Unknown split" in reason:
            raise _NoSplit(f"{dataset!r}: {reason}") from error
        hint = "" if download else "; have it fetched (--data.download true), or give the folder that it is in"
        raise InputError(f"data set {dataset!r} cannot be opened ({reason[:300]}){hint}") from error
    table = reader.dataset.data
    # timm names the column of images a type, and the library then makes one of nothing where there is none.
    empty = table.num_rows and table.column(input_key).null_count == table.num_rows
    columns = [name for name in table.column_names if name != input_key or not empty]
    for option, wanted, what in (("input_key", input_key, "images"), ("target_key", target_key, "classes")):
        if wanted not in columns:
            raise InputError(
                f"{dataset!r} has no column {wanted!r} with {what}, but {', '.join(map(repr, columns))}; say which one "
                f"has them (--data.options.{option})"
            )
    return reader


@contextlib.contextmanager
def _quietly(*, offline: bool) -> Iterator[None]:
    """Without progress bars; and without the network, if so."""
    import datasets
    from huggingface_hub import constants

    bars = datasets.are_progress_bars_disabled()
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.disable_progress_bars()
    if offline:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
        if not bars:
            datasets.enable_progress_bars()


def _distinct(reader: Any, target_key: str, dataset: str) -> list[Any]:
    values = reader.dataset.unique(target_key)
    whole = all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
    if not (whole or all(isinstance(value, str) for value in values)) or len(values) > _MANY:
        raise InputError(
            f"column {target_key!r} of {dataset!r} has no classes (such as {values[0]!r}); say which one has "
            "(--data.options.target_key)"
        )
    return sorted(values)


def _labels(reader: Any, target_key: str, classes: tuple[str, ...]) -> Tensor:
    values = reader.dataset.data.column(target_key).to_pylist()
    try:
        labels: NDArray[np.int64] = np.array(
            [reader.class_to_idx[value] for value in values] if reader.remap_class else values, dtype=np.int64
        )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(f"labels run from {labels.min()} to {labels.max()}, and there are {len(classes)} classes")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"split {reader.split!r} has labels that are no classes of the training images ({one_line(error)}); leave "
            "these images out"
        ) from error
    return torch.from_numpy(labels)
