"""Faults of training runs: kills, stops, full disks, too little memory, broken files.

Every case is a real run of `regard train` with a small network on the CPU, in one process or two. Wherever a run can be
resumed, it is resumed to its end, and its weights, best weights and metrics are compared, byte for byte, with those of
an undisturbed run. The table has the fault, the number of trials, the outcome, and everything that was lost or wrong,
such as a traceback, a wrong exit status, a process that does not end or a leftover file. The exit status is then 1.

Kills come at random moments: at the start of a run, in training, and while a file is written.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from common import arguments, publish, table
from PIL import Image

from regard import InputError, data
from regard.training import Run
from regard.training.checkpoint import read_newest

Check = tuple[str, int, str, list[str]]  # fault, number of trials, outcome, everything lost or wrong

COMMON = (
    *("--model.name=wrn-10-1", "--device=cpu", "--threads=1", "--schedule.batch_size=32"),
    *("--schedule.shape=cosine", "--schedule.warmup=0.5", "--optimizer.clip=5", "--ema=0.9"),
    *("--augmentation.mixup=0.2", "--save_minutes=0.005", "--wait_minutes=0.3"),
)
LONG = (*COMMON, "--data.options={train: 2048, test: 64}", "--schedule.epochs=4")  # for kills
SHORT = (*COMMON, "--data.options={train: 512, test: 64}", "--schedule.epochs=6")
TIMED = ("images_per_second", "waiting", "peak_memory")  # metrics that differ between equal runs
STOPPED, WRONG = 75, 2  # exit statuses: stopped and resumable, wrong input
MAIN = "import sys; from regard.cli import main; sys.exit(main())"


class Command:
    """A running `regard train`.

    Args:
        arguments: the arguments after `regard train`.
        logs: a folder for the output.
        count: number of processes, started with torchrun's environment variables.
        first: Python code that each process runs before the command.
        launcher: start them by torchrun; `processes` then contains torchrun alone.
    """

    def __init__(
        self, arguments: Sequence[str], logs: Path, count: int = 1, *, first: str = "", launcher: bool = False
    ) -> None:
        command = [sys.executable, "-c", f"{first}\n{MAIN}"] if first else [sys.executable, "-m", "regard"]
        if launcher:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
            command += ["-m", "--", "regard"]
        shared = {"OMP_NUM_THREADS": "1"}
        if count > 1 and not launcher:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
            shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.processes, self.files = [], []
        for rank in range(1 if launcher else count):
            handle, name = tempfile.mkstemp(dir=logs)
            ranked = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if "WORLD_SIZE" in shared else {}
            self.processes.append(
                subprocess.Popen(
                    [*command, "train", *arguments],
                    env={**os.environ, **shared, **ranked},
                    stdin=subprocess.DEVNULL,
                    stdout=handle,
                    stderr=handle,
                    start_new_session=True,
                )
            )
            os.close(handle)
            self.files.append(Path(name))

    def text(self, rank: int = 0) -> str:
        """The output of the process so far."""
        return self.files[rank].read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def end(self, seconds: float = 150) -> list[int]:
        """Waits for all processes, kills those that still run after `seconds`, and returns the exit statuses."""
        until(lambda: all(process.poll() is not None for process in self.processes), seconds, every=0.02)
        self.kill()
        return [process.wait() for process in self.processes]

    def kill(self, ranks: Sequence[int] | None = None) -> None:
        for process in self.processes if ranks is None else [self.processes[rank] for rank in ranks]:
            if process.poll() is None:
                process.kill()
                process.wait()

    def error(self, rank: int = 0) -> str:
        """The error of one line in the output; empty if there is none or more than one."""
        lines = [line for line in self.text(rank).splitlines() if re.match(r"regard( \(process \d+\))?: ", line)]
        return lines[0] if len(lines) == 1 else ""

    def wrong(self, status: int, *words: str, rank: int = 0) -> list[str]:
        """The faults in how a process ended: another status, a traceback, or no single line with these words."""
        code, text, line = self.processes[rank].returncode, self.text(rank), self.error(rank)
        faults = [f"status {code} in place of {status}"] if code != status else []
        if "Traceback" in text:
            faults.append(f"a traceback ({text.strip().splitlines()[-1][:150]})")
        elif words and not line:
            faults.append(f"no single line that says why ({text.strip()[-150:]})")
        faults += [f"{word!r} is not in {line!r}" for word in words if line and word not in line]
        return faults


@dataclass
class Lab:
    """The folder of all runs, with a cache of undisturbed runs and of image folders."""

    folder: Path
    kills: int
    commands: list[Command] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    cache: dict[tuple[object, ...], Path] = field(default_factory=dict)

    def new(self, name: str = "run") -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder)) / name

    def start(self, plan: Sequence[str], run: Path, count: int = 1, *more: str, **options: object) -> Command:
        """Starts `regard train --resume` with the options of a plan in a run folder."""
        arguments = [*plan, *more, f"--run={run}", "--resume"]
        command = Command(arguments, self.folder, count, **options)  # type: ignore[arg-type]
        self.commands.append(command)
        return command

    def finish(self, plan: Sequence[str], run: Path, count: int = 1, *more: str) -> list[str]:
        """Resumes a run to its end; returns its faults and its differences from the undisturbed run."""
        command = self.start(plan, run, count, *more)
        statuses = command.end(300)
        if any(statuses):
            last = command.text(next(rank for rank, status in enumerate(statuses) if status))
            return [f"resumed, it ends with status {statuses} ({last.strip()[-200:]})"]
        return differences(self.whole(plan, count), run)

    def whole(self, plan: Sequence[str], count: int = 1) -> Path:
        """The undisturbed run of a plan."""
        with self.lock:
            if (plan, count) not in self.cache:
                run = self.new("whole")
                command = self.start(plan, run, count)
                if any(command.end(300)):
                    raise RuntimeError(f"an undisturbed run fails: {command.text()}")
                self.cache[plan, count] = run
            return self.cache[plan, count]

    def stopped(self, plan: Sequence[str]) -> Path:
        """A copy of a run of one process that was stopped with two checkpoints."""
        with self.lock:
            if (plan, "stopped") not in self.cache:
                run = self.new("stopped")
                command = self.start(plan, run)
                until(lambda: len(checkpoints(run)) >= 2, 120, command)
                command.processes[0].terminate()
                if command.end() != [STOPPED]:
                    raise RuntimeError(f"a run does not stop: {command.text()}")
                self.cache[plan, "stopped"] = run
            run = self.new()
            shutil.copytree(self.cache[plan, "stopped"], run)
            return run


def until(reached: Callable[[], object], seconds: float, command: Command | None = None, every: float = 0.001) -> bool:
    """Waits until a condition holds, a process has ended or the time is over; returns whether the condition holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (command is None or command.alive):
        if reached():
            return True
        time.sleep(every)
    return bool(reached())


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoints/step-*.pt"))


