"""The steps of CONTRIBUTING.md add an attention module that the tests of modules cover."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.modules import OPTIONS

from regard import attention, models
from regard.attention import modules, registry

ROOT = Path(__file__).parents[1]
COPIED = ("pyproject.toml", "docs/how-to/attention.md", "tests/conftest.py", "tests/goldens/weights.py")
COPIED += ("tests/goldens/index.json", "tests/attention/test_modules.py", "tests/attention/test_published.py")
NAME = "sse"


class Reports:
    """Counts what a run of pytest reports."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes[report.outcome] += 1
            self.failures += report.longreprtext


@pytest.fixture
def fork(tmp_path, monkeypatch) -> Iterator[Path]:
    """The files that the steps need with the blocks of the page applied; the package knows the new one."""
    assert NAME not in (*attention.names(), *OPTIONS), f"regard has {NAME}; CONTRIBUTING.md needs another module"
    folder = tmp_path / "fork"
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    steps = re.findall(r"`([\w./-]+)`:\n\n```\w+\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert [Path(name).suffix for name, _ in steps] == [".py", ".py", ".md"]
    for name, code in steps:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else ""
        if path.suffix == ".md":
            *_, row = re.finditer(r"^\| `\w+` \| .* \| \d+[^|\n]*\|\n", before, re.MULTILINE)
            path.write_text(before[: row.end()] + code + before[row.end() :])
        else:
            path.write_text(f"{before}\n\n{code}" if before else code)

    monkeypatch.setattr(registry, "_MODULES", dict(registry._MODULES))
    monkeypatch.setattr(modules, "__path__", [*modules.__path__, str(folder / "src/regard/attention/modules")])
    imported = set(sys.modules)
    exec(Path(modules.__file__).read_text(), vars(modules))  # what importing the package does
    yield folder
    for name in set(sys.modules) - imported:
        if name.startswith(("fork.", f"{modules.__name__}.")):
            del sys.modules[name]


@pytest.mark.slow
def test_a_module_that_the_page_adds_passes_the_tests_of_modules(fork) -> None:
    reports = Reports()
    files = [str(fork / name) for name in COPIED if "/test_" in name]
    options = [
        f"--rootdir={fork.parent}",
        f"-c{fork / 'pyproject.toml'}",
        "-pno:cacheprovider",
        "-oaddopts=--import-mode=importlib",
        "-pno:terminal",
        "-s",
    ]
    pytest.main([*options, "-m", "not slow", "-k", f"{NAME} or spatial_squeeze or table", *files], plugins=[reports])
    assert not reports.failures
    assert set(reports.outcomes) == {"passed"}
    assert reports.outcomes["passed"] > 20

    layer = attention.create(NAME, 8, gate=attention.SubAttention(order=2))
    assert sum(parameter.numel() for parameter in layer.parameters()) == 8 + 2 * 2
    model = attention.attach(models.create("wrn-10-1", num_classes=3), NAME)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(
        parameter.grad.any() for module in attention.attached(model).values() for parameter in module.parameters()
    )


@pytest.mark.parametrize("name", ["src/regard/attention/modules/sse.py", "tests/attention/test_published.py"])
def test_the_code_of_the_page_has_the_style_of_the_house(fork, name) -> None:
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"]
        done = subprocess.run(ruff, cwd=ROOT, input=(fork / name).read_text(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
