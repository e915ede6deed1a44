"""The packaged recipes: each can run, and the documentation agrees with its fields."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from regard import attention, data, models, recipes
from regard.attention import registry
from regard.stages import stages
from regard.training import ModelRecipe, Recipe, load_recipe, make_model
from regard.training.optimizers import make_optimizer
from regard.transfer import as_weight
from regard.transfer.pairing import find_pairs

RECIPES = recipes.FOLDER
PATHS = sorted(RECIPES.rglob("*.yaml"))
AT = RECIPES / "attention-transfer"
CLASSES = {
    "cifar10": 10,
    "cifar100": 100,
    "stl10": 10,
    "cub": 200,
    "scenes": 67,
    "files": 1000,
    "clutter": 10,
    "coco": 80,
}

every_recipe = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@cache
def recipe_of(path: Path) -> Recipe:
    return load_recipe(path)  # which checks it


@cache
def network(path: Path) -> nn.Module:
    """The network of a recipe on the meta device: nothing is downloaded or initialised."""
    recipe = recipe_of(path)
    return built(json.dumps(asdict(recipe.model)), recipe.data.name)  # shared by recipes with the same network


@cache
def built(model: str, set_name: str) -> nn.Module:
    with torch.device("meta"):
        return make_model(Recipe(model=ModelRecipe(**json.loads(model))), CLASSES[set_name], pretrained=False)


@cache
def published(name: str) -> nn.Module:
    with torch.device("meta"):
        return models.create(name, 1000)


@pytest.mark.slow
@every_recipe
def test_recipes_build_their_network_and_cite_their_source(path) -> None:
    recipe = recipe_of(path)
    assert re.search(r"\(arXiv \d{4}\.\d{5}\)", recipe.source)
    assert re.search(r"\d%|no value is published", recipe.source)
    assert max(map(len, path.read_text().splitlines())) <= 120
    data.all_options(recipe.data.name, **recipe.data.options)
    learns = {parameter.requires_grad for parameter in network(path).parameters()}
    assert learns == ({True, False} if recipe.model.pretrained else {True})  # only pretrained ones are frozen in part
    groups = make_optimizer(network(path), recipe.optimizer).param_groups
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in network(path).parameters())


@pytest.mark.slow
@every_recipe
def test_teachers_have_recipes_and_match_the_student(path) -> None:
    recipe = recipe_of(path)
    for teacher in recipe.transfer.teachers:
        run = re.fullmatch(r"runs/(.+)-seed0", teacher)
        if run is not None:
            other = path.with_name(f"{run[1]}.yaml")
            assert recipe_of(other).transfer.teachers == ()
            assert recipe_of(other).data == recipe.data
        student, teacher_network = network(path), network(other) if run is not None else published(teacher)
        if recipe.transfer.layers is None:
            assert len(stages(student)) == len(stages(teacher_network))  # paired in order
        else:
            find_pairs(student, teacher_network, recipe.transfer.layers, (32, 32))


def test_recipe_names_match_the_transfer_terms() -> None:
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


def test_student_recipes_differ_from_plain_ones_only_in_transfer() -> None:
    for path in AT.glob("*.yaml"):
        alone = AT / f"{re.sub('-(from|min|symmetry).*', '', path.stem)}.yaml"
        recipe, plain = recipe_of(path), recipe_of(alone)
        assert {name for name in vars(plain) if getattr(recipe, name) != getattr(plain, name)} <= {"source", "transfer"}


@pytest.mark.parametrize("folder", sorted({path.parent for path in PATHS}), ids=lambda folder: folder.name)
def test_readme_tables_list_every_recipe_with_its_published_value(folder) -> None:
    listed, text = [], (folder / "README.md").read_text()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and re.search(r"\.yaml`", cells[-1]) and cells[0]:
            names = re.findall(r"`([\w-]+)\.yaml`", cells[2])
            assert names, line
            for name in names:
                source = recipe_of(folder / f"{name}.yaml").source
                for value in cells[1].split(" / "):
                    expected = "no value is published" if value == "–" else rf"\b{value}%"
                    assert re.search(expected, source), (line, source)
            listed += names
    assert set(listed) == {path.stem for path in folder.glob("*.yaml")}
    mentioned = re.findall(r"regard train ([\w-]+/[\w-]+)", text)
    assert mentioned
    assert set(mentioned) <= set(recipes.names())


def commands() -> list[list[str]]:
    """The arguments of every `regard train RECIPE …` in the READMEs, with `$attention` replaced by each module."""
    texts = [path.read_text() for path in sorted(RECIPES.rglob("README.md"))]
    lines = [line for text in texts for line in re.findall(r"^.*regard train (\w\S+/.*)$", text, re.MULTILINE)]
    return [
        line.replace("$attention", name).split()
        for line in lines
        for name in (attention.names() if "$attention" in line else [""])
    ]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_documented_commands_have_valid_options(arguments) -> None:
    name, *options = arguments
    if "--run" in options:  # an option of the command, not of the recipe
        at = options.index("--run")
        del options[at : at + 2]
    recipe = load_recipe(name, options)
    assert isinstance(built(json.dumps(asdict(recipe.model)), recipe.data.name), nn.Module)


def test_recipes_have_the_published_schedules() -> None:
    at = recipe_of(AT / "wrn-16-1-from-16-2-at-kd.yaml")
    assert (at.schedule.epochs, at.schedule.batch_size, at.schedule.milestones) == (200, 128, [60, 120, 160])
    assert (at.schedule.factor, at.optimizer.lr, at.optimizer.weight_decay, at.optimizer.decay) == (
        0.2,
        0.1,
        5e-4,
        "all",
    )
    assert all("uniform_norm_weights: true" in path.read_text() for path in AT.glob("wrn-*.yaml"))
    assert (at.augmentation.border, at.augmentation.padding_mode) == (4, "reflect")
    assert (at.transfer.beta, at.transfer.alpha, at.transfer.temperature) == (1e3, 0.9, 4)
    large = recipe_of(AT / "imagenet-resnet18-from-34-at.yaml")
    assert (large.schedule.epochs, large.schedule.batch_size, large.schedule.milestones) == (100, 256, [30, 60, 90])
    assert (large.schedule.factor, large.optimizer.lr, large.optimizer.weight_decay) == (0.1, 0.1, 1e-4)
    lsas = recipe_of(RECIPES / "lsas" / "resnet164-lsas-se-stl10.yaml")
    assert (lsas.schedule.epochs, lsas.schedule.batch_size, lsas.schedule.milestones) == (164, 16, [81, 122])
    assert (lsas.schedule.factor, lsas.optimizer.lr, lsas.optimizer.weight_decay) == (0.1, 0.1, 1e-4)
    assert (lsas.augmentation.padding_mode, lsas.augmentation.crop, lsas.model.attention_stages) == ("zero", 32, [3])


def test_the_loop_over_attention_modules_is_complete() -> None:
    (listed,) = re.findall(r"^for attention in (.*); do$", (RECIPES / "modern" / "README.md").read_text(), re.MULTILINE)
    # Other tests register further modules.
    expected = [name for name in attention.names() if registry.get(name).__module__.startswith("regard.")]
    assert listed.split() == expected


def test_a2_has_the_documented_settings() -> None:
    recipe = recipe_of(RECIPES / "modern" / "a2.yaml")
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.weight_decay) == ("lamb", 5e-3, 0.02)
    assert (recipe.optimizer.decay, recipe.task, recipe.label_smoothing) == ("weights", "binary_cross_entropy", 0)
    assert (recipe.schedule.epochs, recipe.schedule.batch_size, recipe.schedule.warmup) == (300, 2048, 5)
    assert (recipe.schedule.shape, recipe.schedule.floor, recipe.data.crop_pct) == ("cosine", 0, 0.95)
    augmentation = recipe.augmentation
    assert (augmentation.mixup, augmentation.cutmix, augmentation.repeats, augmentation.erasing) == (0.1, 1, 3, 0)
    norms = {id(m.weight) for m in network(RECIPES / "modern" / "a2.yaml").modules() if isinstance(m, nn.BatchNorm2d)}
    undecayed, decaying = make_optimizer(network(RECIPES / "modern" / "a2.yaml"), recipe.optimizer).param_groups
    assert norms <= {id(p) for p in undecayed["params"]}
    assert decaying["weight_decay"] == 0.02


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lsas/imagenet-resnet18-lsas-se", 11_776_136),
        ("lsas/imagenet-resnet50-lsas-se", 27_953_960),
        ("lsas/imagenet-resnet50-se", 28_088_024),
        ("sa-net/imagenet-resnet50-shuffle", 25_557_740),
        ("sa-net/imagenet-resnet101-shuffle", 44_550_684),
    ],
)
def test_imagenet_networks_have_the_published_parameter_counts(name, parameters) -> None:
    assert sum(p.numel() for p in network(RECIPES / f"{name}.yaml").parameters()) == parameters


def test_imagenet_norms_start_at_one_as_published() -> None:
    recipe = recipe_of(RECIPES / "lsas" / "imagenet-resnet18-se.yaml")
    norms = [m for m in make_model(recipe, 2).modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() for norm in norms)


@pytest.mark.parametrize("folder", ["lsas", "sa-net"])
def test_imagenet_recipes_differ_only_in_the_network(folder) -> None:
    imagenet_recipes = [recipe_of(path) for path in (RECIPES / folder).glob("imagenet-*.yaml")]
    first = replace(imagenet_recipes[0], source="", model=ModelRecipe())
    assert all(replace(recipe, source="", model=ModelRecipe()) == first for recipe in imagenet_recipes)
    assert (first.schedule.epochs, first.schedule.batch_size, first.schedule.milestones) == (100, 256, [30, 60, 90])
    assert (first.schedule.factor, first.optimizer.lr, first.optimizer.momentum) == (0.1, 0.1, 0.9)
    assert (first.optimizer.weight_decay, first.optimizer.decay, first.label_smoothing) == (1e-4, "all", 0)
    assert (first.data.size, first.data.crop_pct, first.schedule.warmup) == (224, 0.875, 0)
