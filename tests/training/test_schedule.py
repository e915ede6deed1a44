"""The learning rate over time."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from regard.training import ScheduleRecipe, learning_rate

SHAPES = ("milestones", "cosine", "linear")


@st.composite
def runs(draw, shapes=SHAPES):
    """(schedule, peak rate, steps per epoch) of a run that is longer than its warm-up."""
    epochs = draw(st.integers(1, 30))
    warmup = draw(st.one_of(st.just(0.0), st.integers(0, epochs - 1).map(float), st.floats(0, epochs - 0.5)))
    schedule = ScheduleRecipe(
        epochs=epochs,
        shape=draw(st.sampled_from(shapes)),
        milestones=draw(st.lists(st.integers(math.ceil(warmup) + 1, 40), max_size=4)),
        factor=draw(st.floats(0.01, 1)),
        floor=draw(st.one_of(st.just(0.0), st.floats(0, 1))),
        warmup=warmup,
    )
    return schedule, draw(st.floats(1e-5, 10)), draw(st.integers(1, 20))


def rates(schedule: ScheduleRecipe, peak: float, steps: int) -> list[float]:
    return [learning_rate(schedule, peak, step, steps) for step in range(schedule.epochs * steps)]


def test_milestones_apply_at_the_start_of_their_epochs() -> None:
    schedule = ScheduleRecipe(epochs=10, milestones=[3, 6], factor=0.1)
    values = [learning_rate(schedule, 1.0, step, 4) for step in (0, 11, 12, 23, 24, 39)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_falls_to_zero_after_the_warm_up() -> None:
    schedule = ScheduleRecipe(epochs=10, shape="cosine", warmup=2)
    values = [learning_rate(schedule, 0.5, step, 10) for step in range(101)]
    assert 0 < values[0] < values[19] < 0.5
    assert values[20] == 0.5
    assert values[60] == pytest.approx(0.25)
    assert values[100] == pytest.approx(0)
    assert values[20:] == sorted(values[20:], reverse=True)


def test_linear_falls_to_the_floor() -> None:
    schedule = ScheduleRecipe(epochs=10, shape="linear", floor=0.2)
    values = [learning_rate(schedule, 0.5, step, 4) for step in range(41)]
    assert values == pytest.approx([0.5 * (1 - 0.8 * step / 40) for step in range(41)])


def test_cosine_with_a_floor_is_halfway_in_the_middle() -> None:
    schedule = ScheduleRecipe(epochs=10, shape="cosine", floor=0.2)
    assert learning_rate(schedule, 0.5, 20, 4) == pytest.approx(0.5 * (0.2 + 0.8 / 2))
    assert learning_rate(schedule, 0.5, 40, 4) == pytest.approx(0.1)


@given(runs())
def test_the_rate_rises_during_warm_up_and_falls_afterwards(run) -> None:
    schedule, peak, steps = run
    values = [round(rate / peak, 12) * peak for rate in rates(schedule, peak, steps)]  # without rounding errors
    rising = math.ceil(schedule.warmup * steps - 1e-9)
    assert all(rate > 0 or schedule.shape != "milestones" for rate in values)
    assert all(0 <= rate <= peak for rate in values)
    assert values[:rising] == sorted(values[:rising])
    assert values[rising:] == sorted(values[rising:], reverse=True)


@given(runs())
def test_the_warm_up_ends_without_a_jump(run) -> None:
    schedule, peak, steps = run
    length = schedule.warmup * steps
    before = math.ceil(length) - 1
    assume(before >= 0 and before + 1 < schedule.epochs * steps)
    last, first = (learning_rate(schedule, peak, step, steps) for step in (before, before + 1))
    rise = peak / (length + 1)  # per warm-up step
    # If the warm-up ends between two steps, a cosine or line may already have fallen by up to one step.
    fallen = peak - learning_rate(schedule, peak, before + 2, steps) if schedule.shape != "milestones" else 0
    assert -fallen - 1e-9 * peak <= first - last <= rise * (1 + 1e-9)


@given(runs(shapes=("cosine", "linear")))
def test_the_rate_ends_near_the_floor_and_never_below(run) -> None:
    schedule, peak, steps = run
    values = rates(schedule, peak, steps)
    falling = (schedule.epochs - schedule.warmup) * steps
    floor = peak * schedule.floor
    assert all(rate >= floor for rate in values[math.ceil(schedule.warmup * steps) :])
    # One step remains, whose slope is at most pi / 2 times the slope of a line.
    assert values[-1] - floor <= peak * (1 - schedule.floor) * math.pi / 2 / falling + 1e-9 * peak
    after = learning_rate(schedule, peak, len(values) + 3 * steps, steps)
    assert after == pytest.approx(floor, abs=1e-12 * peak)
    assert after >= floor
