"""The recipes that come with regard: one YAML file for each published run, in one folder for each paper."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources
from pathlib import Path

from regard.errors import InputError

__all__ = ["FOLDER", "find", "names"]

FOLDER = Path(str(resources.files(__name__)))
"""The folder of the recipes, one folder for each paper."""


@cache
def names() -> tuple[str, ...]:
    """The names of all recipes, such as "lsas/resnet164-se-cifar10"."""
    return tuple(sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.yaml")))


def find(recipe: str | Path) -> Path:
    """The file of a recipe.

    Args:
        recipe: the path of a YAML file, which takes precedence, or one of `names`.

    Raises:
        InputError: there is no recipe file of this path or name.
    """
    path = Path(recipe)
    if str(recipe) in names() and not path.is_file():
        return FOLDER / f"{recipe}.yaml"
    if path.exists():
        return path
    near = difflib.get_close_matches(str(recipe).removeprefix("recipes/").removesuffix(".yaml"), names(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"there is no recipe file {recipe}, and none of that name ({hint}`regard recipes` lists them)")
