"""How much memory networks need."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from regard.errors import InputError
from regard.models.cost import steps

MEASURED = ("cpu", "cuda")  # the kinds of device whose allocators say what they do


class PeakMemory(NamedTuple):
    """The most memory that is in use at once, in bytes, above what was in use before."""

    inference: int
    training_step: int


def peak_memory(network: nn.Module, images: Tensor) -> PeakMemory:
    """Measures the memory that `network` needs for `images`, for an inference and for a training step.

    What is there before does not count: the images, the parameters, and for the training step the momentum of SGD.
    Counted are the tensors that come and go: features, what is saved for the backward pass, gradients of features and
    parameters. On a GPU it is what torch's allocator has handed out at most; on the CPU the running sum of what
    torch's allocator hands out and gets back. Memory that libraries take by themselves is not seen.

    Parameters, buffers and modes of the network are left as they were; gradients are dropped.

    Args:
        network: on the device of the images.
        images: (N, 3, H, W), on the CPU or a CUDA device; they are cast to the dtype of the network.

    Raises:
        InputError: another device, or a network that does not take the images.
    """
    if images.device.type not in MEASURED:
        raise InputError(f"peak memory is measured on {' and '.join(MEASURED)}, not on {images.device.type}")
    measure = _peak_on_cpu if images.device.type == "cpu" else _peak_on_cuda
    with steps.inference(network, images) as run:
        run()  # what is made once, such as compiled kernels, is not what an inference needs
        inference = measure(run, images.device)
    with steps.training(network, images) as run:
        run()
        training_step = measure(run, images.device)
    return PeakMemory(inference, training_step)


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
