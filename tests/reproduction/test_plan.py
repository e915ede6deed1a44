"""The runs that a table still needs."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from regard.errors import InputError
from regard.reproduction import Job, Plan, make_plan
from regard.store import StoredRun
from regard.tables import Overrides, PublishedTable, fill, load_table
from regard.tables.matching import folder_name
from regard.terminal import command_line
from regard.training import Recipe, flat, load_recipe, plain

TABLE = """
title: made up
metrics: [error]
columns: {student: student, at: AT, teacher: teacher, mystery: no recipe}
comparisons: [[at, student]]
rows:
  one:
    title: WRN-16-1 from WRN-16-2
    student: {recipe: attention-transfer/wrn-16-1}
    at: {recipe: attention-transfer/wrn-16-1-from-16-2-at, teacher: teacher}
    teacher: {recipe: attention-transfer/wrn-16-2}
    mystery: {published: 1.0}
  two:
    title: WRN-16-1 from WRN-40-1
    student: {recipe: attention-transfer/wrn-16-1}
    at: {recipe: attention-transfer/wrn-16-1-from-40-1-at, teacher: teacher}
    teacher: {recipe: attention-transfer/wrn-40-1}
"""


@pytest.fixture
def table(tmp_path: Path) -> PublishedTable:
    path = tmp_path / "made-up.yaml"
    path.write_text(TABLE)
    return load_table(path)


def as_stored(job: Job, name: str | None = None, epochs: int | None = None) -> StoredRun:
    """The run of a job as the store lists it after this number of epochs, by default all."""
    row = {"epoch": job.epochs if epochs is None else epochs, "test_accuracy": 0.9}
    return StoredRun(name or job.name, plain(job.recipe), row, 400.0, {}, 10, True)


def names(plan: Plan) -> list[str]:
    return [job.name for job in plan.jobs]


def test_teachers_come_before_students_and_first_seeds_first(table: PublishedTable) -> None:
    plan = make_plan(table, [], Overrides(), range(2), store="s3://bucket/runs")
    assert names(plan) == [
        "wrn-16-1-seed0",
        "wrn-16-2-seed0",
        "wrn-16-1-from-16-2-at-seed0",
        "wrn-40-1-seed0",
        "wrn-16-1-from-40-1-at-seed0",
        "wrn-16-1-seed1",
        "wrn-16-2-seed1",
        "wrn-16-1-from-16-2-at-seed1",
        "wrn-40-1-seed1",
        "wrn-16-1-from-40-1-at-seed1",
    ]
    jobs = {job.name: job for job in plan.jobs}
    at = jobs["wrn-16-1-from-16-2-at-seed1"]
    assert at.teacher == "wrn-16-2-seed1"
    assert at.recipe.transfer.teacher == "s3://bucket/runs/wrn-16-2-seed1"
    assert at.recipe.seed == 1
    assert all(job.state == "missing" for job in plan.jobs)
    # one run per recipe: the student belongs to both rows
    assert jobs["wrn-16-1-seed0"].cells == (("one", "student"), ("two", "student"))
    # a teacher also belongs to the cells of its students
    assert jobs["wrn-40-1-seed0"].cells == (("two", "at"), ("two", "teacher"))
    assert plan.without_recipe == (("one", "mystery"),)


def test_existing_runs_of_any_name_are_not_repeated(table: PublishedTable) -> None:
    first = {job.name: job for job in make_plan(table, [], Overrides(), range(1)).jobs}
    runs = [
        as_stored(first["wrn-16-1-seed0"], "my-student"),
        as_stored(first["wrn-16-2-seed0"], "my-teacher"),
        as_stored(first["wrn-40-1-seed0"], epochs=7),
    ]
    plan = make_plan(table, runs, Overrides(), range(1))
    states = {job.name: (job.state, job.epochs_done) for job in plan.jobs}
    assert states == {
        "my-student": ("finished", 200),
        "my-teacher": ("finished", 200),
        "wrn-16-1-from-16-2-at-seed0": ("missing", 0),
        "wrn-40-1-seed0": ("begun", 7),
        "wrn-16-1-from-40-1-at-seed0": ("missing", 0),
    }
    assert [job.name for job in plan.todo] == names(plan)[2:]
    at = next(job for job in plan.jobs if job.name == "wrn-16-1-from-16-2-at-seed0")
    assert at.teacher == "my-teacher"


@pytest.mark.slow
def test_a_completed_plan_fills_the_table(table: PublishedTable) -> None:
    for overrides in (Overrides(), Overrides(0.1), Overrides(0.02, {"data.name": "folder", "data.train_images": 100})):
        runs = [as_stored(job) for job in make_plan(table, [], overrides, range(3)).jobs]
        filled = fill(table, runs)
        assert all(len(cell.runs) == 3 for cell in filled.cells.values() if cell.digest is not None)
        assert not filled.excluded
        assert not make_plan(table, runs, overrides, range(3)).todo
        assert len(make_plan(table, runs, overrides, range(4)).todo) == 5


def test_names_of_other_runs_are_not_reused(table: PublishedTable) -> None:
    job = make_plan(table, [], Overrides(), range(1)).jobs[0]
    other_recipe = plain(job.recipe)
    other_recipe["optimizer"]["lr"] = 0.05
    other_run = StoredRun(job.name, other_recipe, {"epoch": 200, "test_accuracy": 0.9}, None, {}, 10, True)
    broken = StoredRun("wrn-16-2-seed0", {}, problem="recipe.yaml is torn")
    plan = make_plan(table, [other_run, broken], Overrides(), range(1))
    assert not {"wrn-16-1-seed0", "wrn-16-2-seed0"} & set(names(plan))
    assert len(set(names(plan))) == 5
    at = next(job for job in plan.jobs if ("one", "at") in job.cells and job.teacher)
    assert at.teacher in names(plan)


def test_run_names_depend_on_overrides(table: PublishedTable) -> None:
    short = names(make_plan(table, [], Overrides(0.1), range(1)))
    assert short[0] == "wrn-16-1-20ep-seed0"
    other = names(make_plan(table, [], Overrides(0.1, {"data.train_images": 1000}), range(1)))
    assert other[0].startswith("wrn-16-1-20ep-") and other[0].endswith("-seed0") and other[0] not in short
    further = names(make_plan(table, [], Overrides(0.1, {"data.train_images": 2000}), range(1)))
    assert further[0] != other[0]


def test_selected_columns_include_their_teachers(table: PublishedTable) -> None:
    plan = make_plan(table.only(["one"]), [], Overrides(), range(1), columns=["at"])
    assert names(plan) == ["wrn-16-2-seed0", "wrn-16-1-from-16-2-at-seed0"]
    with pytest.raises(InputError, match="has no column 'kd'; it has student, at"):
        make_plan(table, [], Overrides(), range(1), columns=["kd"])
    with pytest.raises(InputError, match="no recipe for any of these cells"):
        make_plan(table, [], Overrides(), range(1), columns=["mystery"])
    with pytest.raises(InputError, match="unknown row of made-up 'three'"):
        table.only(["three"])


def recipe_of_command(command: list[str]) -> Recipe:
    """The recipe that `regard train` reads from a command."""
    assert command[:2] == ["regard", "train"] and command[-3] == "--run" and command[-1] == "--resume"
    return load_recipe(command[2], command[3:-3])


def test_commands_work_from_any_folder(table: PublishedTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = Overrides(0.1, {"data.train_images": 1000})
    where = {"data.folder": "/data/cifar", "threads": 1}
    jobs = make_plan(table, [], overrides, range(2), store="runs", where=where).jobs
    monkeypatch.chdir("/")
    for job in jobs:
        assert job.command[2].startswith("attention-transfer/")  # a packaged recipe, valid everywhere
        assert job.command[-2] == str(tmp_path / "runs" / job.name)
        assert recipe_of_command(shlex.split(command_line(job.command))) == job.recipe


FIELDS = {
    "data.folder": """a folder's "name": [x] # $y""",
    "data.options": {"cue": 1e-05},
    "data.mean": (0.5, 0.25, 1e-05),
    "data.std": None,
    "augmentation.flip": False,
    "model.options": {"block": "basic", "deep": {"list": [1, None, "0.5", True]}},
    "model.attention_stages": [2, 3],
    "model.frozen": ["conv1", "layer 1"],
    "optimizer.lr": 1e-05,
    "optimizer.clip": 5.0,
    "schedule.milestones": [],
    "transfer.teacher": ["/runs/it's one", "s3://runs/two"],
    "transfer.beta": {"start": 1000.0, "end": 0.0, "shape": "linear"},
    "transfer.layers": [("layer1", 0), ("0", -1)],
    "trackers": ["tensorboard"],
    "threads": None,
    "channels_last": False,
    "source": "--a; 'b' \"c\": {d: 1}",
}


