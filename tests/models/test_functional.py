"""The ImageNet networks of Attention Transfer: flat dicts of parameters give the same outputs in modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard import InputError, models

WIDTHS = (64, 128, 256, 512)


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random values, scaled so that features stay near 1 through the layers."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            value *= (2 / value[0].numel()) ** 0.5
        elif name.endswith((".a", "running_var", "bn0.weight", "bn1.weight")):
            value = 0.5 + value.abs() / 4
        else:
            value /= 4
        state[name] = value
    return state


def blocks(counts: tuple[int, ...]) -> list[tuple[str, int, int]]:
    return [
        (f"group{g}.block{b}.", WIDTHS[max(g - 1, 0)] if b == 0 else WIDTHS[g], WIDTHS[g])
        for g, count in enumerate(counts)
        for b in range(count)
    ]


def folded_state(counts: tuple[int, ...], dim_bias: bool = True) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"conv0.weight": (64, 3, 7, 7), "conv0.bias": (64,)}
    for name, ins, outs in blocks(counts):
        shapes |= {f"{name}conv0.weight": (outs, ins, 3, 3), f"{name}conv0.bias": (outs,)}
        shapes |= {f"{name}conv1.weight": (outs, outs, 3, 3), f"{name}conv1.bias": (outs,)}
        if ins != outs:
            shapes |= {f"{name}conv_dim.weight": (outs, ins, 1, 1)}
            shapes |= {f"{name}conv_dim.bias": (outs,)} if dim_bias else {}
    return random_state({**shapes, "fc.weight": (1000, 512), "fc.bias": (1000,)})


def run_folded(p: dict[str, Tensor], counts: tuple[int, ...], x: Tensor) -> Tensor:
    x = F.max_pool2d(F.conv2d(x, p["conv0.weight"], p["conv0.bias"], 2, 3).relu(), 3, 2, 1)
    for name, ins, outs in blocks(counts):
        stride = 2 if ins != outs else 1
        y = F.conv2d(x, p[name + "conv0.weight"], p[name + "conv0.bias"], stride, 1).relu()
        y = F.conv2d(y, p[name + "conv1.weight"], p[name + "conv1.bias"], 1, 1)
        if ins != outs:
            x = F.conv2d(x, p[name + "conv_dim.weight"], p.get(name + "conv_dim.bias"), stride)
        x = (x + y).relu()
    return F.linear(x.mean((2, 3)), p["fc.weight"], p["fc.bias"])


def affine_state(counts: tuple[int, ...]) -> dict[str, Tensor]:
    def pair(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.a": (channels,), f"{name}.b": (channels,)}

    shapes: dict[str, tuple[int, ...]] = {"conv0": (64, 3, 7, 7), **pair("affine0", 64)}
    for name, ins, outs in blocks(counts):
        if name != "group0.block0.":
            shapes |= pair(name + "affine0", ins)
        shapes |= {name + "conv0": (outs, ins, 3, 3), **pair(name + "affine1", outs)}
        shapes |= {name + "conv1": (outs, outs, 3, 3)}
        if ins != outs:
            shapes |= {name + "conv_dim": (outs, ins, 1, 1)}
    return random_state({**shapes, **pair("affine_last", 512), "fc.weight": (1000, 512), "fc.bias": (1000,)})


def run_affine(p: dict[str, Tensor], counts: tuple[int, ...], x: Tensor) -> Tensor:
    def active(x: Tensor, name: str) -> Tensor:
        return (p[name + ".a"][:, None, None] * x + p[name + ".b"][:, None, None]).relu()

    x = F.max_pool2d(active(F.conv2d(x, p["conv0"], None, 2, 3), "affine0"), 3, 2, 1)
    for name, ins, outs in blocks(counts):
        stride = 2 if ins != outs else 1
        before = active(x, name + "affine0") if name != "group0.block0." else x
        y = active(F.conv2d(before, p[name + "conv0"], None, stride, 1), name + "affine1")
        y = F.conv2d(y, p[name + "conv1"], None, 1, 1)
        x = y + (F.conv2d(before, p[name + "conv_dim"], None, stride) if ins != outs else x)
    return F.linear(active(x, "affine_last").mean((2, 3)), p["fc.weight"], p["fc.bias"])


def norm_state(counts: tuple[int, ...]) -> dict[str, Tensor]:
    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}

    shapes: dict[str, tuple[int, ...]] = {"conv0": (64, 3, 7, 7), **norm("bn0", 64)}
    for name, ins, outs in blocks(counts):
        shapes |= {name + "conv0": (outs, ins, 3, 3), name + "conv1": (outs, outs, 3, 3)}
        shapes |= {**norm(name + "bn0", outs), **norm(name + "bn1", outs)}
        if ins != outs:
            shapes |= {name + "convdim": (outs, ins, 1, 1)}
    return random_state({**shapes, "fc.weight": (1000, 512), "fc.bias": (1000,)})


def run_norms(p: dict[str, Tensor], counts: tuple[int, ...], x: Tensor) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, *(p[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = F.max_pool2d(norm(F.conv2d(x, p["conv0"], None, 2, 3), "bn0").relu(), 3, 2, 1)
    for name, ins, outs in blocks(counts):
        stride = 2 if ins != outs else 1
        y = norm(F.conv2d(x, p[name + "conv0"], None, stride, 1), name + "bn0").relu()
        y = norm(F.conv2d(y, p[name + "conv1"], None, 1, 1), name + "bn1")
        x = (y + (F.conv2d(x, p[name + "convdim"], None, stride) if ins != outs else x)).relu()
    return F.linear(x.mean((2, 3)), p["fc.weight"], p["fc.bias"])


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def check(model: torch.nn.Module, checkpoint, expected: Tensor, relative_error) -> None:
    models.load_official(model, checkpoint)
    with torch.no_grad():
        assert relative_error(model.eval()(IMAGES), expected) < 1e-5


def test_checkpoints_with_folded_norms_load(tmp_path, relative_error) -> None:
    counts = (2, 2, 2, 2)
    params = folded_state(counts)
    torch.save(params, tmp_path / "resnet-18-export.pth")
    model = models.create("resnet18", 1000)
    check(model, tmp_path / "resnet-18-export.pth", run_folded(params, counts, IMAGES), relative_error)
    no_bias = {name: value for name, value in params.items() if not name.endswith("conv_dim.bias")}
    check(model, no_bias, run_folded(no_bias, counts, IMAGES), relative_error)
    for wrong, words in (
        ({name: value for name, value in params.items() if name != "group1.block1.conv0.bias"}, "layer2.1.bn1.weight"),
        ({**params, "group4.block0.conv0.weight": torch.zeros(1)}, "left over"),
        (affine_state(counts), "models.create('preact-resnet18', 1000) takes it"),
    ):
        with pytest.raises(InputError, match="does not fit|pre-activation") as caught:
            models.load_official(model, wrong)
        assert words in str(caught.value)


def test_resnet34_has_the_published_parameter_count() -> None:
    params = folded_state((3, 4, 6, 3))
    assert sum(value.numel() for value in params.values()) == 21_789_160  # the published count
    models.load_official(models.create("resnet34", 1000), params)


def test_checkpoints_with_affine_maps_load_into_preact_resnets(tmp_path, relative_error) -> None:
    counts = (2, 2, 2, 2)
    params = affine_state(counts)
    assert sum(value.numel() for value in params.values()) == 11_687_720  # as published
    torch.save(params, tmp_path / "resnet-18-at-export.pth", _use_new_zipfile_serialization=False)
    model = models.create("preact-resnet18", 1000)
    check(model, tmp_path / "resnet-18-at-export.pth", run_affine(params, counts, IMAGES), relative_error)
    reloaded = models.load_official(models.create("preact-resnet18", 1000), model.state_dict())
    assert torch.equal(reloaded.group3.block1.bn1.weight, params["group3.block1.affine1.a"])
    with pytest.raises(InputError, match=r"models.create\('resnet34', 1000\) takes it"):
        models.load_official(model, folded_state(counts))


def test_training_checkpoints_load(relative_error) -> None:
    counts = (2, 2, 2, 2)
    params = norm_state(counts)
    combined = {f"student.{name}": value for name, value in params.items()}
    combined |= {f"teacher.{name}": value for name, value in folded_state((3, 4, 6, 3)).items()}
    checkpoint = {"params": combined, "optimizer": {"state": {}, "param_groups": []}, "epoch": 99}
    model = models.create("resnet18", 1000)
    check(model, checkpoint, run_norms(params, counts, IMAGES), relative_error)
    incomplete = {name: value for name, value in params.items() if not name.endswith("running_mean")}
    with pytest.raises(InputError, match="missing"):
        models.load_official(model, incomplete)


def test_preact_resnets_have_depth_18_or_34() -> None:
    assert models.create("preact-resnet34", 7)(IMAGES).shape == (2, 7)
    with pytest.raises(InputError, match="18 or 34, not 50"):
        models.create("preact-resnet50")
