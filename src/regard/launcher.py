"""The variables by which launchers tell a process its place among others: torchrun, accelerate, Slurm's srun, MPI."""

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
_SPREAD = 14053  # about the golden section of it: multiples lie far apart
_PREFIXES = ("SLURM_", "TORCHELASTIC_", "ACCELERATE_", "OMPI_", "PMI_", "PMIX_", "MV2_", "I_MPI_", "MPI_")


def rank_and_size() -> tuple[int, int]:
    """The rank of this process, from 0, and how many were started together; (0, 1) without a launcher.

    What `srun` says of its tasks is put under the names that torch knows, unless another launcher has set them. A
    process at a terminal, as in the shell of `srun --pty bash`, was started by a person.

    Raises:
        InputError: the variables are no such numbers.
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
    """The rank of this process among those on its machine, from 0.

    Raises:
        InputError: the variable is no such number.
    """
    return _number("LOCAL_RANK", 0)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,18}", value):
        raise InputError(f"{name} is {value!r}; expected a whole number as a launcher sets it, or unset it")
    return int(value)


@contextmanager
def without_launcher() -> Iterator[None]:
    """Within it these variables are not there: for libraries that would wait for other processes, and for processes
    that are no part of what the launcher started.
    """
    names = [name for name in os.environ if name in _NAMES or name.startswith(_PREFIXES)]
    removed = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(removed)


def step_port(job: int, step: int) -> int:
    """The port where the tasks of a step of Slurm's meet, in [10000, 32739), below those that systems hand out.

    The steps of a job have ports of their own, and so have those of jobs that may be on the same machine: of jobs whose
    numbers are less than 50 apart, the first 280 steps differ.
    """
    return 10000 + (job * _SPREAD + step) % _PORTS


def first_node(nodes: str) -> str:
    """The first of Slurm's list of nodes: 'gpu[07-09,12],cpu1' -> 'gpu07'."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])
