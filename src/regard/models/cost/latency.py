"""How long networks take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from statistics import median, quantiles
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.models.cost import steps


class Times(NamedTuple):
    """How long one thing took, each time it was done, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half; for a single time, that time twice."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


class Latency(NamedTuple):
    """How long a network takes for a batch."""

    inference: Times
    training_step: Times


def latency(
    networks: Mapping[str, nn.Module], images: Tensor, *, repeats: int = 10, warmup: int = 2
) -> dict[str, Latency]:
    """Measures how long each of the `networks` takes for `images`.

    An inference is a forward pass in evaluation mode under `torch.inference_mode`; a training step is forward,
    cross-entropy, backward and a step of SGD with momentum, in training mode. The networks take turns, once each in
    every round, so that a slow moment of the machine falls on all of them. Time is that of the clock, from the first
    call until the device is done.

    Parameters, buffers and modes of the networks are left as they were; gradients are dropped.

    Args:
        networks: by name; on the device of the images.
        images: (N, 3, H, W); they are cast to the dtype of each network.
        repeats: rounds that are measured.
        warmup: rounds before, which are not.

    Raises:
        InputError: no rounds, or a network that does not take the images.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"latency takes at least 1 repeat and no negative warm-up, not {repeats} and {warmup}")
    with ExitStack() as stack:
        runs = {name: stack.enter_context(steps.inference(network, images)) for name, network in networks.items()}
        inferences = _in_turn(runs, images.device, repeats, warmup)
    with ExitStack() as stack:
        runs = {name: stack.enter_context(steps.training(network, images)) for name, network in networks.items()}
        trainings = _in_turn(runs, images.device, repeats, warmup)
    return {name: Latency(inferences[name], trainings[name]) for name in networks}


def _in_turn(
    runs: Mapping[str, Callable[[], None]], device: torch.device, repeats: int, warmup: int
) -> dict[str, Times]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + repeats):
        for name, run in runs.items():
            steps.wait_for(device)
            start = perf_counter()
            run()
            steps.wait_for(device)
            if turn >= warmup:
                seconds[name].append(perf_counter() - start)
    return {name: Times(tuple(found)) for name, found in seconds.items()}
