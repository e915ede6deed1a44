"""CIFAR-10, CIFAR-100 and STL10, through torchvision."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regard.data.dataset import Channels, InMemoryDataset, Splits
from regard.data.listing import existing_folder
from regard.data.regions.stl10 import Stl10Dataset, open_stl10
from regard.data.registry import register_splits
from regard.errors import InputError, one_line

_FILES = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "stl10": "stl10_binary"}
_TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL10"}
_STATISTICS: dict[str, tuple[Channels, Channels]] = {  # mean and std of the training images
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
}


def _root(name: str, path: str | os.PathLike[str] | None) -> Path:
    """The folder that torchvision expects: the parent of the folder of the files."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "regard") if path is None else Path(path)
    root = root.expanduser()
    return root.absolute().parent if root.name == _FILES[name] else root


def _load(name: str, path: str | os.PathLike[str] | None = None, *, download: bool = False) -> Splits[InMemoryDataset]:
    from torchvision import datasets

    root, title, files = _root(name, path), _TITLES[name], _FILES[name]
    if not download and not (root / files).is_dir():
        raise InputError(
            f"{title} not found under {str(root)!r} (expected {files}/ in it); "
            "give the folder it is in (--data.folder), or have it downloaded (--data.download true)"
        )
    sets = []
    for split in ("train", "test"):
        split_option: dict[str, Any] = {"split": split} if name == "stl10" else {"train": split == "train"}
        try:
            raw: Any = getattr(datasets, name.upper())(root, download=download, **split_option)
        except Exception as error:  # torchvision raises RuntimeError, the network and pickle various exceptions
            problem = f"could not be downloaded to {str(root)!r}" if download else "is incomplete or corrupted"
            hint = "check the network and the folder" if download else "have it downloaded (--data.download true)"
            raise InputError(
                f"{title} under {str(root / files)!r} {problem} ({one_line(error)}); {hint}, or give another folder "
                "(--data.folder)"
            ) from error
        images = torch.from_numpy(np.ascontiguousarray(raw.data))
        if images.shape[3] == 3:  # CIFAR comes as (N, H, W, 3)
            images = images.permute(0, 3, 1, 2).contiguous()
        labels = torch.as_tensor(raw.labels if name == "stl10" else raw.targets, dtype=torch.int64)
        sets.append(InMemoryDataset(images, labels, tuple(raw.classes), name, split, *_STATISTICS[name]))
    return Splits(*sets)


def _load_stl10(
    path: str | os.PathLike[str] | None = None, *, download: bool = False, regions: str | None = None
) -> Splits[InMemoryDataset]:
    """STL10, with the annotations in the folder `regions` (see `open_stl10`); images without one get empty regions."""
    splits = _load("stl10", path, download=download)
    if regions is None:
        return splits
    folder, root = existing_folder(regions), str(_root("stl10", path))
    return Splits(*(_with_regions(images, open_stl10(folder, images.split, root)) for images in splits))


def _with_regions(images: InMemoryDataset, annotated: Stl10Dataset) -> InMemoryDataset:
    masks = torch.zeros(len(images), *images.images.shape[2:], dtype=torch.bool)
    for i, position in enumerate(annotated.positions.tolist()):
        masks[position] = torch.from_numpy(annotated.mask(i))
    return replace(images, regions=masks)


for _name in ("cifar10", "cifar100"):
    register_splits(_name)(partial(_load, _name))
register_splits("stl10")(_load_stl10)
