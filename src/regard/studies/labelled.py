"""Batches of labelled images, and the names of their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.errors import InputError


def labelled(
    batches: Iterable[Sequence[Any]],
    classes: Iterable[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the images of some classes (B, 3, H, W), with their labels (B,) on the CPU; B is at least 1.

    `classes` None selects all labels that are not negative. `progress` gets the number of images read after each batch.
    Raises InputError for a malformed batch and, at the end, if there was no image, or none of a class in `classes`.
    """
    selected = None if classes is None else torch.tensor(sorted(classes))
    counted: set[int] = set()
    done = 0
    for batch in batches:
        images, labels = _checked(batch)
        keep = labels >= 0 if selected is None else torch.isin(labels, selected)
        if keep.any():
            counted.update(labels[keep].tolist())
            yield images if keep.all() else images[keep.to(images.device)], labels[keep]
        done += len(labels)
        if progress is not None:
            progress(done)
    missing = [] if selected is None else sorted(set(selected.tolist()) - counted)
    if missing:
        raise InputError(f"no image of class {missing[0]} among {done}; leave out classes without images")
    if not counted:
        raise InputError(f"none of {done} images has a label; give labelled images")


def class_name(label: int, names: Sequence[str]) -> str:
    """The name of a class; "class 7" if it has none, "crane (517)" if two classes share it."""
    if label >= len(names):
        return f"class {label}"
    return names[label] if names.count(names[label]) == 1 else f"{names[label]} ({label})"


def _checked(batch: Sequence[Any]) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, Sequence) or len(batch) < 2 or not all(isinstance(part, Tensor) for part in batch[:2]):
        raise InputError("a batch does not start with two tensors; expected (images, labels, …)")
    images, labels = batch[0], batch[1]
    if labels.ndim != 1 or len(labels) != len(images) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
        raise InputError(f"labels are {kind} for {len(images)} images; expected whole numbers ({len(images)},)")
    return images, labels.cpu().long()
