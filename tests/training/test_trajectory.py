"""The first steps of the published LSAS code, taken by the training loop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from regard import attention, models, training
from regard.data import Batch
from regard.training.loop import Loop
from regard.transfer import Objective

pytestmark = pytest.mark.slow


class Golden:
    """The recorded batches, with the interface of a loader."""

    images = SimpleNamespace(classes=tuple("0123456789"))

    def __init__(self, goldens) -> None:
        self.goldens = goldens

    def __len__(self) -> int:
        return 6

    def epoch(self, number: int, start: int = 0):
        labels = torch.arange(16) % 10
        for step in range(start, 6):
            yield Batch(self.goldens.inputs(f"trajectory.{step}", [16, 3, 32, 32]), labels, labels, 16)


def test_the_training_loop_follows_the_published_trajectory(goldens, relative_error, tmp_path) -> None:
    model = models.create(
        "cifar-resnet11", attention="se", gate=attention.SubAttention(1), attention_stages=(3,)
    ).double()
    models.load_official(model, goldens.state("lsas_cifar_d11_order1"))
    recipe = training.load_recipe(None, ["--optimizer.weight_decay=1e-4", "--schedule.batch_size=16", "--device=cpu"])
    processes = training.Processes("cpu", "float32", 1)
    run = training.Run.create(tmp_path / "run", recipe, Golden.images.classes)
    batches = Golden(goldens)
    loop = Loop(
        recipe, run, training.Classification(recipe, model, Objective(model, None), batches, batches), processes
    )
    assert loop.train_epoch()
    measured = loop.epoch_losses().columns
    losses = measured["loss"] / measured["images"]
    assert relative_error(losses, goldens.outputs("trajectory_lsas")["losses"]) < 1e-9
