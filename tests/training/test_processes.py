"""Runs with two processes: the same results as with one, and what one does when the other stops or dies."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from support.commands import ended, start, wait_for
from support.gate import Gate
from support.scenes import write_scenes
from timm.layers import BatchNormAct2d
from torch import nn

from regard import data
from regard.cli import main
from regard.launcher import first_node, rank_and_size, step_port
from regard.models.norms import sync_norms
from regard.training import Run, evaluate

pytestmark = pytest.mark.slow

SMALL = [
    *("train", "--model.name=wrn-10-1", "--schedule.batch_size=28", "--optimizer.lr=0.02", "--device=cpu"),
    *("--threads=1", "--schedule.milestones=[]"),
]


def test_one_and_two_processes_give_the_same_metrics_and_weights(tmp_path) -> None:
    # 96 images in batches of 28: the last has 12; 41 test images, of which one process has 21
    options = [*SMALL, "--data.options={train: 96, test: 41}", "--schedule.epochs=2", "--sync_norms=true"]
    options += ["--augmentation.mixup=0.2", "--augmentation.cutmix=1", "--optimizer.clip=1", "--ema=0.9"]
    options += ["--schedule.accumulate=2", "--model.fixed_norms=true"]  # each micro-batch has its own batch statistics
    for count in (1, 2):
        for status, _, errors in ended(start([*options, f"--run={tmp_path / str(count)}"], count)):
            assert status == 0, errors
    single_run, double_run = (Run.open(tmp_path / name) for name in ("1", "2"))
    for single_row, double_row in zip(single_run.metrics(), double_run.metrics(), strict=True):
        assert single_row["test_images"] == double_row["test_images"] == 41
        for name in ("loss", "accuracy", "gradient_norm", "test_loss", "test_accuracy", "lr"):
            assert single_row[name] == pytest.approx(double_row[name], rel=1e-4), name
    assert_near(load_file(single_run.weights()), load_file(double_run.weights()), 1e-5)


def test_synchronised_norms_give_the_same_weights_with_two_processes(tmp_path) -> None:
    options = [*SMALL, "--data.options={train: 84, test: 20}", "--schedule.epochs=1", "--sync_norms=true"]
    options += ["--guidance.weight=1", "--guidance.share=0.4"]  # each process has regions for other images of a batch
    for count in (1, 2):
        for status, _, errors in ended(start([*options, f"--run={tmp_path / str(count)}"], count)):
            assert status == 0, errors
    assert_near(*(load_file(Run.open(tmp_path / name).weights()) for name in ("1", "2")), 1e-4)


def test_one_and_two_processes_give_the_same_detector(tmp_path) -> None:
    scenes = write_scenes(tmp_path / "scenes")
    options = ["train", "--data.name=coco", f"--data.folder={scenes}", "--data.size=64", "--data.workers=0"]
    options += ["--model.name=cifar-resnet11", "--model.detector=retinanet", "--device=cpu", "--threads=1"]
    options += ["--model.detector_options={strides: [4], channels: 8, norm: statistics, score_thresh: 0}"]
    options += ["--schedule.epochs=2", "--schedule.batch_size=2", "--optimizer.lr=0.01", "--schedule.milestones=[]"]
    for count in (1, 2):
        for status, _, errors in ended(start([*options, f"--run={tmp_path / str(count)}"], count)):
            assert status == 0, errors
    single_run, double_run = (Run.open(tmp_path / name) for name in ("1", "2"))
    for single_row, double_row in zip(single_run.metrics(), double_run.metrics(), strict=True):
        for name in ("loss", "classification", "bbox_regression"):
            assert single_row[name] == pytest.approx(double_row[name], rel=1e-4), name
    assert_near(load_file(single_run.weights()), load_file(double_run.weights()), 1e-5)
    evaluate = ["detect", "evaluate", str(single_run.folder), "--json", "--quiet", "--workers=0", "--device=cpu"]
    single, first, second = (output for count in (1, 2) for _, output, _ in ended(start(evaluate, count)))
    assert json.loads(first) == json.loads(single) and not second
    assert json.loads(single)["results"][0]["AP"] == single_run.metrics()[-1]["test_box_ap"]


# Replaces the download: records the rank that calls it, and writes weights after a while.
DOWNLOAD = """
import os, time, torch

def download(url, path, *_, **__):
    from regard import models
    with open("downloads", "a") as file:
        print(os.environ["RANK"], file=file)
    time.sleep(1)
    torch.save(models.create("torchvision/squeezenet1_1", 1000).state_dict(), path)

