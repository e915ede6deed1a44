"""What the documents say works: Python runs, recipes load, commands parse, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from regard import attention, data, models, recipes, training
from regard.cli.main import COMMANDS, module_of

ROOT = Path(__file__).parents[1]


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


@pytest.fixture
def names(tmp_path, monkeypatch, capsys) -> dict:
    """What the examples take for granted: a batch, two networks, a checkpoint, a photo, the built-in data, smaller."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (48, 32), "green").save(tmp_path / "photo.png")
    gate = attention.SubAttention(order=1)
    published = models.create("cifar-resnet164", attention="se", gate=gate, attention_stages=(3,))
    torch.save({"state_dict": published.state_dict()}, tmp_path / "model_best.pth.tar")
    monkeypatch.setattr(data, "load", lambda name: data.clutter(train=20, test=20))
    return {
        "images": torch.randn(2, 3, 32, 32),
        "labels": torch.tensor([1, 2]),
        "regions": torch.rand(2, 32, 32) > 0.5,
        "student": models.create("wrn-10-1"),
        "teacher": models.create("wrn-10-2"),
        "attention": attention,
        "models": models,
        "transfer": __import__("regard").transfer,
    }


DOCUMENTS = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]
PAGES = [ROOT / path for path in (*DOCUMENTS, "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "src" / "regard" / "recipes").glob("*/README.md"))


def commands() -> dict[str, list[tuple[str, list[str]]]]:
    """By command of `regard`: the pages that show it in a block, and its arguments."""
    shown: dict[str, list[tuple[str, list[str]]]] = {command: [] for command in COMMANDS}
    for page in PAGES:
        fenced = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        text = "".join(block for language, block in fenced if language in ("", "sh")).replace("\\\n", " ")
        for command in re.findall(r"^(?!>>>)(?:.* )?regard ([^|&>\n]+)", text, re.MULTILINE):
            name, *arguments = shlex.split(command, comments=True)
            shown[name].append((str(page.relative_to(ROOT)), arguments))
    return shown


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_parse(name) -> None:
    parser = import_module(module_of(name)).parser()
    for page, arguments in commands()[name]:
        assert parser.parse_args(arguments), page


def test_options_named_in_sentences_are_there() -> None:
    parsers = {name: import_module(module_of(name)).parser() for name in COMMANDS}
    known = {option.replace("-", "_") for parser in parsers.values() for option in parser._option_string_actions}
    known |= {"__multi_gpu", "__bce_target_thresh"}  # of accelerate and of timm
    for page in PAGES:
        sentences = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        named = re.findall(r"`(?:regard \w+ )?(--[a-z][\w.-]*)", sentences)
        assert {option.replace("-", "_") for option in named} <= known, page


def test_links_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert not broken


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "python")])
def test_python_examples_run(path, names) -> None:
    found = blocks(path, "python")
    for block in found:
        if not block.startswith(("x * gate", "@term")):  # the idea, a part of a file: no examples
            exec(compile(block, path, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["README.md", "docs/how-to/transfer.md"])
def test_recipes_load(path, tmp_path) -> None:
    for block in blocks(path, "yaml"):
        (tmp_path / "recipe.yaml").write_text(block)
        assert training.load_recipe(tmp_path / "recipe.yaml").transfer.weight("beta").start == 1000


def test_recipes_named_in_documents_are_there() -> None:
    text = "".join((ROOT / path).read_text() for path in DOCUMENTS)
    named = set(re.findall(r"regard train (\w[\w-]*/\S+)", text))
    assert named
    assert named <= set(recipes.names())
