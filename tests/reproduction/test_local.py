"""Runs on this machine: from nothing, after a kill, beside another command, on a remote store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from regard.cli import main
from regard.commands import reproduce
from regard.reproduction import Cost, Job, LocalEngine, Rate, carry_out_plan, make_plan
from regard.reproduction.worker import carry_out, carry_out_logged, order
from regard.store import Store
from regard.tables import Setting, fill, load_table, markdown

pytestmark = pytest.mark.slow

LAUNCHED = {
    **{"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    **{"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    **{"ACCELERATE_MIXED_PRECISION": "fp16", "TORCHELASTIC_RUN_ID": "none", "PMI_RANK": "1", "PMI_SIZE": "2"},
}
"""What launchers set in the processes that they start; whoever takes it for theirs waits for others."""


def test_a_table_is_filled_and_not_filled_again(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert main(["reproduce", str(small), "--seeds", "1", "--columns", "at", "--runs", "store", "--device", "cpu"]) == 0
    said = capfd.readouterr().out
    assert "2 runs for 1 seed; 0 finished, 0 begun, 2 missing" in said and "at once" in said
    table = load_table(small)
    runs = Store("store").runs()
    filled = fill(table, runs)
    assert {place: len(cell.seeds) for place, cell in filled.cells.items()} == {
        ("one", "student"): 0,
        ("one", "at"): 1,
        ("one", "teacher"): 1,
    }
    at = json.loads((tmp_path / "store/at-seed0/environment.json").read_text())
    assert at["processes"] == 1
    assert at["command"].startswith("regard train ") and at["command"].endswith("--run at-seed0 --resume")
    log = (tmp_path / "store/.logs/teacher-seed0.log").read_text()
    assert log.startswith("epoch 1/2") and "Warning" not in log
    weights = (tmp_path / "store/at-seed0/last.safetensors").read_bytes()
    assert main(["reproduce", str(small), "--seeds", "1", "--columns", "at", "--runs", "store", "--device", "cpu"]) == 0
    assert "2 finished, 0 begun, 0 missing" in capfd.readouterr().out
    assert (tmp_path / "store/at-seed0/last.safetensors").read_bytes() == weights
    assert markdown(fill(table, Store("store").runs())) == markdown(filled)


def test_a_killed_worker_loses_nothing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run of a worker that is killed is taken up again, and ends as one that never was."""
    (small.parent / "student.yaml").write_text(
        (small.parent / "student.yaml").read_text().replace("epochs: 2", "epochs: 30")
    )
    store = Store(tmp_path / "store")
    plan = make_plan(load_table(small), [], Setting(), range(1), columns=["student"], where={"threads": 1})
    engine = LocalEngine(store, 1)
    killed: list[int] = []

    def kill_once() -> bool:
        seen = store.run("student-seed0")
        if not killed and seen is not None and seen.epochs >= 1 and engine._running:
            killed.append(engine._running[0].process.pid)
            os.kill(killed[0], signal.SIGKILL)
        return False

    said: list[str] = []
    carried = carry_out_plan(plan, engine, store, retries=0, say=said.append, stop=kill_once)
    assert killed and carried.finished == {"student-seed0"}, said
    assert any("it goes on from its checkpoint" in line for line in said)
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert carry_out(order(str(tmp_path / "whole"), plan.jobs[0]))[0] == "finished"
    ends = [(tmp_path / name / "student-seed0/last.safetensors").read_bytes() for name in ("store", "whole")]
    assert ends[0] == ends[1]