torch.hub.download_url_to_file = download
"""


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_one_process_downloads_published_weights(command, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = "torchvision/squeezenet1_1"
    teacher = [f"--transfer.teacher={network}", "--transfer.beta=1", "--transfer.layers=[[0, 0]]"]
    options = [*SMALL, "--data.options={train: 28, test: 20}", "--schedule.epochs=1", "--run=run", *teacher]
    if command == "evaluate":
        options = ["evaluate", network, "--data=folder:images", "--device=cpu", "--workers=0"]
        for name in ("tench", "goldfish"):
            Path("images", name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(Path("images", name, "0.png"))
    for status, _, errors in ended(start(options, 2, DOWNLOAD)):
        assert status == 0, errors
    assert Path("downloads").read_text().split() == ["0"]


def assert_near(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], bound: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        torch.testing.assert_close(
            expected[name], value, rtol=bound, atol=bound, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_two_processes_stopped_and_killed_resume_exactly(tmp_path) -> None:
    # SRM has norms that cannot take a single image, which one process would get of the last 3 of 87.
    options = [*SMALL, "--data.options={train: 87, test: 40}", "--schedule.epochs=3", "--model.attention=srm"]
    whole, other = tmp_path / "whole", tmp_path / "other"
    for status, _, errors in ended(start([*options, f"--run={whole}"], 2)):
        assert status == 0, errors
    assert (whole / "checkpoints" / "step-000000009.pt").is_file()
    gate = Gate(tmp_path / "gate")

    # Stopped: the signal reaches one process; both save and end, and can be resumed.
    processes = start([*options, f"--run={other}", "--resume"], 2, gate.code)
    wait_for(lambda: all(gate.holds(process.pid) for process in processes), processes)
    processes[1].send_signal(signal.SIGTERM)
    gate.open()
    outcomes = ended(processes)
    assert [status for status, _, _ in outcomes] == [75, 75], outcomes
    assert "stopped and saved" in outcomes[0][2]
    assert max((other / "checkpoints").iterdir()).name == "step-000000004.pt"
    gate.close()

    # Killed: the other process soon ends and names the reason.
    processes = start([*options, f"--run={other}", "--resume"], 2, gate.code)
    wait_for(lambda: all(gate.holds(process.pid) for process in processes), processes)
    processes[0].kill()
    gate.open()
    outcomes = ended(processes)
    assert outcomes[1][0] == 75 and "cannot reach the others" in outcomes[1][2], outcomes

    for status, _, errors in ended(start([*options, f"--run={other}", "--resume"], 2)):
        assert status == 0, errors
    assert (whole / "last.safetensors").read_bytes() == (other / "last.safetensors").read_bytes()

    # Each process normalised its own images; both tested the weights that were saved.
    _, test = data.load("clutter", train=87, test=40)
    run = Run.open(other)
    score = evaluate(run.model(), data.create_loader(test, 40, mean=run.recipe.data.mean, std=run.recipe.data.std))
    assert score.accuracy == run.metrics()[-1]["test_accuracy"]
    assert score.loss == pytest.approx(run.metrics()[-1]["test_loss"], rel=1e-5)

    # An error in one process ends all, and is printed once.
    outcomes = ended(start([*options, f"--run={other}"], 2))
    assert [status for status, _, _ in outcomes] == [2, 2]
    assert "exists already" in outcomes[0][2] and not outcomes[1][2].count("regard:"), outcomes


@pytest.fixture
def process_group(tmp_path):
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_synchronised_norms_match_batch_norms(kind, process_group) -> None:
    torch.manual_seed(0)
    norm = kind(5).double()
    nn.init.normal_(norm.weight)
    synced = sync_norms(nn.Sequential(kind(5).double()), torch.device("cpu"))
    synced[0].load_state_dict(norm.state_dict())
    actual, expected = (
        torch.randn(6, 5, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in "ab"
    )
    weights = torch.randn_like(actual)
    for model, features in ((synced, actual), (norm, expected)):
        features.requires_grad_()
        (model(features) * weights).sum().backward()
    torch.testing.assert_close(actual.grad, expected.grad)
    for (name, one), (_, two) in zip(norm.named_parameters(), synced[0].named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=name)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(synced[0].state_dict()[name], value, msg=name)
    torch.testing.assert_close(synced.eval()(actual), norm.eval()(actual))
    synced, features = synced.float().train(), actual.bfloat16()  # as under autocast
    mean = 0.9 * synced[0].running_mean + 0.1 * features.float().mean((0, 2, 3))
    assert synced(features).dtype == torch.bfloat16
    torch.testing.assert_close(synced[0].running_mean, mean)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("node1,node2", "node1"),
        ("a-b-3", "a-b-3"),
        ("rack[1,3]-n[01-04]", "rack1-n01"),
    ],
)
def test_first_node_expands_slurm_node_lists(nodes, first) -> None:
    assert first_node(nodes) == first


def test_slurm_variables_are_used_unless_another_launcher_set_its_own(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "isatty", lambda _: True)
    slurm = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "70123", "SLURM_STEP_NODELIST": "n[3-4]"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert rank_and_size() == (0, 1) and "RANK" not in os.environ  # a step with one task
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2)")
    assert rank_and_size() == (0, 1) and "RANK" not in os.environ  # an interactive shell
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert rank_and_size() == (5, 8)
    environment = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    assert environment == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert os.environ["MASTER_ADDR"] == "n3" and os.environ["MASTER_PORT"] == str(step_port(70123, 0))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("SLURM_PROCID", "6")
    assert rank_and_size() == (0, 8)


def test_concurrent_slurm_steps_use_different_ports() -> None:
    ports = [step_port(job, step) for job in range(70123, 70173) for step in range(280)]
    assert len(set(ports)) == len(ports) and min(ports) >= 10000 and max(ports) < 32768


@pytest.mark.parametrize("command", ["gates", "groups", "explain", "report", "demo"])
def test_single_process_commands_refuse_several_processes(command, monkeypatch, capsys, tmp_path) -> None:
    """Each process would write the same files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main([command]) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == lines and all(f"regard {command}" in line and "2 were started" in line for line in error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID", "RANK"])
def test_non_numeric_launcher_variables_are_named(name, monkeypatch, capsys) -> None:
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setattr(os, "isatty", lambda _: False)
    for variable, value in {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", name: "x"}.items():
        monkeypatch.setenv(variable, value)
    assert main(["runs"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and name in error[0] and "'x'" in error[0]
