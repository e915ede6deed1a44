"""Extensions of training: hooks, loss terms, and trackers that continue the same run when resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
import torch

import regard
from regard import InputError, data, training
from regard.cli import main
from regard.data import Batch
from regard.training import Run, load_recipe
from regard.training.loop import Loop

pytestmark = pytest.mark.slow

SMALL = [
    *("--model.name=wrn-10-0.5", "--schedule.batch_size=16", "--schedule.milestones=[]", "--device=cpu"),
    *("--threads=1", "--data.options={train: 32, test: 10}"),
]


@pytest.fixture
def splits() -> data.Splits:
    return data.load("clutter", train=32, test=10)


class Noise(training.Hook):
    """Adds noise to the images, less with every step."""

    def __init__(self) -> None:
        self.strength, self.calls = 0.1, []

    def before_step(self, loop: Loop, batch: Batch) -> Batch:
        return batch._replace(images=batch.images + self.strength * torch.randn_like(batch.images))

    def after_step(self, loop: Loop) -> None:
        self.strength *= 0.5
        self.calls.append(loop.steps_done)

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        self.calls.append(row["epoch"])

    def state_dict(self) -> dict[str, Any]:
        return {"strength": self.strength}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.strength = state["strength"]


def test_a_hook_changes_training_and_resumes_its_state(splits, tmp_path) -> None:
    def train(name: str, epochs: int, hook: training.Hook) -> Run:
        recipe = load_recipe(None, [*SMALL, f"--schedule.epochs={epochs}"])
        return training.train(recipe, tmp_path / name, splits=splits, resume=True, hooks=[hook]).run

    hook = Noise()
    whole = train("whole", 2, hook)
    assert hook.calls == [1, 2, 1, 3, 4, 2]
    assert train("plain", 2, training.Hook()).weights().read_bytes() != whole.weights().read_bytes()
    train("halves", 1, Noise())
    assert train("halves", 2, Noise()).weights().read_bytes() == whole.weights().read_bytes()
    with pytest.raises(InputError, match="has no state of the hook 'Noise'"):
        train("plain", 3, Noise())


class Shrink(training.Hook):
    """Shrinks the weights after every epoch, each time less; its state is empty before the first."""

    def __init__(self, first: float) -> None:
        self.first, self.state = first, {}

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        self.state["by"] = self.state.get("by", self.first) / 2
        for parameter in loop.model.parameters():
            parameter.data *= 1 - self.state["by"]

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def test_changes_of_hooks_after_an_epoch_are_in_its_checkpoint(splits, tmp_path) -> None:
    """Two hooks of one class start with an empty state."""

    def train(name: str, epochs: int) -> Run:
        recipe = load_recipe(None, [*SMALL, f"--schedule.epochs={epochs}"])
        hooks = [Shrink(0.1), Shrink(0.3)]
        return training.train(recipe, tmp_path / name, splits=splits, resume=True, hooks=hooks).run

    whole = train("whole", 3)
    train("parts", 1)
    assert train("parts", 3).weights().read_bytes() == whole.weights().read_bytes()


def test_upload_is_called_after_every_checkpoint(splits, tmp_path) -> None:
    def upload(folder: Path) -> None:
        shutil.copytree(folder, tmp_path / "elsewhere", dirs_exist_ok=True)
        uploads.append(len(Run(folder).metrics()))

    uploads: list[int] = []
    recipe = load_recipe(None, [*SMALL, "--schedule.epochs=2"])
    run = training.train(recipe, tmp_path / "run", splits=splits, hooks=[training.Upload(upload)]).run
    assert uploads == [1, 2]
    assert Run.open(tmp_path / "elsewhere").weights().read_bytes() == run.weights().read_bytes()


class Wandb(accelerate.tracking.GeneralTracker):
    """Replaces accelerate's tracker, which needs an account, and records its options."""

    name, requires_logging_directory = "wandb", False
    runs: list[dict[str, Any]] = []

    def __init__(self, project: str, **options: Any) -> None:
        self.runs.append(options)

    tracker = None

    def start(self) -> None: ...
    def store_init_configuration(self, values: dict[str, Any]) -> None: ...
    def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None: ...
    def finish(self) -> None: ...


