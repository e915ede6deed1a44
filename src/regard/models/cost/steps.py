"""The two things that are timed and whose memory is measured: an inference, and a step of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError, first_line
from regard.modes import evaluation_mode, of_its_dtype


@contextmanager
def inference(network: nn.Module, images: Tensor) -> Iterator[Callable[[], None]]:
    """Gives a function that runs `network` once on `images`, in evaluation mode and without gradients."""

    images = of_its_dtype(network, images)

    def run() -> None:
        with torch.inference_mode():
            network(images)

    with evaluation_mode(network), _explained("inference", network, images):
        yield run


@contextmanager
def training(network: nn.Module, images: Tensor) -> Iterator[Callable[[], None]]:
    """Gives a function that takes one training step: forward, cross-entropy, backward, SGD with momentum.

    Every parameter gets its gradient anew, and the learning rate is 0: afterwards parameters, buffers and modes are as
    they were. Gradients are gone.
    """
    images = of_its_dtype(network, images)
    modes = {module: module.training for module in network.modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)

    def step() -> None:
        logits = network(images)
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    try:
        network.train()
        optimizer.zero_grad()
        with _explained("a training step", network, images):
            yield step
    finally:
        optimizer.zero_grad()
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
        for module, mode in modes.items():
            module.training = mode


def wait_for(device: torch.device) -> None:
    """Returns once `device` has done all it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _explained(what: str, network: nn.Module, images: Tensor) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"{what} of {_on(network, images)} does not fit in memory; take fewer images") from error
    except (RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} of {_on(network, images)} is not to be had: {first_line(error)}") from error


def _on(network: nn.Module, images: Tensor) -> str:
    n, _, height, width = images.shape
    return f"{type(network).__name__} on {n} images of {height} x {width} in {str(images.dtype).removeprefix('torch.')}"
