"""Data sets by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch

from regard.data.builtin import clutter
from regard.data.cub import load_cub
from regard.data.dataset import Channels, InMemoryDataset, Splits
from regard.data.decode import OnUnreadable
from regard.data.files import load_files
from regard.data.fileset import FileSet
from regard.data.folder import load_folder
from regard.data.huggingface import load_hfds
from regard.data.scenes import load_scenes
from regard.data.wds import load_wds
from regard.errors import InputError, one_line, unknown


@dataclass(frozen=True)
class _Published:
    """A data set of torchvision: its class there, its files, and mean and std of its training images."""

    title: str
    kind: str
    files: str
    mean: Channels
    std: Channels


_PUBLISHED = {
    "cifar10": _Published(
        "CIFAR-10", "CIFAR10", "cifar-10-batches-py", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    ),
    "cifar100": _Published(
        "CIFAR-100", "CIFAR100", "cifar-100-python", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    ),
    "stl10": _Published("STL10", "STL10", "stl10_binary", (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
}

# Sets that are read while training: what finds them.
READ_WHILE_TRAINING: dict[str, Callable[..., Splits[FileSet]]] = {
    "files": load_files,
    "hfds": load_hfds,
    "wds": load_wds,
}
# Sets of image files that are held whole: what reads them, and what the folder is that they are in.
_OF_FILES: dict[str, tuple[Callable[..., Splits[InMemoryDataset]], str]] = {
    "cub": (load_cub, "the folder CUB_200_2011"),
    "folder": (load_folder, "a folder with train/ and test/ in it"),
    "scenes": (load_scenes, "a folder with Images/, TrainImages.txt and TestImages.txt in it"),
}
# What fields of their own say, and no options.
_COMMON = ("path", "size", "unreadable", "crop_pct", "interpolation", "workers", "download")


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The options of a function, with their defaults."""
    parameters = inspect.signature(function).parameters
    return {name: option.default for name, option in parameters.items() if name not in _COMMON}


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "clutter": clutter,
    **{name: function for name, (function, _) in _OF_FILES.items()},
    **READ_WHILE_TRAINING,
}
# The options of a set, with their defaults.
_OPTIONS = {name: _defaults(function) for name, function in _FUNCTIONS.items()}


def names() -> list[str]:
    """The names that `load` knows, sorted."""
    return sorted(["clutter", *_OF_FILES, *_PUBLISHED, *READ_WHILE_TRAINING])


def all_options(name: str, /, **given: Any) -> dict[str, Any]:
    """All options of a data set: its defaults, but for those given. What is kept of a run should not change with them.

    Raises:
        InputError: an unknown name, an option that the data set does not have.
    """
    if name not in names():
        raise unknown("data set", name, names())
    _check_options(name, given)
    return {**_OPTIONS.get(name, {}), **given}


