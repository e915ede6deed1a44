"""Labelled images that come in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.errors import InputError


class LabelledImages:
    """The images of some classes among batches, with their labels, counted as they come.

    Args:
        batches: (images, labels, …): (B, 3, H, W), whole numbers (B,). Images with a negative label are left out.
        classes: the labels wanted; None: all.
        progress: called after every batch with the images that came so far.

    Attributes:
        counts: images of each class so far.
    """

    def __init__(
        self,
        batches: Iterable[Sequence[Any]],
        classes: Iterable[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.counts: Counter[int] = Counter()
        self._batches = batches
        self._asked = None if classes is None else set(classes)
        self._progress = progress

    def __iter__(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Images and labels, batch by batch, never none.

        Raises:
            InputError: a batch is something else; at the end: there was no image, or none of a class asked for.
        """
        done = 0
        for batch in self._batches:
            images, labels = _checked(batch)
            wanted = [label >= 0 and (self._asked is None or label in self._asked) for label in labels]
            if any(wanted):
                own = [label for label, keep in zip(labels, wanted, strict=True) if keep]
                yield images if all(wanted) else images[torch.tensor(wanted, device=images.device)], own
                self.counts.update(own)
            done += len(labels)
            if self._progress is not None:
                self._progress(done)
        lacking = sorted((self._asked or set()) - set(self.counts))
        if lacking:
            raise InputError(f"no image of class {lacking[0]} among {done}; ask for classes that have some")
        if not self.counts:
            raise InputError(f"{done} images and none with a label; give labelled images")


def _checked(batch: Sequence[Any]) -> tuple[Tensor, list[int]]:
    if not isinstance(batch, Sequence) or len(batch) < 2 or not all(isinstance(part, Tensor) for part in batch[:2]):
        raise InputError("a batch does not begin with two tensors (images, labels); give those")
    images, labels = batch[0], batch[1]
    if labels.ndim != 1 or len(labels) != len(images) or labels.is_floating_point() or labels.dtype == torch.bool:
        found = f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
        raise InputError(f"labels are {found} for {len(images)} images; expected whole numbers ({len(images)},)")
    return images, labels.tolist()
