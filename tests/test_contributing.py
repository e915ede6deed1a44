"""The steps in CONTRIBUTING.md add a working attention module; workflows, issue forms and hooks are valid."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.modules import OPTIONS

from regard import attention, models
from regard.attention import modules, registry

ROOT = Path(__file__).parents[1]
COPIED = ("pyproject.toml", "docs/how-to/attention.md", "tests/conftest.py", "tests/goldens/weights.py")
COPIED += ("tests/goldens/index.json", "tests/attention/test_modules.py", "tests/attention/test_published.py")
NAME = "sse"


class Reports:
    """A pytest plugin that counts outcomes and collects failures."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes[report.outcome] += 1
            self.failures += report.longreprtext


@pytest.fixture
def fork(tmp_path, monkeypatch) -> Iterator[Path]:
    """Copies of the files that the steps change, with the code of CONTRIBUTING.md added and the module registered."""
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
    exec(Path(modules.__file__).read_text(), vars(modules))  # registers the modules, as importing the package does
    yield folder
    for name in set(sys.modules) - imported:
        if name.startswith(("fork.", f"{modules.__name__}.")):
            del sys.modules[name]


@pytest.mark.slow
def test_the_module_added_in_the_guide_passes_the_module_tests(fork) -> None:
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
    pytest.main(
        [*options, "-m", "not slow", "-k", f"({NAME} and not timm) or spatial_squeeze or table", *files],
        plugins=[reports],
    )
    assert not reports.failures
    assert set(reports.outcomes) == {"passed"}
    assert reports.outcomes["passed"] >= 15

    layer = attention.create(NAME, 8, gate=attention.SubAttention(order=2))
    assert sum(parameter.numel() for parameter in layer.parameters()) == 8 + 2 * 2
    model = attention.attach(models.create("wrn-10-1", num_classes=3), NAME)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(
        parameter.grad.any() for module in attention.attached(model).values() for parameter in module.parameters()
    )


@pytest.mark.parametrize("name", ["src/regard/attention/modules/sse.py", "tests/attention/test_published.py"])
def test_code_in_the_guide_follows_the_code_style(fork, name) -> None:
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"]
        result = subprocess.run(ruff, cwd=ROOT, input=(fork / name).read_text(), capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def load_yaml(pattern: str) -> dict[str, Any]:
    """The YAML files that match a pattern: path -> content."""
    contents = {str(path.relative_to(ROOT)): yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob(pattern))}
    assert contents
    return contents


WORKFLOWS = load_yaml(".github/workflows/*.yml")


def test_workflows_and_issue_forms_follow_the_github_schemas() -> None:
    for schema, files in (("workflows", WORKFLOWS), ("issue-forms", load_yaml(".github/ISSUE_TEMPLATE/[!c]*.yml"))):
        check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.github-{schema}", *files]
        result = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_workflows_run_make_targets_with_few_permissions(workflow) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert "secrets." not in str(workflow)
    for job in workflow["jobs"].values():
        assert "permissions" not in job and job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
            else:
                program, target = step["run"].split()
                assert program == "make" and target in targets, step["run"]


def test_workflows_test_the_oldest_and_newest_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = WORKFLOWS[".github/workflows/checks.yml"]["jobs"]["quick"]["strategy"]["matrix"]["include"]
    oldest = {row["python"]: row["constraints"] for row in rows}
    assert oldest.pop(project["requires-python"].removeprefix(">=")) == "tests/oldest.txt"
    assert list(oldest.values()) == [""]
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "tests/oldest.txt").read_text(), re.MULTILINE))
    lowest = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", "\n".join(project["dependencies"]), re.MULTILINE))
    for name in ("torch", "torchvision", "timm"):
        assert pinned[name].startswith(lowest[name]), name


def test_pre_commit_hooks_run_tools_of_the_dev_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    development = {re.match(r"[\w-]+", line)[0] for line in project["optional-dependencies"]["dev"]}
    scripts = {entry.name: entry.dist.name for entry in metadata.entry_points(group="console_scripts")}
    for repository in load_yaml(".pre-commit-config.yaml")[".pre-commit-config.yaml"]["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            program = Path(hook["entry"].split()[0]).name
            assert scripts.get(program, program).replace("_", "-") in development, hook["entry"]
