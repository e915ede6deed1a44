"""The published tables on a page of runs: which runs fill them, and that the page does not contradict itself."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from torch import nn

from regard import report
from regard.report.runs import filled_tables, report_runs
from regard.report.seed_differences import seed_difference
from regard.tables import FilledTable
from regard.training import Run, load_recipe, make_model

CLASSES = tuple("abcdefghij")
BASE = [60.0, 62.0, 61.0, 63.0, 59.0, 64.0]


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


def against(folder: Path, one: str, other: str, differences: Sequence[float]) -> list[Run]:
    """Runs of two recipes, a seed a difference, in points: the first minus the second."""
    runs = []
    for seed, (base, by) in enumerate(zip(BASE, differences, strict=False)):
        runs += [made(folder, other, seed, base), made(folder, one, seed, base + by)]
    return runs


def of(tables: Sequence[FilledTable], name: str) -> FilledTable:
    return next(one for one in tables if one.table.name == name)


@pytest.fixture
def taught(tmp_path: Path) -> dict[str, list[Run]]:
    """Two seeds of the built-in table: students alone, their teachers, and students of these."""
    found: dict[str, list[Run]] = {"student": [], "teacher": [], "at": []}
    for seed in (0, 1):
        found["student"].append(made(tmp_path, "builtin/builtin-student", seed, 80))
        found["teacher"].append(made(tmp_path, "builtin/builtin-teacher", seed, 90))
        teacher = f"runs/builtin-teacher-seed{seed}"
        found["at"].append(made(tmp_path, "builtin/builtin-at", seed, 85, teacher=teacher))
    return found


def test_teachers_beside_the_runs_let_students_count_and_fill_nothing(taught: dict[str, list[Run]]) -> None:
    filled = of(filled_tables([*taught["student"], *taught["at"]]), "builtin")
    assert [one.run for one in filled.cells["clutter", "at"].seeds] == ["builtin-at-seed0", "builtin-at-seed1"]
    assert not filled.cells["clutter", "teacher"].seeds
    assert not filled.left_out and len(filled.finished) == 4
    whole = of(filled_tables([run for runs in taught.values() for run in runs]), "builtin")
    assert len(whole.cells["clutter", "teacher"].seeds) == 2 and len(whole.finished) == 6


def test_a_teacher_that_is_nowhere_or_not_finished_is_said(taught: dict[str, list[Run]]) -> None:
    gone, torn = (run.folder for run in taught["teacher"])
    gone.rename(gone.with_name("elsewhere"))
    (torn / "last.safetensors").unlink()
    filled = of(filled_tables([*taught["student"], *taught["at"]]), "builtin")
    assert filled.left_out == (
        "builtin-at-seed0: its teacher builtin-teacher-seed0 is not in the store, so that nothing shows what it "
        "learned from",
        "builtin-at-seed1: its teacher builtin-teacher-seed1 is not finished: it has no weights",
    )


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([1, 2, 1, 2, 1], "not resolved with 5 seeds"),  # one-sided p would be 0.031, but nothing was published
        ([1, 2, 1, 2, 1, 1], "better"),
        ([-1, -2, -1, -2, -1, -1], "worse"),
        ([0.2, 0.2, 0.2, 0.2, 0.2, 9], "not resolved with 6 seeds"),  # p is 0.031, but the interval holds zero
        ([1, -2, 1, 2, 1, 1], "not resolved with 6 seeds"),
    ],
)
def test_the_table_and_the_differences_above_it_decide_alike(tmp_path: Path, differences, words: str) -> None:
    names = "lsas/resnet29-lsas-se-cifar10", "lsas/resnet29-se-cifar10"
    runs = against(tmp_path, *names, differences)
    (comparison,) = of(filled_tables(runs), "lsas-resnet29").comparisons
    assert comparison.verdict.words == words
    groups, _ = report.seed_groups(report.summarize(runs))
    one, other = sorted(groups, key=lambda group: "lsas" not in group.name)
    above = seed_difference(one, other, "accuracy")
    assert above is not None
    assert above.p == comparison.verdict.p
    assert above.significant == (not words.startswith("not"))


def page(runs: Sequence[Run], path: Path) -> str:
    return html.unescape(report_runs([run.folder for run in runs], path, images=0).read_text())


def test_the_page_explains_the_signs_that_it_has_and_no_others(taught: dict[str, list[Run]], tmp_path: Path) -> None:
    text = page([*taught["student"], *taught["at"]], tmp_path / "page.html")
    assert "AT against student" in text and "not resolved with 2 seeds" in text
    assert "No finished run yet" not in text and "†" not in text
    assert "One-sided p values" not in text


@pytest.mark.slow
def test_the_page_says_where_a_test_is_one_sided(tmp_path: Path) -> None:
    names = "attention-transfer/wrn-16-1-from-16-2-at", "attention-transfer/wrn-16-1"
    teacher = "attention-transfer/wrn-16-2"
    runs = [made(tmp_path, names[1], seed, base) for seed, base in enumerate(BASE[:5])]
    for seed, base in enumerate(BASE[:5]):
        made(tmp_path, teacher, seed, base + 5)
        runs.append(made(tmp_path, names[0], seed, base + 0.8 + seed / 50, teacher=f"wrn-16-2-seed{seed}"))
    text = page(runs, tmp_path / "page.html")
    assert "one-sided p = 0.031" in text and ">reproduced<" in text
    assert "One-sided p values, here alone, are of differences that go the published way" in text
    assert "No finished run yet" not in text and "not in the store" not in text
