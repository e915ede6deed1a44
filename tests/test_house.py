"""The structure of the package: the direction of imports, public names, and dependencies."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from types import FunctionType

import pytest

import regard

SOURCE = Path(regard.__file__).parent

# Each part of the package, and the parts it may import. A part that is not listed fails the test.
MAY_IMPORT = {
    "version": set(),
    "host": set(),
    "errors": set(),
    "optional": {"errors"},
    "parser": {"errors", "strict_yaml"},
    "files": {"errors"},
    "stats": {"errors"},
    "formatting": {"stats"},
    "terminal": {"formatting"},
    "console": {"formatting"},
    "figures": {"formatting", "optional", "stats"},
    "columns": {"formatting"},
    "notebook": {"columns", "formatting"},
    "launcher": {"errors"},
    "strict_yaml": {"errors"},
    "recipes": {"errors"},
    "modes": {"errors", "stages"},
    "logits": {"errors"},
    "with_attention": set(),
    "blocks": {"with_attention"},
    "stages": {"blocks", "errors", "with_attention"},
    "attention": {"blocks", "errors", "files", "modes", "stages", "with_attention"},
    "data": {"errors", "files", "host", "optional"},
    "models": {"errors", "files", "notebook", "modes", "stages", "attention", "with_attention"},
    "maps": {"errors", "logits", "modes", "stages", "with_attention"},
    "detection": {
        "errors",
        "figures",
        "notebook",
        "files",
        "modes",
        "stages",
        "stats",
        "attention",
        "data",
        "models",
        "with_attention",
    },
    "studies": {"errors", "notebook", "stats", "figures", "modes", "stages", "with_attention", "attention", "maps"},
    "export": {"version", "errors", "files", "modes", "attention", "optional"},
    "bias": {
        *("version", "stats", "formatting", "errors", "figures", "files", "logits", "modes", "maps", "models", "data"),
        *("terminal", "notebook", "optional"),
    },
    "transfer": {"attention", "errors", "notebook", "logits", "modes", "stages", "models", "maps", "with_attention"},
    "training": {
        "notebook",
        "stats",
        "formatting",
        "version",
        "errors",
        "launcher",
        "files",
        "optional",
        "recipes",
        "parser",
        "strict_yaml",
        "terminal",
        "logits",
        "console",
        "modes",
        "attention",
        "data",
        "models",
        "maps",
        "transfer",
        "store",
        "detection",
    },
    "store": {"errors", "files", "strict_yaml"},
    "tables": {"stats", "notebook", "formatting", "errors", "strict_yaml", "data", "bias", "store", "training"},
    "reproduction": {
        *("stats", "formatting", "errors", "launcher", "optional", "terminal", "data", "store", "tables", "training")
    },
    "report": {
        *(
            "version",
            "errors",
            "figures",
            "files",
            "terminal",
            "logits",
            "data",
            "models",
            "maps",
            "bias",
            "training",
            "store",
        ),
        *("recipes", "tables", "studies", "stats", "formatting", "modes", "notebook", "columns"),
    },
    "demo": {"formatting", "errors", "files", "terminal", "console", "bias", "training", "report", "data"},
    "cli": {
        *("version", "errors", "files", "attention", "data", "models", "maps", "export", "bias", "training", "report"),
        *("demo", "store", "tables", "recipes", "reproduction", "logits", "modes", "terminal", "console", "launcher"),
        *("host", "optional", "studies", "parser", "stats", "formatting", "detection", "columns"),
    },
    "__main__": {"cli"},
}


def parts() -> list[str]:
    return sorted({p.stem for p in SOURCE.iterdir() if p.stem not in ("__init__", "__pycache__", "py")})


def imported_parts(path: Path) -> set[str]:
    """The parts of regard that a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            modules = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "regard"
                else [node.module or ""]
            )
        else:
            continue
        names |= {module.split(".")[1] for module in modules if module.startswith("regard.")}
    return names


@pytest.mark.parametrize("part", parts())
def test_a_part_imports_only_allowed_parts(part: str) -> None:
    assert part in MAY_IMPORT, f"say in MAY_IMPORT what {part} may import"
    folder = SOURCE / part
    for path in folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
        above = imported_parts(path) - MAY_IMPORT[part] - {part}
        assert not above, f"{path.relative_to(SOURCE)} imports {', '.join(sorted(above))}"


def test_allowed_imports_have_no_cycle() -> None:
    order: list[str] = []
    remaining = dict(MAY_IMPORT)
    while remaining:
        free = [part for part, below in remaining.items() if below <= set(order)]
        assert free, f"a cycle among {', '.join(remaining)}"
        order += free
        for part in free:
            del remaining[part]


@pytest.mark.parametrize("package", [p for p in parts() if (SOURCE / p).is_dir() and p != "cli"])
def test_every_public_name_exists_and_has_a_docstring(package: str) -> None:
    module = getattr(regard, package)
    assert module.__doc__
    assert module.__all__
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type | FunctionType):
            assert value.__doc__, f"{package}.{name} has no docstring"


def test_help_does_not_load_torch() -> None:
    code = "import sys; from regard.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_required_timm_reads_named_label_columns() -> None:
    """Before 1.0.31 timm's readers ignore `target_key` or fail for columns of numbers and names, and before 1.0.16 its
    transforms return arrays. `tests/data` reads images and labels with the installed version.
    """
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    (bound,) = (line.partition(">=")[2] for line in project["dependencies"] if line.startswith("timm"))
    assert tuple(map(int, bound.split("."))) >= (1, 0, 31)
