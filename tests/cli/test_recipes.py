"""`regard recipes`: lists, shows and copies packaged recipes, from any folder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from regard import recipes
from regard.cli import main
from regard.errors import InputError
from regard.training import load_recipe

NAME = "lsas/resnet164-se-cifar10"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    return status, *capsys.readouterr()


def test_all_recipes_are_listed_with_their_sources(capsys) -> None:
    status, out, _ = run(capsys, "recipes")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert status == 0 and tuple(lines) == recipes.names()
    assert lines[NAME] == load_recipe(NAME).source
    records = json.loads(run(capsys, "recipes", "--json")[1])
    assert {record["name"]: record["source"] for record in records} == lines


def test_a_recipe_is_shown_and_copied(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (recipes.FOLDER / f"{NAME}.yaml").read_text()
    assert run(capsys, "recipes", "show", NAME) == (0, text, "")
    assert run(capsys, "recipes", "copy", NAME, "mine.yaml")[0] == 0
    assert load_recipe("mine.yaml") == load_recipe(NAME)
    (tmp_path / "mine.yaml").write_text("seed: 3")
    status, _, error = run(capsys, "recipes", "copy", NAME, "mine.yaml")
    assert status == 2 and "mine.yaml exists already" in error and (tmp_path / "mine.yaml").read_text() == "seed: 3"
    assert run(capsys, "recipes", "copy", NAME, "mine.yaml", "--overwrite")[0] == 0
    assert run(capsys, "recipes", "copy", NAME, ".")[0] == 0
    assert (tmp_path / "mine.yaml").read_text() == text == (tmp_path / "resnet164-se-cifar10.yaml").read_text()
    status, _, error = run(capsys, "recipes", "copy", NAME, "none/mine.yaml")
    assert status == 2 and "none/mine.yaml cannot be written" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipes", "show", "lsas/resnet164-sa-cifar10"], "did you mean lsas/resnet164-se-cifar10?"),
        (["recipes", "show"], "regard recipes show NAME"),
        (["recipes", "lst"], "list"),
        (["train", f"recipes/{NAME}.yaml"], f"did you mean {NAME}?"),
    ],
)
def test_wrong_input_is_a_one_line_error(capsys, arguments, message) -> None:
    status, out, error = run(capsys, *arguments)
    assert (status, out, error.count("\n")) == (2, "", 1) and message in error


def test_a_file_takes_precedence_over_a_packaged_recipe(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lsas").mkdir()
    assert load_recipe(NAME).model.name == "cifar-resnet164"
    (tmp_path / NAME).write_text("model: {name: wrn-10-1}")
    assert load_recipe(NAME).model.name == "wrn-10-1"
    with pytest.raises(InputError, match="no recipe file lsas,"):
        load_recipe("lsas,")


def test_listing_recipes_does_not_import_torch() -> None:
    code = "import sys; from regard.cli import main; main(['recipes']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
