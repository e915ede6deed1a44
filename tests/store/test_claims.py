"""Claims: one holder at a time, over threads, processes and machines."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.errors import InputError
from regard.store import Store
from regard.store.claims import Claims
from regard.store.local import LocalPlace
from regard.store.process import Process

pytestmark = pytest.mark.slow

CONTEXT = multiprocessing.get_context("fork")


class Clock:
    """The clock of one who looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def files(store: Path, name: str) -> list[Path]:
    return sorted((store / ".claims" / name).glob("*.json"))


def wait_until(true: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def claim_of(**changes: Any) -> bytes:
    """The file of a claim of a process on another machine, or of another kind."""
    content: dict[str, Any] = {
        "process": {**Process.current().plain, "host": "elsewhere", "boot": "another"},
        "began": 1.0,
        "lease": 60.0,
        "beat": 3,
        "held": True,
        "over": [],
        **changes,
    }
    return json.dumps(content).encode()


def write_claim(store: Path, name: str = "run", **changes: Any) -> Path:
    """Puts such a file into a store."""
    path = store / ".claims" / name / f"{changes.get('beat', 3)}{len(files(store, name))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(claim_of(**changes))
    return path


@pytest.fixture(params=["folder", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path, memory: str) -> str:
    return str(tmp_path / "my runs") if request.param == "folder" else memory


def test_one_at_a_time(address: str) -> None:
    one, other = Store(address), Store(address)
    assert one.claimed("run") is None
    claim = one.claim("run")
    assert claim is not None
    assert one.claim("run") is None
    assert other.claim("run") is None
    assert one.claimed("run") == other.claimed("run") == f"pid {os.getpid()} on {Process.current().host}"
    assert other.claims() == {"run": one.claimed("run")}
    another = other.claim("another [*] run")
    assert another is not None
    claim.release()
    claim.release()
    assert not claim.check()
    assert other.claimed("run") is None
    with other.claim("run") as again:  # type: ignore[union-attr]
        assert again.check()
        claim.release()  # of the one before: nothing to it
        assert one.claim("run") is None
    another.release()
    assert one.claims() == {}
    assert one.runs() == []


def test_a_claim_that_is_forgotten_is_released(tmp_path: Path) -> None:
    store = Store(tmp_path)
    claim = store.claim("run", lease=0.1)
    time.sleep(0.05)
    assert store.claimed("run")
    del claim
    gc.collect()
    assert not files(tmp_path, "run")
    wait_until(lambda: "claim of run" not in {thread.name for thread in threading.enumerate()})


def test_a_process_that_ends_releases_its_claims(tmp_path: Path) -> None:
    code = f"from regard.store import Store; claim = Store({str(tmp_path)!r}).claim('run'); assert claim"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not files(tmp_path, "run")


def test_a_fork_does_not_release_what_is_its_parents(tmp_path: Path) -> None:
    claim = Store(tmp_path).claim("run")
    assert claim is not None
    child = CONTEXT.Process(target=claim.release)
    child.start()
    child.join()
    assert len(files(tmp_path, "run")) == 1
    claim.release()
    assert not files(tmp_path, "run")


def _hold(folder: Path, say: Any) -> None:
    claim = Store(folder).claim("run")
    say.put(claim is not None)
    time.sleep(60)


def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    said = CONTEXT.Queue()
    holder = CONTEXT.Process(target=_hold, args=(tmp_path, said))
    holder.start()
    assert said.get(timeout=120)
    store = Store(tmp_path)
    assert store.claim("run") is None
    assert store.claimed("run") == f"pid {holder.pid} on {Process.current().host}"
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    wait_until(lambda: store.claimed("run") is None)  # though nobody has asked how it ended
    holder.join()
    with store.claim("run") as claim:  # type: ignore[union-attr]
        assert len(files(tmp_path, "run")) == 1
        assert claim.check()


def _hold_shortly(folder: Path, say: Any) -> None:
    claim = Store(folder).claim("run", lease=0.6, on_loss=lambda: say.put("lost"))
    say.put(claim is not None)
    time.sleep(60)


def test_a_holder_that_is_stopped_loses_the_claim_and_knows_it(tmp_path: Path) -> None:
    said = CONTEXT.Queue()
    holder = CONTEXT.Process(target=_hold_shortly, args=(tmp_path, said))
    holder.start()
    assert said.get(timeout=120)
    assert holder.pid is not None
    store, claims = Store(tmp_path), []
    os.kill(holder.pid, signal.SIGSTOP)
    began = time.monotonic()
    wait_until(lambda: claims.append(store.claim("run")) or claims[-1])
    assert time.monotonic() - began > 0.5
    os.kill(holder.pid, signal.SIGCONT)
    assert said.get(timeout=120) == "lost"
    assert claims[-1].check()
    assert len(files(tmp_path, "run")) == 1
    holder.kill()
    holder.join()


def test_a_number_that_was_given_anew_is_another_process(tmp_path: Path) -> None:
    own = Process.current().plain
    write_claim(tmp_path, process={**own, "start": own["start"] - 1})
    claim = Store(tmp_path).claim("run")
    assert claim is not None


@pytest.mark.parametrize("other", [{"host": "b"}, {"boot": "b"}, {"space": "b"}])
def test_numbers_of_other_machines_and_containers_say_nothing(tmp_path: Path, other: dict[str, str]) -> None:
    gone = {**Process.current().plain, "pid": 2**22 + 1}
    write_claim(tmp_path, process={**gone, **other})
    store = Store(tmp_path)
    assert store.claim("run") is None
    assert store.claimed("run")
    write_claim(tmp_path, "mine", process=gone)
    assert store.claimed("mine") is None
    assert store.claim("mine") is not None


def test_the_lease_runs_by_the_clock_of_who_looks(tmp_path: Path) -> None:
    path = write_claim(tmp_path)
    clock, late = Clock(), Clock()
    claims, others = Claims(LocalPlace(tmp_path), clock), Claims(LocalPlace(tmp_path), late)
    for clock.now in (0, 30, 59.9):
        assert claims.claim("run", 60.0, None) is None
    path.write_text(path.read_text().replace('"beat": 3', '"beat": 4'))
    for clock.now in (60, 100, 119):
        assert claims.claim("run", 60.0, None) is None
        assert claims.holder("run") == f"pid {os.getpid()} on elsewhere"
    clock.now = 120.1
    late.now = 1000.0
    assert others.claim("run", 60.0, None) is None  # sees it for the first time
    assert claims.holder("run") is None
    claim = claims.claim("run", 60.0, None)
    assert claim is not None
    assert not path.exists()
    assert others.claim("run", 60.0, None) is None
    claim.release()


def test_the_lease_is_that_of_the_holder(tmp_path: Path) -> None:
    write_claim(tmp_path, lease=600.0)
    clock = Clock()
    claims = Claims(LocalPlace(tmp_path), clock)
    for clock.now in (0, 100, 599):
        assert claims.claim("run", 1.0, None) is None
    clock.now = 601
    assert claims.claim("run", 1.0, None) is not None


def test_waiting_for_a_holder_that_gives_no_sign_of_life(address: str) -> None:
    """Also whoever looks for the first time takes over what lapses while it waits."""
    store = Store(address)
    store._claims._place.write(".claims/run/dead.json", claim_of(beat=3, lease=0.5))
    began = time.monotonic()
    claim = Store(address).claim("run", lease=0.6, wait=True)
    assert claim is not None and time.monotonic() - began >= 0.5
    claim.release()


def test_waiting_ends_once_the_holder_is_seen_to_live(address: str) -> None:
    store = Store(address)
    with store.claim("run", lease=3.0):  # a beat every half second
        assert Store(address).claim("run", lease=0.6, wait=True) is None
    assert store.claim("run", wait=True) is not None


def test_who_seems_to_be_at_work(tmp_path: Path) -> None:
    """A holder that was silent for long is not said to work, though nobody may have seen it lapse."""
    path = write_claim(tmp_path, "old", lease=60.0)
    write_claim(tmp_path, "new", lease=60.0)
    then = time.time() - 121
    os.utime(path, (then, then))
    assert list(Store(tmp_path).claims()) == ["new"]
    assert Store(tmp_path).claim("old") is None  # clocks are not enough for that


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"process": {"pid": "x"}}'])
def test_a_file_of_somebody_elses_lapses_too(tmp_path: Path, content: str) -> None:
    write_claim(tmp_path).write_text(content)
    clock = Clock()
    claims = Claims(LocalPlace(tmp_path), clock)
    assert claims.claim("run", 60.0, None) is None
    assert claims.holder("run") == "an unknown process"
    clock.now = 61
    assert claims.claim("run", 60.0, None) is not None


def test_a_claimant_that_died_before_it_had_the_claim(tmp_path: Path) -> None:
    write_claim(tmp_path, held=False, began=0.0)  # first in line
    clock = Clock()
    claims = Claims(LocalPlace(tmp_path), clock)
    assert claims.claim("run", 60.0, None) is None
    assert claims.holder("run") is None
    clock.now = 61
    assert claims.claim("run", 60.0, None) is not None


def test_a_holder_that_slept_knows_that_it_lost(address: str) -> None:
    told: list[str] = []
    store = Store(address)
    claim = store.claim("run", lease=3600.0, on_loss=lambda: told.append("lost"))
    assert claim is not None
    assert not claim.lost
    clock = Clock()
    others = Claims(store._place, clock)
    assert others.claim("run", 60.0, None) is None
    clock.now = 3601
    taken = others.claim("run", 60.0, None)
    assert taken is not None
    assert not claim.check()
    assert claim.lost
    assert told == ["lost"]
    assert taken.check()
    assert not claim.check()
    claim.release()
    assert taken.check()
    assert told == ["lost"]
    taken.release()


def test_a_beat_that_comes_too_late_takes_nothing_back(tmp_path: Path) -> None:
    """The holder slept between looking whether it still has the claim and saying that it lives."""
    store = Store(tmp_path)
    claim = store.claim("run", lease=3600.0)
    assert claim is not None
    (path,) = files(tmp_path, "run")
    late = path.read_text()
    clock = Clock()
    others = Claims(LocalPlace(tmp_path), clock)
    others.claim("run", 60.0, None)
    clock.now = 3601
    taken = others.claim("run", 60.0, None)
    assert taken is not None
    path.write_text(late.replace('"beat": 0', '"beat": 1'))
    assert Store(tmp_path).claim("run") is None
    assert not claim.check()
    assert taken.check()
    assert not path.exists()
    path.write_text(late)
    taken.release()  # also of what it took over
    assert not files(tmp_path, "run")


def test_the_thread_beats_and_sees_the_loss(tmp_path: Path) -> None:
    lost = threading.Event()
    claim = Store(tmp_path).claim("run", lease=0.3, on_loss=lost.set)
    assert claim is not None
    (path,) = files(tmp_path, "run")
    wait_until(lambda: '"beat": 3' in path.read_text())
    path.unlink()
    assert lost.wait(120)
    assert claim.lost


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".claims").write_text("")
    with pytest.raises(InputError, match="cannot be"):
        Store(tmp_path).claim("run")
    with pytest.raises(InputError, match="lease"):
        Store(tmp_path).claim("run", lease=0)


