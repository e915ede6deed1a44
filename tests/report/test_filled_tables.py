"""Published tables on a page of runs: which runs fill them, and that the page does not contradict itself."""

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


def made(folder: Path, stem: str, seed: int, accuracy: float, *, teacher: str | None = None, done: bool = True) -> Run:
    """A run of a recipe that comes with regard, with so much accuracy, in percent."""
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
    """The network of a recipe, made once for its runs of all seeds."""
    return make_model(load_recipe(stem), len(CLASSES))


def of(tables: Sequence[FilledTable], name: str) -> FilledTable:
    return next(one for one in tables if one.table.name == name)


@pytest.fixture
def taught(tmp_path: Path) -> dict[str, list[Run]]:
    """Two seeds of the built-in table: students alone, their teachers, and students of these."""
    runs: dict[str, list[Run]] = {"student": [], "teacher": [], "at": []}
    for seed in (0, 1):
        runs["student"].append(made(tmp_path, "builtin/builtin-student", seed, 80))
        runs["teacher"].append(made(tmp_path, "builtin/builtin-teacher", seed, 90))
        teacher = f"runs/builtin-teacher-seed{seed}"
        runs["at"].append(made(tmp_path, "builtin/builtin-at", seed, 85, teacher=teacher))
    return runs


def test_teachers_beside_the_runs_let_students_count_and_fill_nothing(taught: dict[str, list[Run]]) -> None:
    filled = of(filled_tables([*taught["student"], *taught["at"]]), "builtin")
    assert [one.run for one in filled.cells["clutter", "at"].runs] == ["builtin-at-seed0", "builtin-at-seed1"]
    assert not filled.cells["clutter", "teacher"].runs
    assert not filled.excluded and len(filled.finished) == 4
    whole = of(filled_tables([run for runs in taught.values() for run in runs]), "builtin")
    assert len(whole.cells["clutter", "teacher"].runs) == 2 and len(whole.finished) == 6


def test_a_teacher_that_is_nowhere_or_not_finished_is_said(taught: dict[str, list[Run]]) -> None:
    gone, torn = (run.folder for run in taught["teacher"])
    gone.rename(gone.with_name("elsewhere"))
    (torn / "last.safetensors").unlink()
    filled = of(filled_tables([*taught["student"], *taught["at"]]), "builtin")
    assert filled.excluded == {
        "builtin-at-seed0": "its teacher builtin-teacher-seed0 is not in the store, so its recipe is not known",
        "builtin-at-seed1": "its teacher builtin-teacher-seed1 is not finished: it has no weights",
    }


def test_a_network_that_only_an_override_names_fills_its_cell(tmp_path: Path) -> None:
    resnet20 = ["--model.name=cifar-resnet20", "--model.options={block: basic}"]
    recipe = load_recipe("distillation/cifar100-student", resnet20)
    run = Run.create(tmp_path / "mine", recipe, CLASSES)
    run.write_metrics([{"task": 1.0, "test_accuracy": 0.69, "test_images": 500, "epoch": i + 1} for i in range(240)])
    run.save_weights(make_model(recipe, len(CLASSES)), "last", 240, 0.69)
    filled = of(filled_tables([run]), "distillation-cifar100")
    cells = [place for place, cell in filled.cells.items() if cell.runs]
    assert cells == [("resnet20-from-resnet56", "student"), ("resnet20-from-resnet110", "student")]


def test_the_page_shows_the_tables_that_the_runs_fill(taught: dict[str, list[Run]], tmp_path: Path) -> None:
    runs = report_runs([run.folder for run in (*taught["student"], *taught["at"])], images=0)
    assert [table.table.name for table in runs.tables] == ["builtin"]
    text = html.unescape(runs.save(tmp_path / "page.html").read_text())
    assert "AT − student" in text and runs.tables[0].table.title in text


def test_tables_and_comparisons_on_one_page_are_corrected_together(
    taught: dict[str, list[Run]], tmp_path: Path
) -> None:
    made(tmp_path, "builtin/builtin-teacher", 2, 90)
    folders = [run.folder for run in (*taught["student"], *taught["at"])]
    folders += [made(tmp_path, "builtin/builtin-student", 2, 81).folder]
    folders += [made(tmp_path, "builtin/builtin-at", 2, 87, teacher="runs/builtin-teacher-seed2").folder]
    runs = report_runs(folders, images=0)
    (table,), (part,) = runs.tables, runs.parts
    tested = [*part.comparisons, *(one for one in table.comparisons if one.difference.p is not None)]
    assert len(tested) == 2
    for one in tested:  # the same difference, in two places of the page
        assert one.difference.p is not None and one.difference.p_adjusted == pytest.approx(2 * one.difference.p)
