"""The recipes of the repository: each can be run, and what is written about them is what they say."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from regard import data, models
from regard.stages import stages
from regard.training import Recipe, load_recipe, make_model
from regard.transfer import as_weight
from regard.transfer.pairing import find_pairs

RECIPES = Path(__file__).parents[2] / "recipes"
PATHS = sorted(RECIPES.rglob("*.yaml"))
AT = RECIPES / "attention-transfer"
CLASSES = {"cifar10": 10, "cifar100": 100, "stl10": 10, "cub": 200, "scenes": 67, "folder": 1000}

each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@cache
def recipe_of(path: Path) -> Recipe:
    return load_recipe(path)  # which checks it


@cache
def network(path: Path) -> nn.Module:
    """The network of a recipe, without weights: nothing is downloaded, and nothing drawn."""
    recipe = recipe_of(path)
    with torch.device("meta"):
        return make_model(recipe, CLASSES[recipe.data.name], pretrained=False)


@cache
def published(name: str) -> nn.Module:
    with torch.device("meta"):
        return models.create(name, 1000)


@each
def test_it_makes_its_network_and_names_its_source(path) -> None:
    recipe = recipe_of(path)
    assert re.search(r"\(arXiv \d{4}\.\d{5}\)", recipe.source)
    assert re.search(r"\d%", recipe.source)
    assert max(map(len, path.read_text().splitlines())) <= 120
    data.all_options(recipe.data.name, **recipe.data.options)
    learns = {parameter.requires_grad for parameter in network(path).parameters()}
    assert learns == ({True, False} if recipe.model.pretrained else {True})  # what stays as it is was learned before


@each
def test_its_teachers_have_recipes_and_fit(path) -> None:
    recipe = recipe_of(path)
    for teacher in recipe.transfer.teachers:
        run = re.fullmatch(r"runs/(.+)-seed0", teacher)
        if run is not None:
            other = path.with_name(f"{run[1]}.yaml")
            assert recipe_of(other).transfer.teachers == ()
            assert recipe_of(other).data == recipe.data
        student, taught = network(path), network(other) if run is not None else published(teacher)
        if recipe.transfer.layers is None:
            assert len(stages(student)) == len(stages(taught))  # paired in order
        else:
            find_pairs(student, taught, recipe.transfer.layers, (32, 32))


def test_names_say_what_is_transferred() -> None:
    for path in AT.glob("*.yaml"):
        transfer = recipe_of(path).transfer
        name = path.stem
        assert bool(re.search("-from-", name)) == bool(transfer.teachers)
        assert bool(re.search(r"-at\b", name)) == transfer.uses("beta")
        assert bool(re.search(r"-kd\b", name)) == transfer.uses("alpha")
        assert name.endswith("-full-activation") == transfer.uses("full_activation")
        assert name.endswith("-gradient") == transfer.uses("gradient")
        assert name.endswith("-symmetry") == transfer.uses("symmetry")
        assert name.endswith("-min-l2") == transfer.uses("input_gradient")
        assert name.endswith("-decay") == (as_weight(transfer.beta).at(0) != as_weight(transfer.beta).at(1))


def test_a_student_differs_from_the_one_alone_in_nothing_but_the_transfer() -> None:
    for path in AT.glob("*.yaml"):
        alone = AT / f"{re.sub('-(from|min|symmetry).*', '', path.stem)}.yaml"
        recipe, plain = recipe_of(path), recipe_of(alone)
        assert {name for name in vars(plain) if getattr(recipe, name) != getattr(plain, name)} <= {"source", "transfer"}


def test_the_readme_lists_every_recipe_with_the_value_in_its_source() -> None:
    listed = []
    for line in (AT / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and ".yaml`" in line:
            names = re.findall(r"`([\w-]+)\.yaml`", cells[2])
            assert names, line
            for name in names:
                source = recipe_of(AT / f"{name}.yaml").source
                assert all(re.search(rf"\b{value}%", source) for value in cells[1].split(" / ")), (line, source)
            listed += names
    assert set(listed) == {path.stem for path in AT.glob("*.yaml")}
    mentioned = re.findall(r"attention-transfer/([\w-]+)\.yaml", (AT / "README.md").read_text())
    assert set(mentioned) <= set(listed)


def test_published_schedules() -> None:
    at = recipe_of(AT / "wrn-16-1-from-16-2-at-kd.yaml")
    assert (at.schedule.epochs, at.schedule.batch_size, at.schedule.milestones) == (200, 128, [60, 120, 160])
    assert (at.schedule.factor, at.optimizer.lr, at.optimizer.weight_decay, at.optimizer.decay) == (
        0.2,
        0.1,
        5e-4,
        "all",
    )
    assert (at.augmentation.padding, at.augmentation.padding_mode) == (4, "reflect")
    assert (at.transfer.beta, at.transfer.alpha, at.transfer.temperature) == (1e3, 0.9, 4)
    large = recipe_of(AT / "imagenet-resnet18-from-34-at.yaml")
    assert (large.schedule.epochs, large.schedule.batch_size, large.schedule.milestones) == (100, 256, [30, 60, 90])
    assert (large.schedule.factor, large.optimizer.lr, large.optimizer.weight_decay) == (0.1, 0.1, 1e-4)
    lsas = recipe_of(RECIPES / "lsas" / "resnet164-lsas-se-stl10.yaml")
    assert (lsas.schedule.epochs, lsas.schedule.batch_size, lsas.schedule.milestones) == (164, 16, [81, 122])
    assert (lsas.schedule.factor, lsas.optimizer.lr, lsas.optimizer.weight_decay) == (0.1, 0.1, 1e-4)
    assert (lsas.augmentation.padding_mode, lsas.augmentation.crop, lsas.model.attention_stages) == ("zero", 32, [3])
