"""`regard recipes`: lists, shows and copies the recipes that come with regard. It does not wait for torch."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser
from pathlib import Path
from typing import NoReturn

import yaml

from regard import recipes
from regard.errors import InputError, first_line
from regard.files import written_aside
from regard.terminal import say


def main(arguments: list[str]) -> int:
    parser = _Parser(
        prog="regard recipes",
        description="The recipes that come with regard. `regard train NAME` trains one; a copy of one is the beginning "
        "of a recipe of your own.",
    )
    parser.add_argument("--json", action="store_true", help="the list as JSON")
    commands = parser.add_subparsers(dest="command", metavar="", title="instead of listing all")
    show = commands.add_parser("show", help="print one")
    copy = commands.add_parser("copy", help="write one to a file")
    for one in (show, copy):
        one.add_argument("name", metavar="NAME", help="such as lsas/resnet164-se-cifar10")
    copy.add_argument("target", metavar="TARGET", help="the file to write, or a folder")
    copy.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    options = parser.parse_args(arguments)
    if options.command == "show":
        print(recipes.find(options.name).read_text(encoding="utf-8"), end="")
    elif options.command == "copy":
        say(f"written to {_copy(options.name, Path(options.target), overwrite=options.overwrite)}")
    else:
        _list(as_json=options.json)
    return 0


class _Parser(ArgumentParser):
    """The options; what is wrong is an `InputError`, not an exit."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} ({self.prog} --help tells the options)")


def _list(*, as_json: bool) -> None:
    sources = {name: _source(name) for name in recipes.names()}
    if as_json:
        print(json.dumps([{"name": name, "source": source} for name, source in sources.items()], indent=1))
        return
    width = max(map(len, sources))
    for name, source in sources.items():
        say(f"{name:<{width}}  {source}")


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
        with written_aside(target) as aside:
            shutil.copyfile(path, aside)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({first_line(error)}); give another file") from error
    return target