def load(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    crop_pct: float = 0.875,
    interpolation: str = "bilinear",
    workers: int = 4,
    **options: Any,
) -> Splits[InMemoryDataset] | Splits[FileSet]:
    """Load a data set as bytes, or find one that is read while training.

    Args:
        name: "clutter", made on the spot; "cifar10", "cifar100" or "stl10", through torchvision; "cub", CUB-200-2011;
            "scenes", MIT's indoor scenes of 67 kinds; or "folder", any images in class folders. Read while training:
            "files", images in class folders (ImageNet's among them); "wds", WebDataset shards; "hfds", data sets of
            Hugging Face.
        folder: where the files are, or go to. For "folder" the one with `train/` and `test/` (or `val/`, `valid/`,
            `validation/`). For "cub" `CUB_200_2011`, or the one it is in. For "scenes" the one with `Images/`,
            `TrainImages.txt` and `TestImages.txt`. For "cifar10", "cifar100" and "stl10" the one that torchvision calls
            root, by default a `regard` folder in the person's cache. None for "clutter".
        download: whether "cifar10", "cifar100", "stl10" or "hfds" may be fetched if it is not there.
        size: for "cub", "folder" and "scenes", the side of the images in pixels; see `read_folder`. The first and the
            last need it.
        unreadable: for the same, and sets read while training, "error" or "skip"; see `read_folder`.
        crop_pct: of sets read while training, as of `FileSet`, and so are the next two.
        interpolation: likewise.
        workers: likewise.
        options: for "clutter" the arguments of `clutter`; for "cub", "folder" and "scenes" `memory_limit`, the most
            bytes that the images of a split may take; for "cub" also `crop`, "box" or "none": whether each image is cut
            to the box of its bird. For "wds" and "hfds" see `load_wds` and `load_hfds`.

    Returns:
        the training and the test images, and with "clutter" their regions.

    Raises:
        InputError: an unknown name, a folder that is not there or does not hold what it should, an option that the
            data set does not have.
    """
    options = all_options(name, **options)
    if name in READ_WHILE_TRAINING:
        if name == "hfds":
            options["download"] = download
        elif folder is None:
            raise InputError(f"data set {name!r} needs a folder; give it (--data.folder)")
        return READ_WHILE_TRAINING[name](
            folder,
            size=size,
            unreadable=unreadable,
            crop_pct=crop_pct,
            interpolation=interpolation,
            workers=workers,
            **options,
        )
    if name in _OF_FILES:
        read, wanted = _OF_FILES[name]
        if folder is None:
            raise InputError(f"data set {name!r} needs {wanted}; give one (--data.folder)")
        return read(folder, size=size, unreadable=unreadable, **options)
    if size is not None:
        raise InputError(f"data set {name!r} has images of one size; leave size out (found {size})")
    if name == "clutter":
        if folder is not None:
            raise InputError(
                f"data set 'clutter' is made, not read from a folder (found {str(folder)!r}); leave the folder out, "
                "or say what it holds (--data.name folder)"
            )
        return clutter(**options)
    return _load_published(name, _root(folder, _PUBLISHED[name]), download)


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    known = _OPTIONS.get(name, ())
    for option, value in options.items():
        if not known:
            raise InputError(f"data set {name!r} has no options (found {option!r}); leave it out")
        if option not in known:
            raise unknown(f"option of data set {name!r}", option, known)
        kind = get_type_hints(_FUNCTIONS[name], localns={"FileSet": FileSet})[option]
        if not _is_of(value, kind):
            raise InputError(
                f"option {option} of data set {name!r} is {value!r:.100}; expected {getattr(kind, '__name__', kind)}"
            )


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value that YAML may give is of a type that an option may have."""
    parts = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_is_of(value, part) for part in parts)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_of(one, parts[0]) for one in value)
    if get_origin(kind) is Literal:
        return isinstance(value, str)
    return isinstance(value, float | int if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _root(folder: str | os.PathLike[str] | None, published: _Published) -> Path:
    if folder is None:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "regard"
    path = Path(folder).expanduser()
    # The folder of the files themselves is taken for the one around it.
    return path.absolute().parent if path.name == published.files else path


def _load_published(name: str, root: Path, download: bool) -> Splits:
    from torchvision import datasets

    published = _PUBLISHED[name]
    kind: Any = getattr(datasets, published.kind)
    if not download and not (root / published.files).is_dir():
        raise InputError(
            f"{published.title} not found under {str(root)!r} (expected {published.files}/ in it); "
            "give the folder it is in (--data.folder), or have it downloaded (--data.download true)"
        )
    sets = []
    for split in ("train", "test"):
        which = {"split": split} if name == "stl10" else {"train": split == "train"}
        try:
            raw = kind(root, download=download, **which)
        except Exception as error:  # torchvision gives a RuntimeError, the network and pickle almost any other
            reason = one_line(error)
            if download:
                raise InputError(
                    f"{published.title} could not be downloaded to {str(root)!r} ({reason}); "
                    "check the network and the folder, or give a folder that has it (--data.folder)"
                ) from error
            raise InputError(
                f"{published.title} under {str(root / published.files)!r} is incomplete or corrupted ({reason}); "
                "remove it, and have it downloaded again (--data.download true)"
            ) from error
        sets.append(_as_set(raw, name, split))
    return Splits(*sets)


def _as_set(raw: Any, name: str, split: str) -> InMemoryDataset:
    """A data set of torchvision that holds its images as `data` and their classes as `targets` or `labels`."""
    images = torch.from_numpy(np.ascontiguousarray(raw.data))
    if images.shape[3] == 3:  # CIFAR comes as (N, H, W, 3)
        images = images.permute(0, 3, 1, 2).contiguous()
    labels = torch.as_tensor(raw.labels if name == "stl10" else raw.targets, dtype=torch.int64)
    published = _PUBLISHED[name]
    return InMemoryDataset(images, labels, tuple(raw.classes), name, split, published.mean, published.std)
