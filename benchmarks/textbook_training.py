"""Hand-written training loops with the loaders of timm and torchvision: the peers of `training_throughput.py`.

Unlike regard's loop, they do not compute accuracy or the gradient norm, and read the loss only every 50 steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import timm.data
import timm.optim
import timm.utils
import torch
from common import seconds
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms
from torchvision.transforms import v2

from regard import data

LOG = 50  # steps between two readings of the loss; timm's log_interval
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of random resized crops, in all loaders

Step = Callable[[Tensor, Tensor], Tensor]


def bare_step(network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, precision: str) -> Step:
    """Returns a step of forward, backward and optimizer, and nothing else; the step returns the loss."""

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


class Bare:
    """Epochs of steps on one batch in memory: the ceiling. A call runs an epoch and returns its seconds."""

    def __init__(self, step: Step, batch: tuple[Tensor, Tensor], steps: int) -> None:
        self.step, self.batch, self.steps = step, batch, steps
        self.device = batch[0].device

    def __call__(self) -> float:
        return seconds(lambda: [self.step(*self.batch) for _ in range(self.steps)], self.device)


class Loaded:
    """Epochs over the batches of a loader. A call runs an epoch and returns its seconds.

    Attributes:
        waiting: for every epoch, the share of its time spent waiting for the loader, in %.
    """

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]], step: Step, device: torch.device) -> None:
        self.loader, self.step, self.device = loader, step, device
        self.waiting: list[float] = []

    def __call__(self) -> float:
        epoch_time = seconds(self.epoch, self.device)
        self.waiting.append(100 * self.waiting_time / epoch_time)
        return epoch_time

    def epoch(self) -> None:
        self.waiting_time, number = 0.0, 0
        start = time.perf_counter()
        losses = timm.utils.AverageMeter()
        batches = iter(self.loader)
        while (batch := next(batches, None)) is not None:
            self.waiting_time += time.perf_counter() - start
            images, labels = batch
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            loss = self.step(images, labels.to(self.device, non_blocking=True))
            number += 1
            if number % LOG == 0:
                losses.update(loss.item(), len(images))
            start = time.perf_counter()


def timm_loader(
    folder: Path, size: int, batch: int, workers: int, device: torch.device, like: data.ImageDataset
) -> Iterable[tuple[Tensor, Tensor]]:
    """timm's loader with its prefetcher, as in its train.py."""
    dataset = timm.data.create_dataset("", root=str(folder), split="train", is_training=True, batch_size=batch)
    return timm.data.create_loader(
        dataset,
        input_size=(3, size, size),
        batch_size=batch,
        is_training=True,
        scale=SCALE,
        ratio=RATIO,
        color_jitter=0.0,
        interpolation="bilinear",
        mean=like.mean,
        std=like.std,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        device=device,
    )


def timm_optimizer(network: nn.Module, lr: float) -> torch.optim.Optimizer:
    return timm.optim.create_optimizer_v2(network, opt="sgd", lr=lr, momentum=0.9, weight_decay=5e-4)


def torchvision_loader(
    folder: Path, size: int, batch: int, workers: int, device: torch.device, like: data.ImageDataset
) -> Iterable[tuple[Tensor, Tensor]]:
    """A DataLoader over class folders with torchvision's transforms."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, SCALE, RATIO, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(like.mean, like.std),
        ]
    )
    return _loader(datasets.ImageFolder(folder / "train", transform), batch, workers, device)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Single PIL images of a data set, as from torchvision's data sets, with transforms for CIFAR."""

    def __init__(self, images: data.InMemoryDataset) -> None:
        self.pictures = [v2.functional.to_pil_image(image) for image in images.images]
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(images.images.shape[-1], padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(images.mean, images.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[i]), self.labels[i]


def picture_loader(
    images: data.InMemoryDataset, batch: int, workers: int, device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    return _loader(Pictures(images), batch, workers, device)


def _loader(
    images: Dataset[tuple[Tensor, int]], batch: int, workers: int, device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    return DataLoader(
        images,
        batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
