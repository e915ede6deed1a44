"""What a plan costs, from what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from regard import data
from regard.reproduction import Plan, cost, estimate, make_plan
from regard.store import StoredRun
from regard.tables import Setting, load_table
from regard.training import Recipe, load_data, plain

CPU = torch.device("cpu")


@pytest.fixture
def plan(small: Path) -> Plan:
    return make_plan(load_table(small), [], Setting(), range(2))


@pytest.fixture(autouse=True)
def timed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every network is timed at 100 images a second in training, 400 in testing; what was timed is kept."""
    asked: list[str] = []

    def rate(recipe, teacher, splits, device) -> cost.Rate:
        asked.append(f"{recipe.model.name}{' taught' if teacher else ''}")
        return cost.Rate(100.0, 400.0, 0.0, "timed")

    monkeypatch.setattr(cost, "measured_rate", rate)
    return asked


def materials(recipe: Recipe) -> data.Splits:
    """As if time stood still meanwhile."""
    return load_data(recipe.data)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock of the estimate shows."""
    now = [0.0]
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    return now


def run(plan: Plan, name: str, rate: float, gpu: str | None = None) -> StoredRun:
    recipe = next(job.recipe for job in plan.jobs if job.name == name)
    return StoredRun("earlier", plain(replace(recipe, seed=9)), {"epoch": 2}, rate, {"gpu": gpu}, 10, True)


def test_a_cost_is_images_over_rates(plan: Plan, timed: list[str]) -> None:
    found = estimate(plan, [], materials, CPU)
    assert set(found.seconds.values()) == {2 * (60 / 100 + 40 / 400)}
    assert found.total(plan.todo) == pytest.approx(6 * 1.4)
    # each kind is timed once, whatever the seeds
    assert sorted(timed) == ["wrn-10-0.5", "wrn-10-0.5 taught", "wrn-10-1"]
    assert found.without(plan, 1, "at") == pytest.approx(2 * 1.4)
    assert found.without(plan, 1, "teacher") == 0  # it teaches
    assert found.without(plan, 0, "one") == pytest.approx(6 * 1.4)


def test_each_run_is_a_process_that_starts_and_loads_its_data(plan: Plan, clock: list[float]) -> None:
    """Also of what was loaded once: each process loads it anew."""
    loaded: list[str] = []

    def slow(recipe: Recipe) -> data.Splits:
        clock[0] += 0.0 if loaded else 5.0
        loaded.append(recipe.data.name)
        return load_data(recipe.data)

    found = estimate(plan, [], slow, CPU, start=3.0)
    assert list(found.seconds.values()) == [pytest.approx(3 + 5 + 1.4)] * 6


def test_students_wait_in_the_estimate_too(plan: Plan) -> None:
    found = estimate(plan, [], materials, CPU)
    one = 1.4
    assert found.elapsed(plan, 1) == pytest.approx(6 * one)
    assert found.elapsed(plan, 2) == pytest.approx(4 * one)  # the last student alone, after its teacher
    assert found.elapsed(plan, 6) == pytest.approx(2 * one)  # a teacher, then its student
    assert found.elapsed(replace(plan, jobs=plan.jobs[:1]), 4) == pytest.approx(one)


def test_earlier_runs_on_the_same_device_tell_the_rate(plan: Plan, timed: list[str]) -> None:
    earlier = [run(plan, "student-seed0", 20.0), run(plan, "student-seed0", 60.0, gpu="a GPU")]
    found = estimate(plan, earlier, materials, CPU)
    assert found.rates["student-seed1"].training == 20.0 and found.rates["student-seed1"].source == "1 earlier run"
    assert found.seconds["student-seed1"] == pytest.approx(2 * (60 / 20 + 40 / 60))  # a test is a third of a step
    assert found.rates["teacher-seed0"].training == 100.0
    assert sorted(timed) == ["wrn-10-0.5 taught", "wrn-10-1"]


def test_of_gpus_elsewhere_only_earlier_runs_tell(plan: Plan, timed: list[str]) -> None:
    earlier = [run(plan, "student-seed0", 20.0), run(plan, "student-seed0", 60.0, gpu="a GPU")]
    found = estimate(plan, earlier, materials, None)
    assert found.rates["student-seed1"].training == 60.0
    assert found.unknown["teacher-seed0"] == "there is no earlier run on a GPU to go by"
    assert not timed


def test_what_is_done_costs_nothing(plan: Plan) -> None:
    jobs = tuple(
        replace(job, state="finished") if job.seed == 0 else replace(job, state="begun", epochs_done=1)
        for job in plan.jobs
    )
    found = estimate(replace(plan, jobs=jobs), [], materials, CPU)
    assert found.total(plan.todo) == pytest.approx(3 * 0.7)


def test_a_rate_is_really_measured(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    at = next(job for job in plan.jobs if job.teacher)
    teacher = next(job for job in plan.jobs if job.name == at.teacher)
    splits: data.Splits = load_data(at.recipe.data)
    before = torch.get_rng_state()
    rate = cost.measured_rate(at.recipe, teacher.recipe, splits, CPU)
    assert 10 < rate.training < 1e6 and rate.training < rate.testing
    assert torch.equal(torch.get_rng_state(), before)
