"""One run of a table, in a process of its own: claimed, trained from its newest checkpoint, and put in the store."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from regard import training
from regard.errors import InputError, Locked, first_line
from regard.launcher import forget_launcher
from regard.reproduction.engine import Ending
from regard.reproduction.plan import Job
from regard.store import Lock, Store, StoredRun
from regard.terminal import replace_unencodable
from regard.training import Display, Lines

STATUS: dict[Ending, int] = {"finished": 0, "failed": 2, "stopped": 75, "elsewhere": 76, "lost": 77}
"""The exit status of a worker's process."""


def absolute_address(store: Store) -> str:
    """As a process finds it whose working directory is another."""
    return store.address if store.folder is None else os.path.abspath(store.folder)


def order(address: str, job: Job) -> str:
    """A job as text, for a worker on this machine or another."""
    return json.dumps(
        {
            "address": address,
            "name": job.name,
            "teacher": job.teacher,
            "recipe": training.plain(job.recipe),
            "command": job.command,
        }
    )


def wrong_data(text: str) -> str | None:
    """What is wrong with the data of an `order`, as this machine sees them; None if they can be read."""
    try:
        training.load_data(_recipe(json.loads(text)["recipe"]).data)
    except InputError as error:
        return str(error)
    return None


def carry_out(text: str) -> tuple[Ending, str]:
    """Does what `order` asks, and says how it ended.

    Works in the folder of the store, or, if that is not of this machine, in a folder from which the store is brought up
    to date after every epoch. The process has to be one of its own: its working directory, arguments and environment
    are changed.
    """
    asked = json.loads(text)
    return _carry_out(asked, Store(asked["address"]))


def _carry_out(asked: dict[str, Any], store: Store) -> tuple[Ending, str]:
    forget_launcher()  # whoever started this process, the run is not theirs to share
    name = asked["name"]
    sys.argv = list(asked["command"])  # what one would type; the run keeps it
    try:
        lock = store.lock(name)
    except Locked as error:
        return "elsewhere", str(error)
    with lock:
        begun = store.run(name)
        if begun is not None and begun.finished:
            return "finished", "finished by somebody else"
        try:
            return _train(asked, store, lock, begun)
        except InputError as error:
            return "failed", str(error)


def _train(asked: dict[str, Any], store: Store, lock: Lock, begun: StoredRun | None) -> tuple[Ending, str]:
    name, teacher = asked["name"], asked["teacher"]
    if begun is None and store.folder is not None and _occupied(store.folder / name):
        raise InputError(f"{store.folder / name} is there and is no run; remove or rename it")
    recipe = _recipe(_resumed(asked["recipe"], begun))
    with tempfile.TemporaryDirectory(prefix="regard-", ignore_cleanup_errors=True) as scratch:
        base = store.folder if store.folder is not None else Path(scratch)
        if store.folder is None:
            for other in filter(None, (teacher, begun and name)):
                store.fetch(other, base)
        base.mkdir(parents=True, exist_ok=True)
        before = Path.cwd()
        os.chdir(base)  # where the teacher is found under its name
        try:
            display: Display = Lines()
            mirrored: _Mirrored | None = None
            if store.folder is None:
                display = mirrored = _Mirrored(display, store, lock, Path(name), recipe.save_minutes)
            outcome = training.train(recipe, name, resume=True, display=display)
            if mirrored is not None:
                mirrored.push()
        finally:
            os.chdir(before)
    if not outcome.finished:
        return "stopped", "stopped and saved"
    stored = store.run(name)
    if stored is None or not stored.finished:
        wrong = (stored and stored.problem) or "metrics or weights are missing"
        return "failed", f"it came to its end, but not in {store.address}: {wrong}"
    return "finished", f"test accuracy {outcome.test_accuracy:.2%}"


def _occupied(folder: Path) -> bool:
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


class _Mirrored(Display):
    """Brings a store up to date while a run goes on."""

    def __init__(self, display: Display, store: Store, lock: Lock, folder: Path, minutes: float) -> None:
        self.display, self.store, self.lock = display, store, lock
        self.folder, self.minutes = folder.absolute(), minutes
        self.pushed = time.monotonic()

    def start(self, run: str, epochs: int, steps: int, done: int) -> None:
        self.display.start(run, epochs, steps, done)

    def step(self, epoch: int, step: int, means: dict[str, float], images_per_second: float) -> None:
        self.display.step(epoch, step, means, images_per_second)
        if time.monotonic() - self.pushed > 60 * self.minutes:  # there is a checkpoint since
            self.push()

    def epoch(self, row: dict[str, Any], unreadable: Sequence[str] = ()) -> None:
        self.display.epoch(row, unreadable)
        self.push()

    def say(self, message: str) -> None:
        self.display.say(message)

    def stop(self) -> None:
        self.display.stop()

    def push(self) -> None:
        self.lock.check()  # cut off for long, and taken over
        self.store.upload(self.folder)
        self.pushed = time.monotonic()


def _resumed(asked: dict[str, Any], begun: StoredRun | None) -> dict[str, Any]:
    """The recipe of a run that was begun, which may compute the same in another way; place and teacher are as asked."""
    if begun is None or begun.problem:
        return asked
    fields = json.loads(json.dumps(begun.recipe))
    for name in training.WHERE:
        group, _, own = name.rpartition(".")
        (fields.setdefault(group, {}) if group else fields)[own] = (asked[group] if group else asked)[own]
    if asked["transfer"]["teacher"] is not None:
        fields.setdefault("transfer", {})["teacher"] = asked["transfer"]["teacher"]
    return fields


def _recipe(fields: dict[str, Any]) -> training.Recipe:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(fields, file, allow_unicode=True)
        file.flush()
        return training.load_recipe(file.name)


def carry_out_logged(text: str) -> tuple[Ending, str]:
    """The same; what the run prints goes to its log in the store."""
    asked = json.loads(text)
    store = Store(asked["address"])
    log = store.log(asked["name"])
    with (
        open(log, "a", encoding="utf-8", errors="backslashreplace", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            ending, message = _carry_out(asked, store)
        except Exception:
            traceback.print_exc()
            raise
        if ending != "elsewhere":  # whoever is at it writes there
            print(message)
    return ending, f"{message} (see {log})" if ending == "failed" else message


def main() -> int:
    """Carries out the order on standard input, and says on standard output how it ended."""
    replace_unencodable()
    try:
        ending, message = carry_out_logged(sys.stdin.read())
    except Exception as error:  # told in the log; the plan goes on
        ending, message = "failed", first_line(error)
    print(message, flush=True)
    return STATUS[ending]
