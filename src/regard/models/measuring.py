"""Measures time and peak memory of networks, for inference and for a training step."""

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
from regard.modes import evaluation_mode, of_its_dtype

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
        """The lower and upper quartile; for a single time, that time twice."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


class Latency(NamedTuple):
    """How long a network takes for a batch."""

    inference: Times
    training_step: Times


class PeakMemory(NamedTuple):
    """The most memory that is in use at once, in bytes, above what was in use before."""

    inference: int
    training_step: int


def latency(
    networks: Mapping[str, nn.Module], images: Tensor, *, repeats: int = 10, warmup: int = 2
) -> dict[str, Latency]:
    """Measures how long each of the `networks` takes for `images`.

    An inference is a forward pass in evaluation mode under `torch.inference_mode`; a training step is forward,
    cross-entropy, backward and a step of SGD with momentum, in training mode, of a copy of the network. The networks
    take turns, once each in every round, so that a slow moment of the machine falls on all of them. Time is that of the
    clock, from the first call until the device is done.

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
    """Measures the memory that `network` needs for `images`, for an inference and for a training step.

    What is there before does not count: the images, the parameters, and for the training step the momentum of SGD.
    Counted are the tensors that come and go: features, what is saved for the backward pass, gradients of features and
    parameters. On a GPU it is what torch's allocator has handed out at most; on the CPU the running sum of what
    torch's allocator hands out and gets back. Memory that libraries allocate themselves is not counted.

    Args:
        network: on the device of the images.
        images: (N, 3, H, W), on the CPU or a CUDA device; they are cast to the dtype of the network.

    Raises:
        InputError: another device, or a network that does not take the images.
    """
    if images.device.type not in MEASURED:
        raise InputError(f"peak memory is measured on {' and '.join(MEASURED)}, not on {images.device.type}")
    measure = _peak_on_cpu if images.device.type == "cpu" else _peak_on_cuda
    peaks = []
    for kind in (_inference, _training_step):
        with kind(network, images) as run:
            run()  # what is made once, such as compiled kernels, is not what an inference needs
            peaks.append(measure(run, images.device))
    return PeakMemory(*peaks)


@contextmanager
def _inference(network: nn.Module, images: Tensor) -> Iterator[Callable[[], None]]:
    """Gives a function that runs `network` once on `images`, in evaluation mode and without gradients."""
    images = of_its_dtype(network, images)

    def run() -> None:
        with torch.inference_mode():
            network(images)

    with evaluation_mode(network), _explained("inference", network, images):
        yield run


@contextmanager
def _training_step(network: nn.Module, images: Tensor) -> Iterator[Callable[[], None]]:
    """Gives a function that takes one training step with a copy of `network`."""
    images = of_its_dtype(network, images)
    copied = copy.deepcopy(network).train()
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.0, momentum=0.9)
    optimizer.zero_grad()

    def step() -> None:
        logits = copied(images)
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    with _explained("a training step", network, images):
        yield step


@contextmanager
def _explained(what: str, network: nn.Module, images: Tensor) -> Iterator[None]:
    n, _, height, width = images.shape
    dtype = str(images.dtype).removeprefix("torch.")
    what = f"{what} of {type(network).__name__} on {n} images of {height} x {width} in {dtype}"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"{what} does not fit in memory; take fewer images") from error
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{what} failed: {first_line(error)}") from error


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
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler writes its own progress to the terminal
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    used = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["args"]["Ev Idx"]):
        if event["args"]["Device Type"] == 0:
            used += event["args"]["Bytes"]  # negative when it is given back
            peak = max(peak, used)
    return peak
