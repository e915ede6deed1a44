"""CIFAR-10, CIFAR-100 and STL10, through torchvision."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regard.data.dataset import Channels, InMemoryDataset, Splits
from regard.data.registry import register_splits
from regard.errors import InputError, one_line


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


def _load(name: str, path: str | os.PathLike[str] | None = None, *, download: bool = False) -> Splits[InMemoryDataset]:
    from torchvision import datasets

    published = _PUBLISHED[name]
    root = _root(path, published)
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
        sets.append(_as_set(raw, name, published, split))
    return Splits(*sets)


def _root(path: str | os.PathLike[str] | None, published: _Published) -> Path:
    if path is None:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "regard"
    root = Path(path).expanduser()
    # The folder of the files themselves is taken for the one around it.
    return root.absolute().parent if root.name == published.files else root


def _as_set(raw: Any, name: str, published: _Published, split: str) -> InMemoryDataset:
    """A data set of torchvision that holds its images as `data` and their classes as `targets` or `labels`."""
    images = torch.from_numpy(np.ascontiguousarray(raw.data))
    if images.shape[3] == 3:  # CIFAR comes as (N, H, W, 3)
        images = images.permute(0, 3, 1, 2).contiguous()
    labels = torch.as_tensor(raw.labels if name == "stl10" else raw.targets, dtype=torch.int64)
    return InMemoryDataset(images, labels, tuple(raw.classes), name, split, published.mean, published.std)


for _name in _PUBLISHED:
    register_splits(_name)(partial(_load, _name))