def being_written(folder: Path) -> bool:
    try:
        return any(name.startswith(".") and name.endswith(".part") for name in os.listdir(folder))
    except OSError:
        return False


def rows(run: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key not in TIMED} for row in Run(run).metrics()]


def differences(whole: Path, run: Path) -> list[str]:
    """The differences of a run from the undisturbed one."""
    messages = [
        f"{name} differs"
        for name in ("last.safetensors", "best.safetensors")
        if not (run / name).is_file() or (run / name).read_bytes() != (whole / name).read_bytes()
    ]
    pairs = list(zip(rows(whole), rows(run), strict=False))
    different = {name for a, b in pairs for name in a if json.dumps(a[name]) != json.dumps(b.get(name))}
    if different or len(pairs) != len(rows(whole)):
        messages.append(f"metrics differ ({', '.join(sorted(different)) or f'{len(pairs)} epochs'})")
    return messages + leftovers(run)


def leftovers(run: Path) -> list[str]:
    return [f"{path.name} is left behind" for path in run.rglob(".*.part")]


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def changed(before: dict[str, bytes], run: Path) -> list[str]:
    """Messages for the files that changed."""
    now = contents(run)
    return [f"{name} changed" for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]


def still_running(run: Path) -> list[int]:
    """The ids of processes with the run in their command line, such as its DataLoader workers."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments, state = (
                (entry / "cmdline").read_bytes(),
                (entry / "stat").read_text().rsplit(")", 1)[1].split()[0],
            )
        except OSError:
            continue
        if str(run).encode() in arguments and state != "Z":
            pids.append(int(entry.name))
    return pids


def in_training(command: Command, run: Path) -> Callable[[], bool]:
    """Returns a function that checks whether a command trains: it printed "resumed", or wrote a checkpoint."""
    before = checkpoints(run)
    return lambda: "resumed" in command.text() or checkpoints(run) != before


def wait_for_a_moment(kind: str, command: Command, run: Path, moments: random.Random) -> bool:
    """Waits for a random moment of a kind; returns whether all processes still run."""
    if kind == "start":
        time.sleep(moments.uniform(0, 6))
        return command.alive
    until(in_training(command, run), 120, command, every=0.01)
    if kind == "training":
        time.sleep(moments.uniform(0, 1.5))
    else:  # while a checkpoint, or a file of an epoch, is written
        folder = run / "checkpoints" if kind == "checkpoint" else run
        until(lambda: being_written(folder), 20, command, every=0)
        time.sleep(moments.uniform(0, 0.003))
    return command.alive


def kill_at_random(lab: Lab, plan: Sequence[str], kills: int, count: int) -> Check:
    moments = random.Random(f"kills {count} {plan}")
    lost: list[str] = []
    done = torn = 0
    waits: list[float] = []
    ends: dict[int, int] = {}
    while done < kills:
        run = lab.new()
        while done < kills:
            command = lab.start(plan, run, count)
            kind = ("training", "checkpoint", "epoch", "start", "training")[done % 5]
            if not wait_for_a_moment(kind, command, run, moments):
                lost += [f"it ended by itself ({command.text()[-150:]})" for status in command.end() if status]
                break
            ranks = range(count) if done % 2 else [moments.randrange(count)]
            command.kill(ranks)
            done += 1
            if len(ranks) < count:
                began = time.monotonic()
                survivor = next(rank for rank in range(count) if rank not in ranks)
                status = command.end(90)[survivor]
                ends[status] = ends.get(status, 0) + 1
                waits.append(time.monotonic() - began)
                # Before the processes have connected there is no checkpoint to resume from.
                lost += command.wrong(WRONG if status == WRONG and kind == "start" else STOPPED, ":", rank=survivor)
                if waits[-1] > 60:
                    lost.append(f"the other process ended after {waits[-1]:.0f} s")
            torn += bool(leftovers(run))
            until(lambda run=run: not still_running(run), 20)
            lost += [f"process {left} still runs" for left in still_running(run)]
        lost += lab.finish(plan, run, count)
    happened = f"{torn} of them while a file was being written; resumed each time, to the same weights and metrics"
    if waits:
        statuses = ", ".join(f"{times} times status {status}" for status, times in sorted(ends.items()))
        happened += f"; the other process ended by itself within {max(waits):.0f} s, {statuses}"
    what = "SIGKILL at random" if count == 1 else f"SIGKILL of one or all of {count} processes"
    return what, done, happened, lost


def kills_one(lab: Lab) -> list[Check]:
    return [kill_at_random(lab, LONG, lab.kills, 1)]


def kills_two(lab: Lab) -> list[Check]:
    return [kill_at_random(lab, LONG, lab.kills, 2)]


def kills_reading(lab: Lab) -> list[Check]:
    what, times, happened, lost = kill_at_random(lab, files_plan(lab), max(1, lab.kills // 4), 1)
    return [(f"{what}, images read by 2 workers", times, f"{happened}; no worker stayed behind", lost)]


def terminate(lab: Lab, what: str, times: int, count: int, whom: Sequence[int], launcher: bool = False) -> Check:
    """Sends SIGTERM to some of the processes, resumes the run, repeats this, and finally trains to the end."""
    moments = random.Random(what)
    run, lost, took, done = lab.new(), [], [], 0
    while done < times:
        command = lab.start(LONG, run, count, launcher=launcher)
        if not wait_for_a_moment("training", command, run, moments):
            lost.append(f"it ended before it was told to ({command.text()[-200:]})")
            break
        before = contents(run / "checkpoints")
        began = time.monotonic()
        for rank in whom:
            command.processes[rank].send_signal(signal.SIGTERM)
        statuses = command.end(60)
        took.append(time.monotonic() - began)
        done += 1
        if not launcher:  # torchrun has a status, and a traceback, of its own
            for rank in range(count):
                lost += command.wrong(STOPPED, rank=rank)
        if "stopped and saved" not in command.text():
            lost.append(f"it does not say that it stopped and saved: {statuses}, {command.text()[-200:]}")
        if took[-1] > 10:
            lost.append(f"it took {took[-1]:.0f} s to end")
        if contents(run / "checkpoints") == before:
            lost.append("it saved nothing")
        lost += [f"process {left} still runs" for left in still_running(run)]
    lost += lab.finish(LONG, run, count)
    ended = "" if launcher else f" with status {STOPPED}"
    happened = f"saved and ended{ended} within {max(took, default=0):.1f} s; resumed to the same weights"
    return what, done, happened, lost


def sigterm_one(lab: Lab) -> list[Check]:
    return [terminate(lab, "SIGTERM", 3, 1, [0])]


def sigterm_two(lab: Lab) -> list[Check]:
    return [
        terminate(lab, "SIGTERM to both of 2 processes", 1, 2, [0, 1]),
        terminate(lab, "SIGTERM to one of 2 processes", 1, 2, [1]),
        terminate(lab, "SIGTERM to torchrun, of 2 processes", 1, 2, [0], launcher=True),
    ]


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


def amid_a_tensor(path: Path) -> int:
    """The position of a byte in the largest tensor of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    return largest.header_offset + largest.file_size // 2


