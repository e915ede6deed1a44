"""Fine-tuning: frozen parts stay bitwise unchanged, and the rest learns."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch
from torch import nn

from regard import InputError, data, maps, models, training
from regard.modes import evaluation_mode
from regard.training import load_recipe, make_model, make_optimizer
from regard.training.networks import freeze

FROZEN = ("conv0", "group0")


def network() -> nn.Module:
    torch.manual_seed(0)
    return models.create("wrn-10-1")


def norms(model: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}


def step(model: nn.Module) -> None:
    """One training step, large enough to change every trainable value."""
    model.train()
    optimizer = make_optimizer(model, training.OptimizerRecipe(lr=0.1, weight_decay=0.1))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 32, 32, generator=generator) + 1
    nn.functional.cross_entropy(model(images), torch.arange(8)).backward()
    optimizer.step()


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_frozen_layers_are_unchanged_and_the_others_learn() -> None:
    model = network()
    freeze(model, FROZEN)
    before = copy.deepcopy(model.state_dict())
    step(model)
    updated = changed(model, before)
    assert not any(name.startswith(FROZEN) for name in updated)
    assert updated == {name for name in before if not name.startswith(FROZEN)}
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith(FROZEN))


def test_fixed_norms_are_unchanged() -> None:
    model = network()
    freeze(model, fixed_norms=True)
    before = copy.deepcopy(model.state_dict())
    step(model)
    inside = tuple(f"{name}." for name in norms(model))
    assert changed(model, before) == {name for name in before if not name.startswith(inside)}


def test_fixed_norms_use_running_statistics_in_training() -> None:
    model = network()
    for norm in norms(model).values():
        norm.running_mean.uniform_(-1, 1)
    images = torch.randn(4, 3, 32, 32)
    expected = model.eval()(images)
    assert not torch.allclose(model.train()(images), expected)
    model = network()
    for norm in norms(model).values():
        norm.running_mean.uniform_(-1, 1)
    freeze(model, fixed_norms=True)
    assert torch.equal(model.train()(images), model.eval()(images))


def fixed(model: nn.Module, prefix: tuple[str, ...] = ("",)) -> bool:
    """Whether exactly these norms stay in evaluation mode during training."""
    model.train()
    return all(norm.training != name.startswith(prefix) for name, norm in norms(model).items())


def test_training_mode_does_not_unfreeze() -> None:
    model = network()
    freeze(model, FROZEN)
    assert fixed(model, FROZEN) and model.training
    model.eval()
    assert not any(part.training for part in model.modules())
    assert fixed(model, FROZEN)
    with evaluation_mode(model):
        pass
    assert not model.group0.block0.bn0.training and model.group1.block0.bn0.training
    norm = model.group0.block0.bn0
    assert norm.train() is norm and norm.train(False) is norm and norm.eval() is norm and not norm.training


@pytest.mark.parametrize("copy_model", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_frozen_too(copy_model) -> None:
    model = network()
    freeze(model, FROZEN)
    other = copy_model(model)
    assert fixed(other, FROZEN)
    assert other.group0.block0.bn0.train() is other.group0.block0.bn0  # and not the norm of the original
    assert {n for n, p in other.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_freezing_does_not_change_the_state_dict() -> None:
    model, plain = network(), network()
    freeze(model, FROZEN, fixed_norms=True)
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    model.load_state_dict(plain.state_dict())
    assert fixed(model)


def test_a_compiled_model_stays_frozen() -> None:
    model = network()
    freeze(model, FROZEN)
    compiled = torch.compile(model, backend="eager")
    compiled.train()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(compiled(images), model(images))
    updated = changed(model, before)
    assert updated and not any(name.startswith(FROZEN) for name in updated)
    assert fixed(compiled._orig_mod, FROZEN)


def test_norms_of_timm_and_attention_modules_are_fixed() -> None:
    """These norms are subclasses with an activation, or belong to attention modules."""
    for name, options in (("efficientnet_lite0", {}), ("cifar-resnet11", {"attention": "coord"})):
        model = models.create(name, 10, **options)
        freeze(model, fixed_norms=True)
        batch_norms = [part for part in model.train().modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        assert len(batch_norms) > 5 and not any(norm.training for norm in batch_norms)
        assert not any(p.requires_grad for norm in batch_norms for p in norm.parameters())


@pytest.mark.parametrize(
    ("frozen", "fixed_norms", "expected"),
    [
        (["grup0"], False, "model.frozen: unknown layer 'grup0'; near: group0"),
        (["group0", ""], False, "unknown layer ''"),
        ("group0", False, "give a list of layers, [group0]"),
        (["conv0", "group0", "group1", "group2", "bn", "fc"], False, "leave no parameter to learn"),
        (["conv0", "group0.block0.conv0"], False, None),
    ],
)
def test_invalid_layers_are_one_line(frozen, fixed_norms, expected) -> None:
    if expected is None:
        freeze(network(), frozen, fixed_norms=fixed_norms)
        return
    with pytest.raises(InputError) as caught:
        freeze(network(), frozen, fixed_norms=fixed_norms)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_fixed_norms_need_batch_norms_and_other_parameters() -> None:
    with pytest.raises(InputError, match="has no batch norms"):
        freeze(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), fixed_norms=True)
    with pytest.raises(InputError, match="model.fixed_norms leave no parameter"):
        freeze(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), ["0"], fixed_norms=True)


# In a run


def plan(*options: str) -> training.Recipe:
    small = ["--model.name=wrn-10-1", "--schedule.epochs=2", "--schedule.batch_size=32", "--device=cpu", "--threads=1"]
    return load_recipe(None, [*small, *options])


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    return data.load("clutter", train=96, test=40)


def test_recipes_can_freeze_layers_and_norms(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {name: wrn-10-1, frozen: [conv0, group0], fixed_norms: true}\n")
    recipe = load_recipe(path, ["--schedule.epochs=3"])
    assert (recipe.model.frozen, recipe.model.fixed_norms) == (["conv0", "group0"], True)
    assert fixed(make_model(recipe, 10))
    assert load_recipe(path, ["--model.frozen=[fc]", "--model.fixed_norms=false"]).model.frozen == ["fc"]
    with pytest.raises(InputError, match="unknown layer 'groupo'; near: group"):
        make_model(load_recipe(path, ["--model.frozen=[groupo]"]), 10)


def test_a_run_trains_only_the_layers_not_frozen(splits, tmp_path) -> None:
    recipe = plan("--model.frozen=[conv0, group0]", "--model.fixed_norms=true")
    torch.manual_seed(recipe.seed)
    before = make_model(recipe, 10).state_dict()
    run = training.train(recipe, tmp_path / "run", splits=splits).run
    model = run.model()
    updated = changed(model, before)
    assert updated and not any(name.startswith(FROZEN) or ".bn" in name for name in updated)
    # The loaded model behaves like any other network.
    assert all(p.requires_grad for p in model.parameters()) and not any(p.training for p in model.modules())
    assert fixed(model, ()) and torch.isfinite(maps.GradCAM(model.eval(), "group0")(torch.randn(2, 3, 32, 32))).all()
    score = training.evaluate(run.model(), data.create_loader(splits.test, 40))
    assert score.accuracy == pytest.approx(run.metrics()[-1]["test_accuracy"])


def test_a_resumed_run_ends_with_the_same_weights(splits, tmp_path) -> None:
    recipe = plan("--model.frozen=[conv0, group0]")
    whole = training.train(recipe, tmp_path / "whole", splits=splits).run
    shutil.copytree(whole.folder, tmp_path / "again")
    newest = max((tmp_path / "again" / "checkpoints").iterdir(), key=lambda path: int(path.stem.split("-")[1]))
    newest.unlink()
    resumed = training.train(recipe, tmp_path / "again", splits=splits, resume=True).run
    assert whole.weights().read_bytes() == resumed.weights().read_bytes()
    with pytest.raises(InputError, match=r"model.frozen was \['conv0', 'group0'\] and is \[\]"):
        training.train(plan(), tmp_path / "again", splits=splits, resume=True)


def test_older_runs_and_imported_files_still_open(splits, tmp_path) -> None:
    run = training.train(plan("--schedule.epochs=1"), tmp_path / "run", splits=splits).run
    recipe = run.folder / "recipe.yaml"
    lines = recipe.read_text().splitlines(keepends=True)
    remaining = [line for line in lines if not line.strip().startswith(("frozen:", "fixed_norms:", "scale:"))]
    assert len(remaining) == len(lines) - 3
    recipe.write_text("".join(remaining))
    assert run.recipe.model.frozen == [] and run.recipe.augmentation.scale is None
    run.model()
    imported = training.import_weights(run.weights(), run.recipe.model, tmp_path / "imported.safetensors")
    network = {
        name: value for name, value in imported.network.__dict__.items() if name not in ("frozen", "fixed_norms")
    }
    state, notes = models.read_checkpoint(imported.source), models.read_notes(imported.source)
    model = imported.model()
    models.write_weights(model, tmp_path / "old.safetensors", {**notes, "network": network})
    old = training.load_pretrained(tmp_path / "old.safetensors")
    assert old.network == imported.network
    assert all(torch.equal(value, state[name]) for name, value in old.model().state_dict().items())