def test_a_moved_run_keeps_its_tracker_id(splits, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("accelerate.utils.is_wandb_available", lambda: True)
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Wandb)
    monkeypatch.setattr(Wandb, "runs", [])

    def train(folder: str, epochs: int, **options: bool) -> None:
        recipe = load_recipe(None, [*SMALL, '--trackers=["wandb"]', f"--schedule.epochs={epochs}"])
        training.train(recipe, tmp_path / folder, splits=splits, **options)

    train("a/run", 1)
    shutil.move(tmp_path / "a" / "run", tmp_path / "moved")
    train("moved", 2, resume=True)
    train("a/run", 1)
    train("a/run", 1, overwrite=True)
    first, moved, another, overwritten = (options["id"] for options in Wandb.runs)
    assert first == moved and len({first, another, overwritten}) == 3


def test_a_deterministic_run_restores_the_settings_of_torch(splits, tmp_path) -> None:
    class Recorder(training.Hook):
        def after_step(self, loop: Loop) -> None:
            states.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic))

    for deterministic in (True, False):
        states: list[tuple[bool, bool]] = []
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, dict(os.environ)
        recipe = load_recipe(None, [*SMALL, "--schedule.epochs=1", f"--deterministic={deterministic}"])
        training.train(recipe, tmp_path / str(deterministic), splits=splits, hooks=[Recorder()])
        assert set(states) == {(deterministic, deterministic)}
        after = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, dict(os.environ)
        assert after == before


TERM = '''

@term()
def confidence(step: ForwardPass) -> Tensor:
    """The mean probability of the likeliest class."""
    return step.outputs.logits.softmax(1).amax(1).mean()
'''


def test_a_loss_term_is_a_function_and_a_recipe_field(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "--schedule.epochs=1", "--run=older"]) == 0

    package = shutil.copytree(Path(regard.__file__).parent, "copy/regard", ignore=shutil.ignore_patterns("*.pyc.*"))
    losses, recipe = Path(package, "transfer/losses.py"), Path(package, "training/recipe.py")
    losses.write_text(losses.read_text() + TERM)
    field = "    input_gradient: WeightValue = 0.0\n"
    recipe.write_text(recipe.read_text().replace(field, f"{field}    confidence: WeightValue = 0.0\n"))
    run = "from regard.cli import main; import sys; sys.exit(main(sys.argv[1:7]) or main(sys.argv[7:]))"
    resumed = ["train", "--run=older", "--resume", "--schedule.epochs=2", "--device=cpu", "--threads=1"]
    fresh = ["train", *SMALL, "--schedule.epochs=1", "--run=new", "--transfer.confidence=0.5"]
    process = subprocess.run(
        [sys.executable, "-c", run, *resumed, *fresh],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "copy")},
    )
    assert process.returncode == 0, process.stderr
    assert "resumed older at epoch 2" in process.stderr
    assert [row["epoch"] for row in Run.open("older").metrics()] == [1, 2]
    row = json.loads(Path("new/metrics.jsonl").read_text())
    assert 0.1 <= row["confidence"] <= 1
    assert row["loss"] == pytest.approx(row["task"] + 0.5 * row["confidence"], rel=1e-5)
    assert f"confidence {row['confidence']:.3g}" in process.stderr


def test_a_checkpoint_with_other_loss_terms_can_be_resumed(splits, tmp_path) -> None:
    recipe = load_recipe(None, [*SMALL, "--schedule.epochs=1", "--transfer.input_gradient=0.1"])
    run = training.train(recipe, tmp_path / "run", splits=splits).run
    (newest,) = run.checkpoints.iterdir()
    state = torch.load(newest, weights_only=True)
    del state["meter"]["input_gradient"]
    torch.save({**state, "meter": {**state["meter"], "gone": torch.zeros(2)}}, newest)
    recipe = load_recipe(None, [*SMALL, "--schedule.epochs=2", "--transfer.input_gradient=0.1"])
    row = training.train(recipe, tmp_path / "run", splits=splits, resume=True).run.metrics()[-1]
    assert row["input_gradient"] > 0 and row["loss"] > row["task"]