def test_a_beat_that_fails_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Store(tmp_path).claim("run")
    assert claim is not None

    def fail(*_: object) -> None:
        raise OSError("the network is gone")

    with monkeypatch.context() as broken:
        broken.setattr(LocalPlace, "write", fail)
        assert claim.check()
        assert not claim.lost
    assert claim.check()


def _race(folder: Path, number: int, rounds: int, begin: Any, won: Any) -> None:
    store = Store(folder)
    held = []
    for turn in range(rounds):
        begin.wait(60)
        claim = store.claim(f"run{turn}")
        if claim is not None:
            won.put((turn, number))
            held.append(claim)
    begin.wait(60)


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_processes_one_wins(tmp_path: Path, stale: bool) -> None:
    """Also if all of them find a claim whose process is gone."""
    rounds, count = 25, 5
    if stale:
        for turn in range(rounds):
            write_claim(tmp_path, f"run{turn}", process={**Process.current().plain, "pid": 2**22 + 1})
    begin, won = CONTEXT.Barrier(count), CONTEXT.Queue()
    racers = [CONTEXT.Process(target=_race, args=(tmp_path, n, rounds, begin, won)) for n in range(count)]
    for racer in racers:
        racer.start()
    winners = [won.get(timeout=60) for _ in range(rounds)]
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert won.empty()
    assert sorted(turn for turn, _ in winners) == list(range(rounds))


