"""Many strings in one block of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Strings(Sequence[str]):
    """A list of strings that DataLoader workers share: a Python string each would be copied, bit by bit, into every one
    of them as it is read.
    """

    def __init__(self, values: Iterable[str]) -> None:
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        start, end = self._ends[range(len(self))[index] :][:2]
        return self._bytes[start:end].tobytes().decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    def __repr__(self) -> str:
        return repr(tuple(self))