def cut(path: Path, fraction: float) -> None:
    os.truncate(path, int(path.stat().st_size * fraction))


def broken_checkpoints(lab: Lab) -> list[Check]:
    checks: list[Check] = []
    for what, spoil in (
        ("newest checkpoint cut short", lambda path: cut(path, 0.6)),
        ("newest checkpoint empty", lambda path: cut(path, 0)),
        ("a byte of the newest checkpoint flipped", lambda path: flip(path, amid_a_tensor(path))),
    ):
        run = lab.stopped(SHORT)
        spoil(checkpoints(run)[-1])
        command = lab.start(SHORT, run)
        lost = [f"status {status}: {command.text()[-200:]}" for status in command.end() if status]
        if "trying the previous checkpoint" not in command.text():
            lost.append(f"it is not said: {command.text()[:200]}")
        lost += differences(lab.whole(SHORT), run)
        checks.append((what, 1, "said, and resumed from the one before, to the same weights", lost))

    run = lab.stopped(SHORT)
    for path in checkpoints(run):
        flip(path, amid_a_tensor(path))
    before = contents(run)
    command = lab.start(SHORT, run)
    command.end()
    lost = command.wrong(WRONG, "none of the 2 checkpoints") + changed(before, run)
    checks.append(("both checkpoints with a byte flipped", 1, "an error of one line, and nothing changed", lost))

    moments, refused, lost = random.Random("flips"), 0, []
    source = checkpoints(lab.stopped(SHORT))[-1]
    folder = lab.new()
    folder.mkdir()
    expected = read_newest(source.parent, lambda line: None)
    for _ in range(300):
        path = folder / source.name
        shutil.copyfile(source, path)
        place = moments.randrange(source.stat().st_size)
        flip(path, place)
        try:
            if not same(read_newest(folder, lambda line: None), expected):
                lost.append(f"byte {place} flipped is not noticed")
        except InputError:
            refused += 1
    happened = f"{refused} refused; the others, in padding between the parts, read to the same state"
    checks.append(("a random byte of a checkpoint flipped, and read", 300, happened, lost))
    return checks


