"""Carries a plan out: what is ready is started, what failed is tried again, the rest goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from regard.reproduction.engine import Ended, Engine
from regard.reproduction.plan import Job, Plan
from regard.store import Store

_POLL = 0.5  # seconds between two looks at the jobs
_ELSEWHERE = 10.0  # seconds until a run that somebody else is at is looked at again


@dataclass
class Carried:
    """What became of a plan.

    Attributes:
        finished: names of the runs that are finished, those that were before among them.
        failed: name -> why, of those that failed for good.
        skipped: name -> why, of those whose teacher failed.
        stopped: whether it was asked to stop before the end.
    """

    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


def carry_out_plan(
    plan: Plan,
    engine: Engine,
    store: Store,
    *,
    retries: int = 2,
    say: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
) -> Carried:
    """Runs what is missing, until everything is finished or has failed for good.

    A run that failed, or was lost with its process or machine, is tried again from its newest checkpoint, `retries`
    times; a loss does not count if the run had finished another epoch by then. A run that somebody else is at is waited
    for, and taken up if it is given up there.

    Args:
        plan: what to do.
        engine: what does it.
        store: where the runs are.
        retries: at least 0.
        say: is told of every run that begins and ends.
        stop: whether to stop: running jobs are asked to save, and waited for.
    """
    carrying = _Carrying(plan, engine, store, retries, say)
    try:
        while carrying.open:
            if stop():
                carrying.carried.stopped = True
                carrying.say("asked to stop: the runs save and end")
                for ended in engine.stop():
                    carrying.note_stopped(ended)
                break
            carrying.start_ready()
            for ended in engine.wait(_POLL):
                carrying.note(ended)
    finally:
        engine.close()
    return carrying.carried


class _Carrying:
    def __init__(self, plan: Plan, engine: Engine, store: Store, retries: int, say: Callable[[str], None]) -> None:
        self.engine, self.store, self.retries, self.say = engine, store, retries, say
        self.jobs = {job.name: job for job in plan.jobs}
        self.carried = Carried(finished={job.name for job in plan.jobs if job.state == "finished"})
        self.open = [job.name for job in plan.todo]
        self.running: dict[str, float] = {}  # name -> when it began
        self.failures: Counter[str] = Counter()
        self.epochs = {job.name: job.epochs_done for job in plan.jobs}
        self.not_before: dict[str, float] = {}

    def start_ready(self) -> None:
        """Starts what can be started, as far as there is room."""
        for job in self._ready():
            if len(self.running) >= self.engine.slots:
                return
            if job.name in self.not_before and self._is_elsewhere(job):
                continue
            if job.name not in self.not_before:
                done = f", after epoch {self.epochs[job.name]} of {job.epochs}" if self.epochs[job.name] else ""
                self.say(f"{self._place(job)} begins{done}")
            self.running[job.name] = time.monotonic()
            self.engine.start(job)

    def _ready(self) -> Sequence[Job]:
        now = time.monotonic()
        ready = []
        for name in list(self.open):
            job = self.jobs[name]
            teacher = job.teacher
            if teacher in self.carried.failed or teacher in self.carried.skipped:
                self.open.remove(name)
                self.carried.skipped[name] = f"its teacher {teacher} failed"
                self.say(f"{name} is left out: its teacher {teacher} failed")
                continue
            waits = name in self.running or now < self.not_before.get(name, 0.0)
            if not waits and (teacher is None or teacher in self.carried.finished):
                ready.append(job)
        return ready

    def _is_elsewhere(self, job: Job) -> bool:
        """Whether there is nothing to be done about a run that somebody else was at when it was looked at last."""
        stored = self.store.run(job.name)
        if stored is not None and stored.finished:
            self.carried.finished.add(job.name)
            self.open.remove(job.name)
            self.say(f"{self._place(job)} was finished by somebody else")
            return True
        self.not_before[job.name] = time.monotonic() + _ELSEWHERE
        return self.store.holder(job.name) is not None

    def note_stopped(self, ended: Ended) -> None:
        """Takes down how a job ended that was asked to stop: one that is lost then had not begun, or stood still."""
        if ended.ending in ("finished", "elsewhere", "stopped"):
            self.note(ended)
        else:
            self.say(f"{ended.job.name}: stopped; it goes on from its checkpoint, if there is one ({ended.message})")

    def note(self, ended: Ended) -> None:
        """Takes down how a job ended."""
        name = ended.job.name
        took = time.monotonic() - self.running.pop(name)
        if ended.ending == "elsewhere":
            if name not in self.not_before:
                self.say(f"{name}: {ended.message}; waiting for it")
            self.not_before[name] = time.monotonic() + _ELSEWHERE
            return
        if ended.ending != "finished":
            self.not_before.pop(name, None)
        if ended.ending == "finished":
            self.carried.finished.add(name)
            self.open.remove(name)
            self.say(f"{self._place(ended.job)} finished in {duration(took)}: {ended.message}")
        elif ended.ending == "stopped":
            self.say(f"{name}: {ended.message}")
        elif ended.ending == "lost" and self._went_on(name):
            self.say(f"{name} was lost ({ended.message}); it goes on from its checkpoint")
        else:
            self.failures[name] += 1
            if self.failures[name] <= self.retries:
                self.say(f"{name} failed ({ended.message}); trying again, {self.failures[name]} of {self.retries}")
                return
            self.carried.failed[name] = ended.message
            self.open.remove(name)
            self.say(f"{name} failed for good: {ended.message}")

    def _went_on(self, name: str) -> bool:
        """Whether a run has more epochs than when that was last asked."""
        stored, before = self.store.run(name), self.epochs[name]
        self.epochs[name] = stored.epochs if stored is not None else 0
        return self.epochs[name] > before

    def _place(self, job: Job) -> str:
        return f"[{len(self.carried.finished)}/{len(self.jobs)}] {job.name}"


def duration(seconds: float) -> str:
    """In words: 45 s, 12 min, 3 h 05 min, 2 days 4 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h"
