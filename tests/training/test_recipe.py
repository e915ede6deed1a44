"""Recipes: read, overridden, written, refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from regard import InputError
from regard.training import Recipe, load_recipe
from regard.training.recipe import write_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_recipe_says_only_what_differs_and_options_override_it(tmp_path) -> None:
    path = write(tmp_path, "model: {name: wrn-16-2, attention_options: {groups: 4}}\nschedule: {epochs: 5}\n")
    recipe = load_recipe(path, ["--optimizer.lr", "0.05", "--schedule.epochs=7", "--augmentation.padding_mode=zero"])
    assert (recipe.model.name, recipe.model.attention_options) == ("wrn-16-2", {"groups": 4})
    assert (recipe.optimizer.lr, recipe.schedule.epochs, recipe.augmentation.padding_mode) == (0.05, 7, "zero")
    assert recipe.schedule.batch_size == Recipe().schedule.batch_size


def test_written_and_read_it_is_the_same(tmp_path) -> None:
    recipe = load_recipe(
        write(
            tmp_path,
            "source: 'a: b # c'\ndata: {mean: [0.1, 0.2, 0.3]}\n"
            "transfer: {teacher: x, beta: 1e3, layers: [[a, b], [c, d]]}\n",
        )
    )
    assert recipe.transfer.layers == [("a", "b"), ("c", "d")]
    write_recipe(recipe, tmp_path / "again.yaml")
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modle: {name: wrn-16-1}", "no field modle; did you mean model?"),
        ("optimizer: {learning_rate: 1}", "no field optimizer.learning_rate"),
        ("schedule: {epochs: many}", "schedule.epochs"),
        ("schedule: {epochs: 0}", "schedule.epochs is 0; it has to be in [1, 10^6]"),
        ("model: wrn-16-1", "model is a group of fields"),
        ("transfer: {form: book}", "transfer.form"),
        ("transfer: {beta: 10}", "without transfer.teacher"),
        ("transfer: {teacher: runs/x}", "nothing to transfer"),
        ("augmentation: {padding: -1}", "padding is -1"),
        ("a: [", "no YAML"),
        ("- wrn-16-1", "no recipe"),
        ("seed: 1\nmodel: {name: wrn-16-1}\nseed: 2", "the key 'seed' stands there twice (line 3)"),
        ("model: {name: wrn-16-1, name: wrn-16-2}", "the key 'name' stands there twice (line 1)"),
        ("seed: 0x_", "'0x_' cannot be read (line 1)"),
        ("[" * 3000, "nested too deep"),
        ("!!python/object/apply:os.getcwd []", "no YAML"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, text, words) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(write(tmp_path, text))
    assert words in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_option_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean --optimizer.lr?"):
        load_recipe(None, ["--optimiser.lr", "3"])
    with pytest.raises(InputError, match="no recipe file"):
        load_recipe("none.yaml")
