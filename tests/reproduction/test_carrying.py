"""Order, retries and what goes on when a run fails; with an engine that only pretends."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from regard.reproduction import Ended, Job, Plan, carry_out_plan, carrying, duration
from regard.reproduction.engine import Ending
from regard.store import Store
from regard.tables import Setting, load_table
from regard.training import Recipe

pytestmark = pytest.mark.slow


class Pretended:
    """An engine whose jobs end at once, as it was told."""

    def __init__(self, endings: dict[str, list[Ending]], slots: int = 2) -> None:
        self.endings, self.slots = endings, slots
        self.started: list[str] = []
        self.running: list[Job] = []
        self.most = 0
        self.closed = False

    def start(self, job: Job) -> None:
        self.started.append(job.name)
        self.running.append(job)
        self.most = max(self.most, len(self.running))

    def wait(self, seconds: float) -> list[Ended]:
        if not self.running:
            return []
        job = self.running.pop(0)
        left = self.endings.get(job.name)
        return [Ended(job, left.pop(0) if left else "finished", "so it was")]

    def stop(self) -> list[Ended]:
        ended = [Ended(job, "stopped", "stopped and saved") for job in self.running]
        self.running = []
        return ended

    def close(self) -> None:
        self.closed = True


def job(name: str, teacher: str | None = None, state: str = "missing") -> Job:
    return Job(name, Recipe(), {}, "lsas/none", 0, teacher, (("row", name),), state)  # type: ignore[arg-type]


def plan(*jobs: Job) -> Plan:
    return Plan(load_table("lsas-cifar"), Setting(), (0,), jobs)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "_ELSEWHERE", 0.05)


def test_students_wait_for_their_teachers(store: Store) -> None:
    engine = Pretended({}, slots=8)
    carried = carry_out_plan(plan(job("student", "teacher"), job("teacher"), job("alone")), engine, store)
    assert engine.started == ["teacher", "alone", "student"]
    assert carried.finished == {"student", "teacher", "alone"}
    assert not carried.failed and not carried.skipped and not carried.stopped
    assert engine.closed


def test_no_more_at_once_than_there_is_room(store: Store) -> None:
    engine = Pretended({}, slots=3)
    carry_out_plan(plan(*(job(str(number)) for number in range(10))), engine, store)
    assert engine.most == 3 and len(engine.started) == 10


def test_what_is_finished_is_not_started(store: Store) -> None:
    engine = Pretended({})
    carried = carry_out_plan(plan(job("teacher", state="finished"), job("student", "teacher")), engine, store)
    assert engine.started == ["student"]
    assert carried.finished == {"teacher", "student"}


def test_a_failure_is_tried_again_and_the_rest_goes_on(store: Store) -> None:
    said: list[str] = []
    engine = Pretended({"weak": ["failed", "failed"], "hopeless": ["failed"] * 9}, slots=1)
    jobs = (job("weak"), job("hopeless"), job("student", "hopeless"), job("grandchild", "student"), job("other"))
    carried = carry_out_plan(plan(*jobs), engine, store, retries=2, say=said.append)
    assert engine.started.count("weak") == 3 and engine.started.count("hopeless") == 3
    assert carried.finished == {"weak", "other"}
    assert set(carried.failed) == {"hopeless"} and set(carried.skipped) == {"student", "grandchild"}
    assert any("hopeless failed for good: so it was" in line for line in said)
    assert any("student is left out: its teacher hopeless failed" in line for line in said)


def test_losses_without_progress_count_as_failures(store: Store) -> None:
    engine = Pretended({"killed": ["lost"] * 9})
    carried = carry_out_plan(plan(job("killed")), engine, store, retries=1)
    assert engine.started == ["killed", "killed"] and set(carried.failed) == {"killed"}


def test_losses_with_progress_do_not_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: dict[str, int] = defaultdict(int)

    class Seen:
        def __init__(self, count: int) -> None:
            self.epochs = count

    def run(name: str) -> Seen:
        epochs[name] += 1
        return Seen(epochs[name])

    monkeypatch.setattr(store, "run", run)
    engine = Pretended({"killed": ["lost"] * 7})
    carried = carry_out_plan(plan(job("killed")), engine, store, retries=0)
    assert len(engine.started) == 8 and carried.finished == {"killed"}


def test_what_somebody_else_is_at_is_waited_for(store: Store) -> None:
    said: list[str] = []
    engine = Pretended({"teacher": ["elsewhere", "elsewhere"]})
    carried = carry_out_plan(plan(job("teacher"), job("student", "teacher")), engine, store, say=said.append)
    assert engine.started == ["teacher"] * 3 + ["student"]
    assert carried.finished == {"teacher", "student"}
    assert sum("waiting" in line for line in said) == 1


def test_stopping_saves_and_ends(store: Store) -> None:
    engine = Pretended({})
    asked = iter([False, False, True])
    carried = carry_out_plan(
        plan(*(job(str(number)) for number in range(9))), engine, store, stop=lambda: next(asked, True)
    )
    assert carried.stopped and len(carried.finished) == 2 and engine.closed and not engine.running


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (45, "45 s"), (720, "12 min"), (3 * 3600 + 300, "3 h 05 min"), (100 * 3600, "4 days 4 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_what_somebody_else_holds_is_not_started_in_vain(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while it is held, nor once it is finished there."""

    class Seen:
        epochs, finished = 1, False

    looks = iter([False, False, True])

    def run(name: str) -> Seen:
        seen = Seen()
        seen.finished = next(looks)
        return seen

    monkeypatch.setattr(store, "run", run)
    monkeypatch.setattr(store, "holder", lambda name: "pid 1 on MOON")
    said: list[str] = []
    engine = Pretended({"far": ["elsewhere"]})
    carried = carry_out_plan(plan(job("far")), engine, store, say=said.append)
    assert engine.started == ["far"] and carried.finished == {"far"}
    assert any("was finished by somebody else" in line for line in said)


def test_what_is_lost_while_stopping_is_no_failure(store: Store) -> None:
    """As a process that was still starting up, which has no way yet to stop in good order."""

    class Starting(Pretended):
        def stop(self) -> list[Ended]:
            return [Ended(job, "lost", "its process was ended by SIGTERM") for job in self.running]

    said: list[str] = []
    carried = carry_out_plan(
        plan(job("one"), job("two", "one")),
        Starting({}),
        store,
        retries=0,
        say=said.append,
        stop=iter([False, True]).__next__,
    )
    assert carried.stopped and not carried.failed and not carried.skipped
    assert not any("failed" in line or "trying again" in line for line in said)
