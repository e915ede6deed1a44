"""Attention transfer and guidance with Lightning.

pip install lightning
python examples/lightning_transfer.py
"""

from __future__ import annotations

import lightning
import torch
from plain_loop import training_set
from torch import Tensor, nn
from torch.utils.data import DataLoader

from regard import models, transfer


class Transfer(lightning.LightningModule):
    """Trains a student on batches of images, labels and regions.

    The teacher is not a submodule of the objective, so checkpoints contain only the student; `objective.to` moves both.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, lr: float = 0.05, **weights: float) -> None:
        super().__init__()
        self.objective = transfer.Objective(student, teacher, **weights)
        self.lr = lr

    def forward(self, images: Tensor) -> Tensor:
        return self.objective.student(images)

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        images, labels, regions = batch
        progress = self.global_step / max(self.trainer.estimated_stepping_batches, 1)
        losses = self.objective(images, labels, progress=progress, regions=regions)
        self.log_dict({f"train_{name}": value for name, value in losses.terms.items()})
        return losses.total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.objective.parameters(), lr=self.lr, momentum=0.9)


if __name__ == "__main__":
    module = Transfer(models.create("wrn-10-0.5", 10), models.create("wrn-10-1", 10), beta=1e3, guidance=1.0)
    trainer = lightning.Trainer(max_epochs=2, log_every_n_steps=5)
    trainer.fit(module, DataLoader(training_set(), batch_size=50, shuffle=True, drop_last=True))
