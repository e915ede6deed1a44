"""Recipe fields of the loop: accumulation, averages, precision, clipping, trackers, extra checkpoints."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from regard import InputError, data, training
from regard.training import Run, load_recipe
from regard.training.datasets import dropped_images
from regard.training.hooks import WeightAverage
from regard.training.loop import Loop
from regard.transfer import Losses, Objective

pytestmark = pytest.mark.slow

SMALL = [
    *("--model.name=wrn-10-1", "--schedule.epochs=2", "--schedule.batch_size=32", "--schedule.milestones=[]"),
    *("--optimizer.lr=0.05", "--device=cpu", "--threads=1"),
]


def recipe(*options: str) -> training.Recipe:
    return load_recipe(None, [*SMALL, *options])


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    """96 training and 40 test images of clutter."""
    return data.Splits(*data.load("clutter", train=96, test=40))


@pytest.fixture(scope="module")
def plain(splits, tmp_path_factory) -> Run:
    return training.train(recipe(), tmp_path_factory.mktemp("plain") / "run", splits=splits).run


def trained(folder: Path, splits, *options: str) -> Run:
    return training.train(recipe(*options), folder / "run", splits=splits).run


def test_accumulated_micro_batches_match_the_whole_batch(splits, tmp_path) -> None:
    # Only with fixed norms: otherwise each micro-batch has its own mean and variance.
    options = ("--model.fixed_norms=true", "--schedule.epochs=1", "--optimizer.lr=0.01")
    whole = trained(tmp_path / "whole", splits, *options)
    parts = trained(tmp_path / "parts", splits, *options, "--schedule.accumulate=5")  # 32 images as 7 + 7 + 6 + 6 + 6
    for name, value in load_file(whole.weights()).items():
        torch.testing.assert_close(load_file(parts.weights())[name], value, rtol=1e-3, atol=2e-5)
    assert parts.metrics()[-1]["loss"] == pytest.approx(whole.metrics()[-1]["loss"], rel=1e-4)
    assert parts.metrics()[-1]["gradient_norm"] == pytest.approx(whole.metrics()[-1]["gradient_norm"], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "steps", "parts"),
    [
        ("--schedule.batch_size=12", 1, [12]),
        ("--schedule.batch_size=11", 2, [11, 2]),
        ("--schedule.batch_size=13 --schedule.accumulate=4", 1, [4, 3, 3, 3]),
        ("--schedule.batch_size=9 --schedule.accumulate=3", 2, [3, 3, 3, 2, 2]),
        ("--schedule.batch_size=13 --schedule.accumulate=13", 1, [3, 2, 2, 2, 2, 2]),
        ("--schedule.batch_size=1 --model.attention=null", 13, [1] * 13),
        ("--schedule.batch_size=1 --model.fixed_norms=true", 13, [1] * 13),
        ("--schedule.batch_size=1", 0, []),
    ],
)
def test_norms_that_cannot_take_one_image_get_two(options, steps, parts, splits, tmp_path, monkeypatch) -> None:
    """SRM has a batch norm over features of one pixel."""
    subset, sizes, forward = data.Splits(splits.train.subset(13), splits.test.subset(2)), [], Objective.forward

    def recorded_forward(objective: Objective, images: torch.Tensor, *rest: Any) -> Losses:
        sizes.append(len(images))
        return forward(objective, images, *rest)

    monkeypatch.setattr(Objective, "forward", recorded_forward)
    options = ["--model.name=wrn-10-0.5", "--model.attention=srm", "--schedule.epochs=1", *options.split()]
    if not steps:
        single = data.Splits(splits.train.subset(1), splits.test.subset(2))
        for images, batch in ((subset, 1), (single, 12)):
            with pytest.raises(InputError, match=r"a process had one; give .*schedule.batch_size"):
                trained(tmp_path, images, *options, f"--schedule.batch_size={batch}")
        assert not list(tmp_path.iterdir())
        return
    run = trained(tmp_path, subset, *options)
    assert sizes == parts and (run.checkpoints / f"step-{steps:09}.pt").is_file()


@pytest.mark.parametrize(
    ("images", "batch_size", "processes", "dropped"),
    [(13, 12, 1, 1), (14, 12, 1, 0), (13, 1, 1, 0), (15, 12, 2, 3), (16, 12, 2, 0), (13, 2, 2, 1), (14, 3, 2, 0)],
)
def test_a_last_batch_too_small_to_share_is_dropped(images, batch_size, processes, dropped) -> None:
    assert dropped_images(images, batch_size, processes) == dropped


def test_the_moving_average_is_tested_and_saved(splits, plain, tmp_path) -> None:
    run = trained(tmp_path, splits, "--ema=0.5")
    averaged = load_file(run.weights())
    state = torch.load(sorted(run.checkpoints.iterdir())[-1], weights_only=True)
    learned = load_file(plain.weights())  # averaging does not change the training
    assert all(torch.equal(value, learned[name]) for name, value in state["model"].items())
    assert all(torch.equal(value, averaged[name]) for name, value in state["hooks"]["WeightAverage"].items())
    assert any(not torch.equal(value, learned[name]) for name, value in averaged.items())
    score = training.evaluate(run.model(), data.create_loader(splits.test, 7))
    assert score.accuracy == pytest.approx(run.metrics()[-1]["test_accuracy"])


def test_the_moving_average_follows_its_formula() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    values = [1.0, 2.0, 4.0, 8.0]
    expected = network.weight.item()
    average, loop = WeightAverage(0.4), SimpleNamespace(model=network)
    average.setup(loop)
    for step, value in enumerate(values):
        with torch.no_grad():
            network.weight.fill_(value)
        loop.steps_done = step + 1
        average.after_step(loop)
        decay = 0.0 if step == 0 else min(0.4, 1 - (1 + step) ** (-2 / 3))
        expected = decay * expected + (1 - decay) * value
        assert loop.tested.weight.item() == pytest.approx(expected)


def test_clipping_limits_the_update(splits, plain, tmp_path) -> None:
    run = trained(tmp_path, splits, "--optimizer.clip=0.01")
    before, after = plain.metrics()[0], run.metrics()[0]
    assert before["gradient_norm"] > 0.1
    assert after["gradient_norm"] > 0.1  # the recorded norm is the one before clipping
    start = training.make_model(recipe(), 10)
    torch.manual_seed(0)
    start = training.make_model(recipe(), 10)
    unclipped, clipped = (
        math.sqrt(sum((load_file(r.weights())[n] - p.detach()).square().sum() for n, p in start.named_parameters()))
        for r in (plain, run)
    )
    assert clipped < unclipped / 5


def test_bfloat16_learns_almost_the_same(splits, plain, tmp_path) -> None:
    run = trained(tmp_path, splits, "--precision=bfloat16")
    mixed, full = run.metrics()[0], plain.metrics()[0]
    assert mixed["loss"] != full["loss"] and mixed["loss"] == pytest.approx(full["loss"], rel=0.05)
    assert all(value.dtype != torch.bfloat16 for value in load_file(run.weights()).values())


def test_half_precision_needs_a_gpu(splits, tmp_path) -> None:
    with pytest.raises(InputError, match="float16 needs a GPU"):
        trained(tmp_path, splits, "--precision=float16")


def test_the_loss_scale_falls_if_gradients_overflow(splits, plain, tmp_path, monkeypatch) -> None:
    prepare, clip = Accelerator.prepare_optimizer, Loop.clip

    def scaled(self, optimizer):  # as with float16, which needs a GPU
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        return prepare(self, optimizer)

    def overflowing(self):
        if self.steps_done in (0, 1):
            self.parameters[0].grad.fill_(math.inf)
        return clip(self)

    monkeypatch.setattr(Accelerator, "prepare_optimizer", scaled)
    run = trained(tmp_path / "sound", splits)
    assert run.metrics()[-1]["loss"] == pytest.approx(plain.metrics()[-1]["loss"], rel=1e-4)
    assert run.metrics()[-1]["gradient_norm"] == pytest.approx(plain.metrics()[-1]["gradient_norm"], rel=1e-3)

    monkeypatch.setattr(Loop, "clip", overflowing)
    run = trained(tmp_path / "overflowing", splits, "--nonfinite=skip")
    assert [row["skipped_steps"] for row in run.metrics()] == [2, 0]
    state = torch.load(sorted(run.checkpoints.iterdir())[-1], weights_only=True)
    assert state["scaler"]["scale"] == 2.0**14
    assert all(value.isfinite().all() for value in load_file(run.weights()).values())


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_other_optimizers_resume_bit_for_bit(name, splits, tmp_path) -> None:
    options = (f"--optimizer.name={name}", "--optimizer.lr=0.003", "--ema=0.9", "--schedule.shape=cosine")
    whole = trained(tmp_path / "whole", splits, *options)
    stopped = StopAfterAnEpoch()
    outcome = training.train(recipe(*options), tmp_path / "other", splits=splits, hooks=[stopped])
    assert not outcome.finished
    resumed = training.train(recipe(*options), tmp_path / "other", splits=splits, resume=True)
    assert resumed.finished and resumed.run.weights().read_bytes() == whole.weights().read_bytes()


class StopAfterAnEpoch(training.Hook):
    def after_epoch(self, loop, row) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)


def test_save_minutes_adds_checkpoints_within_an_epoch(splits, tmp_path, monkeypatch) -> None:
    saved = []
    monkeypatch.setattr("regard.training.loop.save_checkpoint", lambda loop, _: saved.append((loop.epoch, loop.step)))
    monkeypatch.setattr("regard.training.loop._CHECK_SECONDS", 0.0)
    trained(tmp_path, splits, "--save_minutes=1e-9")
    assert saved == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_dropout_depends_only_on_seed_and_step(splits, tmp_path) -> None:
    options = ("--model.name=resnet10t", "--model.options={drop_rate: 0.5}", "--schedule.epochs=2")
    whole = trained(tmp_path / "whole", splits, *options)
    training.train(recipe(*options), tmp_path / "other", splits=splits, hooks=[StopAfterAnEpoch()])
    torch.rand(3)
    resumed = training.train(recipe(*options), tmp_path / "other", splits=splits, resume=True).run
    assert resumed.weights().read_bytes() == whole.weights().read_bytes()


def test_metrics_go_to_tensorboard(splits, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trained(tmp_path, splits, '--trackers=["tensorboard"]')
    accumulator = EventAccumulator(str(run.folder / "tensorboard"))
    accumulator.Reload()
    events = accumulator.Scalars("test_accuracy")
    assert [event.step for event in events] == [3, 6]
    assert [event.value for event in events] == pytest.approx([row["test_accuracy"] for row in run.metrics()])


def test_a_tracker_that_is_not_installed_is_named_before_training(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("accelerate.utils.is_wandb_available", lambda: False)
    with pytest.raises(InputError, match="wandb, which is not installed"):
        training.train(recipe('--trackers=["wandb"]'), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["cross_entropy", "binary_cross_entropy"])
def test_training_with_mixup_and_cutmix_lowers_the_loss(task, splits, tmp_path) -> None:
    run = trained(
        tmp_path,
        splits,
        "--augmentation.mixup=0.2",
        "--augmentation.cutmix=1",
        f"--task={task}",
        "--label_smoothing=0.1",
    )
    rows = run.metrics()
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_channels_last_changes_the_loss_only_by_rounding(splits, plain, tmp_path) -> None:
    run = trained(tmp_path, splits, "--channels_last=false")
    assert run.metrics()[0]["loss"] == pytest.approx(plain.metrics()[0]["loss"], rel=1e-3)


def test_commit_returns_the_head_of_a_checkout(tmp_path, monkeypatch) -> None:
    import regard
    from regard.training.run import commit

    source = tmp_path / "src" / "regard" / "__init__.py"
    source.parent.mkdir(parents=True)
    monkeypatch.setattr(regard, "__file__", str(source))

    def git(*arguments: str) -> str:
        author = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", "-C", tmp_path, *author, *arguments], capture_output=True, text=True).stdout

    head = commit.__wrapped__
    assert head() is None  # installed as a package
    (tmp_path / "pyproject.toml").touch()
    assert head() is None  # unpacked from an archive
    git("init")
    assert head() is None
    git("commit", "--allow-empty", "-m", "first")
    assert head() == git("rev-parse", "HEAD").strip() != ""
