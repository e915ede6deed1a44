"""Measures the time and peak memory of networks, for inference and for a training step."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from regard.errors import InputError, first_line
from regard.modes import evaluation_mode, match_dtype

MEASURED = ("cpu", "cuda")  # device types whose allocators can be measured


class Times(NamedTuple):
    """Durations of repeated runs, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median duration, in seconds."""
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and upper quartile, in seconds; a single duration is both."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


class Latency(NamedTuple):
    """The durations of an inference and of a training step on one batch."""

    inference: Times
    training_step: Times


class PeakMemory(NamedTuple):
    """The peak memory of an inference and of a training step, in bytes above the memory in use before."""

    inference: int
    training_step: int


def latency(
    networks: Mapping[str, nn.Module], images: Tensor, *, repeats: int = 10, warmup: int = 2
) -> dict[str, Latency]:
    """Measures how long each network takes for an inference and for a training step on `images`.

    An inference is a forward pass in evaluation mode under `torch.inference_mode`. A training step is forward,
    cross-entropy, backward and a step of SGD with momentum, in training mode, on a copy of the network. The networks
    take turns, once per round, so that a slow moment of the machine affects all of them. Durations are wall-clock
    times, and end when the device is done.

    Args:
        networks: name -> network, on the device of the images.
        images: (N, 3, H, W); cast to the dtype of each network.
        repeats: number of measured rounds.
        warmup: number of rounds before them that are not measured.

    Raises:
        InputError: `repeats` is below 1, `warmup` is negative, or a network fails on the images.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"latency needs at least 1 repeat and no negative warmup, not {repeats} and {warmup}")
    results: list[dict[str, Times]] = []
    for kind in (_inference, _training_step):
        seconds: dict[str, list[float]] = {name: [] for name in networks}
        with ExitStack() as stack:
            runs = {name: stack.enter_context(kind(network, images)) for name, network in networks.items()}
            for turn in range(warmup + repeats):
                for name, run in runs.items():
                    _wait_for(images.device)
                    start = perf_counter()
                    run()
                    _wait_for(images.device)
                    if turn >= warmup:
                        seconds[name].append(perf_counter() - start)
        results.append({name: Times(tuple(times)) for name, times in seconds.items()})
    return {name: Latency(results[0][name], results[1][name]) for name in networks}


def peak_memory(network: nn.Module, images: Tensor) -> PeakMemory:
    """Measures the peak memory of `network` for an inference and for a training step on `images`.

    Only tensors that the run allocates count: features, tensors saved for the backward pass, gradients of features and
    parameters, but not images, parameters and the momentum of SGD. On a GPU the result is the peak of torch's
    allocator; on the CPU it is the maximum of the running sum of its allocations and releases. Memory that libraries
    allocate themselves is not counted.

    Args:
        network: network on the device of the images.
        images: (N, 3, H, W), on the CPU or a CUDA device; cast to the dtype of the network.

    Raises:
        InputError: the images are on another device, or the network fails on them.
    """
    if images.device.type not in MEASURED:
        raise InputError(f"peak memory is measured on {' and '.join(MEASURED)}, not on {images.device.type}")
    measure = _peak_on_cpu if images.device.type == "cpu" else _peak_on_cuda
    peaks = []
    for kind in (_inference, _training_step):
        with kind(network, images) as run:
            run()  # one-time allocations, such as compiled kernels, do not count
            peaks.append(measure(run, images.device))
    return PeakMemory(*peaks)


@contextmanager
def _inference(network: nn.Module, images: Tensor) -> Iterator[Callable[[], None]]:
    """Yields a function that runs `network` once on `images`, in evaluation mode and without gradients."""
    images = match_dtype(network, images)

    def run() -> None:
        with torch.inference_mode():
            network(images)

    with evaluation_mode(network), _input_errors("inference", network, images):
        yield run


@contextmanager
def _training_step(network: nn.Module, images: Tensor) -> Iterator[Callable[[], None]]:
    """Yields a function that runs one training step of a copy of `network`."""
    images = match_dtype(network, images)
    trained = copy.deepcopy(network).train()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.0, momentum=0.9)
    optimizer.zero_grad()

    def step() -> None:
        logits = trained(images)
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    with _input_errors("a training step", network, images):
        yield step


@contextmanager
def _input_errors(run: str, network: nn.Module, images: Tensor) -> Iterator[None]:
    """Turns torch's errors into InputErrors."""
    n, _, height, width = images.shape
    dtype = str(images.dtype).removeprefix("torch.")
    run = f"{run} of {type(network).__name__} on {n} images of {height} x {width} in {dtype}"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"{run} does not fit in memory; take fewer images") from error
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{run} failed: {first_line(error)}") from error


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _peak_on_cuda(run: Callable[[], None], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(run: Callable[[], None], _: torch.device) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # without the profiler's progress messages
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    used = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["args"]["Ev Idx"]):
        if event["args"]["Device Type"] == 0:
            used += event["args"]["Bytes"]  # negative for a release
            peak = max(peak, used)
    return peak
