"""The variables by which launchers tell a process its place among others: torchrun, accelerate, Slurm's srun, MPI."""

from __future__ import annotations

import os
import re

from regard.errors import InputError

_NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
)
_PREFIXES = ("SLURM_", "TORCHELASTIC_", "ACCELERATE_", "OMPI_", "PMI_", "PMIX_", "MV2_", "I_MPI_", "MPI_")


def rank_and_size() -> tuple[int, int]:
    """The rank of this process, from 0, and how many were started together; (0, 1) without a launcher.

    What `srun` says of its tasks is put under the names that torch knows, unless another launcher has set them.

    Raises:
        InputError: the variables are no such numbers.
    """
    said = os.environ
    if "RANK" not in said and "SLURM_PROCID" in said and int(said.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        said["RANK"], said["WORLD_SIZE"] = said["SLURM_PROCID"], said["SLURM_STEP_NUM_TASKS"]
        said["LOCAL_RANK"] = said.get("SLURM_LOCALID", "0")
        said["LOCAL_WORLD_SIZE"] = re.split(r"\D", said.get("SLURM_STEP_TASKS_PER_NODE", said["WORLD_SIZE"]))[0]
        nodes = said.get("SLURM_STEP_NODELIST") or said.get("SLURM_NODELIST", "localhost")
        said.setdefault("MASTER_ADDR", first_node(nodes))
        # The same for all tasks of a step, another for other steps and jobs.
        step = int(said.get("SLURM_JOB_ID", 0)) + int(said.get("SLURM_STEP_ID", 0))
        said.setdefault("MASTER_PORT", str(20000 + step % 20000))
    rank, size = said.get("RANK", "0"), said.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise InputError(
            f"RANK is {rank!r} and WORLD_SIZE {size!r}; start the processes by one launcher, or unset both"
        )
    return int(rank), int(size)


def forget_launcher() -> None:
    """Removes these variables from the environment of a process that is no part of what the launcher started."""
    for name in [name for name in os.environ if name in _NAMES or name.startswith(_PREFIXES)]:
        del os.environ[name]


def first_node(nodes: str) -> str:
    """The first of Slurm's list of nodes: 'gpu[07-09,12],cpu1' -> 'gpu07'."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", nodes)[0])
