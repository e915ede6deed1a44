"""Runs on the machines of a Ray cluster, several to a GPU if they are small."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from regard.errors import InputError, first_line
from regard.reproduction.engine import Ended
from regard.reproduction.plan import Job
from regard.reproduction.worker import absolute_address, carry_out_logged, order, wrong_data
from regard.store import Store

_PATIENCE = 120.0  # seconds for runs to save and end
_ANSWER = 10.0  # seconds for a cluster to answer


class RayEngine:
    """A Ray cluster (https://docs.ray.io). Its machines need regard, the data under the same path, and the store.

    Args:
        store: where the runs are; all machines have to reach it.
        address: of the cluster, "auto" for the one of this machine, "ray://HOST:10001"; None: a cluster of this machine
            alone, made now.
        cpus: of each run.
        gpus: of each run; a fraction lets several share one.

    Raises:
        InputError: Ray is not installed, there is no such cluster, or it never has so much for a run.
    """

    def __init__(self, store: Store, address: str | None = None, *, cpus: float = 1, gpus: float = 0.0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports its use otherwise
        try:
            import ray
        except ImportError as error:
            raise InputError("--engine ray needs Ray: pip install 'regard[ray]'") from error
        if cpus <= 0 or gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise InputError(
                f"a run cannot have {cpus:g} processors and {gpus:g} GPUs: give more than 0 processors, and a whole "
                "number of GPUs or a fraction of one"
            )
        self.store, self.cpus, self.gpus, self._ray = store, cpus, gpus, ray
        self._running: dict[Any, Job] = {}
        self._made = not ray.is_initialized()
        if self._made:
            _check_reachable(address)
            try:
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
                raise _no_cluster(address, error) from error
        if self.slots < 1:
            has = ray.cluster_resources()
            self.close()
            raise InputError(
                f"a run is to have {cpus:g} processors and {gpus:g} GPUs, and the cluster has "
                f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g} in all"
            )
        self._work = ray.remote(max_calls=1, max_retries=0)(carry_out_logged)  # a process a run; retries are the plan's

    @property
    def slots(self) -> int:
        has = self._ray.cluster_resources()  # machines come and go
        fitting = math.floor(has.get("CPU", 0) / self.cpus + 1e-6)
        return fitting if not self.gpus else min(fitting, math.floor(has.get("GPU", 0) / self.gpus + 1e-6))

    def check(self, jobs: Sequence[Job]) -> None:
        """Has each kind of data that the jobs need read once, on a machine of the cluster.

        Raises:
            InputError: some cannot be read there.
        """
        kinds: dict[str, Job] = {}
        for job in jobs:
            kinds.setdefault(repr(job.recipe.data), job)
        look = self._ray.remote(max_calls=1)(wrong_data).options(num_cpus=self.cpus, name="look at the data")
        looks = [(job, look.remote(order(absolute_address(self.store), job))) for job in kinds.values()]
        for job, task in looks:
            try:
                wrong = self._ray.get(task)
            except self._ray.exceptions.RayError:  # of the cluster, which the run will tell, or go on without
                continue
            if wrong is not None:
                raise InputError(f"the data of {job.name} cannot be read on the cluster: {wrong}")

    def start(self, job: Job) -> None:
        task = self._work.options(num_cpus=self.cpus, num_gpus=self.gpus, name=job.name)
        self._running[task.remote(order(absolute_address(self.store), job))] = job

    def wait(self, seconds: float) -> list[Ended]:
        if not self._running:
            time.sleep(seconds)
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._ended(task) for task in done]

    def stop(self) -> list[Ended]:
        for task in self._running:
            self._ray.cancel(task, force=False)  # comes to the run as Ctrl-C does
        until = time.monotonic() + _PATIENCE
        ended: list[Ended] = []
        while self._running and time.monotonic() < until:
            ended += self.wait(1.0)
        for task in self._running:
            self._ray.cancel(task, force=True)
        while self._running:
            ended += self.wait(1.0)
        return ended

    def close(self) -> None:
        if self._made and self._ray.is_initialized():
            self.stop()
            self._ray.shutdown()

    def _ended(self, task: Any) -> Ended:
        job = self._running.pop(task)
        errors = self._ray.exceptions
        try:
            ending, message = self._ray.get(task)
            return Ended(job, ending, message)
        except errors.TaskCancelledError:
            return Ended(job, "stopped", "stopped")
        except errors.RayTaskError as error:
            return Ended(job, "failed", first_line(error.cause or error))
        except errors.RayError as error:  # its process or its machine is gone
            return Ended(job, "lost", type(error).__name__)


def _check_reachable(address: str | None) -> None:
    """Raises InputError if nobody answers at HOST:PORT, for which Ray itself waits for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> InputError:
    return InputError(
        f"there is no Ray cluster at {address} ({first_line(error)}); `ray start --head` starts one, and for one that "
        "asks for a token set RAY_AUTH_MODE=token"
    )