def test_two_workers_at_one_run_do_not_step_on_one_another(small: Path, tmp_path: Path) -> None:
    """As when two machines fill one table: one of them trains, the other is told so."""
    recipe = small.parent / "student.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 40"))
    plan = make_plan(load_table(small), [], Setting(), range(1), columns=["student"], where={"threads": 1})
    text = order(str(tmp_path / "store"), plan.jobs[0])
    command = [sys.executable, "-c", "import sys; from regard.reproduction.worker import main; sys.exit(main())"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [process.communicate(text, timeout=240)[0] for process in both]
    # the later one may also come when all is done
    assert sorted(process.returncode for process in both) in ([0, 76], [0, 0]), said
    assert sum("works in" in words or "finished by somebody else" in words for words in said) == 1
    log = (tmp_path / "store/.logs/student-seed0.log").read_text()
    assert log.count("epoch 40/40") == 1 == log.count("epoch 1/40")  # it was trained once


def test_interrupting_saves_and_the_same_command_goes_on(small: Path, tmp_path: Path) -> None:
    recipe = small.parent / "student.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 200"))
    command = [sys.executable, "-m", "regard", "reproduce", str(small), "--seeds", "1", "--columns", "student"]
    command += ["--runs", str(tmp_path / "store"), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    store = Store(tmp_path / "store")
    until = time.monotonic() + 120
    while time.monotonic() < until and ((seen := store.run("student-seed0")) is None or seen.epochs < 1):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 75, said
    assert "the same command goes on" in said
    run = store.run("student-seed0")
    assert run is not None and 1 <= run.epochs < 200
    assert list((tmp_path / "store/student-seed0/checkpoints").glob("step-*.pt"))
    assert store.holder("student-seed0") is None


def test_a_store_that_is_not_of_this_machine(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Works elsewhere and brings the store up to date; a teacher is fetched, a run that was begun goes on."""
    monkeypatch.setattr(sys, "argv", sys.argv)  # the worker puts its own there
    monkeypatch.chdir(tmp_path)
    address = "memory://regard-test-store"
    store = Store(address)
    table = load_table(small)
    plan = make_plan(table, [], Setting(), range(1), columns=["at"], where={"threads": 1})
    for job in plan.jobs:
        ending, message = carry_out(order(address, job))
        assert ending == "finished", message
    runs = store.runs()
    assert [run.name for run in runs] == ["at-seed0", "teacher-seed0"] and all(run.finished for run in runs)
    assert len(fill(table, runs).cells["one", "at"].seeds) == 1
    assert carry_out(order(address, plan.jobs[0])) == ("finished", "finished by somebody else")
    assert Path.cwd() == tmp_path


@pytest.fixture
def alone(small: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """The job of one student."""
    monkeypatch.setattr(sys, "argv", sys.argv)  # the worker puts its own there
    (job,) = make_plan(load_table(small), [], Setting(), range(1), columns=["student"], where={"threads": 1}).jobs
    return job


def test_a_run_is_no_part_of_what_a_launcher_started(
    alone: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker of Ray, which a launcher's process started."""
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert carry_out(order(str(tmp_path / "store"), alone))[0] == "finished"
    assert not set(LAUNCHED) & set(os.environ)


def test_files_that_were_lost_are_written_again_from_the_checkpoint(alone: Job, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert carry_out(order(str(store.folder), alone))[0] == "finished"
    folder = tmp_path / "store" / alone.name
    weights, metrics = (folder / "last.safetensors").read_bytes(), (folder / "metrics.jsonl").read_bytes()
    (folder / "last.safetensors").unlink()
    (folder / "metrics.jsonl").write_bytes(metrics[: len(metrics) // 2])
    assert not store.run(alone.name).finished
    assert carry_out(order(str(store.folder), alone))[0] == "finished"
    assert store.run(alone.name).finished
    assert (folder / "last.safetensors").read_bytes() == weights
    assert (folder / "metrics.jsonl").read_bytes() == metrics


def test_what_the_store_does_not_show_is_not_called_finished(
    alone: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regard.reproduction.worker.training.train", lambda *_, **__: SimpleNamespace(finished=True))
    ending, message = carry_out(order(str(tmp_path / "store"), alone))
    assert ending == "failed" and "metrics or weights are missing" in message


def test_a_folder_that_is_no_run_is_left_alone(alone: Job, tmp_path: Path) -> None:
    taken = tmp_path / "store" / alone.name
    taken.mkdir(parents=True)
    (taken / "notes.txt").write_text("mine")
    ending, message = carry_out(order(str(tmp_path / "store"), alone))
    assert ending == "failed" and "is no run; remove or rename it" in message
    assert [path.name for path in taken.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("threads", "fit"), [(1, 8), (3, 2), (16, 1)])
def test_runs_share_the_processors(threads: int, fit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr("regard.host.available_memory", lambda: 64 * 2**30)
    assert reproduce._fitting(None, torch.device("cpu"), threads) == fit


@pytest.mark.parametrize(("device", "fit"), [("cuda", 6), ("cuda:1", 2)])
def test_runs_share_the_gpus_that_are_meant(device: str, fit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda gpu: (10 * 2**30, 16 * 2**30))
    cost = Cost({}, {"a": Rate(1.0, 1.0, 3.0, "")}, {})  # and 1 GiB: two fit into nine tenths of 10
    assert reproduce._fitting(cost, torch.device(device), 1) == fit


def test_a_run_that_cannot_work_says_why(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    recipe = small.parent / "student.yaml"
    recipe.write_text(recipe.read_text().replace("wrn-10-0.5", "wrn-10-nonsense"))
    (job,) = make_plan(load_table(small), [], Setting(), range(1), columns=["student"]).jobs
    ending, message = carry_out_logged(order(str(tmp_path / "store"), job))
    assert ending == "failed" and "wrn-10-nonsense" in message and "student-seed0.log" in message
    assert "wrn-10-nonsense" in (tmp_path / "store/.logs/student-seed0.log").read_text()
    assert Store(tmp_path / "store").holder("student-seed0") is None


def test_a_dry_run_trains_nothing(small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = [
        "reproduce",
        str(small),
        "--seeds",
        "3",
        "--dry_run",
        "--runs",
        str(tmp_path / "store"),
        "--device",
        "cpu",
    ]
    assert main(command) == 0
    said = capfd.readouterr().out
    assert "9 runs for 3 seeds" in said and "steps timed now" in said
    assert "leaving out the last seed (2) saves" in said and "leaving out column at saves" in said
    assert not Store(tmp_path / "store").runs()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--budget", "2"], "the budget is 2"),
        (["--rows", "two"], "unknown row of small 'two'"),
        (["--columns", "kd"], "has no column 'kd'"),
        (["--at_once", "0"], "--at_once is 0"),
        (["--gpus", "1"], "--gpus is for --engine ray"),
        (["--retries", "-1"], "--retries is -1"),
        (["--optimizer.lr", "1"], "--optimizer.lr"),
        (["--data.name", "folder"], "folder"),
    ],
)
def test_wrong_options_are_said_before_anything_runs(
    small: Path, tmp_path: Path, options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", str(small), "--runs", str(tmp_path / "store"), "--device", "cpu", *options]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").glob("*/recipe.yaml"))