def same(one: object, other: object) -> bool:
    """Whether two states are equal, and their tensors bitwise."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def file_limit(size: int) -> str:
    """Python code that limits the size of files in bytes, so that writing more fails as on a full disk."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def full_disk(lab: Lab) -> list[Check]:
    checks: list[Check] = []
    for what, limit, count in (
        ("no room for a checkpoint", 500_000, 1),
        ("no room for the weights", 200_000, 1),
        ("no room for a checkpoint, 2 processes", 500_000, 2),
    ):
        run = lab.stopped(SHORT)
        before = contents(run / "checkpoints")
        command = lab.start(SHORT, run, count, "--save_minutes=15", first=file_limit(limit))
        command.end(120)
        lost = command.wrong(WRONG, "could not be written") + leftovers(run)
        if count > 1:
            lost += command.wrong(STOPPED, "cannot reach the others", rank=1)
        if any(contents(run / "checkpoints").get(name) != content for name, content in before.items()):
            lost.append("a checkpoint of before is gone")
        lost += finish_elsewhere(lab, run, count)
        happened = "an error of one line, the checkpoints before still there; with room, resumed to the same weights"
        checks.append((f"{what} (RLIMIT_FSIZE)", 1, happened, lost))

    with small_disk(lab, 8) as disk:
        if disk is None:
            return [*checks, ("a full disk (tmpfs)", 0, "not tried, as it cannot be mounted here", [])]
        run = disk / "run"
        shutil.copytree(lab.stopped(SHORT), run)
        before = contents(run / "checkpoints")
        filler, free = disk / "filler", os.statvfs(disk)
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 700_000))  # weights yet, no checkpoint
        command = lab.start(SHORT, run, 1, "--save_minutes=15")
        command.end()
        lost = command.wrong(WRONG, "No space left on device", "could not be written") + leftovers(run)
        if any(contents(run / "checkpoints").get(name) != content for name, content in before.items()):
            lost.append("a checkpoint of before is gone")
        filler.unlink()
        lost += lab.finish(SHORT, run)
    happened = "an error of one line, the checkpoints before still there; after room was made, the same weights"
    checks.append(("a full disk (tmpfs of 8 MB)", 1, happened, lost))

    with small_disk(lab, 1) as disk:
        assert disk is not None
        fill(disk / "filler")
        before = contents(disk)
        command = lab.start(SHORT, disk / "run")
        command.end()
        lost = command.wrong(WRONG, "No space left on device") + changed(before, disk)
    checks.append(("a disk too full for a new run (tmpfs)", 1, "an error of one line, and nothing left behind", lost))
    return checks


