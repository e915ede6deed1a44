"""Published tables on a page of runs: which runs fill them, and one correction for all tests on the page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from torch import nn

from regard.report import report_runs
from regard.report.tables_page import filled_tables
from regard.tables import FilledTable
from regard.training import Run, load_recipe, make_model

CLASSES = tuple("abcdefghij")


def write_run(
    folder: Path, stem: str, seed: int, accuracy: float, *, teacher: str | None = None, done: bool = True
) -> Run:
    """Writes a run of a packaged recipe with the given accuracy in percent."""
    recipe = replace(load_recipe(stem), seed=seed)
    if teacher is not None:
        recipe = replace(recipe, transfer=replace(recipe.transfer, teacher=teacher))
    run = Run.create(folder / f"{Path(stem).name}-seed{seed}", recipe, CLASSES)
    epochs = recipe.schedule.epochs if done else 1
    row = {"task": 1.0, "test_accuracy": accuracy / 100, "test_images": 500}
    run.write_metrics([{**row, "epoch": i + 1} for i in range(epochs)])
    if done:
        run.save_weights(network(stem), "last", epochs, accuracy / 100)
    return run


@cache
def network(stem: str) -> nn.Module:
    """The network of a recipe, created once for all seeds."""
    return make_model(load_recipe(stem), len(CLASSES))


def table_named(tables: Sequence[FilledTable], name: str) -> FilledTable:
    return next(filled for filled in tables if filled.table.name == name)


@pytest.fixture
def builtin_runs(tmp_path: Path) -> dict[str, list[Run]]:
    """Two seeds of the built-in table: students trained alone, teachers, and students of these teachers."""
    runs: dict[str, list[Run]] = {"student": [], "teacher": [], "at": []}
    for seed in (0, 1):
        runs["student"].append(write_run(tmp_path, "builtin/builtin-student", seed, 80))
        runs["teacher"].append(write_run(tmp_path, "builtin/builtin-teacher", seed, 90))
        teacher = f"runs/builtin-teacher-seed{seed}"
        runs["at"].append(write_run(tmp_path, "builtin/builtin-at", seed, 85, teacher=teacher))
    return runs


def test_teachers_outside_the_report_fill_no_cells(builtin_runs: dict[str, list[Run]]) -> None:
    filled = table_named(filled_tables([*builtin_runs["student"], *builtin_runs["at"]]), "builtin")
    assert [seed.run for seed in filled.cells["clutter", "at"].runs] == ["builtin-at-seed0", "builtin-at-seed1"]
    assert not filled.cells["clutter", "teacher"].runs
    assert not filled.excluded and len(filled.finished) == 4
    with_teachers = table_named(filled_tables([run for runs in builtin_runs.values() for run in runs]), "builtin")
    assert len(with_teachers.cells["clutter", "teacher"].runs) == 2 and len(with_teachers.finished) == 6


def test_missing_and_unfinished_teachers_exclude_their_students(builtin_runs: dict[str, list[Run]]) -> None:
    missing, unfinished = (run.folder for run in builtin_runs["teacher"])
    missing.rename(missing.with_name("elsewhere"))
    (unfinished / "last.safetensors").unlink()
    filled = table_named(filled_tables([*builtin_runs["student"], *builtin_runs["at"]]), "builtin")
    assert filled.excluded == {
        "builtin-at-seed0": "its teacher builtin-teacher-seed0 is not in the store, so its recipe is not known",
        "builtin-at-seed1": "its teacher builtin-teacher-seed1 is not finished: it has no weights",
    }


def test_a_run_with_an_overridden_network_fills_its_cell(tmp_path: Path) -> None:
    resnet20 = ["--model.name=cifar-resnet20", "--model.options={block: basic}"]
    recipe = load_recipe("distillation/cifar100-student", resnet20)
    run = Run.create(tmp_path / "mine", recipe, CLASSES)
    run.write_metrics([{"task": 1.0, "test_accuracy": 0.69, "test_images": 500, "epoch": i + 1} for i in range(240)])
    run.save_weights(make_model(recipe, len(CLASSES)), "last", 240, 0.69)
    filled = table_named(filled_tables([run]), "distillation-cifar100")
    cells = [key for key, cell in filled.cells.items() if cell.runs]
    assert cells == [("resnet20-from-resnet56", "student"), ("resnet20-from-resnet110", "student")]


def test_the_page_shows_the_filled_tables(builtin_runs: dict[str, list[Run]], tmp_path: Path) -> None:
    runs = report_runs([run.folder for run in (*builtin_runs["student"], *builtin_runs["at"])], images=0)
    assert [table.table.name for table in runs.tables] == ["builtin"]
    text = html.unescape(runs.save(tmp_path / "page.html").read_text())
    assert "AT − student" in text and runs.tables[0].table.title in text


def test_tables_and_comparisons_on_one_page_are_corrected_together(
    builtin_runs: dict[str, list[Run]], tmp_path: Path
) -> None:
    write_run(tmp_path, "builtin/builtin-teacher", 2, 90)
    folders = [run.folder for run in (*builtin_runs["student"], *builtin_runs["at"])]
    folders += [write_run(tmp_path, "builtin/builtin-student", 2, 81).folder]
    folders += [write_run(tmp_path, "builtin/builtin-at", 2, 87, teacher="runs/builtin-teacher-seed2").folder]
    runs = report_runs(folders, images=0)
    (table,), (part,) = runs.tables, runs.parts
    tested = [
        *part.comparisons,
        *(comparison for comparison in table.comparisons if comparison.difference.p is not None),
    ]
    assert len(tested) == 2
    for comparison in tested:  # the table and the comparison show the same difference
        assert comparison.difference.p is not None and comparison.difference.p_adjusted == pytest.approx(
            2 * comparison.difference.p
        )
