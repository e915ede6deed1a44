"""What the processes that read give back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """A part of a batch, in the memory of the processor.

    Attributes:
        images: uint8 (B, 3, h, w), RGB, as the network sees them before they are normalised.
        labels: int64 (B,).
        index: int64 (B,), as of `Batch`.
        total: images of the whole batch, over all processes.
        skipped: what could not be read, and why.
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # in place of tuple.index, which is no use here
    total: int
    skipped: tuple[str, ...]
