"""Ranks and sizes from the environment variables of launchers: torchrun, accelerate, Slurm's srun, MPI."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from regard.errors import InputError

_NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
)
_PORTS = 22739  # a prime
_STRIDE = 14053  # about the golden section of the number of ports, so that its multiples lie far apart
_PREFIXES = ("SLURM_", "TORCHELASTIC_", "ACCELERATE_", "OMPI_", "PMI_", "PMIX_", "MV2_", "I_MPI_", "MPI_")


def rank_and_size() -> tuple[int, int]:
    """The rank of this process, from 0, and the number of processes; (0, 1) without a launcher.

    The variables of `srun` are copied to those that torch reads, unless another launcher has set them, or the process
    is at a terminal, as in the shell of `srun --pty bash`. Raises InputError if the values are not such numbers.
    """
    environ = os.environ
    tasks = _number("SLURM_STEP_NUM_TASKS", 1)
    if not environ.get("RANK") and "SLURM_PROCID" in environ and tasks > 1 and not os.isatty(0):
        environ["RANK"], environ["WORLD_SIZE"] = environ["SLURM_PROCID"], environ["SLURM_STEP_NUM_TASKS"]
        environ["LOCAL_RANK"] = environ.get("SLURM_LOCALID", "0")
        per_node = environ.get("SLURM_STEP_TASKS_PER_NODE", environ["WORLD_SIZE"])
        environ["LOCAL_WORLD_SIZE"] = re.split(r"\D", per_node)[0]
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST", "localhost")
        environ["MASTER_ADDR"] = environ.get("MASTER_ADDR") or first_node(nodes)
        port = step_port(_number("SLURM_JOB_ID", 0), _number("SLURM_STEP_ID", 0))
        environ["MASTER_PORT"] = environ.get("MASTER_PORT") or str(port)
    if not environ.get("RANK"):  # scripts for Slurm export WORLD_SIZE for the tasks that they start
        return 0, 1
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if rank >= size:
        raise InputError(f"RANK is {rank} and WORLD_SIZE {size}; start the processes by one launcher, or unset both")
    return rank, size


def local_rank() -> int:
    """The rank of this process on its machine, from 0."""
    return _number("LOCAL_RANK", 0)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,18}", value):
        raise InputError(f"{name} is {value!r}; expected a whole number as a launcher sets it, or unset it")
    return int(value)


@contextmanager
def without_launcher() -> Iterator[None]:
    """Unsets the variables of launchers, so that libraries and new processes do not wait for other processes."""
    names = [name for name in os.environ if name in _NAMES or name.startswith(_PREFIXES)]
    variables = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(variables)


def step_port(job: int, step: int) -> int:
    """The port at which the tasks of a Slurm step meet, in [10000, 32739), below the ports that systems hand out.

    Steps of one job have different ports, and so have jobs that may share a machine: if the numbers of two jobs are
    less than 50 apart, the ports of their first 280 steps differ.
    """
    return 10000 + (job * _STRIDE + step) % _PORTS


def first_node(nodes: str) -> str:
    """The first node in Slurm's list of nodes: 'gpu[07-09,12],cpu1' -> 'gpu07'."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])
