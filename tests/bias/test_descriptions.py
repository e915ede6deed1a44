"""What an interval and a size are of: no page and no document says otherwise."""

import re
from pathlib import Path

import pytest

import regard

SOURCE = Path(regard.__file__).parent
REPOSITORY = Path(__file__).parents[2]
TEXTS = [
    *(path for suffix in ("*.py", "*.html") for part in ("bias", "report") for path in (SOURCE / part).rglob(suffix)),
    *(REPOSITORY / "docs").rglob("*.md"),
    REPOSITORY / "README.md",
]


@pytest.mark.parametrize(
    "wrong",
    [
        # A confidence interval is of a rate, not of the rates of other images.
        r"other images\s+(\w+\s+){0,4}(might|may|would|will)\b",
        r"\b(fall|lie|move)s? on other images",
        # The region of an image of COCO is the union of all its objects.
        r"(\b(small|medium|large)|\{\w+\})\s+objects\b",
        r"\bsize of the object\b",
    ],
)
def test_intervals_and_sizes_are_described_as_what_they_are(wrong: str) -> None:
    assert not {str(path) for path in TEXTS if re.search(wrong, path.read_text(encoding="utf-8"))}
