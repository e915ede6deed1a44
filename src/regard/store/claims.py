"""Claims: who is at a run, one at a time, over processes and machines.

A claimant puts a file of its own into `.claims/RUN/`, then looks what files there are. Only who finds no other has the
claim. Of two claimants the one whose file was there later finds that of the other, so both cannot have it; of several
that find one another, all but the first withdraw. That needs nothing of a store but that files are whole and that
listings show what was written before.

The holder counts up a number in its file. A claim has lapsed if its process is known to be gone, or if the number has
stayed the same for the time of the lease by the clock of whoever looks; clocks are never compared. Who takes over names
the files it took over in its own, by which a holder that slept knows that it lost.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from regard.errors import InputError, first_line
from regard.store.place import Place
from regard.store.process import Process

_FOLDER = ".claims"
_BEATS = 6  # in a lease
LONGEST = 86_400.0  # seconds of a lease
_LOOKS = 30  # at a holder, in a lease
_PATIENCE = 5.0  # seconds that a claimant waits for others to withdraw


@dataclass(frozen=True)
class _Flag:
    """The content of a claimant's file.

    Attributes:
        process: whose it is; None if the file does not say it.
        began: seconds since 1970; whoever was first goes first.
        lease: seconds without a beat after which the claim has lapsed.
        beat: how often the process said that it is alive.
        held: whether it has the claim, or wants it.
        over: the files of those whose claims had lapsed.
    """

    process: Process | None
    began: float
    lease: float
    beat: int = 0
    held: bool = False
    over: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        process = self.process.plain if self.process is not None else None
        return json.dumps({**self.__dict__, "process": process}).encode()

    @classmethod
    def decoded(cls, content: bytes, lease: float) -> _Flag:
        """What a file says; of one that nobody here would write, a holder that never beats."""
        try:
            values: dict[str, Any] = json.loads(content)
            began, said, over = float(values["began"]), float(values["lease"]), tuple(values["over"])
            if not math.isfinite(began) or not 0 < said <= LONGEST or not all(isinstance(file, str) for file in over):
                raise ValueError("no claim")
            return cls(Process.of(values["process"]), began, said, int(values["beat"]), bool(values["held"]), over)
        except (ArithmeticError, ValueError, TypeError, LookupError, RecursionError):
            return cls(None, 0.0, lease, held=True)

    @property
    def gone(self) -> bool:
        return self.process is not None and self.process.gone

    def __str__(self) -> str:
        return str(self.process or "an unknown process")


class Claim:
    """The right to work at a run, until `release`. A context manager.

    A thread says every sixth of the lease that the process is alive. A claim that is forgotten is released with the
    object, or when the process ends; if it is killed, the claim lapses.

    Attributes:
        name: of the run.
    """

    def __init__(self, hold: _Hold) -> None:
        self.name = hold.name
        self._hold = hold
        self._release = weakref.finalize(self, hold.release)
        hold.start()

    @property
    def lost(self) -> bool:
        """Whether another took it over, because this process slept for longer than the lease."""
        return self._hold.lost

    def check(self) -> bool:
        """Beats now; whether the claim is still held. A store that cannot be reached says nothing against it."""
        return self._hold.beat()

    def release(self) -> None:
        """Gives it up. Again, it does nothing."""
        self._release()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@dataclass
class _Hold:
    """What the thread of a claim works on. It does not know the claim, which may be forgotten."""

    place: Place
    name: str
    file: str
    flag: _Flag
    on_loss: Callable[[], None] | None = None
    lost: bool = False
    _process: int = field(default_factory=os.getpid)
    _lock: Any = field(default_factory=threading.RLock)  # a beat may collect the garbage that releases the claim
    _end: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"claim of {self.name}", daemon=True).start()

    def _run(self) -> None:
        while not self._end.wait(self.flag.lease / _BEATS) and self.beat():
            pass

    def beat(self) -> bool:
        with self._lock:
            if self._end.is_set():
                return False
            began = _awake()
            try:
                self.lost = self._taken()
                if not self.lost:
                    self.flag = replace(self.flag, beat=self.flag.beat + 1)
                    _write(self.place, self.name, self.file, self.flag)
                    # Whoever looked meanwhile may have found no beat for a lease.
                    self.lost = _awake() - began > self.flag.lease and self._taken()
            except OSError:
                return True  # the next beat tells
            if not self.lost and not self._end.is_set():
                return True
            self._end.set()
            with suppress(OSError):
                self.place.remove(_path(self.name, self.file))
        if self.lost and self.on_loss is not None:
            self.on_loss()
        return False

    def _taken(self) -> bool:
        flags = _flags(self.place, self.name, self.flag.lease)
        return self.file not in flags or any(self.file in flag.over for flag in flags.values())

    def release(self) -> None:
        if os.getpid() != self._process:  # a fork's copy
            return
        with self._lock:
            if self._end.is_set():
                return
            self._end.set()
            with suppress(OSError):  # the claim lapses
                # Also what those wrote again from whom it was taken over, who then see that they lost.
                for file in (*self.flag.over, self.file):
                    self.place.remove(_path(self.name, file))


class Claims:
    """The claims at a place, and what was seen of those of others.

    Args:
        place: where the runs are.
        clock: gives seconds.
    """

    def __init__(self, place: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self._place, self._clock = place, clock
        self._seen: dict[str, tuple[int, float]] = {}  # by file: a beat, and when it was first seen

    def claim(self, name: str, lease: float, on_loss: Callable[[], None] | None, *, wait: bool = False) -> Claim | None:
        """See `Store.claim`."""
        first: dict[str, int] | None = None  # beats of the holder, as this began
        while True:
            claim = self._claim(name, lease, on_loss)
            if claim is not None or not wait:
                return claim
            with suppress(OSError):  # the next look tells
                beats = {file: flag.beat for file, flag in self._living(name, lease)[0].items() if flag.held}
                first = beats if first is None else first
                if any(first.get(file) != beat for file, beat in beats.items()):  # it lives, or another has it
                    return None
            time.sleep(lease / _LOOKS)

    def _claim(self, name: str, lease: float, on_loss: Callable[[], None] | None) -> Claim | None:
        file = f"{uuid.uuid4().hex}.json"
        flag = _Flag(Process.current(), time.time(), lease)
        try:
            if any(rival.held for rival in self._living(name, lease)[0].values()):
                return None
            hold = self._contend(name, file, flag, on_loss)
        except OSError as error:
            with suppress(OSError):
                self._place.remove(_path(name, file))
            raise InputError(
                f"{name} cannot be claimed in {self._place.address} ({first_line(error)}); the store has to be writable"
            ) from error
        except BaseException:
            with suppress(OSError):
                self._place.remove(_path(name, file))
            raise
        return None if hold is None else Claim(hold)

    def _contend(self, name: str, file: str, flag: _Flag, on_loss: Callable[[], None] | None) -> _Hold | None:
        began = _awake()
        _write(self._place, name, file, flag)
        while True:
            rivals, lapsed = self._living(name, flag.lease, but=file)
            if not rivals:
                break
            ahead = any(rival.held or (rival.began, other) < (flag.began, file) for other, rival in rivals.items())
            if ahead or _awake() - began > _PATIENCE:  # or one neither takes it nor withdraws
                self._place.remove(_path(name, file))
                return None
            time.sleep(self._place.pause)
        hold = _Hold(self._place, name, file, replace(flag, held=True, over=tuple(lapsed)))
        _write(self._place, name, file, hold.flag)
        for other in lapsed:
            self._place.remove(_path(name, other))
        if _awake() - began > flag.lease / 2 and not hold.beat():  # slept so long that another may be ahead
            return None
        hold.on_loss = on_loss
        return hold

    def holder(self, name: str) -> str | None:
        """Who has the claim of a run."""
        living = self._living(name, 60.0)[0].values()
        return next((str(flag) for flag in living if flag.held), None)

    def holders(self) -> dict[str, str]:
        """Who has which claim, by run, without those that gave no sign of life for long by the place's own clock.

        Whoever looks but once cannot see them lapse; here an error costs nothing.
        """
        names = [name for name in sorted(self._place.names(_FOLDER)) if not name.startswith(".")]
        clock = self._place.clock() if names else 0.0
        return {name: holder for name in names if (holder := self._seen_alive(name, clock)) is not None}

    def _seen_alive(self, name: str, clock: float) -> str | None:
        stamps = self._place.files(f"{_FOLDER}/{name}")
        for file, flag in self._living(name, 60.0)[0].items():
            when = stamps.get(file, (0, ""))[1]
            silent = isinstance(when, int) and clock - when / 1e9 > 2 * flag.lease
            if flag.held and not silent:
                return str(flag)
        return None

    def _living(self, name: str, lease: float, but: str = "") -> tuple[dict[str, _Flag], list[str]]:
        """The claimants of a run, and the files of those whose claims lapsed."""
        now, living, lapsed = self._clock(), {}, []
        for file, flag in _flags(self._place, name, lease).items():
            beat, since = self._seen.get(file, (-1, now))
            if flag.beat != beat:
                beat, since = self._seen[file] = flag.beat, now
            if file == but:
                continue
            if flag.gone or now - since >= flag.lease:
                lapsed.append(file)
            else:
                living[file] = flag
        taken = {file for flag in living.values() for file in flag.over}
        return {file: flag for file, flag in living.items() if file not in taken}, lapsed


def _awake() -> float:
    """Seconds, with those in which the machine was suspended, where the system counts these."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _path(name: str, file: str) -> str:
    return f"{_FOLDER}/{name}/{file}"


def _write(place: Place, name: str, file: str, flag: _Flag) -> None:
    place.write(_path(name, file), flag.encoded())


def _flags(place: Place, name: str, lease: float) -> dict[str, _Flag]:
    """What the claimants of a run wrote, by their files."""
    flags = {}
    for file in place.names(f"{_FOLDER}/{name}"):
        if file.endswith(".json") and not file.startswith("."):
            try:
                content = place.read(_path(name, file))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EFBIG, errno.EISDIR):
                    raise
                content = b""  # no file that anybody here would write
            if content is not None:
                flags[file] = _Flag.decoded(content, lease)
    return flags
