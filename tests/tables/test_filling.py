"""Filling tables: runs are matched to cells by recipe, overrides and teacher."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from regard.errors import InputError
from regard.store import StoredRun
from regard.tables import FilledTable, Overrides, PublishedTable, fill, load_table
from regard.training import load_recipe, plain, with_fields

SEEDS = (0, 1, 2)

TABLE = """
title: made up
source: nowhere
metrics: [error]
statistic: median
columns: {student: student, at: AT, teacher: teacher}
comparisons: [[at, student]]
rows:
  one:
    title: WRN-16-1 from WRN-16-2
    student: {published: 8.77, recipe: attention-transfer/wrn-16-1}
    at: {published: 7.93, recipe: attention-transfer/wrn-16-1-from-16-2-at, teacher: teacher}
    teacher: {published: 6.31, recipe: attention-transfer/wrn-16-2}
  two:
    title: WRN-16-1 from WRN-40-1
    student: {published: 8.77, recipe: attention-transfer/wrn-16-1}
    at: {published: 8.25, recipe: attention-transfer/wrn-16-1-from-40-1-at, teacher: teacher}
    teacher: {published: 6.58, recipe: attention-transfer/wrn-40-1}
"""


@pytest.fixture
def table(tmp_path: Path) -> PublishedTable:
    path = tmp_path / "made-up.yaml"
    path.write_text(TABLE)
    return load_table(path)


@cache
def published(stem: str) -> dict[str, Any]:
    return plain(load_recipe(f"attention-transfer/{stem}"))


def stored(
    name: str,
    stem: str,
    seed: int = 0,
    error: float = 10.0,
    *,
    done: bool = True,
    teacher: str | None = None,
    epochs: int | None = None,
    milestones: list[int] | None = None,
    **changes: Any,
) -> StoredRun:
    """A run as the store lists it."""
    recipe = copy.deepcopy(published(stem))
    recipe["seed"] = seed
    recipe["data"]["mean"] = [0.5, 0.5, 0.5]  # as a finished run records it
    if teacher is not None:
        recipe["transfer"]["teacher"] = teacher
    if epochs is not None:
        recipe["schedule"] |= {"epochs": epochs, "milestones": milestones}
    for dotted, value in changes.items():
        group, field = dotted.split("__")
        recipe[group][field] = value
    row = {"epoch": recipe["schedule"]["epochs"] if done else 1, "test_accuracy": 1 - error / 100}
    return StoredRun(name, recipe, row, 400.0, {"regard": "0.1.0"}, 10, True)


def row_one_runs(**changes: Any) -> list[StoredRun]:
    """The runs of row one with three seeds."""
    runs = []
    for seed in SEEDS:
        runs += [
            stored(f"s{seed}", "wrn-16-1", seed, 9 + seed / 10, **changes),
            stored(f"t{seed}", "wrn-16-2", seed, 7 + seed / 10, **changes),
            stored(f"a{seed}", "wrn-16-1-from-16-2-at", seed, 8 + seed / 5, teacher=f"/else/where/t{seed}", **changes),
        ]
    return runs


def values(filled: FilledTable, row: str, column: str) -> dict[int, float]:
    return {seed: round(value, 9) for seed, value in filled.cells[row, column].values(0).items()}


def test_runs_fill_the_cells_of_their_recipes(table: PublishedTable) -> None:
    filled = fill(table, row_one_runs())
    assert values(filled, "one", "student") == {0: 9.0, 1: 9.1, 2: 9.2}
    assert values(filled, "one", "teacher") == {0: 7.0, 1: 7.1, 2: 7.2}
    assert values(filled, "one", "at") == {0: 8.0, 1: 8.2, 2: 8.4}
    # the students of both rows share a recipe; the distilled students do not
    assert sorted(filled.finished) == sorted(run.name for run in row_one_runs())
    assert values(filled, "two", "student") == values(filled, "one", "student")
    assert values(filled, "two", "at") == {} == values(filled, "two", "teacher")
    assert not filled.excluded and not filled.others and filled.faithful
    assert filled.data == "cifar10"
    comparison = filled.comparisons[0]
    assert comparison.published == pytest.approx(7.93 - 8.77)
    assert comparison.difference.value == pytest.approx(-0.9)


def test_the_order_of_the_runs_does_not_matter(table: PublishedTable) -> None:
    assert fill(table, row_one_runs()[::-1]).cells == fill(table, row_one_runs()).cells


def test_a_student_of_another_teacher_fills_another_row(table: PublishedTable) -> None:
    runs = [*row_one_runs(), stored("w", "wrn-40-1"), stored("b", "wrn-16-1-from-40-1-at", teacher="../w")]
    filled = fill(table, runs)
    assert values(filled, "two", "at") == {0: 10.0}
    assert len(values(filled, "one", "at")) == 3


def test_a_missing_teacher_excludes_its_student(table: PublishedTable) -> None:
    filled = fill(table, [run for run in row_one_runs() if run.name != "t1"])
    assert sorted(values(filled, "one", "at")) == [0, 2]
    assert filled.excluded == {"a1": "its teacher t1 is not in the store, so its recipe is not known"}


def test_a_teacher_with_other_overrides_excludes_its_student(table: PublishedTable) -> None:
    runs = [run for run in row_one_runs() if run.name != "t0"]
    runs.append(stored("t0", "wrn-16-2", 0, epochs=20, milestones=[6, 12, 16]))
    filled = fill(table, runs)
    assert sorted(values(filled, "one", "at")) == [1, 2]
    assert filled.excluded == {"a0": "its teacher t0 does not have the recipe and the overrides of the cell's teacher"}


def test_an_unfinished_teacher_excludes_its_student(table: PublishedTable) -> None:
    other_runs = [run for run in row_one_runs() if run.name != "t0"]
    filled = fill(table, [*other_runs, stored("t0", "wrn-16-2", 0, done=False)])
    assert sorted(values(filled, "one", "at")) == [1, 2]
    assert filled.excluded == {"a0": "its teacher t0 is not finished: it has 1 of 200 epochs"}
    assert filled.cells["one", "teacher"].unfinished == ("t0",)
    without_weights = replace(stored("t0", "wrn-16-2", 0), weights=False)
    assert fill(table, [*other_runs, without_weights]).excluded == {
        "a0": "its teacher t0 is not finished: it has no weights"
    }


def test_filled_runs_name_their_teachers(table: PublishedTable) -> None:
    cells = fill(table, row_one_runs()).cells
    assert [run.teacher for run in cells["one", "at"].runs] == ["t0", "t1", "t2"]
    assert [run.teacher for run in cells["one", "student"].runs] == [""] * 3


def test_teachers_beside_the_runs_fill_no_cells(table: PublishedTable) -> None:
    teachers = [run for run in row_one_runs() if run.name.startswith("t")]
    other_runs = [run for run in row_one_runs() if run not in teachers]
    assert not values(fill(table, other_runs), "one", "at")
    filled = fill(table, other_runs, beside=[*teachers, stored("wrn-16-1-seed7", "wrn-16-1", 7, optimizer__lr=0.05)])
    assert sorted(values(filled, "one", "at")) == [0, 1, 2]
    assert values(filled, "one", "teacher") == {} == values(filled, "two", "teacher")
    assert not filled.excluded and not filled.others
    unfinished = fill(table, other_runs, beside=[*teachers[:2], replace(teachers[2], weights=False)])
    assert sorted(values(unfinished, "one", "at")) == [0, 1]
    assert unfinished.unfinished == ()


def test_unfinished_runs_are_named_and_not_counted(table: PublishedTable) -> None:
    filled = fill(table, [*row_one_runs(), stored("s3", "wrn-16-1", 3, done=False)])
    assert sorted(values(filled, "one", "student")) == [0, 1, 2]
    assert filled.cells["one", "student"].unfinished == ("s3",)


def test_another_version_of_the_recipe_is_excluded_with_a_reason(table: PublishedTable) -> None:
    runs = [*row_one_runs(), stored("wrn-16-1-seed3", "wrn-16-1", 3, optimizer__lr=0.05)]
    filled = fill(table, runs)
    assert sorted(values(filled, "one", "student")) == [0, 1, 2]
    assert filled.excluded == {"wrn-16-1-seed3": "optimizer.lr is 0.05, the recipe has 0.1"}


def test_fields_missing_in_older_runs_have_their_defaults(table: PublishedTable) -> None:
    run = stored("s0", "wrn-16-1")
    older = {name: value for name, value in run.recipe.items() if name not in ("ema", "task", "precision")}
    filled = fill(table, [StoredRun("s0", older, run.row, None, {}, 10, True)])
    assert values(filled, "one", "student") == {0: 10.0}
    assert filled.cells["one", "student"].versions == ["not known"]


def test_device_and_speed_fields_are_not_compared(table: PublishedTable) -> None:
    run = stored("s0", "wrn-16-1", data__folder="/data", data__workers=9, transfer__fold=False)
    recipe = {**run.recipe, "compile": True, "threads": 3, "device": "cuda", "channels_last": False}
    filled = fill(table, [StoredRun("s0", recipe, run.row, None, {}, 10, True)])
    assert values(filled, "one", "student") == {0: 10.0}


def test_the_first_run_by_name_counts_for_a_repeated_seed(table: PublishedTable) -> None:
    filled = fill(table, [stored("x", "wrn-16-1", 0, 9.5), stored("y", "wrn-16-1", 0, 9.7)])
    assert values(filled, "one", "student") == {0: 9.5}
    # the run belongs to both rows and is listed once
    assert filled.excluded == {"y": "seed 0 is already counted (x)"}


def test_broken_runs_are_excluded(table: PublishedTable) -> None:
    broken = StoredRun("wrn-16-1-seed9", {}, problem="recipe.yaml is torn")
    filled = fill(table, [*row_one_runs(), broken, StoredRun("foreign", {}, problem="recipe.yaml is torn")])
    assert filled.excluded == {"wrn-16-1-seed9": "recipe.yaml is torn"}


def test_the_longest_schedules_are_shown_and_the_others_named(table: PublishedTable) -> None:
    short = row_one_runs(epochs=5, milestones=[2, 3, 4])
    filled = fill(table, [stored("full", "wrn-16-1", 0, 8.7), *short])
    assert values(filled, "one", "student") == {0: 8.7}
    assert values(filled, "one", "at") == {}
    assert filled.others == {("cifar10", "--shorten 0.025"): 9}
    filled = fill(table, short)
    assert len(values(filled, "one", "at")) == 3
    assert (
        not filled.faithful and filled.cells["one", "at"].epochs == 5 and filled.cells["one", "at"].full_epochs == 200
    )
    assert filled.comparisons[0].verdict == "preliminary, significant, same direction"


def test_runs_with_given_overrides_are_selected(table: PublishedTable) -> None:
    short = row_one_runs(epochs=5, milestones=[2, 3, 4])
    runs = [stored("full", "wrn-16-1", 0, 8.7), *short]
    filled = fill(table, runs, Overrides(0.025))
    assert len(values(filled, "one", "at")) == 3
    assert filled.others == {("cifar10", "--shorten 1"): 1}
    assert not any(cell.runs for cell in fill(table, runs, Overrides(0.5)).cells.values())


def test_other_data_count_as_overrides(table: PublishedTable) -> None:
    runs = row_one_runs(data__name="folder", data__train_images=12000, data__folder="/data")
    filled = fill(table, runs)
    assert filled.data == "folder, 12,000 training images"
    assert not filled.faithful and filled.cells["one", "at"].epochs == 200
    overrides = Overrides(1.0, {"data.name": "folder", "data.train_images": 12000})
    assert fill(table, runs, overrides).cells == filled.cells
    assert fill(table, runs, Overrides()).others == {
        ("folder, 12,000 training images", "--data.name folder --data.train_images 12000"): 9
    }


def test_schedules_not_shortened_in_proportion_are_excluded(table: PublishedTable) -> None:
    filled = fill(table, [stored("wrn-16-1-5ep-seed0", "wrn-16-1", epochs=5, milestones=[60, 120, 160])])
    assert filled.excluded == {
        "wrn-16-1-5ep-seed0": "schedule.milestones is [60, 120, 160]; the recipe's, shortened to 5 epochs, is [2, 3, 4]"
    }


def test_a_table_without_runs_is_empty(table: PublishedTable) -> None:
    filled = fill(table, [])
    assert filled.overrides is None and filled.data == ""
    assert all(cell.digest for cell in filled.cells.values())
    assert all(comparison.difference.n == 0 for comparison in filled.comparisons)


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_invalid_shares_of_the_schedule_are_errors(share: float) -> None:
    with pytest.raises(InputError, match="expected a share"):
        Overrides(share)


def test_compared_fields_cannot_be_overridden() -> None:
    with pytest.raises(InputError, match="optimizer.lr is compared by the table"):
        Overrides(1.0, {"optimizer.lr": 0.05})


@pytest.mark.parametrize(
    ("share", "epochs", "milestones"), [(0.025, 5, [2, 3, 4]), (0.1, 20, [6, 12, 16]), (0.001, 1, [1, 1, 1])]
)
def test_schedules_are_shortened_in_proportion(share: float, epochs: int, milestones: list[int]) -> None:
    recipe = Overrides(share).apply(load_recipe("attention-transfer/wrn-16-1"))
    assert recipe.schedule.epochs == epochs and recipe.schedule.milestones == milestones


def test_a_missing_recipe_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        yaml.safe_dump(
            {"title": "t", "columns": {"a": "A"}, "rows": {"r": {"title": "R", "a": {"recipe": "lsas/none"}}}}
        )
    )
    with pytest.raises(InputError, match="there is no recipe file lsas/none"):
        fill(load_table(path), [])


def test_the_teacher_of_another_row_does_not_exclude_a_student(table: PublishedTable) -> None:
    filled = fill(table, [*row_one_runs(), stored("a3", "wrn-16-1-from-16-2-at", 3, teacher="../t0", done=False)])
    assert filled.cells["one", "at"].unfinished == ("a3",)
    assert not filled.excluded


def test_an_external_teacher_must_match_the_recipe(tmp_path: Path) -> None:
    recipe = "model: {name: wrn-16-1}\ntransfer: {teacher: torchvision/resnet34, beta: 1}\n"
    (tmp_path / "mine.yaml").write_text(recipe)
    (tmp_path / "t.yaml").write_text("title: t\ncolumns: {a: A}\nrows: {r: {title: R, a: {recipe: mine.yaml}}}\n")
    table = load_table(tmp_path / "t.yaml")
    fields = plain(load_recipe(tmp_path / "mine.yaml"))
    row = {"epoch": 200, "test_accuracy": 0.5}
    assert len(fill(table, [StoredRun("one", fields, row, None, {}, 10, True)]).cells["r", "a"].runs) == 1
    fields["transfer"]["teacher"] = "torchvision/resnet50"
    filled = fill(table, [StoredRun("one", fields, row, None, {}, 10, True)])
    assert not filled.cells["r", "a"].runs
    assert filled.excluded == {"one": "its teacher is torchvision/resnet50, the recipe has torchvision/resnet34"}


def test_the_attention_start_may_be_implied_by_the_weights() -> None:
    """A detector run records its attention start, which the recipe leaves to the pretrained weights."""
    boxes = load_table("sa-net-coco-boxes").only(["retinanet-resnet50"])
    recipe = boxes.cells["retinanet-resnet50", "shuffle"].full_recipe
    assert recipe is not None and recipe.model.pretrained is True and recipe.model.attention_start is None
    row = {"epoch": recipe.schedule.epochs, "test_box_ap": 0.375}
    for pretrained, start, counted in ((True, "identity", 1), ("runs/a", "published", 1), (True, "published", 0)):
        fields = {"model.pretrained": pretrained, "model.attention_start": start}
        run = StoredRun("run", plain(with_fields(recipe, fields)), row, None, {}, recipe.schedule.epochs, True)
        assert len(fill(boxes, [run]).cells["retinanet-resnet50", "shuffle"].runs) == counted
