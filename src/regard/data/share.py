"""What one of several processes takes of every batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.data.draws import Integers
from regard.errors import InputError


@dataclass(frozen=True)
class Share:
    """One process's part of every batch.

    Attributes:
        rank: of the process, from 0.
        count: of the processes.

    Raises:
        InputError: a rank that is none of `count` processes.
    """

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise InputError(
                f"share {self.rank} of {self.count} does not exist; give a rank from 0 to {self.count - 1}"
            )

    def rows(self, total: int) -> Integers:
        """Which rows of a batch of `total` are this process's, in increasing order."""
        # Mixing takes an image together with its mirror image in the batch, the first with the last. A part that holds
        # with every row its mirror image gives, flipped, the very pairs that the whole batch gives, flipped: so images
        # are mixed the same on however many processes.
        if total % (2 * self.count) == 0:
            half = total // (2 * self.count)
            front = np.arange(self.rank * half, (self.rank + 1) * half, dtype=np.int64)
            return np.concatenate([front, total - 1 - front[::-1]])
        first, end = (rank * total // self.count for rank in (self.rank, self.rank + 1))
        return np.arange(first, end, dtype=np.int64)

    def check(self, batch_size: int, images: int, *, drop_last: bool) -> None:
        """Raises InputError where a batch of an epoch has fewer images than there are processes."""
        last = batch_size if drop_last else images % batch_size or batch_size
        if min(batch_size, last) >= self.count:
            return
        if batch_size < self.count:
            raise InputError(
                f"batch size {batch_size} is less than the {self.count} processes that share it; give at least "
                f"{self.count} (--schedule.batch_size)"
            )
        fitting = (
            size for step in range(1, images) for size in (batch_size - step, batch_size + step) if size >= self.count
        )
        best = next(size for size in fitting if images % size == 0 or images % size >= self.count)
        raise InputError(
            f"with batch size {batch_size} the last batch of an epoch of {images} images has {last}, less than the "
            f"{self.count} processes that share it; give another batch size, such as {best} (--schedule.batch_size)"
        )
