"""Runs the commands of jobs on the machines of a Ray cluster; small runs share a GPU."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from regard import training
from regard.errors import InputError, first_line
from regard.optional import require
from regard.reproduction.local import ending_of, start_command
from regard.reproduction.plan import Job
from regard.reproduction.scheduler import Ended, Ending
from regard.store import Store
from regard.training import Recipe

_CONNECT_TIMEOUT = 10.0  # seconds
_PR_SET_PDEATHSIG = 1  # option of Linux' prctl: the signal that ends a process when its parent ends


class RayExecutor:
    """Runs jobs on a Ray cluster (https://docs.ray.io).

    All machines need access to the store, and regard, data and recipe files under the same paths. Every job is a task;
    the task of a student depends on the task of its teacher.

    Args:
        address: address of the cluster: "auto" for the one that runs on this machine, or "ray://HOST:10001"; None
            starts a cluster on this machine.
        cpus: processors per run.
        gpus: GPUs per run; with a fraction, several runs share a GPU.
        retries: number of times to retry a run that failed or whose machine was lost.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or its machines are too small for a run.
    """

    slots = sys.maxsize
    queues = True

    def __init__(self, address: str | None = None, *, cpus: float = 1, gpus: float = 0.0, retries: int = 2) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray reports usage statistics
        require("--engine ray", "ray")
        import ray

        if cpus <= 0 or gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise InputError(
                f"a run cannot have {cpus:g} processors and {gpus:g} GPUs: give more than 0 processors, and a whole "
                "number of GPUs or a fraction of one"
            )
        self._ray: Any = ray
        self._running: dict[Any, Job] = {}  # by Ray's reference of the task
        self._failed: set[str] = set()
        if not ray.is_initialized():
            _check_reachable(address)
            try:
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
                raise _no_cluster(address, error) from error
        resources = ray.cluster_resources()
        if resources.get("CPU", 0) < cpus or resources.get("GPU", 0) < gpus:
            raise InputError(
                f"a run needs {cpus:g} processors and {gpus:g} GPUs, but the cluster has "
                f"{resources.get('CPU', 0):g} and {resources.get('GPU', 0):g} in all"
            )
        self._run = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries, retry_exceptions=[RunFailed])(
            run_command
        )
        self._check_data = self._ray.remote(num_cpus=cpus)(data_problem)

    def check(self, jobs: Sequence[Job]) -> None:
        """Reads each data set of the jobs once on the cluster. Raises InputError if one cannot be read there."""
        first_jobs = {repr(job.recipe.data): job for job in reversed(jobs)}
        for job, task in [(job, self._check_data.remote(job.recipe)) for job in first_jobs.values()]:
            try:
                problem = self._ray.get(task)
            except self._ray.exceptions.RayError:  # a failure of the cluster; the runs may still succeed
                continue
            if problem is not None:
                raise InputError(f"the data of {job.name} cannot be read on the cluster: {problem}")

    def start(self, job: Job) -> None:
        self._failed.discard(job.name)
        teacher = next((task for task, running in self._running.items() if running.name == job.teacher), None)
        task = self._run.options(name=job.name).remote(job.command, job.store, job.name, teacher)
        self._running[task] = job

    def wait(self, seconds: float) -> list[Ended]:
        if not self._running:
            time.sleep(seconds)
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._result(task) for task in done]

    def stop(self, *, force: bool) -> None:
        for task in self._running:
            self._ray.cancel(task, force=force)

    def _result(self, task: Any) -> Ended:
        job = self._running.pop(task)
        try:
            return Ended(job, *self._ray.get(task))
        except self._ray.exceptions.TaskCancelledError:
            return Ended(job, "stopped", "stopped")
        except self._ray.exceptions.RayError as error:
            if job.teacher in self._failed:  # the error is the teacher's
                return Ended(job, "waiting")
            self._failed.add(job.name)
            cause = getattr(error, "cause", None)
            if isinstance(cause, RunFailed):
                return Ended(job, *cause.args)
            raised = isinstance(error, self._ray.exceptions.RayTaskError)
            return Ended(job, "failed" if raised else "killed", f"{type(error).__name__}: {first_line(error)}")


class RunFailed(Exception):
    """The command of a run failed or was killed. Arguments: ending and message."""


def run_command(command: list[str], store: str, name: str, teacher: tuple[Ending, str] | None) -> tuple[Ending, str]:
    """The task of a job: runs its command if the task of its teacher has finished.

    Returns the ending and the last line of the log. Raises RunFailed if Ray should retry.
    """
    if teacher is not None and teacher[0] != "finished":
        return "waiting", ""
    # Ray cancels a task by SIGINT, which processes ignore if a script started the cluster in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log, preexec = Store(store).log(name), None
    if sys.platform == "linux":  # the run ends with this process, because Ray then starts it again
        preexec = partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
    process = start_command(command, log, preexec=preexec)
    try:
        while process.poll() is None:
            time.sleep(0.2)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
    ending, message = ending_of(process.returncode, log)
    if ending in ("failed", "killed"):
        raise RunFailed(ending, message)
    return ending, message


def data_problem(recipe: Recipe) -> str | None:
    """The reason why the data of a recipe cannot be read on this machine; None if they can."""
    try:
        training.task_of(recipe).load_data(recipe.data)
    except InputError as error:
        return str(error)
    return None


def _check_reachable(address: str | None) -> None:
    """Raises InputError if HOST:PORT does not answer; Ray itself would wait for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> InputError:
    return InputError(
        f"there is no Ray cluster at {address} ({first_line(error)}); start one with `ray start --head`, or set "
        "RAY_AUTH_MODE=token for a cluster that needs a token"
    )
