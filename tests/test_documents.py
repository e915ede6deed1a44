"""The pages of the documentation: every block runs, and links, options and recipes exist.

The blocks of a page run in order: Python in one namespace, shell commands in one folder, `regard` in this process.
A page is one test, because its blocks depend on one another. Blocks after a comment `<!-- not run: REASON -->` do not
run; their commands are only parsed.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from support.pages import PAGES, PROGRAMS, ROOT, Block, anchors, blocks, commands, name_of, prose
from support.reader import SHORTER, prepare, small_world

from regard import cli, recipes, tables, training
from regard.cli.main import COMMANDS, module_of

LANGUAGES = {"python", "bash", "console", "yaml", "toml", "text", "bibtex"}
SHELL = ("bash", "console")

# The number of blocks that do not run, by the reason in the comment before them. Adding one is a deliberate decision.
NOT_RUN = {
    "a fragment": 2,
    "needs a GPU": 7,
    "needs a cluster": 7,
    "needs a download": 7,
    "takes hours": 3,
}

BLOCKS = [block for page in PAGES for block in blocks(page)]


@cache
def parser_of(command: str):
    return import_module(module_of(command)).parser()


def test_every_code_block_names_its_language() -> None:
    unknown = [f"{block} {block.language!r}" for block in BLOCKS if block.language not in LANGUAGES]
    commands = [str(block) for block in BLOCKS if block.language == "text" and block.code.split()[0] in PROGRAMS]
    assert not unknown and not commands


def test_skipped_blocks_are_counted_by_reason() -> None:
    assert Counter(block.reason for block in BLOCKS if block.reason) == NOT_RUN


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.reason and block.language in SHELL], ids=str)
def test_commands_in_skipped_blocks_parse(block, tmp_path) -> None:
    for command in commands(block, tmp_path, strict=False):
        if command[0] in ("regard", "torchrun", "accelerate", "srun"):
            name, *arguments = command[command.index("regard") + 1 :]
            assert parser_of(name).parse_args(arguments), command
        else:
            check_program(command)


def check_program(command: list[str]) -> None:
    """Checks that the make targets, extras and scripts in a command exist."""
    program, *arguments = command
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments), command
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        groups = re.findall(r"regard\[(.*?)\]", " ".join(arguments))
        assert {extra for group in groups for extra in group.split(",")} <= set(extras), command
    elif program == "python" and arguments[0].endswith(".py"):
        assert (ROOT / arguments[0]).is_file(), command


def test_options_named_in_the_text_exist() -> None:
    options = {option.replace("-", "_") for name in COMMANDS for option in parser_of(name)._option_string_actions}
    options |= {"__multi_gpu", "__bce_target_thresh"}  # options of accelerate and timm
    for page in PAGES:
        names = re.findall(r"`(?:regard \w+ )?(--[a-z][\w.-]*)", prose(page))
        assert {option.replace("-", "_") for option in names} <= options, page


def test_links_resolve() -> None:
    broken = []
    for page in PAGES:
        for link, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", page.read_text()):
            target = page.parent / link if link else page
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                broken.append(f"{name_of(page)}: {link}#{anchor}")
    assert not broken


def test_recipes_named_in_the_pages_exist() -> None:
    text = "".join(page.read_text() for page in PAGES)
    names = set(re.findall(r"regard train (\w[\w-]*/[\w.-]+)", text))
    assert names
    assert names <= set(recipes.names())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A working folder with small substitutes for large data sets and networks."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    with small_world(tmp_path):
        yield tmp_path


RUNNABLE = [page for page in PAGES if any(block.reason is None and block.language != "text" for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_code_blocks_of_a_page_run(page, folder) -> None:
    prepare(name_of(page), folder)
    namespace: dict[str, object] = {"__name__": name_of(page)}
    for block in blocks(page):
        if block.reason is not None:
            continue
        if block.language == "python":
            code = "\n" * block.line + block.code  # tracebacks show the line in the page
            exec(compile(code, str(page), "exec"), namespace)
        elif block.language in SHELL:
            for command in commands(block, folder):
                run_command(command, block)
        elif block.language == "yaml":
            load_yaml(block, folder)


def run_command(command: list[str], block: Block) -> None:
    program, *arguments = command
    if program != "regard":
        check_program(command)
        assert program in ("make", "pip", "cd"), f"{block}: {' '.join(command)} does not run here; say why not"
    else:
        status = cli.main([*arguments, *SHORTER.get(arguments[0], ())])
        assert status == 0, f"{block}: regard {' '.join(arguments)}"


def load_yaml(block: Block, folder: Path) -> None:
    """Loads a block as a recipe, or as a table if it has rows."""
    path = folder / "block.yaml"
    path.write_text(block.code)
    if re.search("^rows:", block.code, re.MULTILINE):
        tables.load_table(path)
    else:
        training.load_recipe(path)
