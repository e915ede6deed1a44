"""What a run depends on besides its recipe: versions, the machine, the commit of the sources."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import regard
from regard import attention
from regard.launcher import rank_and_size
from regard.terminal import command_line
from regard.version import __version__


@cache
def commit() -> str | None:
    """The commit that is checked out where regard's sources lie; None if they are no checkout of regard.

    Changes since then are not seen.
    """
    root = Path(regard.__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / ".git").exists():
        return None
    git = ["git", "-c", "safe.directory=*", "-C", str(root), "rev-parse", "HEAD"]  # whoever the sources belong to
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # there is no git, or no commit
        return None


def environment(classes: tuple[str, ...]) -> dict[str, Any]:
    """What a run depends on besides its recipe; classes are in the order of the logits."""
    gpu = torch.cuda.is_available()
    return {
        "regard": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: version(package) for package in ("torchvision", "timm", "accelerate")},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": rank_and_size()[1],
        "attention_kernels": attention.ops.backend("cuda" if gpu else "cpu"),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "command": command_line(sys.argv),
        "classes": list(classes),
    }
