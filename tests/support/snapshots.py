"""Snapshots of texts that users read, in `tests/snapshots`, so that no wording changes by accident.

After an intended change run `REGARD_SNAPSHOTS=write pytest …` and review the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "snapshots"


def check_snapshot(name: str, text: str) -> None:
    """Compares a text, line by line, with `tests/snapshots/NAME.txt`."""
    path = FOLDER / f"{name}.txt"
    text = "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"
    if os.environ.get("REGARD_SNAPSHOTS") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
