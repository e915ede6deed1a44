"""Runs: the files they write, how they resume after a stop or kill, and what stops them."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.commands import ended, start, wait_for
from support.gate import Gate

from regard import InputError, data, models, training
from regard.training import Run, load_recipe
from regard.training.loop import Loop
from regard.training.sources import load_teachers
from regard.transfer import TERMS

pytestmark = pytest.mark.slow

SMALL = [
    "--model.name=wrn-10-1",
    "--schedule.epochs=3",
    "--schedule.batch_size=32",
    "--schedule.milestones=[1]",
    "--device=cpu",
    "--threads=1",
]


def recipe(*options: str) -> training.Recipe:
    return load_recipe(None, [*SMALL, *options])


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    """96 training and 40 test images of clutter."""
    train, test = data.load("clutter", train=96, test=40)
    return data.Splits(train, test)


@pytest.fixture(scope="module")
def teacher(splits, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    training.train(recipe("--model.name=wrn-10-2", "--schedule.epochs=1"), folder, splits=splits)
    return folder


def test_a_run_writes_all_its_files(splits, tmp_path) -> None:
    outcome = training.train(recipe(), tmp_path / "run", splits=splits)
    run = Run.open(tmp_path / "run")
    assert outcome.finished and outcome.run == run
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "best.safetensors",
        "checkpoints",
        "environment.json",
        "last.safetensors",
        "metrics.jsonl",
        "recipe.yaml",
    ]
    rows = run.metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.02, 0.02])
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert run.classes == tuple("0123456789")
    assert run.recipe.data.mean == pytest.approx(splits.train.mean)
    score = training.evaluate(run.model(), data.create_loader(splits.test, 7))
    assert score.accuracy == pytest.approx(rows[-1]["test_accuracy"])
    assert score.loss == pytest.approx(rows[-1]["test_loss"], rel=1e-5)
    assert len(list(run.checkpoints.iterdir())) == 2
    best = max(row["test_accuracy"] for row in rows)
    assert training.evaluate(run.model("best"), data.create_loader(splits.test, 40)).accuracy == pytest.approx(best)


def test_weights_depend_only_on_recipe_and_seed(splits, tmp_path) -> None:
    first, repeated, other_seed = (
        training.train(recipe("--schedule.epochs=1", f"--seed={seed}"), tmp_path / name, splits=splits).run
        for name, seed in (("one", 3), ("two", 3), ("three", 4))
    )
    assert first.weights().read_bytes() == repeated.weights().read_bytes()
    assert first.weights().read_bytes() != other_seed.weights().read_bytes()


COMMAND = ["train", *SMALL, "--data.options={train: 256, test: 40}"]


def run(arguments: list[str]) -> tuple[int, str, str]:
    """The status, output and errors of a command in its own process."""
    (outcome,) = ended(start(arguments))
    return outcome


def test_threads_may_share_a_batch_unevenly(tmp_path) -> None:
    """Batches of 4 and 3 images on two threads, which break memory in torch 2.14.1 if features are channels last."""
    options = ["--model.name=wrn-10-0.5", "--data.options={train: 7, test: 4}", "--schedule.batch_size=4"]
    options += ["--schedule.epochs=3", "--schedule.milestones=[]", "--threads=2", f"--run={tmp_path / 'run'}"]
    assert run(["train", *options])[0] == 0


def test_a_run_killed_at_a_random_moment_resumes_exactly(tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run([*COMMAND, f"--run={whole}"])[0] == 0
    generator = random.Random(os.environ.get("REGARD_TEST_SEED", "moments"))
    (command,) = start([*COMMAND, f"--run={killed}", "--resume"])
    wait_for(lambda: epochs_of(killed) >= 1, [command])
    time.sleep(generator.uniform(0, 0.2))  # at some step within an epoch
    command.kill()
    assert command.end()[0] == -signal.SIGKILL
    status, _, errors = run([*COMMAND, f"--run={killed}", "--resume"])
    assert status == 0, errors
    for name in ("last.safetensors", "best.safetensors"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    assert untimed(whole) == untimed(killed)


def epochs_of(folder: Path) -> int:
    return len(Run(folder).metrics()) if (folder / "recipe.yaml").exists() else 0


def untimed(folder: Path) -> list[dict]:
    timed = ("images_per_second", "waiting", "peak_memory")
    return [{k: v for k, v in row.items() if k not in timed} for row in Run(folder).metrics()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_within_the_epoch_and_resumes(number, splits, tmp_path) -> None:
    plan = recipe("--schedule.epochs=2", "--schedule.batch_size=8")
    whole = training.train(plan, tmp_path / "whole", splits=splits).run
    stopper = StopAt(4, number)
    outcome = training.train(plan, tmp_path / "stopped", splits=splits, hooks=[stopper])
    assert not outcome.finished and outcome.row is None
    (checkpoint,) = outcome.run.checkpoints.iterdir()
    assert checkpoint.stem == "step-000000004"
    resumed = training.train(plan, tmp_path / "stopped", splits=splits, resume=True)
    assert resumed.finished
    assert whole.weights().read_bytes() == resumed.run.weights().read_bytes()
    assert untimed(whole.folder) == untimed(resumed.run.folder)


class Notes(training.Hook):
    """Records the messages for the user."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


