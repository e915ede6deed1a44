"""The processes of a command: one, or as many as `accelerate launch`, `torchrun` or Slurm's `srun` started."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object, reduce
from torch import Tensor, nn

from regard.errors import InputError, LostProcess, SaidElsewhere, first_line
from regard.launcher import local_rank, rank_and_size, without_launcher
from regard.training.hooks import Hook

Result = TypeVar("Result")

_PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
# What gloo and NCCL say when a process is gone, or does not answer in time.
_LOST = re.compile(r"peer|timed? ?out|connection|NCCL|gloo|socket", re.IGNORECASE)


class Processes:
    """The processes of a command, and this one's rank; as a context, it leaves them at the end.

    Attributes:
        accelerator: accelerate's, for mixed precision and what wraps networks.
        device: of this process.
        rank: of this process, from 0.
        count: of the processes.
        hooks: that are told what a person should know.
    """

    def __init__(
        self, device: str, precision: str = "float32", wait_minutes: float = 10.0, *, unused: bool = False
    ) -> None:
        """Joins the other processes, if there are any; waits for all to come. Each takes a GPU, if there are any.

        Args:
            device: auto, cpu, cuda, or where this process is the only one any name of a device.
            precision: float32, bfloat16 or float16.
            wait_minutes: how long processes wait for one another.
            unused: whether some parameters may have no part in some steps.

        Raises:
            InputError: the device or the precision are not to be had, processes do not find one another.
        """
        self.hooks: Sequence[Hook] = ()
        size = rank_and_size()[1]
        several = size > 1
        AcceleratorState._reset_state(reset_partial_state=not several)  # of an earlier run in this Python
        placed = pick_device(device)
        if precision == "float16" and placed.type != "cuda":
            raise InputError(f"precision is float16, which needs a GPU, and the device is {placed}; give bfloat16")
        if several and placed.index is not None:
            raise InputError(f"device is {device!r}, for {size} processes; give cuda, cpu or auto")
        if several and torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        try:
            with nullcontext() if several else without_launcher():
                self.accelerator = Accelerator(
                    device_placement=False,
                    cpu=placed.type == "cpu",
                    mixed_precision=_PRECISIONS[precision],
                    kwargs_handlers=[
                        InitProcessGroupKwargs(timeout=timedelta(minutes=wait_minutes)),
                        DistributedDataParallelKwargs(find_unused_parameters=unused, gradient_as_bucket_view=True),
                    ],
                )
        except (ValueError, RuntimeError) as error:
            if not several:
                raise
            raise LostProcess(f"the processes do not find one another ({first_line(error)})") from error
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device if several else placed

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def summed(self, values: Tensor) -> Tensor:
        """The sum over the processes, on the device of `values`; all have to ask for it."""
        return reduce(values.to(self.device), "sum").to(values.device) if self.count > 1 else values

    def largest(self, *values: float) -> list[float]:
        """The largest over the processes, of each value; all have to ask for it."""
        if self.count == 1:
            return list(values)
        placed = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(placed, op=dist.ReduceOp.MAX)
        return placed.tolist()

    def seed_step(self, seed: int, step: int) -> None:
        """Seeds what is random in a step, such as dropout, on the processor and on the device."""
        number = step_seed(seed, step, self.rank)
        torch.default_generator.manual_seed(number)  # torch.manual_seed asks all kinds of devices, which takes its time
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)
        elif self.device.type == "mps":
            torch.mps.manual_seed(number)

    def share_buffers(self, module: nn.Module) -> None:
        """Gives all processes the main one's buffers: plain batch norms keep statistics of their own images."""
        for buffer in module.buffers():
            if self.count > 1 and buffer.is_floating_point():
                dist.broadcast(buffer, 0)

    def of_all(self, value: Result) -> list[Result]:
        """What each process gives, by rank; all have to ask for it."""
        return gather_object([value])

    def first(self, work: Callable[[], Result]) -> Result:
        """What `work` gives: the main process does it first, then one process of each other machine, then the rest.

        SaidElsewhere is raised where another process could not do it; that one says why.
        """
        main, local_main = self.main, self.accelerator.is_local_main_process
        turns = (main, local_main and not main, not local_main and not main)
        results = [self._together(work, mine) for mine in turns]
        return results[turns.index(True)]

    def alone(self, work: Callable[[], object]) -> None:
        """The main process does `work`, the others wait for it. SaidElsewhere is raised as by `first`."""
        self._together(work, self.main)

    def _together(self, work: Callable[[], Any], mine: bool) -> Any:
        """What `work` gives where it is this process's turn, once all are done whose turn it is."""
        done = False
        try:
            result = work() if mine else None
            done = True
        finally:
            (failed,) = self.largest(float(not done))
        if failed:
            raise SaidElsewhere("another process could not go on")
        return result

    def note(self, message: str) -> None:
        """Tells a person, in one line."""
        for hook in self.hooks:
            hook.note(message)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Leaves the other processes.

        Raises:
            LostProcess: the error is that another process is gone.
        """
        self.accelerator.end_training()
        if self.count == 1:
            return
        if dist.is_initialized():
            dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        if isinstance(error, RuntimeError) and _LOST.search(str(error)):
            raise LostProcess(
                f"process {self.rank} of {self.count} cannot reach the others: one ended, or did not answer in time "
                f"({first_line(error)})"
            ) from error


def pick_device(name: str) -> torch.device:
    """The device of a name; 'auto' is a GPU if there is one.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which the device called meta cannot
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not to be had here: {first_line(error)}") from error
    return device


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of what is random in a step, such as dropout: so it depends on nothing that came before.

    Seeds of neighbouring steps and processes have nothing in common: the finaliser of SplitMix64 (Steele, Lea, Flood,
    OOPSLA 2014) spreads a change of any bit over all.

    Args:
        seed: of the run.
        step: from 0.
        rank: of the process, below 65536.

    Returns:
        0 to 2^63 - 1.
    """
    bits = 2**64 - 1
    mixed = (seed + 0x9E3779B97F4A7C15 * (step * 65536 + rank + 1)) & bits
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & bits
    return (mixed ^ (mixed >> 31)) >> 1
