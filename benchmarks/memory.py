"""Memory of a piece of work: the tensors alive at its peak, and what is saved for a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


def peak(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that `work` holds at its peak, beyond what was there before it.

    On a GPU by its allocator's own count; on a processor by the allocations and releases that torch's profiler sees,
    those within operations included. What a library takes past torch's allocator, such as oneDNN's scratch pads, is
    not seen. Memory that was there before and is released by `work` counts on a GPU and not on a processor: release it
    before.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def check_peak(device: torch.device) -> None:
    """Fails unless `peak` finds what is known: of 30, 50 and 40 MiB, at most 90 MiB are alive at a time."""

    def known() -> None:
        first = torch.empty(30 * MIB, dtype=torch.uint8, device=device)
        second = torch.empty(50 * MIB, dtype=torch.uint8, device=device)
        del first
        third = torch.empty(10 * MIB, dtype=torch.float32, device=device)
        del second, third

    known()  # what a first use allocates is not of the work
    measured = peak(known, device)
    slack = 4 * MIB if device.type == "cuda" else 0  # its allocator may give a little more than was asked for
    assert 90 * MIB <= measured <= 90 * MIB + slack, f"the peak is 90 MiB and was measured as {measured} bytes"


def saved(forward: Callable[[], Tensor], but: Iterable[Tensor] = ()) -> dict[int, int]:
    """What autograd saves while `forward` runs: bytes of every storage, by address; those of `but` are left out."""
    excluded = {tensor.untyped_storage().data_ptr() for tensor in but}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()  # keeps what is saved alive, so that no address is used twice
    del result
    return storages
