"""The lines of `metrics.jsonl`, one per finished epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from regard.errors import InputError

_MOST = 100_000  # epochs
_RANGE = 2**63  # of whole numbers; floats may be infinite or NaN, as losses are that diverge


def read_metrics(content: bytes) -> list[dict[str, Any]]:
    """The finished epochs, without a last line that was cut short: one that has no end.

    Raises:
        InputError: another line is no JSON, or not that of an epoch, or there are too many.
    """
    if content.count(b"\n") > _MOST:
        raise InputError(f"metrics.jsonl has more than {_MOST:,} lines, and a run fewer epochs")
    try:
        *lines, rest = content.decode().split("\n")
    except UnicodeDecodeError:
        raise InputError("metrics.jsonl is not UTF-8") from None
    rows = [_row(number, line) for number, line in enumerate(lines, start=1)]
    with suppress(InputError):
        rows += [_row(len(lines) + 1, rest)] if rest else []
    return rows


MEASURES = {"test_accuracy": "test accuracy", "test_box_ap": "test AP"}
"""The fields by which epochs are compared, of classifiers and of detectors, in [0, 1], and what they are called."""


def measure_of(row: Mapping[str, Any]) -> str:
    """The one of `MEASURES` that an epoch has; that of classifiers if it has none."""
    return next((name for name in MEASURES if name in row), "test_accuracy")


def _whole_number(digits: str) -> int:
    number = int(digits)
    if not -_RANGE <= number < _RANGE:
        raise InputError("has a number out of range")
    return number


_DECODER = json.JSONDecoder(parse_int=_whole_number)


def _row(number: int, line: str) -> dict[str, Any]:
    try:
        row = _DECODER.decode(line)
        if not isinstance(row, dict) or type(row.get("epoch")) is not int or row["epoch"] < 1:
            raise InputError("is not that of an epoch")
    except InputError as error:
        raise InputError(f"line {number} of metrics.jsonl {error}") from error
    except (ValueError, RecursionError):
        raise InputError(f"line {number} of metrics.jsonl is no JSON") from None
    return row
