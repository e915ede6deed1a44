"""Training as one writes it by hand, on timm, or torchvision's way: the peers of `training_throughput.py`.

None of them measures what regard's loop does (accuracy, the gradient's norm): each takes its steps and reads the loss
now and then.
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

LOG = 50  # steps between two looks at the loss, timm's log_interval
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of random resized crops, everywhere

Step = Callable[[Tensor, Tensor], Tensor]


def bare_step(network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, precision: str) -> Step:
    """Forward, backward and optimizer step, and nothing else; gives the loss."""

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


class Bare:
    """Epochs of steps on one batch that is there already: the ceiling."""

    def __init__(self, step: Step, batch: tuple[Tensor, Tensor], steps: int) -> None:
        self.step, self.batch, self.steps = step, batch, steps
        self.device = batch[0].device

    def __call__(self) -> float:
        return seconds(lambda: [self.step(*self.batch) for _ in range(self.steps)], self.device)


class Loaded:
    """Epochs over what a loader gives.

    Attributes:
        waiting: of every epoch, the share in % of its time spent waiting for the loader.
    """

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]], step: Step, device: torch.device) -> None:
        self.loader, self.step, self.device = loader, step, device
        self.waiting: list[float] = []

    def __call__(self) -> float:
        took = seconds(self.epoch, self.device)
        self.waiting.append(100 * self.waited / took)
        return took

    def epoch(self) -> None:
        self.waited, number = 0.0, 0
        began = time.perf_counter()
        losses = timm.utils.AverageMeter()
        source = iter(self.loader)
        while (batch := next(source, None)) is not None:
            self.waited += time.perf_counter() - began
            images, labels = batch
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            loss = self.step(images, labels.to(self.device, non_blocking=True))
            number += 1
            if number % LOG == 0:
                losses.update(loss.item(), len(images))
            began = time.perf_counter()


def timm_loader(
    folder: Path, size: int, batch: int, workers: int, device: torch.device, like: data.ImageDataset
) -> Iterable[tuple[Tensor, Tensor]]:
    """timm's loader with its prefetcher, as its train.py makes it."""
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
    """Class folders through transforms and a DataLoader."""
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
    """The images of a set one by one, as torchvision's own data sets give them, through transforms for CIFAR."""

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
