"""The documentation lists every page and every public name; `make docs` builds it in strict mode."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import regard

DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = [name for name in regard.__all__ if inspect.ismodule(getattr(regard, name))] + ["stats", "errors"]


def contents(index: Path) -> set[Path]:
    """The pages that an index page lists, directly or through further index pages."""
    pages = {
        (index.parent / link).resolve() for link in re.findall(r"^- \[.+?\]\((\S+\.md)\)", index.read_text(), re.M)
    }
    return pages.union(*(contents(page) for page in pages if page.name == "index.md"))


def public_names(package: str) -> set[str]:
    module = import_module(f"regard.{package}")
    if package == "errors":  # the other errors are internal
        return {"InputError", "Locked", "LostProcess", "DataWarning"}
    return set(getattr(module, "__all__", ())) or {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (name.isupper() or getattr(value, "__module__", "") == module.__name__)
        and (name.isupper() or inspect.isclass(value) or inspect.isfunction(value))
        and name != "TYPE_CHECKING"
    }


def test_every_page_is_listed_in_an_index() -> None:
    assert contents(DOCS / "index.md") == set(DOCS.rglob("*.md")) - {DOCS / "index.md"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package) -> None:
    documented = re.findall(
        r"^\.\. auto(?!module)\w+:: (\S+)$", (DOCS / "reference" / f"{package}.md").read_text(), re.M
    )
    assert sorted(name for name in documented if "." not in name) == sorted(public_names(package))
