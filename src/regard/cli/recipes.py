"""`regard recipes`: lists, shows and copies the recipes that come with regard. Does not import torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from regard import recipes
from regard.cli.command import Command
from regard.cli.options import make_parser
from regard.errors import InputError, first_line
from regard.files import atomic_write
from regard.parser import Parser


def parser() -> Parser:
    parser = make_parser(
        "recipes",
        "Lists, shows and copies the recipes that come with regard. `regard train NAME` trains one, and a copy is a "
        "starting point for your own recipe.",
    )
    parser.add_argument("action", nargs="?", choices=["list", "show", "copy"], default="list", help="what to do")
    parser.add_argument("name", nargs="?", help="recipe to show or copy, such as lsas/resnet164-se-cifar10")
    parser.add_argument("target", nargs="?", help="file or folder to copy the recipe to")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def main(command: Command) -> None:
    options, name = command.options, command.options.name
    required = {"list": "", "show": "NAME", "copy": "NAME TARGET"}[options.action]
    if missing := [argument for argument in required.split() if options[argument.lower()] is None]:
        raise InputError(f"{missing[0]} is missing: regard recipes {options.action} {required}")
    if options.action == "show":
        text = recipes.find(name).read_text(encoding="utf-8")
        command.show({"name": name, "recipe": yaml.safe_load(text)}, text.rstrip("\n"))
    elif options.action == "copy":
        path = _copy(name, Path(options.target), overwrite=options.overwrite)
        command.show({"name": name, "path": str(path)}, f"written to {path}")
    else:
        records = [{"name": name, "source": _source(name)} for name in recipes.names()]
        width = max(len(record["name"]) for record in records)
        command.show(records, *(f"{record['name']:<{width}}  {record['source']}" for record in records))


def _source(name: str) -> str:
    content = yaml.safe_load(recipes.find(name).read_text(encoding="utf-8"))
    return str(content.get("source", ""))


def _copy(name: str, target: Path, *, overwrite: bool) -> Path:
    path = recipes.find(name)
    if target.is_dir():
        target /= path.name
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists already; replace it (--overwrite) or give another file")
    try:
        with atomic_write(target) as temporary:
            shutil.copyfile(path, temporary)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({first_line(error)}); give another file") from error
    return target
