"""Runs on this machine: from scratch, after a kill, beside another process, by printed commands."""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.buckets import bucket
from support.commands import ended, start, wait_for
from support.gate import Gate, pid_of

from regard.cli import main, reproduce
from regard.errors import InputError
from regard.reproduction import Cost, Job, LocalExecutor, Outcome, Rate, local, make_plan, run_plan, scheduler
from regard.store import Store
from regard.tables import Overrides, document, fill, load_table

pytestmark = pytest.mark.slow

LAUNCHED = {
    **{"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
    **{"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    **{"ACCELERATE_MIXED_PRECISION": "fp16", "TORCHELASTIC_RUN_ID": "none", "PMI_RANK": "1", "PMI_SIZE": "2"},
}
"""Variables that launchers set in their processes; a run that reads them would wait for other ranks."""


def student(table: Path, store: Path) -> Job:
    """The job of one student."""
    where = {"threads": 1, "device": "cpu"}
    runs, columns = Store(store).runs(), ["student"]
    return make_plan(
        load_table(table), runs, Overrides(), range(1), store=str(store), columns=columns, where=where
    ).jobs[0]


def test_a_filled_table_is_not_trained_again(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = {"threads": 1, "device": "cpu"}
    teacher = make_plan(load_table(small), [], Overrides(), range(1), store="store", columns=["teacher"], where=where)
    assert main(teacher.jobs[0].command[1:]) == 0
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    command = ["reproduce", str(small), "--seeds", "1", "--columns", "at", "--runs", "store", "--device", "cpu"]
    assert main(command) == 0
    notes = capfd.readouterr().err
    assert "runs: 2 (1 finished, 0 begun, 1 missing)" in notes and "one run at a time" in notes
    table = load_table(small)
    runs = Store("store").runs()
    filled = fill(table, runs)
    assert {key: len(cell.runs) for key, cell in filled.cells.items()} == {
        ("one", "student"): 0,
        ("one", "at"): 1,
        ("one", "teacher"): 1,
    }
    at = json.loads((tmp_path / "store/at-seed0/environment.json").read_text())
    assert at["processes"] == 1
    assert at["command"].startswith("regard train ")
    assert at["command"].endswith(f"--run {tmp_path}/store/at-seed0 --resume")
    log = (tmp_path / "store/.logs/at-seed0.log").read_text()
    assert log.startswith("epoch 1/2") and "Warning" not in log
    weights = (tmp_path / "store/at-seed0/last.safetensors").read_bytes()
    assert main(command) == 0
    assert "2 finished, 0 begun, 0 missing" in capfd.readouterr().err
    assert (tmp_path / "store/at-seed0/last.safetensors").read_bytes() == weights
    assert document(fill(table, Store("store").runs())).to_markdown() == document(filled).to_markdown()


def test_a_killed_run_is_resumed(fork_runs: Callable[..., None], small: Path, tmp_path: Path) -> None:
    """The resumed run ends with the weights of an uninterrupted one."""
    gate = Gate(tmp_path / "gate")
    fork_runs(gate.code)
    store = Store(tmp_path / "store")
    plan = make_plan(
        load_table(small),
        [],
        Overrides(),
        range(1),
        store=str(tmp_path / "store"),
        columns=["student"],
        where={"threads": 1, "device": "cpu"},
    )
    killed: list[int] = []

    def kill_once() -> bool:
        if not killed and gate.holds(pid := pid_of(store, "student-seed0")):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            gate.open()
        return False

    lines: list[str] = []
    outcome = run_plan(plan, LocalExecutor(), store, retries=0, log=lines.append, stop=kill_once)
    assert killed and outcome.finished == {"student-seed0"}, lines
    assert any("SIGKILL" in line and "checkpoint" in line for line in lines)
    assert main(student(small, tmp_path / "whole").command[1:]) == 0
    weights = [(tmp_path / name / "student-seed0/last.safetensors").read_bytes() for name in ("store", "whole")]
    assert weights[0] == weights[1]


def test_two_schedulers_share_the_runs_of_one_store(
    fork_runs: Callable[..., None], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is trained once, and both schedulers report all runs."""
    fork_runs()
    monkeypatch.setattr(scheduler, "_LOCK_SECONDS", 1.0)
    monkeypatch.setattr("regard.store.locks._TIMEOUT", 0.0)  # for the forked runs, which take less than a second
    address, columns = str(tmp_path / "store"), ["student", "teacher"]
    where = {"threads": 1, "device": "cpu"}
    plan = make_plan(load_table(small), [], Overrides(), range(1), store=address, columns=columns, where=where)

    def run(lines: list[str]) -> Outcome:
        return run_plan(plan, LocalExecutor(), Store(address), log=lines.append)

    lines: list[list[str]] = [[], []]
    with ThreadPoolExecutor() as threads:
        outcomes = list(threads.map(run, lines))
    assert [outcome.finished for outcome in outcomes] == [{"student-seed0", "teacher-seed0"}] * 2, lines
    for name in ("student-seed0", "teacher-seed0"):
        assert (tmp_path / f"store/.logs/{name}.log").read_text().count("epoch 1/2") == 1, lines


def test_an_interrupt_saves_a_checkpoint_to_resume_from(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(tmp_path / "gate")
    monkeypatch.setenv("PYTHONPATH", gate.path())
    options = ["--seeds", "1", "--columns", "student", "--runs", str(tmp_path / "store"), "--device", "cpu"]
    (process,) = start(["reproduce", str(small), *options])
    store = Store(tmp_path / "store")
    wait_for(lambda: gate.holds(pid_of(store, "student-seed0")), [process])
    process.send_signal(signal.SIGINT)
    ((status, _, notes),) = ended([process])
    assert status == 75, notes
    assert "the same command resumes" in notes
    run = store.run("student-seed0")
    assert run is not None and run.epochs == 1
    assert (tmp_path / "store/student-seed0/checkpoints/step-000000004.pt").is_file()
    assert store.holder("student-seed0") is None


def test_a_failing_run_with_long_output_reports_its_error(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output exceeds the 64 KiB of a pipe and goes to the log; the last line is the message."""
    noise = "import os, sys\nprint('noise\\n' * 50_000, flush=True)\nprint('noise\\n' * 50_000, file=sys.stderr)\n"
    end = "print('regard: unknown model', file=sys.stderr, flush=True)\nos._exit(2)\n"
    (tmp_path / "sitecustomize.py").write_text(noise + end)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    executor = LocalExecutor()
    executor.start(student(small, tmp_path / "store"))
    (end,) = executor.wait(120)
    log = tmp_path / "store/.logs/student-seed0.log"
    assert (end.ending, end.message) == ("failed", f"unknown model (see {log})")
    assert log.read_text().count("noise\n") == 100_000


def test_runs_are_spread_over_visible_gpus(monkeypatch: pytest.MonkeyPatch, small: Path, tmp_path: Path) -> None:
    """A run gets the visible GPU with the fewest runs."""
    devices: list[str] = []

    def start(command: list[str], log: Path, environment: dict[str, str]) -> SimpleNamespace:
        devices.append(environment["CUDA_VISIBLE_DEVICES"])
        return SimpleNamespace(poll=lambda: None)

    monkeypatch.setattr(local, "start_command", start)
    job = student(small, tmp_path / "store")
    for visible in (None, "3,5"):
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        else:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        executor = LocalExecutor(slots=3, gpus=2)
        for _ in range(3):
            executor.start(job)
    assert devices == ["0", "1", "0", "3", "5", "3"]
    with pytest.raises(InputError, match="0 runs at once"):
        LocalExecutor(slots=0)


def test_printed_commands_fill_the_table(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teachers, a blank line, then students; starting a student before its teacher is an error."""
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", str(small), "--seeds", "1", "--columns", "at", "--device", "cpu", "--commands"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert not printed.err
    (teacher,), (at,) = (level.splitlines() for level in printed.out.rstrip("\n").split("\n\n"))
    assert all(line.startswith("regard train ") for line in (teacher, at))
    monkeypatch.chdir("/")
    assert main(shlex.split(at)[1:]) == 2
    assert f"there is no run folder {tmp_path}/runs/teacher-seed0" in capsys.readouterr().err
    assert main(shlex.split(teacher)[1:]) == 0
    metrics = tmp_path / "runs/teacher-seed0/metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(lines[0])
    assert main(shlex.split(at)[1:]) == 2
    assert "teacher-seed0 has 1 of 2 epochs" in capsys.readouterr().err
    metrics.write_text("".join(lines))
    assert main(shlex.split(at)[1:]) == 0
    filled = fill(load_table(small), Store(tmp_path / "runs").runs())
    assert len(filled.cells["one", "at"].runs) == 1
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(command) == 0 and not capsys.readouterr().out


def test_runs_in_a_bucket_fill_a_table(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers are fetched from the bucket, and every run is uploaded."""
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    table = load_table(small)
    with bucket() as address:
        plan = make_plan(table, [], Overrides(), range(1), store=address, columns=["at"], where={"threads": 1})
        for job in plan.jobs:
            assert main(job.command[1:]) == 0
        runs = Store(address).runs()
        assert [run.name for run in runs] == ["at-seed0", "teacher-seed0"] and all(run.finished for run in runs)
        assert len(fill(table, runs).cells["one", "at"].runs) == 1
        assert main(plan.jobs[0].command[1:]) == 0  # finished


def test_a_run_that_lost_files_is_restored_with_its_settings(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings include one that differs from the recipe but computes the same."""
    job = student(small, tmp_path / "store")
    assert main([*job.command[1:], "--channels_last=false"]) == 0
    folder = tmp_path / "store" / job.name
    weights, metrics = (folder / "last.safetensors").read_bytes(), (folder / "metrics.jsonl").read_bytes()
    (folder / "last.safetensors").unlink()
    (folder / "metrics.jsonl").write_bytes(metrics[: len(metrics) // 2])
    assert main(job.command[1:]) == 2 and "channels_last was False" in capsys.readouterr().err
    again = student(small, tmp_path / "store")
    assert again.state == "begun" and main(again.command[1:]) == 0
    assert student(small, tmp_path / "store").state == "finished"
    assert (folder / "last.safetensors").read_bytes() == weights
    assert (folder / "metrics.jsonl").read_bytes() == metrics


def test_a_folder_that_is_not_a_run_is_an_error(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = student(small, tmp_path / "store")
    folder = tmp_path / "store" / job.name
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    assert main(job.command[1:]) == 2
    assert str(folder) in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("threads", "fit"), [(1, 8), (3, 2), (16, 1)])
def test_runs_share_the_processors(threads: int, fit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.host.processors", lambda: 8)
    monkeypatch.setattr("regard.host.available_memory", lambda: 64 * 2**30)
    assert reproduce._fitting(None, torch.device("cpu"), threads) == fit


@pytest.mark.parametrize(("device", "fit"), [("cuda", 6), ("cuda:1", 2)])
def test_runs_share_the_selected_gpus(device: str, fit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda gpu: (10 * 2**30, 16 * 2**30))
    cost = Cost(rates={"a": Rate(1.0, 3.0, "")})  # 3 GiB and 1 GiB of overhead: two runs fit into nine tenths of 10 GiB
    assert reproduce._fitting(cost, torch.device(device), 1) == fit


def test_a_dry_run_trains_nothing(small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", str(small), "--seeds", "3", "--dry-run", "--device", "cpu"]
    assert main([*command, "--runs", str(tmp_path / "store")]) == 0
    output, notes = capfd.readouterr()
    assert "runs: 9 (0 finished, 0 begun, 9 missing)" in notes and "steps timed now" in output
    saved = [line.split()[:3] for line in output.splitlines()]
    assert ["last", "seed", "2"] in saved and ["column", "at"] in [words[:2] for words in saved]
    assert main([*command, "--runs", str(tmp_path / "store"), "--json", "--quiet"]) == 0
    jobs = json.loads(capfd.readouterr().out)
    assert len(jobs) == 9 and all(job["state"] == "missing" and job["seconds"] > 0 for job in jobs)
    assert not Store(tmp_path / "store").runs()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--shorten", "2"], "expected a share in (0, 1]"),
        (["--rows", "two"], "unknown row of small 'two'"),
        (["--columns", "kd"], "has no column 'kd'"),
        (["--at-once", "0"], "--at-once is 0"),
        (["--gpus", "1"], "--gpus is for --engine ray"),
        (["--retries", "-1"], "--retries is -1"),
        (["--optimizer.lr", "1"], "--optimizer.lr"),
        (["--data.name", "folder"], "folder"),
    ],
)
def test_wrong_options_are_errors_before_any_run(
    small: Path, tmp_path: Path, options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", str(small), "--runs", str(tmp_path / "store"), "--device", "cpu", *options]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").glob("*/recipe.yaml"))
