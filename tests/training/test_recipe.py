"""Reading, overriding, writing and checking recipes."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest

from regard import InputError
from regard.cli import main
from regard.training import Recipe, load_recipe
from regard.training.recipe import write_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_recipes_override_defaults_and_options_override_recipes(tmp_path) -> None:
    path = write(
        tmp_path, "model: {name: wrn-16-2, attention: shuffle, attention_options: {groups: 4}}\nschedule: {epochs: 5}\n"
    )
    recipe = load_recipe(path, ["--optimizer.lr", "0.05", "--schedule.epochs=7", "--augmentation.padding_mode=zero"])
    assert (recipe.model.name, recipe.model.attention_options) == ("wrn-16-2", {"groups": 4})
    assert (recipe.optimizer.lr, recipe.schedule.epochs, recipe.augmentation.padding_mode) == (0.05, 7, "zero")
    assert recipe.schedule.batch_size == Recipe().schedule.batch_size


def test_a_written_recipe_reads_back_equal(tmp_path) -> None:
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


BOMB = "[" + ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(12)) + "]"
REPEATED = (f"b{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 9))
MERGES = f"{{a: &m0 {{k: 1}}, {', '.join(REPEATED)}}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modle: {name: wrn-16-1}", "no field modle; did you mean model?"),
        ("optimizer: {learning_rate: 1}", "no field optimizer.learning_rate"),
        ("schedule: {epochs: many}", "schedule.epochs"),
        ("schedule: {epochs: 0}", "schedule.epochs is 0; it has to be in [1, 10^6]"),
        ("model: wrn-16-1", "model is a group of fields"),
        ("transfer: {form: book}", "transfer.form"),
        ("transfer: {beta: 10}", "without transfer.teacher"),
        ("transfer: {teacher: runs/x}", "are all 0"),
        ("augmentation: {padding: -1}", "padding is -1"),
        ("a: [", "no YAML"),
        ("- wrn-16-1", "no recipe"),
        ("seed: 1\nmodel: {name: wrn-16-1}\nseed: 2", "the key 'seed' is given twice (line 3)"),
        ("model: {name: wrn-16-1, name: wrn-16-2}", "the key 'name' is given twice (line 1)"),
        ("seed: 0x_", "'0x_' cannot be read (line 1)"),
        ("[" * 3000, "nested too deep"),
        ("!!python/object/apply:os.getcwd []", "no YAML"),
        ("seed: !!bool foo", "'foo' cannot be read (line 1)"),
        ("model: {options: &o {a: *o}}", "contains itself (line 1)"),
        ("model: {frozen: &f [*f]}", "contains itself"),
        ("transfer: {beta: &b {start: *b}}", "contains itself"),
        (f"model: {{options: {{a: {BOMB}}}}}", "has more than"),
        (f"data: {{options: '{{a: {BOMB}}}'}}", "has more than"),
        (f"source: '{{a: {BOMB}}}'", "has more than"),
        (f"data: {{options: {MERGES}}}", "has more than"),
        (f"optimizer: {{options: '{MERGES}'}}", "has more than"),
        (f"transfer: {{teacher: [{'a, ' * 5000}]}}", "transfer.teacher has 5,000 values"),
        ("data: {options: {train: [20]}}", "option train of data set 'clutter' is [20]"),
        ("data: {options: {size: 8}}", "unknown option of data set 'clutter' 'size'"),
        ("data: {name: fashion}", "unknown data set 'fashion'"),
        ("transfer: {beta: .inf, teacher: a}", "transfer.beta"),
        ("model: {name: 'a\\0b'}".replace("'", '"'), "a zero byte"),
        ("augmentation: {padding: 1000000}", "padding is 1000000"),
        ("augmentation: {repeats: 9223372036854775808}", "repeats is 9223372036854775808"),
    ],
)
def test_invalid_recipes_are_one_line(tmp_path, text, expected) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(write(tmp_path, text))
    assert expected in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "allowed", "refused"),
    [
        ("schedule.batch_size", [1, 2**24], [0, 2**24 + 1, 2**63, 10**400]),
        ("schedule.accumulate", [1], [0, 2**63]),
        ("schedule.epochs", [1, 10**6], [0, 2**63]),
        ("schedule.warmup", [0, 0.5], [-1, math.inf, math.nan]),
        ("schedule.floor", [0, 1], [-0.1, 1.1]),
        ("schedule.factor", [0.1], [0, math.inf]),
        ("optimizer.lr", [1e-30, 100], [0, -1, 1e300, math.inf, math.nan, 10**400]),
        ("optimizer.momentum", [0, 0.999], [-0.1, 1]),
        ("optimizer.weight_decay", [0], [-1, math.inf, math.nan]),
        ("optimizer.clip", [1e-9, 1e9], [0, math.inf]),
        ("label_smoothing", [0, 0.5], [-0.1, 1, math.nan]),
        ("ema", [0, 0.9999], [1, -1]),
        ("seed", [0, 2**63 - 1], [-1, 2**63]),
        ("threads", [1, 1024], [0, 100_000]),
        ("save_minutes", [0.5], [0, math.inf]),
        ("wait_minutes", [0.5], [0, 1e300, 10**400]),
        ("data.workers", [0, 1024], [-1, 100_000]),
        ("data.size", [1, 16384], [0, 10**9]),
        ("data.crop_pct", [0.875, 1], [0, 1.1, math.nan]),
        ("data.train_images", [1], [0, 2**63]),
        ("transfer.temperature", [4], [0, math.inf]),
        ("transfer.power", [1, 4], [0.9, 1e300]),
        ("transfer.teacher_size", [32], [0, 10**9]),
    ],
)
def test_fields_are_checked_against_their_intervals(field: str, allowed: list[float], refused: list[float]) -> None:
    group, _, name = field.rpartition(".")
    for value in (*allowed, *refused):
        recipe = Recipe()
        setattr(getattr(recipe, group) if group else recipe, name, value)
        if value in allowed:
            recipe.check()
            continue
        with pytest.raises(InputError) as caught:
            recipe.check()
        assert str(caught.value).startswith(f"{field} is ")


def test_help_lists_the_intervals_of_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"--optimizer.momentum X [^-]*In \[0, 1\)", text)
    assert re.search(r"--seed N [^-]*In \[0, 2\^63\)", text)


@pytest.mark.parametrize(
    "field", ["data.folder", "transfer.teacher", "model.name", "source", "run", "recipe", "classes"]
)
@pytest.mark.parametrize("value", ["x" * 300, "/".join(["y" * 200] * 30), "zero", "fifo"], ids=lambda value: value[:5])
def test_invalid_names_and_irregular_files_are_one_line(
    field: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("zero").symlink_to("/dev/zero")
    options: dict[str, str | list[str]] = {
        "data.folder": ["--data.name=folder", f"--data.folder={value}"],
        "transfer.teacher": ["--transfer.beta=1", f"--transfer.teacher={value}"],
        "model.name": [f"--model.name={value}"],
        "source": [f"--source={value}", "--model.name=unknown"],
        "run": ["--run", value, "--model.name=wrn-10-1", "--schedule.epochs=1", "--schedule.milestones=[]"],
        "recipe": [],
        "classes": [
            "--data.name=wds",
            "--data.folder=.",
            f"--data.options={json.dumps({'classes': value, 'train': 'a.tar', 'test': 'a.tar'})}",
        ],
    }
    first = [value] if field == "recipe" else []
    assert (
        main(["train", *first, "--device=cpu", "--data.options={train: 20, test: 20}", "--run=run", *options[field]])
        == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("regard: ")


def test_misspelt_options_suggest_the_nearest() -> None:
    for field, expected in (
        ("model.attention_start", "'published', 'identity'"),
        ("model.attention_stages", "counted from 1"),
    ):
        with pytest.raises(InputError, match=f"^--{field} does not take .*x.*{expected}"):
            load_recipe(None, [f"--{field}=x"])
    with pytest.raises(InputError, match="did you mean --optimizer.lr?"):
        load_recipe(None, ["--optimiser.lr", "3"])
    with pytest.raises(InputError, match="no recipe file"):
        load_recipe("none.yaml")
