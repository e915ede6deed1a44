"""A table filled by a Ray cluster of two workers, one of which is killed on the way."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from regard.errors import InputError
from regard.reproduction import RayEngine, carry_out_plan, make_plan
from regard.store import Store
from regard.tables import Setting, fill, load_table
from regard.training import DataRecipe

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    """Two machines of one processor each, as Ray sees them."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
    two.add_node(num_cpus=1, object_store_memory=80_000_000)
    yield two
    ray.shutdown()
    two.shutdown()


def test_a_cluster_fills_a_table_though_a_worker_is_killed(cluster, small: Path, tmp_path: Path) -> None:
    for name in ("student", "teacher"):
        path = small.parent / f"{name}.yaml"
        path.write_text(path.read_text().replace("epochs: 2", "epochs: 12"))
    store = Store(tmp_path / "store")
    table = load_table(small)
    columns = ["student", "teacher"]
    plan = make_plan(table, [], Setting(), range(1), columns=columns, where={"threads": 1, "device": "cpu"})
    engine = RayEngine(store, cluster.address)
    assert engine.slots == 2
    with pytest.raises(InputError, match="the cluster has 2 and 0 in all"):
        RayEngine(store, cluster.address, gpus=1)
    elsewhere = replace(plan.jobs[0].recipe, data=DataRecipe(name="folder", folder=str(tmp_path / "nowhere")))
    wrong = r"the data of student-seed0 cannot be read on the cluster: .*nowhere"
    with pytest.raises(InputError, match=wrong):
        engine.check([plan.jobs[1], replace(plan.jobs[0], recipe=elsewhere)])  # those of the first are there
    assert not store.exists()
    killed: list[str] = []

    def kill_once() -> bool:
        for name in ("student-seed0", "teacher-seed0"):
            seen = store.run(name)
            held = store.holder(name)
            if not killed and held and seen is not None and 1 <= seen.epochs < 9:
                os.kill(int(held.split()[1]), signal.SIGKILL)
                killed.append(name)
        return False

    said: list[str] = []
    carried = carry_out_plan(plan, engine, store, retries=1, say=said.append, stop=kill_once)
    assert killed, said
    assert carried.finished == {"student-seed0", "teacher-seed0"}, said
    assert any(f"{killed[0]} was lost" in line and "goes on from its checkpoint" in line for line in said)
    cells = fill(table, store.runs()).cells
    assert [len(cells["one", column].seeds) for column in columns] == [1, 1]
    assert "epoch 12/12" in (tmp_path / f"store/.logs/{killed[0]}.log").read_text()


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Ray cluster at 127.0.0.1:1"):
        RayEngine(Store(tmp_path), "127.0.0.1:1")
    with pytest.raises(InputError, match="no Ray cluster at auto"):
        RayEngine(Store(tmp_path), "auto")


@pytest.mark.parametrize(("cpus", "gpus"), [(0, 0), (1, -1), (1, 1.5)])
def test_shares_that_make_no_sense_are_said(tmp_path: Path, cpus: float, gpus: float) -> None:
    with pytest.raises(InputError, match="more than 0 processors"):
        RayEngine(Store(tmp_path), cpus=cpus, gpus=gpus)
