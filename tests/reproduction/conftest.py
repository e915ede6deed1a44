"""A custom table whose runs take a second or two."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support.commands import Command

from regard.reproduction import local

RECIPE = """
data: {{name: clutter, options: {{cue: 0, train: 60, test: 40}}}}
augmentation: {{flip: false}}
model: {{name: wrn-10-{width}}}
schedule: {{epochs: 2, batch_size: 20, milestones: [1]}}
{transfer}
"""

TABLE = """
title: A small table
metrics: [accuracy]
columns: {student: student, at: AT, teacher: teacher}
comparisons: [[at, student]]
rows:
  one:
    title: the only row
    student: {published: 50.0, recipe: student.yaml}
    at: {published: 51.0, recipe: at.yaml, teacher: teacher}
    teacher: {recipe: teacher.yaml}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The path of the table file."""
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "student.yaml").write_text(RECIPE.format(width=0.5, transfer=""))
    (folder / "teacher.yaml").write_text(RECIPE.format(width=1, transfer=""))
    transfer = "transfer: {teacher: runs/teacher-seed0, beta: 10}"
    (folder / "at.yaml").write_text(RECIPE.format(width=0.5, transfer=transfer))
    (folder / "small.yaml").write_text(TABLE)
    return folder / "small.yaml"


@pytest.fixture
def fork_runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """fork_runs(before="") makes local runs start quickly, from a process that has imported regard."""

    def fork(before: str = "") -> None:
        def start_command(command: list[str], log: Path, environment: Mapping[str, str] = {}) -> Command:
            return Command(command[1:], {**os.environ, **environment}, before, log)

        monkeypatch.setattr(local, "start_command", start_command)

    return fork
