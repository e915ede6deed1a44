"""The quick demo: every network, one page, and resuming."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from regard import InputError, demo
from regard.bias import Results
from regard.training import Run

pytestmark = pytest.mark.slow


def test_the_demo_writes_one_page_and_can_be_resumed(tmp_path) -> None:
    output = io.StringIO()
    folder = tmp_path / "demo"
    result = demo.run_demo(folder, quick=True, device="cpu", console=Console(file=output, width=140))
    assert result is not None
    html = (folder / "report.html").read_text()
    for name in demo.NETWORKS:
        assert name in html
        assert name in output.getvalue()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", html)
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last.safetensors")}
    assert len(weights) == len(demo.NETWORKS)
    repeated = demo.run_demo(folder, quick=True, device="cpu", console=Console(file=io.StringIO()))
    assert repeated is not None and repeated.to_records() == result.to_records()
    with pytest.raises(InputError, match="1 epochs, not 6"):
        demo.run_demo(folder, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    # The corrected network starts from the biased one and trains with regions; its student trains without.
    corrected, student = (Run.open(folder / name).recipe for name in ("corrected", "student-of-corrected"))
    assert corrected.model.pretrained == str(folder / "biased") and corrected.guidance.share == 0.1
    assert student.transfer.teacher == str(folder / "corrected") and not student.guidance.used
    assert {load_results(folder / name).margin for name in ("biased", "corrected")} == {demo.MARGIN}
    references = {record["reference"] for record in result.to_records() if record["record"] == "comparison"}
    assert references == {demo.REFERENCE}


def load_results(folder) -> Results:
    return Results.load(folder / "bias.json")


def test_foreign_files_are_refused_before_training(tmp_path) -> None:
    (tmp_path / "lsas-se").mkdir()
    (tmp_path / "lsas-se" / "recipe.yaml").write_text("a cake")
    for overwrite in (True, False):
        (tmp_path / "lsas-se" / "recipe.yaml").rename(tmp_path / "lsas-se" / ("recipe.yaml" if overwrite else "notes"))
        with pytest.raises(InputError, match="lsas-se"):
            demo.run_demo(tmp_path, overwrite=overwrite)
    (tmp_path / "report.html").write_text("a person's")
    (tmp_path / "lsas-se" / "notes").unlink()
    with pytest.raises(InputError, match="report.html is not overwritten"):
        demo.run_demo(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["lsas-se", "report.html"]
