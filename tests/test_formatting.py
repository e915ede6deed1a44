"""Formatting of numbers, intervals and text."""

from __future__ import annotations

import math

import pytest

from regard import formatting
from regard.formatting import NONE
from regard.stats import Difference, Estimate


def test_numbers_are_formatted() -> None:
    assert [formatting.number(x, 1) for x in (-0.26, -0.04, -0.0, math.inf)] == ["−0.3", "0.0", "0.0", "inf"]
    assert [formatting.percent(x) for x in (0.743, 1.0, math.nan, None)] == ["74.3", "100.0", NONE, NONE]
    assert [formatting.points(x) for x in (0.031, -0.0042, 0.0001, -0.0001)] == ["+3.1", "−0.4", "0.0", "0.0"]
    assert [formatting.signed(x, 2) for x in (0.44, -0.312, 0.0, math.nan)] == ["+0.44", "−0.31", "0.00", NONE]
    assert [formatting.p_value(x) for x in (0.0004, 0.0312, 0.04973, None)] == ["< 0.001", "0.031", "0.0497", NONE]
    assert [formatting.large(x) for x in (175_994, 26_800_000, 4_110_000_000, None)] == [
        *("175,994", "26.8 M", "4.11 G", NONE)
    ]
    durations = {0.2: "1 s", 45: "45 s", 720: "12 min", 3 * 3600 + 300: "3 h 05 min", 100 * 3600: "4 days 4 h"}
    assert {seconds: formatting.duration(seconds) for seconds in durations} == durations
    assert [formatting.counted(x, "seed") for x in (1, 5, 1200)] == ["1 seed", "5 seeds", "1,200 seeds"]


def test_intervals_are_formatted() -> None:
    assert formatting.estimate(Estimate(0.743, 0.715, 0.769, 700)) == "74.3 (71.5 to 76.9)"
    assert formatting.estimate(Estimate(0.5, math.nan, math.nan, 1), formatting.number) == "0.500"
    assert formatting.difference(Difference(0.031, -0.004, 0.058, 0.1, None, 9)) == "+3.1 (−0.4 to +5.8)"
    assert formatting.interval(math.nan, math.nan) == NONE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat)", "cat)"),
        ("[red]x[/red]", "[red]x[/red]"),
        ("a\x1b[31mb\x9b2J", r"a\x1b[31mb\x9b2J"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\udce9t\u202e", r"\udce9t\u202e"),
        ("café\xa0—\u2003x", "café\xa0—\u2003x"),
    ],
)
def test_printable_escapes_control_characters(text: str, expected: str) -> None:
    assert formatting.printable(text) == expected
    assert formatting.printable_lines(f"{text}\nb").endswith("\nb")
