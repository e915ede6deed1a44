"""A table filled by a Ray cluster that is stopped, with processes killed on the way."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.gate import Gate, pid_of

from regard.errors import InputError
from regard.reproduction import Plan, RayExecutor, make_plan, run_plan
from regard.store import Store
from regard.tables import Overrides, fill, load_table
from regard.training import DataRecipe

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def cluster(gate: Gate, monkeypatch: pytest.MonkeyPatch):
    """A Ray cluster with two processors, whose runs stop at the gate."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", gate.path())
    from ray.cluster_utils import Cluster

    head_arguments = {"num_cpus": 2, "object_store_memory": 80_000_000, "include_dashboard": False}
    ray_cluster = Cluster(initialize_head=True, head_node_args=head_arguments)
    yield ray_cluster
    ray.shutdown()
    ray_cluster.shutdown()


def plan_table(table: Path, store: Store) -> Plan:
    where = {"threads": 1, "device": "cpu"}
    return make_plan(load_table(table), store.runs(), Overrides(), range(1), store=store.address, where=where)


def test_a_cluster_fills_a_table_despite_killed_processes(cluster, gate: Gate, small: Path, tmp_path: Path) -> None:
    for path in (small.parent / "student.yaml", small.parent / "teacher.yaml"):
        path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match="the cluster has 2 and 0 in all"):
        RayExecutor(cluster.address, gpus=1)
    plan = plan_table(small, store)
    executor = RayExecutor(cluster.address, retries=1)
    elsewhere = DataRecipe(name="folder", folder=str(tmp_path / "nowhere"))
    student = replace(plan.jobs[0], recipe=replace(plan.jobs[0].recipe, data=elsewhere))
    with pytest.raises(InputError, match=r"the data of student-seed0 cannot be read on the cluster: .*nowhere"):
        executor.check([student, *plan.jobs[1:]])
    assert not store.exists()

    # A stopped run saves a checkpoint and ends.
    student_alone = replace(plan, jobs=plan.jobs[:1])
    outcome = run_plan(student_alone, executor, store, stop=lambda: gate.holds(pid_of(store, "student-seed0")))
    assert outcome.stopped and not outcome.failed and not outcome.finished
    assert (tmp_path / "store/student-seed0/checkpoints/step-000000004.pt").is_file()
    assert not store.locked()

    names = ("student-seed0", "teacher-seed0")
    killed: dict[str, int] = {}

    def kill_once() -> bool:
        """Kills the process of one run and, for the other run, the Ray process that started it."""
        for name in names:
            if name not in killed and gate.holds(pid := pid_of(store, name)):
                # The Ray process takes longer to restart, so it is killed for the run that no other waits for.
                killed[name] = pid if name == "teacher-seed0" else psutil.Process(pid).ppid()
                os.kill(killed[name], signal.SIGKILL)
        if len(killed) == len(names):
            gate.open()
        return False

    lines: list[str] = []
    outcome = run_plan(
        plan_table(small, store), RayExecutor(cluster.address, retries=1), store, stop=kill_once, log=lines.append
    )
    assert len(killed) == len(names), lines
    assert outcome.finished == {*names, "at-seed0"}, lines
    assert all(len(cell.runs) == 1 for cell in fill(load_table(small), store.runs()).cells.values())
    assert "SIGKILL" not in " ".join(lines)  # Ray retried by itself
    assert "epoch 3/3" in (tmp_path / "store/.logs/student-seed0.log").read_text()


def test_a_missing_cluster_is_an_error() -> None:
    with pytest.raises(InputError, match="no Ray cluster at 127.0.0.1:1"):
        RayExecutor("127.0.0.1:1")
    with pytest.raises(InputError, match="no Ray cluster at auto"):
        RayExecutor("auto")


@pytest.mark.parametrize(("cpus", "gpus"), [(0, 0), (1, -1), (1, 1.5)])
def test_invalid_shares_of_processors_and_gpus_are_errors(cpus: float, gpus: float) -> None:
    with pytest.raises(InputError, match="more than 0 processors"):
        RayExecutor(cpus=cpus, gpus=gpus)
