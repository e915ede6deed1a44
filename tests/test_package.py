"""The package: files of the wheel, dependencies, and that the base dependencies are enough for the library."""

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
    done = subprocess.run(
        [sys.executable, *options, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist, built from a copy of what the repository holds."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if not name.startswith(("docs/", "benchmarks/")) and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    command = [sys.executable, "-c", BUILD.format(out=str(out))]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel, built) -> None:
    source = {path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    source = {path.relative_to(ROOT / "src").as_posix() for path in source if ".egg-info" not in path.as_posix()}
    names = set(wheel.namelist())
    about = {name for name in names if name.startswith(f"regard-{__version__}.dist-info/")}
    assert names - about == source
    assert {Path(name).suffix for name in source} >= {".py", ".typed", ".yaml", ".md", ".html", ".cpp", ".h"}

    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        members = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert members >= {f"src/{name}" for name in source}
    assert members >= {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    assert not any(name.startswith("tests/") for name in members)


@pytest.mark.slow
def test_metadata(wheel) -> None:
    metadata = message_from_bytes(wheel.read(f"regard-{__version__}.dist-info/METADATA"))
    assert metadata["Name"] == "regard" and metadata["Version"] == __version__ and metadata["License-Expression"]
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert set(metadata.get_all("Provides-Extra")) == set(EXTRAS)
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert b"regard = regard.cli:main" in wheel.read(f"regard-{__version__}.dist-info/entry_points.txt")


def test_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["version"] == __version__
    assert citation["license"] == PROJECT["license"] and citation["repository-code"] == PROJECT["urls"]["Source"]
    for work in (citation, *citation["references"]):
        assert work["title"] and work["authors"] and work["type"]


def test_extras_are_those_of_the_error_and_of_the_page() -> None:
    """What `optional.require` says to install brings the package, and the page on installing says what it is for."""
    page = (ROOT / "docs" / "how-to" / "install.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| (?:base|`(\w+)`) \|$", page, re.MULTILINE))
    expected = {requirement.name: "" for requirement in BASE}
    for extra, packages in optional.EXTRAS.items():
        assert {requirement.name for requirement in EXTRAS[extra]} == set(packages.values())
        expected |= dict.fromkeys(packages.values(), extra)
    assert rows == expected


def test_oldest_versions_are_the_lower_bounds() -> None:
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    oldest = {name: Version(version) for name, equal, version in (line.partition("==") for line in lines) if equal}
    for requirement in (*BASE, *(one for extra in optional.EXTRAS for one in EXTRAS[extra])):
        (bound,) = requirement.specifier
        assert bound.operator == ">=" and oldest[requirement.name] == Version(bound.version), requirement


def test_importing_regard_loads_nothing_else_and_takes_no_time() -> None:
    """At most 50 ms of processor time beyond the interpreter's own, the least of several processes."""
    code = "import sys; before = set(sys.modules); {}; print(*set(sys.modules) - before)"
    loaded = python(code.format("import regard")).split()
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"regard"}
    measured = "import resource; {}; print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    alone, regard = (
        min(float(python(measured.format(line))) for _ in range(5)) for line in ("import sys", "import regard")
    )
    assert regard - alone < 0.05


def test_imports_are_light() -> None:
    """One after the other in one process: what each still does without. What comes with an extra, the wheel does
    without, see below.
    """
    steps = {
        "cli": "torch numpy jsonargparse rich",
        "figures": "torch matplotlib",
        "attention": "timm torchvision PIL jsonargparse rich yaml",
        "transfer": "timm torchvision jsonargparse rich",
    }
    code = "".join(f"import regard.{step}; print(*sys.modules)\n" for step in steps)
    for (step, without), line in zip(steps.items(), python(f"import sys\n{code}").splitlines(), strict=True):
        assert not set(without.split()) & set(line.split()), f"importing regard.{step}"


def needed(requirements: list[Requirement]) -> Iterator[importlib.metadata.Distribution]:
    """The distributions that requirements bring in, each once."""
    remaining, done = list(requirements), set()
    while remaining:
        requirement = remaining.pop()
        key = (requirement.name.lower(), *sorted(requirement.extras))
        if key in done:
            continue
        done.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        yield distribution
        for line in distribution.requires or ():
            below = Requirement(line)
            extras = ("", *requirement.extras)
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                remaining.append(below)


@pytest.mark.slow
def test_the_wheel_works_with_base_dependencies_alone(wheel, tmp_path) -> None:
    """In a Python that sees the wheel and what its base dependencies bring in, and writes nothing among them."""
    base, package, work = (tmp_path / name for name in ("base", "package", "work"))
    for folder in (base, package, work):
        folder.mkdir()
    for distribution in needed(BASE):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (base / top).is_symlink():
                (base / top).symlink_to(distribution.locate_file(top))
    wheel.extractall(package)
    before = sorted(package.rglob("*"))
    environment = {"PYTHONPATH": os.pathsep.join(map(str, (package, base))), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-S", ROOT / "tests" / "smoke.py"],
        cwd=work,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count("passed") == 7
    assert sorted(package.rglob("*")) == before
