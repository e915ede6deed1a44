"""Order, retries, and the remaining runs when one fails, with a fake executor."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from regard.errors import InputError
from regard.reproduction import Ended, Job, Plan, run_plan, scheduler
from regard.reproduction.plan import State
from regard.reproduction.scheduler import Ending
from regard.store import Store, StoredRun
from regard.tables import Overrides, load_table
from regard.training import Recipe


class FakeExecutor:
    """An executor whose jobs end immediately with the given endings."""

    queues = False

    def __init__(self, endings: dict[str, list[Ending]], slots: int = 2) -> None:
        self.endings, self.slots = endings, slots
        self.started: list[str] = []
        self.running: list[Job] = []
        self.max_running = 0

    def start(self, job: Job) -> None:
        self.started.append(job.name)
        self.running.append(job)
        self.max_running = max(self.max_running, len(self.running))

    def wait(self, seconds: float) -> list[Ended]:
        if not self.running:
            return []
        job = self.running.pop(0)
        left = self.endings.get(job.name)
        return [Ended(job, left.pop(0) if left else "finished", "so it was")]

    def stop(self, *, force: bool) -> None:
        self.endings = {job.name: ["killed" if force else "stopped"] for job in self.running}


class FakeStore(Store):
    """A store whose runs have the given numbers of epochs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.epochs: dict[str, int] = defaultdict(lambda: 200)
        self.holders: dict[str, str] = {}

    def run(self, name: str) -> StoredRun:
        row = {"epoch": self.epochs[name]}
        return StoredRun(name, {"schedule": {"epochs": 200}}, row, weights=True)

    def holder(self, name: str) -> str | None:
        return self.holders.get(name)


def job(name: str, teacher: str | None = None, state: State = "missing") -> Job:
    return Job(name, "runs", Recipe(), [], teacher, (("row", name),), state)


def plan(*jobs: Job) -> Plan:
    return Plan(load_table("lsas-cifar"), Overrides(), (0,), jobs)


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_LOCK_SECONDS", 0.05)


def test_students_wait_for_their_teachers(store: FakeStore) -> None:
    executor = FakeExecutor({}, slots=8)
    outcome = run_plan(plan(job("student", "teacher"), job("teacher"), job("alone")), executor, store)
    assert executor.started == ["teacher", "alone", "student"]
    assert outcome.finished == {"student", "teacher", "alone"}
    assert not outcome.failed and not outcome.skipped and not outcome.stopped


def test_slots_limit_the_runs_at_once(store: FakeStore) -> None:
    executor = FakeExecutor({}, slots=3)
    run_plan(plan(*(job(str(number)) for number in range(10))), executor, store)
    assert executor.max_running == 3 and len(executor.started) == 10


def test_finished_runs_are_not_started(store: FakeStore) -> None:
    executor = FakeExecutor({})
    outcome = run_plan(plan(job("teacher", state="finished"), job("student", "teacher")), executor, store)
    assert executor.started == ["student"]
    assert outcome.finished == {"teacher", "student"}


def test_failed_runs_are_retried_and_others_continue(store: FakeStore) -> None:
    lines: list[str] = []
    executor = FakeExecutor({"weak": ["failed", "failed"], "hopeless": ["failed"] * 9}, slots=1)
    jobs = (job("weak"), job("hopeless"), job("student", "hopeless"), job("grandchild", "student"), job("other"))
    outcome = run_plan(plan(*jobs), executor, store, retries=2, log=lines.append)
    assert executor.started.count("weak") == 3 and executor.started.count("hopeless") == 3
    assert outcome.finished == {"weak", "other"}
    assert set(outcome.failed) == {"hopeless"} and set(outcome.skipped) == {"student", "grandchild"}
    assert any("hopeless failed for good: so it was" in line for line in lines)
    assert any("student is skipped: its teacher hopeless failed" in line for line in lines)


@pytest.mark.parametrize("ending", ["killed", "stopped"])
def test_being_killed_without_progress_is_a_failure(store: FakeStore, ending: Ending) -> None:
    """So is an unrequested stop, as when a DataLoader worker is killed for lack of memory."""
    store.epochs["victim"] = 0
    executor = FakeExecutor({"victim": [ending] * 9})
    outcome = run_plan(plan(job("victim")), executor, store, retries=1)
    assert executor.started == ["victim", "victim"] and set(outcome.failed) == {"victim"}


