"""Random streams that depend only on a key, the same on every machine and with every version of the libraries."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from regard.errors import InputError

Integers = NDArray[np.int64]


class RandomStream:
    """A stream of random integers that depends only on its key.

    It uses integer arithmetic and the raw 64-bit output of PCG64, which numpy guarantees never to change, unlike its
    distributions. Streams of different keys are independent, however many numbers are drawn from them.

    The key consists of integers from 0 to 2^64 - 1; by convention, the user's seed comes first.
    """

    def __init__(self, *key: int) -> None:
        # The length of the key, then two words for each part, so that different keys give different words.
        words = [len(key)] + [word for part in key for word in (part & 0xFFFFFFFF, part >> 32)]
        self._bits = np.random.PCG64(np.random.SeedSequence(words))

    def _raw(self, shape: int | tuple[int, ...]) -> NDArray[np.uint64]:
        count = int(np.prod(shape))
        return np.asarray(self._bits.random_raw(count), dtype=np.uint64).reshape(shape)

    def integers(self, low: ArrayLike, high: ArrayLike, shape: int | tuple[int, ...]) -> Integers:
        """Integers from low to high, inclusive; the bounds broadcast against the shape."""
        start = np.asarray(low, dtype=np.int64)
        span = (np.asarray(high, dtype=np.int64) - start + 1).astype(np.uint64)
        return start + ((self._raw(shape) >> np.uint64(32)) * span >> np.uint64(32)).astype(np.int64)

    def bernoulli(self, probability: float, shape: int | tuple[int, ...]) -> NDArray[np.bool_]:
        """Booleans that are true with the given probability."""
        return (self._raw(shape) >> np.uint64(32)) < np.uint64(round(probability * 2**32))

    def permutation(self, count: int) -> Integers:
        """The numbers from 0 to count - 1 in random order."""
        return np.argsort(self._raw(count), kind="stable").astype(np.int64)


def check_seed(seed: int) -> int:
    """The seed. Raises InputError if it is not an integer from 0 to 2^64 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise InputError(f"seed {seed!r} is not an integer from 0 to 2^64 - 1; give such an integer")
    return seed


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seeds `random`, `numpy.random` and torch's CPU generator from a key as in `RandomStream`, and restores their
    states on exit."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    python_seed, numpy_seed, torch_seed = RandomStream(*key).integers(0, 2**32 - 1, 3).tolist()
    random.seed(python_seed)
    np.random.seed(numpy_seed)
    torch.default_generator.manual_seed(torch_seed)  # torch.manual_seed would also seed the GPUs' generators
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
