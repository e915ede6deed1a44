"""Attention transfer and guidance in a plain training loop, for any student, teacher and DataLoader.

python examples/plain_loop.py
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from regard import data, models, transfer


def training_set(count: int = 1000) -> TensorDataset:
    """Images (normalised), labels and regions of the built-in data, as tensors."""
    train, _ = data.load("clutter", train=count, test=10)
    mean, std = (torch.tensor(values)[:, None, None] for values in (train.mean, train.std))
    return TensorDataset((train.images / 255 - mean) / std, train.labels, train.regions)


def train(student: nn.Module, teacher: nn.Module, dataset: TensorDataset, epochs: int = 2) -> list[float]:
    """Trains the student; returns the total loss of each step."""
    objective = transfer.Objective(student, teacher, beta=1e3, guidance=1.0)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05, momentum=0.9)
    history = []
    for epoch in range(epochs):
        for images, labels, regions in DataLoader(dataset, batch_size=50, shuffle=True, drop_last=True):
            losses = objective(images, labels, progress=epoch / epochs, regions=regions)
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()
            history.append(losses.total.item())
        print(f"epoch {epoch}:", {name: round(value.item(), 4) for name, value in losses.terms.items()})
    return history


if __name__ == "__main__":
    train(models.create("wrn-10-0.5", 10), models.create("wrn-10-1", 10), training_set())
