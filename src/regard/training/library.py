"""The recipes that come with regard, by name."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

import regard
from regard.errors import InputError, unknown


@cache
def recipe_folder() -> Path:
    """Where the recipes lie: beside the sources, or where the installation put them.

    Raises:
        InputError: there are none; the installation is not whole.
    """
    beside = Path(regard.__file__).resolve().parents[2] / "recipes"
    if (beside / "lsas").is_dir():
        return beside
    try:
        files = metadata.files("regard") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.parts[-4:-2] == ("regard", "recipes"):
            return Path(str(file.locate())).resolve().parents[1]
    raise InputError("the recipes of regard are not installed with it; install it anew, or give the path of a recipe")


def recipe_names() -> list[str]:
    """The recipes, as `lsas/resnet164-se-cifar10`."""
    folder = recipe_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yaml"))


def recipe_file(name: str) -> Path:
    """The file of a recipe that comes with regard.

    Args:
        name: `lsas/resnet164-se-cifar10`.

    Raises:
        InputError: there is none of that name.
    """
    path = recipe_folder() / f"{name}.yaml"
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return path