def fill(path: Path) -> None:
    """Fills a disk by one file."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def finish_elsewhere(lab: Lab, run: Path, count: int) -> list[str]:
    """Finishes a run that one process started; with two processes, which round differently, it is not compared."""
    if count == 1:
        return lab.finish(SHORT, run)
    return [f"resumed, it ends with status {status}" for status in lab.start(SHORT, run, count).end() if status]


@contextmanager
def small_disk(lab: Lab, megabytes: int) -> Iterator[Path | None]:
    """A small tmpfs; None where it cannot be mounted."""
    disk = lab.new("disk")
    disk.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(disk)], capture_output=True
        ).returncode
    )
    try:
        yield disk if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


def a_process_hangs(lab: Lab) -> list[Check]:
    run, lost, waits = lab.new(), [], []
    for rank in (0, 1):
        command = lab.start(LONG, run, 2, "--wait_minutes=0.2")
        if not wait_for_a_moment("training", command, run, random.Random(f"hangs {rank}")):
            lost.append(f"it ended by itself ({command.text()[-200:]})")
            break
        command.processes[rank].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        other = command.processes[1 - rank]
        until(lambda other=other: other.poll() is not None, 90, every=0.02)
        waits.append(time.monotonic() - began)
        if waits[-1] > 60:
            lost.append(f"the other process had not ended after {waits[-1]:.0f} s")
        other.kill()
        other.wait()
        lost += command.wrong(STOPPED, "cannot reach the others", rank=1 - rank)
        command.processes[rank].send_signal(signal.SIGCONT)  # it continues, and has to notice that it is alone
        command.end(60)
        lost += command.wrong(STOPPED, "cannot reach the others", rank=rank)
    lost += lab.finish(LONG, run, 2)
    happened = (
        f"the other ended by itself after {max(waits, default=0):.0f} s at most, and said why; so did the one that "
        "woke; resumed to the same weights"
    )
    return [("one of 2 processes hangs (SIGSTOP, wait_minutes 0.2)", len(waits), happened, lost)]


def image_folder(lab: Lab) -> Path:
    """A copy of a folder of JPEG files in class folders, made from the built-in images."""
    with lab.lock:
        if ("images",) not in lab.cache:
            folder = lab.new("images")
            for images in data.load("clutter", train=256, test=32):
                for number, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
                    path = folder / images.split / images.classes[label] / f"{number:03}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, quality=90)
            lab.cache[("images",)] = folder
        copy = lab.new("images")
        shutil.copytree(lab.cache[("images",)], copy)
        return copy


OF_FILES = (
    *("--model.name=wrn-10-1", "--device=cpu", "--threads=1", "--schedule.batch_size=32", "--data.size=32"),
    *("--schedule.milestones=[]", "--schedule.epochs=4", "--data.workers=2", "--save_minutes=0.005"),
)


def files_plan(lab: Lab) -> tuple[str, ...]:
    return (*OF_FILES, "--data.name=files", f"--data.folder={image_folder(lab)}")


def unreadable_images(lab: Lab) -> list[Check]:
    folder = image_folder(lab)
    victims = sorted((folder / "train").rglob("*.jpg"))[7:150:64]
    cut(victims[0], 0.5)
    cut(victims[1], 0)
    victims[2].write_text("not an image")
    plan = (*OF_FILES, "--data.name=files", f"--data.folder={folder}")
    run = lab.new()
    command = lab.start(plan, run)
    command.end()
    lost = command.wrong(WRONG, ".jpg")
    if not any(path.name in command.error() for path in victims):
        lost.append(f"none of the files is named: {command.error()}")
    checks: list[Check] = [("3 unreadable among 256 images", 1, "an error that names one", lost)]

    skipping = (*plan, "--data.unreadable=skip")
    whole = lab.whole(skipping)
    listed = (whole / "unreadable.txt").read_text() if (whole / "unreadable.txt").is_file() else ""
    lost = [f"{path.name} is not in unreadable.txt" for path in victims if path.name not in listed]
    counted = Run(whole).metrics()[-1]["unreadable"]
    if counted != len(victims):
        lost.append(f"the metrics count {counted}")
    happened = "training goes on, the metrics count 3, unreadable.txt names them"
    checks.append(("the same, unreadable=skip", 1, happened, lost))
    what, times, happened, lost = kill_at_random(lab, skipping, 3, 1)
    checks.append((f"{what}, unreadable=skip", times, happened, lost))
    return checks


def write_shards(folder: Path) -> None:
    """Writes WebDataset shards of the built-in images: 4 of 64 images for training, one of 32 for testing."""
    from webdataset import TarWriter

    folder.mkdir()
    for images in data.load("clutter", train=256, test=32):
        for begin in range(0, len(images), 64):
            with TarWriter(str(folder / f"{images.split}-{begin // 64:04}.tar")) as shard:
                for i in range(begin, min(begin + 64, len(images))):
                    picture = Image.fromarray(images.images[i].permute(1, 2, 0).numpy())
                    shard.write({"__key__": f"{images.split}{i:04}", "jpg": picture, "cls": int(images.labels[i])})


def broken_shards(lab: Lab) -> list[Check]:
    whole = lab.new("shards")
    write_shards(whole)
    names = "{train: 'train-{0000..0003}.tar|256', test: 'test-0000.tar|32', classes: 10}"
    checks: list[Check] = []
    for what, spoil, happened in (
        ("a shard is missing", lambda path: path.unlink(), "said before training, and named"),
        ("a shard is cut short", lambda path: cut(path, 0.5), "an error that names it"),
    ):
        folder = lab.new("shards")
        shutil.copytree(whole, folder)
        spoil(folder / "train-0002.tar")
        plan = (*OF_FILES, "--data.name=wds", f"--data.folder={folder}", f"--data.options={names}")
        run = lab.new()
        command = lab.start(plan, run)
        command.end()
        lost = command.wrong(WRONG, "train-0002.tar")
        if "missing" in what and run.exists():
            lost.append("a run folder is made nevertheless")
        checks.append((what, 1, happened, lost))
    return checks


def other_networks(lab: Lab) -> list[Check]:
    checks: list[Check] = []
    for what, more in (
        ("checkpoints of another network", "--model.name=wrn-10-2"),
        ("checkpoints of another optimizer", "--optimizer.name=adamw"),
    ):
        stranger, run = lab.stopped((*SHORT, more)), lab.stopped(SHORT)
        for path in checkpoints(run):
            path.unlink()
        for path in checkpoints(stranger):
            shutil.copy(path, run / "checkpoints")
        before = contents(run)
        command = lab.start(SHORT, run)
        command.end()
        lost = command.wrong(WRONG, "checkpoint", str(run)) + changed(before, run)
        checks.append((f"{what} in the run folder", 1, "an error of one line, and nothing changed", lost))
    return checks


# Python code that breaks step 40 of 96, in the third epoch.
SPOILT = """
from regard.training.loop import Loop
whole = Loop.clip
def clip(self):
    if self.steps_done == 40:
        {spoil}
    return whole(self)
