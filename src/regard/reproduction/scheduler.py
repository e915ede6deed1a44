"""Runs the jobs of a plan: starts jobs that are ready, and retries jobs that fail."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from regard.formatting import duration
from regard.reproduction.plan import Job, Plan
from regard.store import Store

_POLL_SECONDS = 0.5  # between two checks of the running jobs
_STOP_SECONDS = 120.0  # for runs to save and end
_LOCK_SECONDS = 10.0  # between two checks of a run that another process has locked

Ending = Literal["finished", "stopped", "locked", "waiting", "failed", "killed"]
"""How a job ended: finished; stopped and saved; locked by another process; waiting for its teacher, so not begun;
failed with an error; killed, or its machine was lost."""


@dataclass(frozen=True)
class Ended:
    """A job that has ended, and the reason in one line."""

    job: Job
    ending: Ending
    message: str = ""


class Executor(Protocol):
    """Runs the commands of jobs.

    Attributes:
        slots: number of jobs at once.
        queues: whether the executor has its own queue: it accepts students before their teachers have finished, and
            retries failed jobs.
    """

    slots: int
    queues: bool

    def start(self, job: Job) -> None:
        """Starts or queues a job; returns at once."""

    def wait(self, seconds: float) -> list[Ended]:
        """Waits up to `seconds` for a job to end; returns the jobs that ended since the last call."""

    def stop(self, *, force: bool) -> None:
        """Tells all jobs to save and end, or kills them with `force`."""


@dataclass
class Outcome:
    """The outcome of a plan.

    Attributes:
        finished: names of all finished runs, including those that had finished before.
        failed: run name -> reason, for runs that failed after all retries.
        skipped: run name -> reason, for runs whose teacher failed.
        stopped: whether the plan was stopped before its end.
    """

    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


def run_plan(
    plan: Plan,
    executor: Executor,
    store: Store,
    *,
    retries: int = 2,
    log: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Runs the unfinished jobs until all have finished or failed.

    A run that failed or was killed is resumed from its newest checkpoint up to `retries` times; a kill does not count
    if the run had finished another epoch. If another process has locked a run, it is resumed when that process releases
    it unfinished.

    Args:
        plan: the plan to run.
        executor: where to run the jobs.
        store: store of the runs.
        retries: retries per run, at least 0; not used by an executor with its own queue.
        log: called with one line when a run starts or ends.
        stop: function that returns whether to stop; running jobs then save and end.
    """
    scheduler = _Scheduler(plan, executor, store, retries, log)
    try:
        while scheduler.open and not stop():
            scheduler.start_ready()
            scheduler.record_ended(_POLL_SECONDS)
    finally:
        if scheduler.open:
            scheduler.stop()
    return scheduler.outcome


class _Scheduler:
    def __init__(self, plan: Plan, executor: Executor, store: Store, retries: int, log: Callable[[str], None]) -> None:
        self.executor, self.store, self.retries, self.log = executor, store, retries, log
        self.count = len(plan.jobs)
        self.outcome = Outcome(finished={job.name for job in plan.jobs if job.state == "finished"})
        self.open = {job.name: job for job in plan.todo}
        self.running: dict[str, float] = {}  # name -> start time
        self.failures: Counter[str] = Counter()
        self.epochs = {job.name: job.epochs_done for job in plan.jobs}
        self.next_lock_check: dict[str, float] = {}  # name -> time, for runs of other processes

    def start_ready(self) -> None:
        """Starts jobs that are ready while slots are free."""
        for name, job in list(self.open.items()):
            if len(self.running) >= self.executor.slots:
                return
            if job.teacher in {**self.outcome.failed, **self.outcome.skipped}:
                del self.open[name]
                self.outcome.skipped[name] = reason = f"its teacher {job.teacher} failed"
                self.log(f"{name} is skipped: {reason}")
            elif name not in self.running and self._is_ready(job) and not self._is_locked(job):
                if not self.executor.queues and name not in self.next_lock_check:
                    done = f", after epoch {self.epochs[name]} of {job.epochs}" if self.epochs[name] else ""
                    self.log(f"{self._progress(name)} begins{done}")
                self.executor.start(job)
                self.running[name] = time.monotonic()

    def _is_ready(self, job: Job) -> bool:
        """Whether the teacher has finished, or is running and the executor queues the student."""
        queued = self.executor.queues and job.teacher in self.running
        return job.teacher is None or job.teacher in self.outcome.finished or queued

    def _is_locked(self, job: Job) -> bool:
        """Whether the process that had locked the run still has it, or has finished it."""
        if job.name not in self.next_lock_check:
            return False
        if time.monotonic() < self.next_lock_check[job.name]:
            return True
        if self._is_finished(job.name):
            self._finish(job.name, "was finished by another process")
            return True
        self.next_lock_check[job.name] = time.monotonic() + _LOCK_SECONDS
        return self.store.holder(job.name) is not None

    def stop(self) -> None:
        """Tells the running jobs to save, and waits for their end."""
        self.outcome.stopped = True
        self.log("stopping: the runs save and end")
        for force in (False, True):
            self.executor.stop(force=force)
            deadline = time.monotonic() + _STOP_SECONDS
            while self.running and time.monotonic() < deadline:
                self.record_ended(_POLL_SECONDS)

    def record_ended(self, seconds: float) -> None:
        """Records the jobs that end within some seconds."""
        for ended in self.executor.wait(seconds):
            self._record(ended)

    def _record(self, ended: Ended) -> None:
        name, ending, message = ended.job.name, ended.ending, ended.message
        elapsed = time.monotonic() - self.running.pop(name)
        if ending == "finished" and not self._is_finished(name):
            ending = "failed"
            message = f"the metrics or weights of the finished run are missing in {self.store.address}"
        if ending == "finished":
            self._finish(name, f"finished in {duration(elapsed)}: {message.rpartition(': ')[2]}")
        elif self.outcome.stopped:  # it may have been killed before it could save
            self.log(f"{name} is stopped; it will resume from its newest checkpoint ({message})")
        elif ending == "locked":
            if name not in self.next_lock_check:
                self.log(f"{self.store.holder(name) or 'another process'} is running {name}; waiting for it")
            self.next_lock_check[name] = time.monotonic() + _LOCK_SECONDS
        elif ending != "waiting":
            self.next_lock_check.pop(name, None)
            self._record_failure(name, ending, message)

    def _record_failure(self, name: str, ending: Ending, message: str) -> None:
        """Retries a run that failed, was killed or stopped by itself, if retries are left."""
        if ending != "failed" and self._has_progressed(name):
            self.log(f"{name} was {ending} ({message}); resuming it from its checkpoint")
            return
        self.failures[name] += 1
        if self.failures[name] <= self.retries and not self.executor.queues:
            self.log(f"{name} failed ({message}); retry {self.failures[name]} of {self.retries}")
            return
        del self.open[name]
        self.outcome.failed[name] = message
        self.log(f"{name} failed for good: {message}")

    def _finish(self, name: str, message: str) -> None:
        del self.open[name]
        self.outcome.finished.add(name)
        self.log(f"{self._progress(name)} {message}")

    def _is_finished(self, name: str) -> bool:
        stored = self.store.run(name)
        return stored is not None and stored.finished

    def _has_progressed(self, name: str) -> bool:
        """Whether a run has more epochs than at the last call."""
        stored, earlier_epochs = self.store.run(name), self.epochs[name]
        self.epochs[name] = stored.epochs if stored is not None else 0
        return self.epochs[name] > earlier_epochs

    def _progress(self, name: str) -> str:
        return f"[{len(self.outcome.finished)}/{self.count}] {name}"
