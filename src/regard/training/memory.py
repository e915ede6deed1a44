"""How much memory a run takes, and what to do when there is none left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from regard.errors import KILLED_WORKER, InputError, LostProcess, first_line
from regard.training.recipe import Recipe


def reset_peak_memory(device: torch.device) -> None:
    """Begins to measure anew, where that can be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """The most memory that was in use, in GiB: by tensors on the GPU, or by the process since it began (0 where the
    system does not say).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, on macOS in bytes
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


@contextmanager
def enough_memory(recipe: Recipe) -> Iterator[None]:
    """Within it, that there is no memory left is an InputError that says what to change; and so is that a DataLoader
    worker was killed, which is mostly for the same reason.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if KILLED_WORKER.search(str(error)):
            raise LostProcess(
                f"a DataLoader worker was killed ({first_line(error)}); if memory ran out, give fewer of them "
                "(data.workers); --resume goes on from the last checkpoint"
            ) from error
        lacking = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not lacking:
            raise
        ways = [f"a smaller batch (schedule.batch_size is {recipe.schedule.batch_size})"]
        ways.append(f"its parts one after another (schedule.accumulate is {recipe.schedule.accumulate})")
        if recipe.precision == "float32":
            ways.append("precision bfloat16")
        ways.append("smaller images (data.size, augmentation.crop) or a smaller network")
        raise InputError(f"there is no memory left ({first_line(error)}); try {', '.join(ways)}") from error
