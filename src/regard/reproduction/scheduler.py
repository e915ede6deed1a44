"""Runs the jobs of a plan: what is ready is started, what failed is tried again, the rest goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from regard.formatting import duration
from regard.reproduction.plan import Job, Plan
from regard.store import Store

_POLL = 0.5  # seconds between two checks of the running jobs
_PATIENCE = 120.0  # seconds that runs have to save and end
_LOCKED = 10.0  # seconds until a run that another process works at is checked again

Ending = Literal["finished", "stopped", "locked", "waiting", "failed", "killed"]
"""Of a job: finished; stopped and saved; another process works at the run; the teacher is not finished, and
nothing was done; failed with an error; killed, or its machine is gone."""


@dataclass(frozen=True)
class Ended:
    """A job that has ended.

    Attributes:
        job: which.
        ending: how.
        message: why, in one line.
    """

    job: Job
    ending: Ending
    message: str = ""


class Executor(Protocol):
    """Runs the commands of jobs.

    Attributes:
        slots: how many jobs it takes at once.
        queues: whether it has a queue of its own: it takes students before their teachers are finished, and tries again
            what failed.
    """

    slots: int
    queues: bool

    def start(self, job: Job) -> None:
        """Starts or queues a job; returns at once."""

    def wait(self, seconds: float) -> list[Ended]:
        """The jobs that ended since the last call; waits for one, at most so long."""

    def stop(self, *, force: bool) -> None:
        """Asks all jobs to save and end; or ends them at once."""


@dataclass
class Outcome:
    """What became of a plan.

    Attributes:
        finished: names of the runs that are finished, those that were before among them.
        failed: name -> why, of those that failed for good.
        skipped: name -> why, of those whose teacher failed.
        stopped: whether it was stopped before the end.
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
    say: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Runs what is missing, until everything is finished or has failed for good.

    A run that failed or was killed is tried again from its newest checkpoint, `retries` times; that it was killed does
    not count if it had finished another epoch by then. A run that another process works at is waited for, and taken up
    if it is given up there.

    Args:
        plan: what to run.
        executor: where.
        store: with the runs.
        retries: at least 0; not for an executor with a queue of its own.
        say: called with a line for every run that begins and ends.
        stop: whether to stop: running jobs save, and are waited for.
    """
    scheduler = _Scheduler(plan, executor, store, retries, say)
    try:
        while scheduler.open and not stop():
            scheduler.start_ready()
            scheduler.note_ended(_POLL)
    finally:
        if scheduler.open:
            scheduler.stop()
    return scheduler.outcome


class _Scheduler:
    def __init__(self, plan: Plan, executor: Executor, store: Store, retries: int, say: Callable[[str], None]) -> None:
        self.executor, self.store, self.retries, self.say = executor, store, retries, say
        self.count = len(plan.jobs)
        self.outcome = Outcome(finished={job.name for job in plan.jobs if job.state == "finished"})
        self.open = {job.name: job for job in plan.todo}
        self.running: dict[str, float] = {}  # name -> when it began
        self.failures: Counter[str] = Counter()
        self.epochs = {job.name: job.epochs_done for job in plan.jobs}
        self.locked_until: dict[str, float] = {}  # name -> when a run of another process is checked again

    def start_ready(self) -> None:
        """Starts every job that is ready, as far as there are slots."""
        for name, job in list(self.open.items()):
            if len(self.running) >= self.executor.slots:
                return
            if job.teacher in {**self.outcome.failed, **self.outcome.skipped}:
                del self.open[name]
                self.outcome.skipped[name] = f"its teacher {job.teacher} failed"
                self.say(f"{name} is skipped: its teacher {job.teacher} failed")
            elif name not in self.running and self._has_teacher(job) and not self._is_locked(job):
                if not self.executor.queues and name not in self.locked_until:
                    done = f", after epoch {self.epochs[name]} of {job.epochs}" if self.epochs[name] else ""
                    self.say(f"{self._progress(name)} begins{done}")
                self.executor.start(job)
                self.running[name] = time.monotonic()

    def _has_teacher(self, job: Job) -> bool:
        queued = self.executor.queues and job.teacher in self.running
        return job.teacher is None or job.teacher in self.outcome.finished or queued

    def _is_locked(self, job: Job) -> bool:
        """Whether another process, which was at the run at the last check, still is, or has finished it."""
        if job.name not in self.locked_until:
            return False
        if time.monotonic() < self.locked_until[job.name]:
            return True
        if self._is_finished(job.name):
            self._finish(job.name, "was finished by another process")
            return True
        self.locked_until[job.name] = time.monotonic() + _LOCKED
        return self.store.holder(job.name) is not None

    def stop(self) -> None:
        """Lets the running jobs save and end."""
        self.outcome.stopped = True
        self.say("stopping: the runs save and end")
        for force in (False, True):
            self.executor.stop(force=force)
            until = time.monotonic() + _PATIENCE
            while self.running and time.monotonic() < until:
                self.note_ended(_POLL)

    def note_ended(self, seconds: float) -> None:
        """Takes down what ended; waits for it so long."""
        for ended in self.executor.wait(seconds):
            self._note(ended)

    def _note(self, ended: Ended) -> None:
        name, ending, message = ended.job.name, ended.ending, ended.message
        took = time.monotonic() - self.running.pop(name)
        if ending == "finished" and not self._is_finished(name):
            ending, message = "failed", f"metrics or weights of the whole run are missing in {self.store.address}"
        if ending == "finished":
            self._finish(name, f"finished in {duration(took)}: {message.rpartition(': ')[2]}")
        elif self.outcome.stopped:  # it may have been killed before it could save
            self.say(f"{name} is stopped, and goes on from its checkpoint, if there is one ({message})")
        elif ending == "locked":
            if name not in self.locked_until:
                self.say(f"{self.store.holder(name) or 'another process'} works at {name}; waiting for it")
            self.locked_until[name] = time.monotonic() + _LOCKED
        elif ending != "waiting":
            self.locked_until.pop(name, None)
            self._note_failure(name, ending, message)

    def _note_failure(self, name: str, ending: Ending, message: str) -> None:
        """Of a run that failed, was killed, or stopped by itself."""
        if ending != "failed" and self._went_on(name):
            self.say(f"{name} was {ending} ({message}); it goes on from its checkpoint")
            return
        self.failures[name] += 1
        if self.failures[name] <= self.retries and not self.executor.queues:
            self.say(f"{name} failed ({message}); trying again, {self.failures[name]} of {self.retries}")
            return
        del self.open[name]
        self.outcome.failed[name] = message
        self.say(f"{name} failed for good: {message}")

    def _finish(self, name: str, how: str) -> None:
        del self.open[name]
        self.outcome.finished.add(name)
        self.say(f"{self._progress(name)} {how}")

    def _is_finished(self, name: str) -> bool:
        stored = self.store.run(name)
        return stored is not None and stored.finished

    def _went_on(self, name: str) -> bool:
        """Whether a run has more epochs than when this was last asked."""
        stored, before = self.store.run(name), self.epochs[name]
        self.epochs[name] = stored.epochs if stored is not None else 0
        return self.epochs[name] > before

    def _progress(self, name: str) -> str:
        return f"[{len(self.outcome.finished)}/{self.count}] {name}"