Loop.clip = clip
"""


def no_numbers(lab: Lab) -> list[Check]:
    checks: list[Check] = []
    for what, spoil, words in (
        ("a gradient is infinite", "self.parameters[0].grad[0] = float('inf')", "gradient"),
        ("the weights become NaN", "self.parameters[0].data[0] = float('nan')", "loss"),
    ):
        for count in (1, 2):
            run = lab.new()
            command = lab.start(SHORT, run, count, first=SPOILT.format(spoil=spoil))
            command.end()
            lost = command.wrong(WRONG, words, "NaN or infinite", "epoch 3") + leftovers(run)
            for path in checkpoints(run):
                state = torch.load(path, weights_only=True)
                if not all(value.isfinite().all() for value in state["model"].values()):
                    lost.append(f"{path.name} has weights that are NaN")
            lost += lab.finish(SHORT, run, count)
            happened = "stopped, good checkpoints kept; resumed to the same weights"
            checks.append((what if count == 1 else f"{what}, {count} processes", 1, happened, lost))

    run = lab.new()
    plan = (*SHORT, "--nonfinite=skip")
    command = lab.start(plan, run, first=SPOILT.format(spoil="self.parameters[0].grad[0] = float('inf')"))
    lost = [f"status {status}: {command.text()[-200:]}" for status in command.end() if status]
    counted = [row["skipped_steps"] for row in Run(run).metrics()]
    if counted != [0, 0, 1, 0, 0, 0]:
        lost.append(f"skipped steps are counted as {counted}")
    checks.append(("a gradient is infinite, nonfinite=skip", 1, "the step left out and counted, on to the end", lost))

    for what, more in (("learning rate 1e9", ()), ("learning rate 1e9, nonfinite=skip", ("--nonfinite=skip",))):
        run = lab.new()
        plan = (*SHORT, "--optimizer.lr=1e9", "--schedule.warmup=0", "--ema=0", "--optimizer.clip=null", *more)
        command = lab.start(plan, run)
        command.end()
        lost = command.wrong(WRONG, "is NaN or infinite") + leftovers(run)
        checks.append((what, 1, "stopped, an error of one line", lost))
    return checks


# Python code that limits the memory, from the first step on, to the memory in use and `spare` bytes.
MEMORY_LIMIT = """
import os, resource
from pathlib import Path
from regard.training.loop import Loop
whole = Loop.run_epochs
def run_epochs(self, interrupt):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + {spare}, used + {spare}))
    return whole(self, interrupt)
