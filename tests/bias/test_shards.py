"""Evaluations in shards: written, resumed, and shared between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regard.bias.rows import COLUMNS, Rows
from regard.bias.shards import in_shards
from regard.errors import InputError


def rows_of(images: range) -> Rows:
    columns = {name: np.array([i % 7 for i in images]).astype(dtype) for name, dtype in COLUMNS.items()}
    columns["spill"][[i % 5 == 0 for i in images]] = np.nan
    return Rows(tuple(f"{i}.jpg" for i in images), columns)


class Work:
    """Records the shards it evaluates; raises KeyboardInterrupt after `stop_after` of them."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.done: list[range] = []
        self.stop_after = stop_after

    def __call__(self, images: range, done: Callable[[int], None]) -> Rows:
        if len(self.done) == self.stop_after:
            raise KeyboardInterrupt
        self.done.append(images)
        done(len(images))
        return replace(rows_of(images), skipped=(f"{images.start}: broken",), outputs=10)


def run(work: Work, folder: Path | None, *, plan: dict | None = None, count: int = 23):
    return in_shards(count, 5, work, folder=folder, plan={"a": (1, 2)} if plan is None else plan)


def assert_equal(a: Rows, b: Rows) -> None:
    assert a.keys == b.keys
    for name in COLUMNS:
        assert a.columns[name].dtype == COLUMNS[name]
        np.testing.assert_array_equal(a.columns[name], b.columns[name])


def test_rows_are_written_and_read(tmp_path: Path) -> None:
    rows = rows_of(range(9))
    replace(rows, skipped=("a: broken",), outputs=7).write(tmp_path / "x.parquet")
    actual = Rows.read(tmp_path / "x.parquet")
    assert_equal(actual, rows)
    assert actual.skipped == ("a: broken",) and actual.outputs == 7 and np.isnan(actual.columns["spill"][0])


def test_rows_are_plain_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows_of(range(6)).write(tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["image", *COLUMNS]
    assert table.column("spill").null_count == 2  # the NaN values


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_truncated_and_missing_files_fail(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        Rows.read(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="there is no"):
        Rows.read(tmp_path / "y.parquet")


@pytest.mark.parametrize("count", [1, 4, 5, 6, 23])
def test_every_image_is_evaluated_once(tmp_path: Path, count: int) -> None:
    for folder in (None, tmp_path):
        shard = run(Work(), folder, count=count)
        assert_equal(shard, rows_of(range(count)))
        assert shard.outputs == 10 and len(shard.skipped) == -(-count // 5)


def test_interrupted_evaluations_resume(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Work(stop_after=2), tmp_path)
    counts: list[tuple[int, int | None]] = []
    resumed = Work()
    shard = in_shards(
        23, 5, resumed, folder=tmp_path, plan={"a": [1, 2]}, progress=lambda done, total: counts.append((done, total))
    )
    assert [images.start for images in resumed.done] == [10, 15, 20]
    assert counts == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]
    assert_equal(shard, rows_of(range(23)))
    assert shard.skipped == tuple(f"{i}: broken" for i in range(0, 23, 5))


def test_broken_and_missing_shards_are_evaluated_again(tmp_path: Path) -> None:
    run(Work(), tmp_path)
    (tmp_path / "000001.parquet").write_bytes((tmp_path / "000001.parquet").read_bytes()[:100])
    (tmp_path / "000003.parquet").unlink()
    resumed = Work()
    assert_equal(run(resumed, tmp_path), rows_of(range(23)))
    assert [images.start for images in resumed.done] == [5, 15]


def test_a_different_plan_fails(tmp_path: Path) -> None:
    run(Work(), tmp_path, plan={"method": "gradcam", "layer": "layer4"})
    work = Work()
    with pytest.raises(InputError, match="another evaluation: method differs; "):
        run(work, tmp_path, plan={"method": "layercam", "layer": "layer4"})
    with pytest.raises(InputError, match="method, threshold differ"):
        run(work, tmp_path, plan={"layer": "layer4", "threshold": 1, "method": "x"})
    assert not work.done


def test_processes_share_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two processes evaluates every second shard; the first reads the shards of the second."""
    import regard.bias.shards as module

    monkeypatch.setattr(module, "_process", lambda: (1, 2))
    monkeypatch.setattr(module.torch.distributed, "barrier", lambda: None)
    second = Work()
    with pytest.raises(InputError, match="shards in .* are missing"):
        run(second, tmp_path)
    assert [images.start for images in second.done] == [5, 15]
    monkeypatch.setattr(module, "_process", lambda: (0, 2))
    first = Work()
    assert_equal(run(first, tmp_path), rows_of(range(23)))
    assert [images.start for images in first.done] == [0, 10, 20]
    with pytest.raises(InputError, match="needs a shared folder"):
        run(Work(), None)
