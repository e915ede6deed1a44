"""Which commit of the sources this is, if they are a checkout of git."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import regard


@cache
def commit() -> str | None:
    """The commit that is checked out where regard's sources lie; None if they are no checkout of regard.

    Changes since then are not seen.
    """
    root = Path(regard.__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        return None
    git = root / ".git"
    try:
        if git.is_file():  # a further worktree
            git = root / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        ref = head.removeprefix("ref:").strip()
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        if (common / ref).is_file():
            return (common / ref).read_text().strip()
        packed = (common / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {ref}")), None)
    except OSError:
        return None
