"""Memory of a call: its peak, and the tensors saved for a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


def peak(function: Callable[[], object], device: torch.device) -> int:
    """The peak memory of a call in bytes, beyond the memory in use before it.

    On a GPU it is the count of the allocator; on a CPU it comes from the allocations and releases that torch's profiler
    records, also within operations. Memory that a library allocates itself, such as oneDNN's scratch pads, is not
    recorded. Earlier memory that the call releases counts on a GPU, but not on a CPU: release it before the call.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    current = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        highest = max(highest, current)
    return highest


def check_peak(device: torch.device) -> None:
    """Fails unless `peak` measures 90 MiB for tensors of 30, 50 and 40 MiB, of which at most 90 MiB are alive."""

    def allocate() -> None:
        first = torch.empty(30 * MIB, dtype=torch.uint8, device=device)
        second = torch.empty(50 * MIB, dtype=torch.uint8, device=device)
        del first
        third = torch.empty(10 * MIB, dtype=torch.float32, device=device)
        del second, third

    allocate()  # a first call may allocate more
    measured = peak(allocate, device)
    slack = 4 * MIB if device.type == "cuda" else 0  # the allocator rounds sizes up
    assert 90 * MIB <= measured <= 90 * MIB + slack, f"the peak is 90 MiB and was measured as {measured} bytes"


def saved(forward: Callable[[], Tensor], exclude: Iterable[Tensor] = ()) -> dict[int, int]:
    """Address -> bytes of every storage that autograd saves for backward, without the storages of `exclude`."""
    excluded = {tensor.untyped_storage().data_ptr() for tensor in exclude}
    storages: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        result = forward()  # keeps the saved tensors alive, so that no address is used twice
    del result
    return storages