def test_of_many_threads_one_wins_in_a_remote_store(memory: str) -> None:
    stores = [Store(memory) for _ in range(4)]
    for turn in range(3):
        claims: list[Any] = []
        begin = threading.Barrier(len(stores))

        def race(store: Store, turn: int = turn, begin: Any = begin, claims: list[Any] = claims) -> None:
            begin.wait()
            claims.append(store.claim(f"run{turn}"))

        threads = [threading.Thread(target=race, args=(store,)) for store in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(claim is not None for claim in claims) == 1


def _exclusive(folder: Path, turns: int, overlaps: Any, times: Any) -> None:
    """Takes the claim again and again, till all together had it so often, and sees whether another is inside."""
    store = Store(folder)
    while times.value < turns:
        claim = store.claim("run")
        if claim is None:
            time.sleep(0.002)
            continue
        with claim:
            try:
                os.mkdir(folder / "inside")
            except FileExistsError:
                overlaps.put(os.getpid())
                continue
            times.value += 1
            time.sleep(0.001)
            os.rmdir(folder / "inside")


def test_claims_exclude_one_another(tmp_path: Path) -> None:
    overlaps, times = CONTEXT.Queue(), CONTEXT.Value("i", 0)
    workers = [CONTEXT.Process(target=_exclusive, args=(tmp_path, 30, overlaps, times)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert overlaps.empty()
    assert times.value >= 30
