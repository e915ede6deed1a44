"""ImageNet networks and wider ResNets for small images, as in the CIFAR-100 distillation benchmark."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard import InputError, attention, maps, models, transfer
from regard.attention import SubAttention
from regard.models.loading import build_on_meta
from regard.stages import stages
from regard.tables import load_table

BASIC = {"block": "basic"}
# Parameters with 100 classes and the features (C, H, W) of the stages for 32 x 32 pixels, counted in the modules of
# HobbitLong/RepDistiller at b84f547, whose outputs for the same weights were compared with these.
PUBLISHED = {
    "cifar-resnet20": (BASIC, 278_324, [(16, 32), (32, 16), (64, 8)]),
    "cifar-resnet32": (BASIC, 472_756, [(16, 32), (32, 16), (64, 8)]),
    "cifar-resnet56": (BASIC, 861_620, [(16, 32), (32, 16), (64, 8)]),
    "cifar-resnet110": (BASIC, 1_736_564, [(16, 32), (32, 16), (64, 8)]),
    "cifar-resnet8x4": (BASIC, 1_233_540, [(64, 32), (128, 16), (256, 8)]),
    "cifar-resnet32x4": (BASIC, 7_433_860, [(64, 32), (128, 16), (256, 8)]),
    "resnet50-cifar": ({}, 23_705_252, [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
    "vgg8-cifar": ({}, 3_965_028, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    "vgg13-cifar": ({}, 9_462_180, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    "mobilenetv2-cifar": ({}, 812_836, [(12, 16), (16, 8), (48, 4), (160, 2)]),
    "shufflenetv1-cifar": ({}, 949_258, [(240, 16), (480, 8), (960, 4)]),
    "shufflenetv2-cifar": ({}, 1_355_528, [(116, 16), (232, 8), (464, 4)]),
    "wrn-16-2": ({}, 703_284, [(32, 32), (64, 16), (128, 8)]),
    "wrn-40-1": ({}, 569_780, [(16, 32), (32, 16), (64, 8)]),
    "wrn-40-2": ({}, 2_255_156, [(32, 32), (64, 16), (128, 8)]),
}
# Networks with blocks of their own, and options that fit the 58 channels of ShuffleNet V2's first stage.
BLOCKS = ("mobilenetv2-cifar", "shufflenetv1-cifar", "shufflenetv2-cifar", "vgg8-cifar")
MODULES = {"sge": {"groups": 2}, "shuffle": {"groups": 1}, "spa": {"reduction": 4}, "bam": {"reduction": 4}}


def images(count: int = 2, **options) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_stages_are_the_published_ones(name: str) -> None:
    options, parameters, shapes = PUBLISHED[name]
    model = build_on_meta(lambda: models.create(name, 100, **options)).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    with maps.Taps(model, list(stages(model))) as taps:
        assert model(images(device="meta")).shape == (2, 100)
    assert [(f.shape[1], f.shape[2]) for f in taps.features.values()] == shapes


def test_other_depths_and_widths() -> None:
    assert build_on_meta(lambda: models.create("cifar-resnet20x2", **BASIC)).conv1.out_channels == 32
    assert build_on_meta(lambda: models.create("cifar-resnet20x0.5", **BASIC)).conv1.out_channels == 8
    resnet18 = build_on_meta(lambda: models.create("resnet18-cifar", 10))
    assert sum(parameter.numel() for parameter in resnet18.parameters()) == 11_173_962
    wide = build_on_meta(lambda: models.create("mobilenetv2-cifar", 100, width=1.0))
    assert sum(parameter.numel() for parameter in wide.parameters()) == 2_353_060
    assert models.create("vgg8-cifar", 7).eval()(torch.zeros(2, 3, 40, 48)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cifar-resnet8x4", {}, "block='basic' has it"),
        ("cifar-resnet8x0.01", BASIC, "at least 1/16"),
        ("vgg9-cifar", {}, "a depth of 8, 11, 13, 16, 19, not 9"),
        ("vgg-cifar", {}, "vgg<depth>-cifar"),
        ("resnet50-cifar", {"depth": 18}, "depth"),
        ("mobilenetv2-cifar", {"width": 0.01}, "at least 1/16"),
    ],
)
def test_wrong_names_and_options_fail_with_one_line(name: str, options: dict, words: str) -> None:
    with pytest.raises(InputError) as caught:
        models.create(name, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore::regard.attention.PlacementWarning")
def test_every_attention_module_goes_into_every_block(name: str) -> None:
    for module in attention.names():
        model = models.create(name, 5)
        if module == "dia" and name in ("mobilenetv2-cifar", "shufflenetv1-cifar"):  # shares one module within a stage
            with pytest.raises(InputError, match="channels"):
                attention.attach(model, module)
            continue
        attention.attach(model, module, **MODULES.get(module, {}))
        layers = attention.attached(model)
        blocks = [part for part in model.modules() if isinstance(part, attention.AttentionSlot)]
        assert len(layers) == (len(blocks) or 5)
        assert model.eval()(images(1)).isfinite().all()


@pytest.mark.parametrize("name", ["resnet50-cifar", "cifar-resnet8x4"])
def test_attention_is_attached_to_the_chosen_stage(name: str) -> None:
    options = PUBLISHED[name][0]
    model = models.create(name, 5, attention="se", gate=SubAttention(order=1), attention_stages=(3,), **options)
    assert all(layer.startswith("layer3.") for layer in attention.attached(model))


@pytest.mark.parametrize("name", BLOCKS)
def test_folding_and_memory_format_change_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = models.create(name, 5).double()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
    model.eval()
    logits = model(images().double())
    folded = attention.fold(model)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    torch.testing.assert_close(folded(images().double()), logits)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(images().double()), logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_compiling_changes_nothing(name: str) -> None:
    model = models.create(name, 5).eval()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images()), model(images()))


def test_state_dicts_with_published_names_load() -> None:
    model = models.create("vgg8-cifar", 5)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    models.load_official(models.create("vgg8-cifar", 5), {"model": state})
    model = models.create("resnet18-cifar", 5)
    renamed = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): value
        for name, value in model.state_dict().items()
    }
    models.load_official(models.create("resnet18-cifar", 5), renamed)


def test_costs_are_counted_for_small_images() -> None:
    base, se = models.count_costs(["shufflenetv2-cifar"], ["se"])
    assert (base.image_size, base.classes) == (32, 10)
    assert 0 < se.complexity.parameters - base.complexity.parameters < 0.2 * base.complexity.parameters


TABLE = load_table("distillation-cifar100")
# Pairs of (student, teacher) stages in the published code: all but the stem and the first block of VGG.
LAYERS = {
    "vgg8-from-vgg13": [("block1", "block1"), ("block2", "block2"), ("block3", "block3"), ("block4", "block4")],
    "vgg8-from-resnet50": [("block1", "layer1"), ("block2", "layer2"), ("block3", "layer3"), ("block4", "layer4")],
    "mobilenetv2-from-vgg13": [("layer1", "block1"), ("layer2", "block2"), ("layer3", "block3"), ("layer4", "block4")],
}


@pytest.mark.slow
@pytest.mark.parametrize("row", TABLE.rows)
def test_attention_transfers_in_every_pair_of_the_table(row: str) -> None:
    torch.manual_seed(0)
    recipes = [TABLE.cells[row, column].full_recipe for column in ("at", "teacher")]
    student, teacher = (models.create(recipe.model.name, 100, **recipe.model.options) for recipe in recipes)
    objective = transfer.Objective(
        student, teacher, beta=recipes[0].transfer.beta, layers=recipes[0].transfer.layers, image_size=32
    )
    pairs = [tuple(pair) for pair in objective.pairs]
    assert pairs == (LAYERS.get(row) or list(zip(stages(student), stages(teacher), strict=True)))
    losses = objective(images(), torch.tensor([3, 70]))
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())
