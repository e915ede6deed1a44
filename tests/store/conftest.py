"""Shared fixtures of the tests of stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.buckets import bucket as empty_bucket


@pytest.fixture
def bucket() -> Iterator[str]:
    """The address of an empty bucket."""
    with empty_bucket() as address:
        yield address