@pytest.mark.parametrize("ending", ["killed", "stopped"])
def test_being_killed_after_progress_is_not_a_failure(store: FakeStore, ending: Ending) -> None:
    class Killed(FakeExecutor):
        def start(self, job: Job) -> None:
            super().start(job)
            store.epochs[job.name] += 1

    store.epochs["victim"] = 192
    executor = Killed({"victim": [ending] * 7})
    outcome = run_plan(plan(job("victim")), executor, store, retries=0)
    assert len(executor.started) == 8 and outcome.finished == {"victim"}


def test_a_run_without_all_epochs_in_the_store_failed(store: FakeStore) -> None:
    store.epochs["lost"] = 199
    outcome = run_plan(plan(job("lost"), job("student", "lost")), FakeExecutor({}), store, retries=0)
    assert set(outcome.failed) == {"lost"} and set(outcome.skipped) == {"student"} and not outcome.finished
    assert "metrics or weights" in outcome.failed["lost"]


def test_runs_of_another_process_are_awaited(store: FakeStore) -> None:
    lines: list[str] = []

    class Elsewhere(FakeExecutor):
        def start(self, job: Job) -> None:
            super().start(job)
            store.epochs["teacher"] += 100 * (len(self.started) == 3)

    executor = Elsewhere({"teacher": ["locked", "locked"]})
    store.epochs["teacher"] = 100
    outcome = run_plan(plan(job("teacher"), job("student", "teacher")), executor, store, log=lines.append)
    assert executor.started == ["teacher"] * 3 + ["student"]
    assert outcome.finished == {"teacher", "student"}
    assert sum("waiting" in line for line in lines) == 1


def test_locked_runs_are_not_started(store: FakeStore) -> None:
    """They start neither while the lock is held nor after the other process finished the run."""
    reads: list[str] = []

    class Elsewhere(FakeStore):
        def run(self, name: str) -> StoredRun:
            reads.append(name)
            self.epochs[name] = 200 if len(reads) > 2 else 1
            return super().run(name)

    elsewhere = Elsewhere(store.folder or Path())
    elsewhere.holders["far"] = "pid 1 on MOON"
    lines: list[str] = []
    executor = FakeExecutor({"far": ["locked"]})
    outcome = run_plan(plan(job("far")), executor, elsewhere, log=lines.append)
    assert executor.started == ["far"] and outcome.finished == {"far"}
    assert any("was finished by another process" in line for line in lines)


def test_stopping_ends_all_runs(store: FakeStore) -> None:
    executor = FakeExecutor({})
    stops = iter([False, False, True])
    jobs = [job(str(number)) for number in range(9)]
    outcome = run_plan(plan(*jobs), executor, store, stop=lambda: next(stops, True))
    assert outcome.stopped and len(outcome.finished) == 2 and not executor.running


def test_being_killed_while_stopping_is_not_a_failure(store: FakeStore) -> None:
    """A process that is still starting, for example, cannot save a checkpoint."""

    class Starting(FakeExecutor):
        def stop(self, *, force: bool) -> None:
            super().stop(force=True)

    lines: list[str] = []
    stop = iter([False, True]).__next__
    outcome = run_plan(plan(job("one"), job("two", "one")), Starting({}), store, retries=0, log=lines.append, stop=stop)
    assert outcome.stopped and not outcome.failed and not outcome.skipped
    assert not any("failed" in line or "retry" in line for line in lines)


def test_a_job_that_cannot_start_stops_the_others(store: FakeStore) -> None:
    class Full(FakeExecutor):
        def start(self, job: Job) -> None:
            if job.name == "two":
                raise InputError("the disk is full")
            super().start(job)

    lines: list[str] = []
    executor = Full({})
    with pytest.raises(InputError, match="the disk is full"):
        run_plan(plan(job("one"), job("two")), executor, store, log=lines.append)
    assert executor.started == ["one"] and not executor.running
    assert any("one is stopped" in line for line in lines)


def test_a_queueing_executor_starts_students_immediately(store: FakeStore) -> None:
    class Queue(FakeExecutor):
        queues = True

    endings: dict[str, list[Ending]] = {
        "locked": ["locked"],
        "its student": ["waiting"],
        "hopeless": ["failed"],
        "its victim": ["waiting"],
    }
    store.epochs["locked"] = 199

    class Later(Queue):
        def start(self, job: Job) -> None:
            super().start(job)
            store.epochs["locked"] += self.started.count("locked") == 2

    executor = Later(endings, slots=99)
    jobs = (job("locked"), job("its student", "locked"), job("hopeless"), job("its victim", "hopeless"))
    outcome = run_plan(plan(*jobs), executor, store, retries=5)
    assert executor.started == ["locked", "its student", "hopeless", "its victim", "locked", "its student"]
    assert outcome.finished == {"locked", "its student"}
    assert set(outcome.failed) == {"hopeless"} and set(outcome.skipped) == {"its victim"}
