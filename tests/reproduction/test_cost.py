"""The cost of a plan, estimated from measured runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regard import data
from regard.reproduction import Plan, cost, estimate, make_plan
from regard.store import StoredRun
from regard.tables import Overrides, load_table
from regard.training import DataRecipe, load_data, plain

CPU = torch.device("cpu")


@pytest.fixture
def plan(small: Path) -> Plan:
    return make_plan(load_table(small), [], Overrides(), range(2))


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fakes a rate of 100 images per second; lists the timed networks."""
    networks: list[str] = []

    def rate(recipe, teacher, splits, device) -> cost.Rate:
        networks.append(f"{recipe.model.name}{' taught' if teacher else ''}")
        return cost.Rate(100.0, 0.0, "timed")

    monkeypatch.setattr(cost, "measured_rate", rate)
    return networks


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the clock of the estimate shows."""
    now = [0.0]
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    return now


def run(plan: Plan, name: str, rate: float, gpu: str | None = None) -> StoredRun:
    recipe = next(job.recipe for job in plan.jobs if job.name == name)
    return StoredRun("earlier", plain(replace(recipe, seed=9)), {"epoch": 2}, rate, {"gpu": gpu}, 10, True)


RUN_SECONDS = 2 * (60 / 100 + 40 / 300)
"""Seconds of a run: two epochs; a test image takes a third of the time of a training image."""


def test_cost_is_images_divided_by_rate(plan: Plan, timed: list[str]) -> None:
    costs = estimate(plan, [], CPU)
    assert list(costs.seconds.values()) == [pytest.approx(RUN_SECONDS)] * 6
    assert costs.total(plan.todo) == pytest.approx(6 * RUN_SECONDS)
    # each network is timed once for all seeds
    assert sorted(timed) == ["wrn-10-0.5", "wrn-10-0.5 taught", "wrn-10-1"]


def test_every_run_includes_start_and_data_loading(
    plan: Plan, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate loads equal data once and counts the time for every run, because every process loads them."""

    def slow(recipe: DataRecipe) -> data.Splits:
        clock[0] += 5.0
        return load_data(recipe)

    monkeypatch.setattr(cost.training.Classification, "load_data", staticmethod(slow))
    costs = estimate(plan, [], CPU, start=3.0)
    assert list(costs.seconds.values()) == [pytest.approx(3 + 5 + RUN_SECONDS)] * 6 and clock == [5.0]


def test_unreadable_data_are_reported(plan: Plan) -> None:
    (first, *rest) = plan.jobs
    elsewhere = replace(first, recipe=replace(first.recipe, data=DataRecipe(name="folder", folder="nowhere")))
    costs = estimate(replace(plan, jobs=(elsewhere, *rest)), [], CPU)
    assert "nowhere" in costs.unreadable[first.name] and costs.unknown.keys() == costs.unreadable.keys()
    assert costs.seconds.keys() == {job.name for job in rest}


def test_elapsed_time_includes_waiting_for_teachers(plan: Plan) -> None:
    costs = estimate(plan, [], CPU)
    assert costs.elapsed(plan, 1) == pytest.approx(6 * RUN_SECONDS)
    assert costs.elapsed(plan, 2) == pytest.approx(4 * RUN_SECONDS)  # the last student alone, after its teacher
    assert costs.elapsed(plan, 6) == pytest.approx(2 * RUN_SECONDS)  # a teacher, then its student
    assert costs.elapsed(replace(plan, jobs=plan.jobs[:1]), 4) == pytest.approx(RUN_SECONDS)


def test_rates_come_from_earlier_runs_on_the_same_device(plan: Plan, timed: list[str]) -> None:
    earlier = [run(plan, "student-seed0", 20.0), run(plan, "student-seed0", 60.0, gpu="a GPU")]
    costs = estimate(plan, earlier, CPU)
    assert (
        costs.rates["student-seed1"].images_per_second == 20.0
        and costs.rates["student-seed1"].source == "1 earlier run"
    )
    assert costs.seconds["student-seed1"] == pytest.approx(
        2 * (60 / 20 + 40 / 60)
    )  # testing takes a third of a training step
    assert costs.rates["teacher-seed0"].images_per_second == 100.0
    assert sorted(timed) == ["wrn-10-0.5 taught", "wrn-10-1"]


def test_rates_of_remote_gpus_come_from_earlier_runs_only(plan: Plan, timed: list[str]) -> None:
    earlier = [run(plan, "student-seed0", 20.0), run(plan, "student-seed0", 60.0, gpu="a GPU")]
    costs = estimate(plan, earlier, None)
    assert costs.rates["student-seed1"].images_per_second == 60.0
    assert costs.unknown["teacher-seed0"] == "there is no earlier run on a GPU to estimate from"
    assert not timed


def test_finished_epochs_cost_nothing(plan: Plan) -> None:
    jobs = tuple(
        replace(job, state="finished") if job.recipe.seed == 0 else replace(job, state="begun", epochs_done=1)
        for job in plan.jobs
    )
    costs = estimate(replace(plan, jobs=jobs), [], CPU)
    assert costs.total(plan.todo) == pytest.approx(3 * RUN_SECONDS / 2)


def test_measured_rate_times_training_steps(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    at = next(job for job in plan.jobs if job.teacher)
    teacher = next(job for job in plan.jobs if job.name == at.teacher)
    splits: data.Splits = load_data(at.recipe.data)
    before = torch.get_rng_state()
    rate = cost.measured_rate(at.recipe, teacher.recipe, splits, CPU)
    assert 10 < rate.images_per_second < 1e6
    assert torch.equal(torch.get_rng_state(), before)
