"""The package: files of the wheel, metadata, import time, and the library with its base dependencies only."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from regard import __version__, optional

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: list(map(Requirement, lines)) for name, lines in PROJECT["optional-dependencies"].items()}
BASE = list(map(Requirement, PROJECT["dependencies"]))
BUILD = "from setuptools import build_meta as b; b.build_sdist({out!r}); b.build_wheel({out!r})"


def python(code: str, *options: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, *options, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist, built from a copy of the tracked files."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if not name.startswith(("docs/", "benchmarks/")) and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    command = [sys.executable, "-c", BUILD.format(out=str(out))]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_contains_exactly_the_files_of_the_package(wheel, built) -> None:
    source = {path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    source = {path.relative_to(ROOT / "src").as_posix() for path in source if ".egg-info" not in path.as_posix()}
    names = set(wheel.namelist())
    dist_info = {name for name in names if name.startswith(f"regard-{__version__}.dist-info/")}
    assert names - dist_info == source
    assert {Path(name).suffix for name in source} >= {".py", ".typed", ".yaml", ".md", ".html", ".cpp", ".h"}

    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        members = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert members >= {f"src/{name}" for name in source}
    assert members >= {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    assert not any(name.startswith("tests/") for name in members)


@pytest.mark.slow
def test_metadata_of_the_wheel(wheel) -> None:
    metadata = message_from_bytes(wheel.read(f"regard-{__version__}.dist-info/METADATA"))
    assert metadata["Name"] == "regard" and metadata["Version"] == __version__ and metadata["License-Expression"]
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert set(metadata.get_all("Provides-Extra")) == set(EXTRAS)
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert b"regard = regard.cli:main" in wheel.read(f"regard-{__version__}.dist-info/entry_points.txt")


def test_the_citation_file_matches_the_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["version"] == __version__
    assert citation["license"] == PROJECT["license"] and citation["repository-code"] == PROJECT["urls"]["Source"]
    for work in (citation, *citation["references"]):
        assert work["title"] and work["authors"] and work["type"]


def test_extras_match_the_errors_and_the_install_page() -> None:
    """The extra that `optional.require` names contains the package, and the installation page lists both."""
    page = (ROOT / "docs" / "how-to" / "install.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| (?:base|`(\w+)`) \|$", page, re.MULTILINE))
    expected = {requirement.name: "" for requirement in BASE}
    for extra, packages in optional.EXTRAS.items():
        assert {requirement.name for requirement in EXTRAS[extra]} == set(packages.values())
        expected |= dict.fromkeys(packages.values(), extra)
    assert rows == expected


def test_oldest_versions_equal_the_lower_bounds() -> None:
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    oldest = {name: Version(version) for name, equal, version in (line.partition("==") for line in lines) if equal}
    for requirement in (*BASE, *(requirement for extra in optional.EXTRAS for requirement in EXTRAS[extra])):
        (bound,) = requirement.specifier
        assert bound.operator == ">=" and oldest[requirement.name] == Version(bound.version), requirement


def test_importing_regard_is_fast_and_loads_no_dependencies() -> None:
    """The minimum over several processes: at most 50 ms of processor time more than the interpreter."""
    code = "import sys; before = set(sys.modules); {}; print(*set(sys.modules) - before)"
    loaded = python(code.format("import regard")).split()
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"regard"}
    timing = "import resource; {}; print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    alone, regard = (
        min(float(python(timing.format(line))) for _ in range(5)) for line in ("import sys", "import regard")
    )
    assert regard - alone < 0.05


def test_packages_import_few_dependencies() -> None:
    """Imports packages one after another in one process; each maps to the packages that it must not load."""
    steps = {
        "cli": "torch numpy jsonargparse rich",
        "figures": "torch matplotlib",
        "attention": "timm torchvision PIL jsonargparse rich yaml",
        "transfer": "timm torchvision jsonargparse rich",
    }
    code = "".join(f"import regard.{step}; print(*sys.modules)\n" for step in steps)
    for (step, without), line in zip(steps.items(), python(f"import sys\n{code}").splitlines(), strict=True):
        assert not set(without.split()) & set(line.split()), f"importing regard.{step}"


def installed_with(requirements: list[Requirement]) -> Iterator[importlib.metadata.Distribution]:
    """The distributions that requirements install, directly or indirectly, each once."""
    remaining, visited = list(requirements), set()
    while remaining:
        requirement = remaining.pop()
        key = (requirement.name.lower(), *sorted(requirement.extras))
        if key in visited:
            continue
        visited.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        yield distribution
        for line in distribution.requires or ():
            dependency = Requirement(line)
            extras = ("", *requirement.extras)
            if dependency.marker is None or any(dependency.marker.evaluate({"extra": extra}) for extra in extras):
                remaining.append(dependency)


@pytest.mark.slow
def test_the_wheel_works_with_base_dependencies_only(wheel, tmp_path) -> None:
    """Python can import the wheel and its base dependencies only; running leaves the package unchanged."""
    base, package, work = (tmp_path / name for name in ("base", "package", "work"))
    for folder in (base, package, work):
        folder.mkdir()
    for distribution in installed_with(BASE):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (base / top).is_symlink():
                (base / top).symlink_to(distribution.locate_file(top))
    wheel.extractall(package)
    before = sorted(package.rglob("*"))
    environment = {"PYTHONPATH": os.pathsep.join(map(str, (package, base))), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-S", ROOT / "tests" / "smoke.py"],
        cwd=work,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    assert result.stdout.count("passed") == 7
    assert sorted(package.rglob("*")) == before