@pytest.mark.parametrize("field", FIELDS)
def test_values_of_every_type_survive_the_shell(field: str, tmp_path: Path) -> None:
    """Lists, mappings, null, booleans, small numbers and text with quotes are parsed back unchanged."""
    (tmp_path / "base.yaml").write_text(
        "data: {std: [1, 1, 1]}\nthreads: 2\ntransfer: {teacher: x, beta: 1}\n"
        "model: {name: cifar-resnet20, attention: se}\n"
    )
    content = {"title": "own", "columns": {"a": "A"}, "rows": {"r": {"title": "R", "a": {"recipe": "base.yaml"}}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    table = load_table(tmp_path / "own.yaml")
    (job,) = make_plan(table, [], Overrides(), range(1), where={field: FIELDS[field]}).jobs
    line = command_line(job.command)
    assert "\n" not in line
    assert flat(plain(recipe_of_command(shlex.split(line)))) == flat(plain(job.recipe))
    printed = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    assert printed.stdout.split("\0")[:-1] == job.command


def test_resumed_runs_keep_the_settings_they_began_with(table: PublishedTable) -> None:
    """Fields that do not change the result come from the run; device, threads and folders from the plan."""
    table = table.only(["one"])
    plan = make_plan(table, [], Overrides(), range(1), columns=["at"])
    teacher, student = (as_stored(job, epochs=3) for job in plan.jobs)
    recipe = plain(plan.jobs[1].recipe)
    recipe |= {"compile": True, "channels_last": False, "device": "cuda:3", "threads": 7}
    recipe["data"] |= {"mean": [0.1, 0.2, 1e-05], "std": [1.0, 1.0, 0.5], "workers": 9}
    recipe["transfer"] |= {"fold": False, "teacher": "elsewhere/wrn-16-2-seed0"}
    runs = [teacher, replace(student, recipe=recipe)]
    job = make_plan(table, runs, Overrides(), range(1), columns=["at"], store="/new", where={"threads": 2}).jobs[1]
    assert job.state == "begun"
    again = recipe_of_command(job.command)
    assert again == job.recipe
    assert again.compile and not again.channels_last and not again.transfer.fold
    assert again.data.mean == (0.1, 0.2, 1e-05)
    assert (again.device, again.threads, again.data.workers) == ("auto", 2, 4)
    assert again.transfer.teacher == "/new/wrn-16-2-seed0"


def test_levels_have_teachers_before_students(table: PublishedTable) -> None:
    plan = make_plan(table, [], Overrides(), range(2))
    teachers, students = plan.levels
    assert len(teachers) == 6 and {job.teacher for job in teachers} == {None}
    assert len(students) == 4 and {job.teacher for job in students} <= {job.name for job in teachers}
    runs = [as_stored(job) for job in teachers]
    assert [[job.name for job in level] for level in make_plan(table, runs, Overrides(), range(2)).levels] == [
        [job.name for job in students]
    ]


def test_custom_tables_are_planned(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {name: wrn-10-1}\nschedule: {epochs: 10, milestones: [5]}\n")
    table = tmp_path / "own.yaml"
    table.write_text(
        yaml.safe_dump(
            {"title": "own", "columns": {"a": "A"}, "rows": {"r": {"title": "R", "a": {"recipe": "mine.yaml"}}}}
        )
    )
    (job,) = make_plan(load_table(table), [], Overrides(0.5), range(1)).jobs
    assert job.name == "mine-5ep-seed0" and job.epochs == 5


def test_cells_with_overrides_are_planned_and_filled(tmp_path: Path) -> None:
    table = load_table("attention-transfer-groups")
    plan = make_plan(table, [], Overrides(0.1), range(1), store="s3://bucket/runs")
    groups = [f"wrn-16-1-from-16-2-group{group}-20ep-seed0" for group in (1, 2, 3)]
    assert names(plan) == [
        *("wrn-16-1-20ep-seed0", "wrn-16-2-20ep-seed0", *groups, "wrn-16-1-from-16-2-at-20ep-seed0"),
    ]
    for job in plan.jobs:
        assert recipe_of_command(job.command) == job.recipe
    assert [job.recipe.transfer.layers for job in plan.jobs[2:]] == [[(0, 0)], [(1, 1)], [(2, 2)], None]
    filled = fill(table, [as_stored(job) for job in plan.jobs])
    assert [[seed.run for seed in cell.runs] for cell in filled.cells.values()] == [
        *([name] for name in (names(plan)[0], *groups, names(plan)[5], names(plan)[1])),
    ]
    assert not make_plan(table, [as_stored(job) for job in plan.jobs], Overrides(0.1), range(1)).todo


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands may run in any directory, so relative paths of a recipe are resolved."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "mine.yaml").write_text(
        "data: {name: folder, folder: images}\nmodel: {name: wrn-10-1}\ntransfer: {teacher: images, beta: 1}\n"
    )
    table = tmp_path / "own.yaml"
    content = {"title": "own", "columns": {"a": "A"}, "rows": {"r": {"title": "R", "a": {"recipe": "mine.yaml"}}}}
    table.write_text(yaml.safe_dump(content))
    (job,) = make_plan(load_table(table), [], Overrides(), range(1)).jobs
    assert job.recipe.data.folder == str(tmp_path / "images") == job.recipe.transfer.teacher
    (job,) = make_plan(load_table(table), [], Overrides(), range(1), where={"data.folder": "/far/away"}).jobs
    assert job.recipe.data.folder == "/far/away"


def test_a_begun_student_keeps_its_teacher(table: PublishedTable) -> None:
    """It does so even if another finished run of the teacher's recipe and seed comes first by name."""
    plan = make_plan(table, [], Overrides(), range(1), columns=["at"])
    jobs = {job.name: job for job in plan.jobs}
    teacher, student = jobs["wrn-16-2-seed0"], jobs["wrn-16-1-from-16-2-at-seed0"]
    runs = [as_stored(teacher, "a-copy"), as_stored(teacher), as_stored(student, epochs=3)]
    again = {job.name: job for job in make_plan(table, runs, Overrides(), range(1), columns=["at"]).jobs}
    assert again[student.name].state == "begun" and again[student.name].teacher == teacher.name
    assert folder_name(str(again[student.name].recipe.transfer.teacher)) == teacher.name
    assert again[teacher.name].state == "finished" and "a-copy" not in again
    fresh = {job.name: job for job in make_plan(table, runs[:2], Overrides(), range(1), columns=["at"]).jobs}
    assert fresh[student.name].teacher == "a-copy"


def test_another_data_set_drops_the_data_options_of_the_recipe() -> None:
    table = load_table("builtin")
    recipe = make_plan(table, [], Overrides(), range(1), columns=["student"]).jobs[0].recipe
    assert recipe.data.options
    folder_overrides = Overrides(1.0, {"data.name": "folder", "data.folder": "x"})
    assert make_plan(table, [], folder_overrides, range(1), columns=["student"]).jobs[0].recipe.data.options == {}
    clutter_overrides = Overrides(1.0, {"data.name": "clutter"})
    assert (
        make_plan(table, [], clutter_overrides, range(1), columns=["student"]).jobs[0].recipe.data.options
        == recipe.data.options
    )


def test_a_student_is_kept_if_its_teacher_lost_a_file(table: PublishedTable) -> None:
    plan = make_plan(table, [], Overrides(), range(1), columns=["at"])
    runs = [as_stored(job) for job in plan.jobs]
    damaged = [replace(run, weights=run.name != "wrn-16-2-seed0") for run in runs]
    again = {job.name: job.state for job in make_plan(table, damaged, Overrides(), range(1), columns=["at"]).jobs}
    assert again == {job.name: "begun" if job.name == "wrn-16-2-seed0" else "finished" for job in plan.jobs}