Loop.run_epochs = run_epochs
"""


def no_memory(lab: Lab) -> list[Check]:
    lost, reported = [], 0
    spares = (10, 50, 100, 200, 300, 400)
    plan = (*SHORT, "--model.name=wrn-10-4", "--schedule.batch_size=512")
    for spare in spares:
        run = lab.new()
        command = lab.start(plan, run, first=MEMORY_LIMIT.format(spare=spare << 20))
        (status,) = command.end()
        if status:
            reported += 1
            lost += [f"with {spare} MiB: {fault}" for fault in command.wrong(WRONG, "memory", "schedule.batch_size")]
    if not reported:
        lost.append("there was memory enough")
    happened = "an error of one line that says what to change"
    return [(f"no memory left but {spares[0]} to {spares[-1]} MiB (RLIMIT_AS)", reported, happened, lost)]


def refused(lab: Lab) -> list[Check]:
    checks: list[Check] = []
    run = lab.stopped(SHORT)
    before = contents(run)
    for what, more, words in (
        ("resumed with another learning rate", ("--optimizer.lr=0.2",), "optimizer.lr was 0.1 and is 0.2"),
        ("resumed with another network", ("--model.name=wrn-10-2",), "model.name was"),
        ("resumed with other data", ("--data.options={train: 256, test: 64}",), "data.options"),
    ):
        command = lab.start(SHORT, run, 1, *more)
        command.end()
        checks.append((what, 1, "refused, and nothing changed", command.wrong(WRONG, words) + changed(before, run)))

    other = lab.new()
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for what, more, words in (
        ("resumed in a folder of something else", (), "is no run"),
        ("overwriting a folder of something else", ("--overwrite",), "is no run"),
    ):
        command = lab.start(SHORT, other, 1, *more)
        command.end()
        lost = command.wrong(WRONG, words) + changed({"thesis.txt": b"years of work"}, other)
        checks.append((what, 1, "refused, and nothing changed", lost))
    return checks


# Cases of one process run two at a time; cases of two processes run alone, because they have time limits.
ONE = (kills_one, full_disk, no_numbers, broken_checkpoints, kills_reading, sigterm_one, unreadable_images)
ONE += (broken_shards, other_networks, no_memory, refused)
TWO = (kills_two, sigterm_two, a_process_hangs)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=sorted(case.__name__ for case in ONE + TWO))
    options = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    selected = [case for case in ONE + TWO if not options.only or case.__name__ in options.only]
    began = time.monotonic()
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), options.kills)
        try:
            with ThreadPoolExecutor(2) as side_by_side:
                waiting = [side_by_side.submit(tried, case, lab) for case in selected if case in ONE]
                checks += [check for case in waiting for check in case.result()]
            for case in selected:
                if case in TWO:
                    checks += tried(case, lab)
        finally:
            for command in lab.commands:
                command.kill()
    wrong = sum(bool(lost) for *_, lost in checks)
    took = time.monotonic() - began
    text = "\n".join(
        (
            f"{len(checks)} faults, {sum(times for _, times, *_ in checks)} times, in {took:.0f} s: {wrong} with "
            "something lost or wrong. Runs of `regard train`, WRN-10-1 on the built-in data, batch 32, with warm-up, "
            "mixup and a moving average of the weights. The same means byte for byte, compared with a run that nothing "
            "happened to.\n",
            table(
                ["what was tried", "times", "what happened", "lost"],
                [
                    [what, str(times), happened if not lost else "", "; ".join(dict.fromkeys(lost)) or "nothing"]
                    for what, times, happened, lost in checks
                ],
            ),
        )
    )
    publish("Faults of training runs", text, torch.device("cpu"), save=not options.dry)
    return bool(wrong)


def tried(case: Callable[[Lab], list[Check]], lab: Lab) -> list[Check]:
    """Runs a case and returns its checks; an exception counts as a fault."""
    began = time.monotonic()
    try:
        checks = case(lab)
    except Exception as error:
        checks = [(case.__name__, 0, "", [f"it could not be tried: {error!r}"])]
    for what, times, happened, lost in checks:
        print(f"{what} ({times}): {'; '.join(lost) or happened}", file=sys.stderr)
    print(f"{case.__name__} took {time.monotonic() - began:.0f} s", file=sys.stderr)
    return checks


if __name__ == "__main__":
    sys.exit(main())