class StopAt(training.Hook):
    """Sends a signal after a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def after_step(self, loop: Loop) -> None:
        if loop.steps_done == self.step:
            os.kill(os.getpid(), self.number)


def test_a_stopped_command_prints_how_to_resume(tmp_path) -> None:
    gate = Gate(tmp_path / "gate")
    (command,) = start([*COMMAND, f"--run={tmp_path / 'run'}"], before=gate.code)
    wait_for(lambda: gate.holds(command.pid), [command])
    command.send_signal(signal.SIGTERM)
    status, _, errors = command.end()
    assert status == 75
    assert "--resume` continues" in errors
    assert "epoch 1/3" in errors


def test_a_broken_checkpoint_falls_back_to_the_previous_one(splits, tmp_path) -> None:
    plan = recipe()
    run = training.train(plan, tmp_path / "run", splits=splits).run
    expected = run.weights().read_bytes()
    newest = max(run.checkpoints.iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    notes = Notes()
    training.train(plan, run.folder, splits=splits, resume=True, hooks=[notes])
    assert any("truncated" in line and "the previous checkpoint" in line for line in notes.lines)
    assert run.weights().read_bytes() == expected
    for path in run.checkpoints.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of the 2 checkpoints"):
        training.train(plan, run.folder, splits=splits, resume=True)
    assert run.weights().read_bytes() == expected


def test_a_nan_loss_stops_the_run_and_keeps_the_checkpoint(splits, tmp_path) -> None:
    plan = recipe("--schedule.milestones=[1, 1, 1]", "--schedule.factor=1e9")
    with pytest.raises(
        InputError, match=r"is NaN or infinite in epoch 2, step [23], at learning rate 1e\+26"
    ) as caught:
        training.train(plan, tmp_path / "run", splits=splits)
    assert "\n" not in str(caught.value)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    state = torch.load(checkpoint, weights_only=True)
    assert state["epoch"] == 1
    assert all(value.isfinite().all() for value in state["model"].values())


def test_transfer_lowers_attention_and_distillation_losses(splits, teacher, tmp_path) -> None:
    plan = recipe(f"--transfer.teacher={teacher}", "--transfer.beta=1000", "--transfer.alpha=0.5")
    before = (teacher / "last.safetensors").read_bytes()
    rows = training.train(plan, tmp_path / "run", splits=splits).run.metrics()
    assert rows[-1]["attention"] < rows[0]["attention"]
    assert rows[-1]["distillation"] < rows[0]["distillation"]
    assert (teacher / "last.safetensors").read_bytes() == before


ALL_TERMS = (
    "--transfer.beta={start: 1000, end: 0}",
    "--transfer.alpha={start: 0.9, end: 0.5, shape: cosine}",
    "--transfer.full_activation=0.1",
    "--transfer.gradient=0.1",
    "--transfer.symmetry=0.1",
    "--transfer.input_gradient=0.1",
    "--transfer.layers=[[0, group0], [group2, -1]]",
    "--guidance.weight={start: 0, end: 1, until: 0.5}",
    "--guidance.share=0.5",
    "--guidance.dilate=1",
)


def test_all_transfer_terms_resume_to_the_same_weights(splits, teacher, tmp_path) -> None:
    """Scheduled loss weights and the convolutions trained with the student resume their state."""
    splits = data.Splits(splits.train.subset(list(range(48))), splits.test)
    teachers = f"--transfer.teacher=[{teacher}, {teacher}]"
    plan = recipe(teachers, *ALL_TERMS, "--schedule.epochs=2", "--schedule.batch_size=16")
    whole = training.train(plan, tmp_path / "whole", splits=splits).run
    row = whole.metrics()[-1]
    assert all(row[term] > 0 for term in TERMS)
    stopped = training.train(plan, tmp_path / "stopped", splits=splits, hooks=[StopAt(1, signal.SIGINT)])
    assert not stopped.finished
    resumed = training.train(plan, tmp_path / "stopped", splits=splits, resume=True)
    assert whole.weights().read_bytes() == resumed.run.weights().read_bytes()
    assert untimed(whole.folder) == untimed(resumed.run.folder)


def test_scheduled_loss_weights_decay_over_the_run(splits, teacher, tmp_path) -> None:
    """total = task + beta(progress) attention, with beta falling linearly from 1000 at the first step."""
    plan = recipe(f"--transfer.teacher={teacher}", "--transfer.beta={start: 1000, end: 0}", "--schedule.batch_size=96")
    rows = training.train(plan, tmp_path / "run", splits=splits).run.metrics()
    for done, row in enumerate(rows):  # one step per epoch, three epochs
        assert row["loss"] == pytest.approx(row["task"] + 1000 * (1 - done / 3) * row["attention"], rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_teachers_get_images_in_their_own_normalisation(precision, splits, teacher) -> None:
    """A teacher trained with another mean gets images normalised with it, in any precision."""
    options = [f"--transfer.teacher={teacher}", "--transfer.beta=1", f"--transfer.precision={precision}"]
    transfer = recipe(*options).transfer
    messages: list[str] = []
    other = replace(splits.train, mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4))
    device = torch.device("cpu")
    (loaded,) = load_teachers(transfer, other, (32, 32), device, messages.append)
    assert len(messages) == 1 and "own mean" in messages[0]
    raw = splits.train.images[:4] / 255

    def normalised(images: data.InMemoryDataset) -> torch.Tensor:
        return (raw - torch.tensor(images.mean)[:, None, None]) / torch.tensor(images.std)[:, None, None]

    torch.testing.assert_close(loaded.images(normalised(other)), normalised(splits.train))
    assert loaded.dtype() == (torch.bfloat16 if precision == "bfloat16" else None) and loaded.fold
    messages.clear()
    (same,) = load_teachers(transfer, splits.train, (32, 32), device, messages.append)
    assert not messages and same.images(raw) is raw


def test_a_saved_model_folder_can_be_a_teacher(splits, teacher, tmp_path) -> None:
    network, (mean, std) = Run.open(teacher).model(), (splits.train.mean, splits.train.std)
    folder = models.save_pretrained(network, tmp_path / "model", preprocessing={"mean": mean, "std": std})
    plan = recipe(f"--transfer.teacher={folder}", "--transfer.beta=1").transfer
    notes: list[str] = []
    (loaded,) = load_teachers(plan, splits.train, (32, 32), torch.device("cpu"), notes.append)
    assert not notes and models.fingerprint(loaded.model) == models.fingerprint(network)


def test_invalid_input_is_refused_early_and_changes_nothing(splits, teacher, tmp_path) -> None:
    existing = tmp_path / "kept"
    training.train(recipe("--schedule.epochs=1"), existing, splits=splits)
    before = {p.name: p.read_bytes() for p in existing.iterdir() if p.is_file()}
    fewer = data.Splits(*(replace(s, classes=s.classes[:5], labels=s.labels % 5) for s in splits))
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    truncated = tmp_path / "cut"
    truncated.mkdir()
    for path in teacher.iterdir():
        if path.is_file():
            (truncated / path.name).write_bytes(path.read_bytes())
    (truncated / "last.safetensors").write_bytes((truncated / "last.safetensors").read_bytes()[:999])
    for options, settings, expected in (
        ([], {}, "exists already"),
        ([], {"folder": other, "overwrite": True}, "is no run"),
        (["--transfer.teacher=none", "--transfer.beta=1"], {"overwrite": True}, "timm has no network of that name"),
        ([f"--transfer.teacher={other}", "--transfer.beta=1"], {"overwrite": True}, "has no recipe.yaml"),
        ([f"--transfer.teacher={truncated}", "--transfer.beta=1"], {"overwrite": True}, "cut short"),
        (
            [f"--transfer.teacher={teacher}", "--transfer.alpha=1"],
            {"overwrite": True, "splits": fewer},
            "10 classes and the data 5",
        ),
        (["--model.name=wrn-11-1"], {"overwrite": True}, "6 n + 4"),
        (["--model.attention=shuffle"], {"overwrite": True}, "groups that fit"),
        (["--device=cuda:7"], {"overwrite": True}, "not available"),
        (["--optimizer.lr=0.5"], {"resume": True}, "optimizer.lr was 0.1 and is 0.5"),
    ):
        with pytest.raises(InputError) as caught:
            training.train(recipe(*options), settings.pop("folder", existing), **{"splits": splits, **settings})
        assert expected in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)
        assert {p.name: p.read_bytes() for p in existing.iterdir() if p.is_file()} == before
    assert (other / "thesis.txt").read_text() == "years of work"


def test_attention_transfer_works_with_a_teacher_of_other_classes(splits, teacher, tmp_path) -> None:
    fewer = data.Splits(*(replace(s, classes=s.classes[:5], labels=s.labels % 5) for s in splits))
    notes = Notes()
    plan = recipe(f"--transfer.teacher={teacher}", "--transfer.beta=1", "--schedule.epochs=1")
    assert training.train(plan, tmp_path / "run", splits=fewer, hooks=[notes]).finished
    assert any("only its attention is used" in line for line in notes.lines)


def test_truncated_metrics_are_read_up_to_the_last_full_line(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"epoch": 1}) + '\n{"epoch": 2, "lo')
    assert Run(tmp_path).metrics() == [{"epoch": 1}]


def test_evaluate_refuses_labels_beyond_the_outputs(splits) -> None:
    with pytest.raises(InputError, match="labels run from 0 to 9; expected 0 to 4"):
        training.evaluate(models.create("wrn-10-0.5", 5), data.create_loader(splits.test, 40))
