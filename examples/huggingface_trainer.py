"""Attention transfer and guidance with the Hugging Face Trainer.

pip install transformers accelerate
python examples/huggingface_trainer.py
"""

from __future__ import annotations

from typing import Any

import torch
from plain_loop import training_set
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from transformers import Trainer, TrainingArguments

from regard import models, transfer


class Rows(Dataset):
    """Images, labels and regions by the names of the model's arguments."""

    def __init__(self, tensors: TensorDataset) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(zip(("pixel_values", "labels", "regions"), self.tensors[index], strict=True))


class Student(nn.Module):
    """A network with the argument and output names that the Trainer uses."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, regions: Tensor | None = None) -> Any:
        return {"logits": self.network(pixel_values)}


class TransferTrainer(Trainer):
    """A Trainer with the loss of a `transfer.Objective`."""

    def __init__(self, *args: Any, teacher: nn.Module, weights: dict[str, float], **options: Any) -> None:
        super().__init__(*args, **options)
        self.objective = transfer.Objective(self.model.network, teacher.to(self.args.device), **weights)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        progress = self.state.global_step / max(self.state.max_steps, 1)
        losses = self.objective(inputs["pixel_values"], inputs["labels"], progress, regions=inputs["regions"])
        return (losses.total, {"logits": losses.logits}) if return_outputs else losses.total


def train(student: nn.Module, teacher: nn.Module, dataset: TensorDataset, folder: str, **options: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=folder,
        learning_rate=0.05,
        optim="sgd",
        per_device_train_batch_size=50,
        remove_unused_columns=False,
        report_to="none",
        **options,
    )
    weights = {"beta": 1e3, "guidance": 1.0}
    trainer = TransferTrainer(
        Student(student), arguments, train_dataset=Rows(dataset), teacher=teacher, weights=weights
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    torch.manual_seed(0)
    train(models.create("wrn-10-0.5", 10), models.create("wrn-10-1", 10), training_set(), "trainer", num_train_epochs=2)
