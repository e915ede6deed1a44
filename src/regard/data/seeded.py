"""Random numbers of other libraries, from seeds of our own."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from regard.data.draws import Draws


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Within, what `random`, `numpy.random` and torch (on the CPU) draw is fixed by the key alone; after, they go on
    as if nothing had been drawn.

    Args:
        key: as of `Draws`.
    """
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    first, second, third = Draws(*key).integers(0, 2**32 - 1, 3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.default_generator.manual_seed(third)  # torch.manual_seed would seed the generators of devices, too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])
