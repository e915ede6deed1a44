"""The processes of a command: one, or several that `accelerate launch`, `torchrun` or Slurm's `srun` started."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from regard.errors import InputError, LostProcess, ReportedElsewhere, first_line
from regard.launcher import local_rank, rank_and_size, without_launcher
from regard.optional import require
from regard.training.hooks import Hook

if TYPE_CHECKING:
    from accelerate import Accelerator

Result = TypeVar("Result")

_PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
# Words in the errors of gloo and NCCL if a process has ended or does not answer in time.
_LOST_PROCESS = re.compile(r"peer|timed? ?out|connection|NCCL|gloo|socket", re.IGNORECASE)


class Processes:
    """The process group of a command. A context manager that leaves the group at the end.

    Attributes:
        device: device of this process.
        rank: rank of this process, from 0.
        count: number of processes.
        hooks: hooks whose `note` is called with messages.
    """

    def __init__(
        self, device: str, precision: str = "float32", wait_minutes: float = 10.0, *, unused: bool = False
    ) -> None:
        """Joins the process group and waits for all processes. Each process gets a GPU if there are any.

        Args:
            device: auto, cpu or cuda; for a single process any name of a device.
            precision: float32, bfloat16 or float16.
            wait_minutes: minutes that processes wait for each other.
            unused: whether a step may leave some parameters unused.

        Raises:
            InputError: the device or precision is not available, or the processes cannot connect.
        """
        self.hooks: Sequence[Hook] = ()
        self._precision, self._wait_minutes, self._unused = precision, wait_minutes, unused
        self.rank, self.count = rank_and_size()
        self.device = pick_device(device)
        if precision == "float16" and self.device.type != "cuda":
            raise InputError(f"precision float16 needs a GPU, but the device is {self.device}; give bfloat16")
        if self.count == 1:
            return
        if self.device.index is not None:
            raise InputError(f"device {device!r} cannot be used by {self.count} processes; give cuda, cpu or auto")
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        self.device = self.accelerator.device

    @cached_property
    def accelerator(self) -> Accelerator:
        """The `Accelerator`, for mixed precision and DistributedDataParallel. A single process needs it only to train.

        Raises InputError if accelerate is not installed, and LostProcess if the processes cannot connect.
        """
        require("training" if self.count == 1 else "work in several processes", "accelerate")
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

        AcceleratorState._reset_state(reset_partial_state=self.count == 1)  # left by an earlier run in this Python
        handlers = [
            InitProcessGroupKwargs(timeout=timedelta(minutes=self._wait_minutes)),
            DistributedDataParallelKwargs(find_unused_parameters=self._unused, gradient_as_bucket_view=True),
        ]
        try:
            with nullcontext() if self.count > 1 else without_launcher():
                return Accelerator(
                    device_placement=False,
                    cpu=self.device.type == "cpu",
                    mixed_precision=_PRECISIONS[self._precision],
                    kwargs_handlers=handlers,
                )
        except (ValueError, RuntimeError) as error:
            if self.count == 1:
                raise
            raise LostProcess(f"the processes cannot connect ({first_line(error)})") from error

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def summed(self, values: Tensor) -> Tensor:
        """The sum over the processes, on the device of `values`. All processes have to call it."""
        if self.count == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def largest(self, *values: float) -> list[float]:
        """The maximum of each value over the processes. All processes have to call it."""
        if self.count == 1:
            return list(values)
        maxima = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        return maxima.tolist()

    def seed_step(self, seed: int, step: int) -> None:
        """Seeds the random numbers of a step, such as dropout, on the CPU and on the device."""
        seed_generators(self.device, step_seed(seed, step, self.rank))

    def share_buffers(self, module: nn.Module) -> None:
        """Copies the buffers of the main process to all: plain batch norms track statistics of their rank's slice."""
        for buffer in module.buffers():
            if self.count > 1 and buffer.is_floating_point():
                dist.broadcast(buffer, 0)

    def of_all(self, value: Result) -> list[Result]:
        """Gathers the value of each process, by rank. All processes have to call it."""
        results: list[Any] = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(results, value)
        return results

    def first(self, work: Callable[[], Result]) -> Result:
        """Runs `work` in the main process, then in one process of each other machine, then in the rest.

        Returns the result of this process. Raises ReportedElsewhere if another process failed, which reports why.
        """
        main, local_main = self.main, self.count == 1 or self.accelerator.is_local_main_process
        turns = (main, local_main and not main, not local_main and not main)
        results = [self._run_turn(work, active) for active in turns]
        return results[turns.index(True)]

    def alone(self, work: Callable[[], object]) -> None:
        """Runs `work` in the main process while the others wait. Raises ReportedElsewhere as `first` does."""
        self._run_turn(work, self.main)

    def _run_turn(self, work: Callable[[], Any], active: bool) -> Any:
        """Runs `work` in the active processes while the others wait, and returns its result."""
        done = False
        try:
            result = work() if active else None
            done = True
        finally:
            (failed,) = self.largest(float(not done))
        if failed:
            raise ReportedElsewhere("another process failed and reports the reason")
        return result

    def note(self, message: str) -> None:
        """Passes a message of one line to the hooks."""
        for hook in self.hooks:
            hook.note(message)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Leaves the process group. Raises LostProcess if another process ended."""
        if self.count == 1:
            return
        from accelerate.state import AcceleratorState

        self.accelerator.end_training()
        if dist.is_initialized():
            dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        if isinstance(error, RuntimeError) and _LOST_PROCESS.search(str(error)):
            raise LostProcess(
                f"process {self.rank} of {self.count} cannot reach the others: one ended or did not answer in time "
                f"({first_line(error)})"
            ) from error


def pick_device(name: str) -> torch.device:
    """The device called `name`; 'auto' is a GPU if there is one. Raises InputError if it is not available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the meta device has no values
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not available: {first_line(error)}; give another, or auto") from error
    return device


def seed_generators(device: torch.device, number: int) -> None:
    """Seeds torch's random numbers on the CPU and on the device."""
    torch.default_generator.manual_seed(number)  # torch.manual_seed visits all kinds of devices, which is slow
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of the random numbers of a step, such as dropout, in [0, 2^63); the rank is below 65536.

    The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) makes the seeds of neighbouring steps and processes
    independent: changing one bit of the input affects all bits of the output.
    """
    bits = 2**64 - 1
    mixed = (seed + 0x9E3779B97F4A7C15 * (step * 65536 + rank + 1)) & bits
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & bits
    return (mixed ^ (mixed >> 31)) >> 1
