"""The demo, small: every network, one page, and on again where it was stopped."""

from __future__ import annotations

import io
import re

from rich.console import Console

from regard import demo


def test_the_demo_ends_in_one_page(tmp_path, monkeypatch) -> None:
    common = [option for option in demo.COMMON if "data.options" not in option]
    monkeypatch.setattr(demo, "COMMON", (*common, "--data.options={cue: 0.3, train: 192, test: 60}", "--threads=1"))
    output = io.StringIO()
    page = demo.run_demo(tmp_path / "demo", epochs=1, device="cpu", console=Console(file=output, width=140))
    assert page == tmp_path / "demo" / "report.html"
    html = page.read_text()
    for name in demo.NETWORKS:
        assert name in html
        assert name in output.getvalue()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", html)
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last.safetensors")}
    assert len(weights) == len(demo.NETWORKS)
    assert demo.run_demo(tmp_path / "demo", epochs=1, device="cpu", console=Console(file=io.StringIO())) == page
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
