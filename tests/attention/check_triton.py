"""Checks of the Triton kernels against formulas in float64. test_triton.py runs this file in a separate process.

Under TRITON_INTERPRET=1 the kernels run on the CPU, else on a GPU. Each check runs with the default tiles for its
shapes, and as `cut` with tiles so small that every loop over tiles has several iterations.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn

from regard import attention
from regard.attention.kernels import operation, reference
from regard.attention.kernels import triton as kernels
from regard.attention.kernels.triton import tiles

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
LAYOUTS = {"contiguous": torch.contiguous_format, "last": torch.channels_last}


@pytest.fixture(params=["contiguous", "last", "cut-contiguous", "cut-last", "bfloat16-last"])
def x(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Features (N, C, H, W) around 0.5."""
    torch.manual_seed(len(request.param))
    case, layout = request.param.split("-") if "-" in request.param else ("", request.param)
    if case == "cut":
        monkeypatch.setattr(tiles, "THREADS", 8)
    shapes = {"": (2, 6, 5, 7), "cut": (1, 4, 6, 7), "bfloat16": (2, 12, 4, 6)}
    x = (torch.randn(shapes[case]) + 0.5).to(DEVICE, torch.bfloat16 if case == "bfloat16" else torch.float32)
    return x.contiguous(memory_format=LAYOUTS[layout])


def small(*shape: int) -> Tensor:
    return torch.randn(shape).to(DEVICE)


def check(actual: Tensor, expected: Tensor, like: Tensor | None = None) -> None:
    """`actual` has the dtype and the layout of the features `like`, or float32."""
    dtype = like.dtype if like is not None else torch.float32
    assert actual.dtype == dtype and actual.shape == expected.shape
    assert like is None or actual.stride() == like.stride()
    scale = 1 + (expected.abs().max().item() if expected.numel() else 0)
    torch.testing.assert_close(actual.double(), expected.detach(), rtol=0, atol=TOLERANCE[dtype] * scale)


def check_gradients(actual: list[Tensor], output: Tensor, inputs: list[Tensor], g: Tensor, like: Tensor) -> None:
    """Compares gradients with those of `output`; the first gradient belongs to the features `like`."""
    expected = torch.autograd.grad(output, inputs, g.double(), materialize_grads=True)
    check(actual[0], expected[0], like)
    for actual_gradient, expected_gradient in zip(actual[1:], expected[1:], strict=True):
        check(actual_gradient, expected_gradient)


def float64_leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.double().requires_grad_() for t in tensors]


def gate(u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The gate of logits u (N, C, P), with w and b (K, C)."""
    f = torch.sigmoid(u)
    for wk, bk in zip(w, b, strict=True):
        u = wk[:, None] * u + bk[:, None]
        f = f * torch.sigmoid(u)
    return f


def test_shuffle_gate(x, order=2, shuffle=True) -> None:
    c = x.shape[1]
    scale, shift, w, b = small(c), small(c), small(order, c), small(order, c)
    local = torch.arange(c, device=DEVICE) % 3 > 0
    y, mean, rstd = kernels.shuffle_gate(x, scale, shift, local, w, b, 1e-5, shuffle)

    inputs = float64_leaves(x, scale, shift, w, b)
    flat = inputs[0].flatten(2)
    centre, variance = flat.mean(2, keepdim=True), flat.var(2, correction=0, keepdim=True)
    t = torch.where(local[:, None], (flat - centre) * (variance + 1e-5).rsqrt(), centre)
    expected = flat * gate(inputs[1][:, None] * t + inputs[2][:, None], *inputs[3:])
    if shuffle:
        expected = expected.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    expected = expected.reshape(x.shape)
    check(y, expected, x)
    check(mean, centre[:, :, 0])
    check(rstd, torch.where(local, (variance[:, :, 0] + 1e-5).rsqrt(), 0.0))
    g = torch.randn_like(x)
    gradients = kernels.shuffle_gate_backward(g, x, mean, rstd, scale, shift, local, w, b, 1e-5, shuffle)
    check_gradients(list(gradients), expected, inputs, g, x)


def test_group_gate(x, order=2, groups=2) -> None:
    weight, bias, w, b = small(groups), small(groups), small(order, groups), small(order, groups)
    y, mean, centre, spread = kernels.group_gate(x, weight, bias, w, b, 1e-5)

    inputs = float64_leaves(x, weight, bias, w, b)
    parts = inputs[0].flatten(2).unflatten(1, (groups, -1))  # (N, G, C / G, P)
    maps = (parts * parts.mean(3, keepdim=True)).sum(2)
    t = (maps - maps.mean(2, keepdim=True)) / (maps.std(2, keepdim=True) + 1e-5)
    expected = (parts * gate(inputs[1][:, None] * t + inputs[2][:, None], *inputs[3:])[:, :, None]).reshape(x.shape)
    check(y, expected, x)
    check(mean, inputs[0].mean((2, 3)))
    check(centre, maps.mean(2))
    check(spread, maps.std(2))
    g = torch.randn_like(x)
    gradients = kernels.group_gate_backward(g, x, mean, centre, spread, weight, bias, w, b, 1e-5)
    check_gradients(list(gradients), expected, inputs, g, x)


@pytest.mark.parametrize("x", LAYOUTS, indirect=True)
def test_plain_gates(x) -> None:
    test_shuffle_gate(x, order=0, shuffle=False)
    test_group_gate(x, order=0, groups=1)


def test_group_gate_on_one_pixel() -> None:
    x, bias = small(1, 4, 1, 1), small(2)
    y, *statistics = kernels.group_gate(x, small(2), bias, small(0, 2), small(0, 2), 1e-5)
    factors = torch.sigmoid(bias.double()).repeat_interleave(2)[:, None, None]
    check(y, x * factors, x)
    g = small(1, 4, 1, 1)
    dx, *_ = kernels.group_gate_backward(g, x, *statistics, small(2), bias, small(0, 2), small(0, 2), 1e-5)
    check(dx, g * factors, x)


@pytest.mark.parametrize("with_b", [False, True])
def test_combine(x, with_b) -> None:
    n, c, h, w = x.shape
    g, inputs = torch.randn_like(x), float64_leaves(x, small(n, c, 1, 1), small(n, 1, h, w))
    a, b = inputs[1].detach().float(), inputs[2].detach().float() if with_b else None
    product = inputs[0] * inputs[1] * (inputs[2] if with_b else 1)
    check(kernels.combine(x, a, b, None, None, None, None, None, True), product, x)
    dx, *factor_gradients = kernels.combine_backward(g, x, a, b)
    expected = torch.autograd.grad(product, inputs[: 2 + with_b], g.double())
    check(dx, expected[0], x)
    for actual_gradient, expected_gradient in zip(
        factor_gradients if with_b else factor_gradients[:1], expected[1:], strict=True
    ):
        check(actual_gradient, expected_gradient)


@pytest.mark.parametrize("present", ["ac", "c", "abcd", "acg", "-a", "-ab", "-abcdg"])
def test_combine_with_terms(present) -> None:
    """Combinations with added terms, and products without the features."""
    x = small(2, 3, 4, 5)
    factors = [small(2, 3, 1, 1), small(2, 1, 4, 5), small(2, 3, 1, 1), small(2, 1, 4, 5)]
    a, b, c, d = (f if name in present else None for name, f in zip("abcd", factors, strict=True))
    expected = x if present[0] != "-" else torch.ones_like(x)
    for factor in (a, b):
        expected = expected * factor if factor is not None else expected
    if c is not None:
        expected = expected + c * (d if d is not None else 1)
    g = torch.randn_like(x) if "g" in present else None
    expected = expected + g if g is not None else expected
    check(kernels.combine(x, a, b, c, d, g, None, None, present[0] != "-"), expected.double(), x)
    if g is not None:
        check(kernels.combine(x, a, b, c, d, g, None, None, present[0] != "-", y=g), expected.double(), x)
        check(g, expected.double(), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_over_many_channels(layout) -> None:
    x = small(1, 132, 3, 5).contiguous(memory_format=LAYOUTS[layout])
    a, b = small(1, 132, 1, 1), small(1, 1, 3, 5)
    _, _, db = kernels.combine_backward(x, x, a, b)
    check(db, (x.double().square() * a).sum(1, keepdim=True))
    mean, top, where = kernels.pixel_statistics(x, a)
    expected = (x * a).max(1, keepdim=True)
    check(mean, (x.double() * a).mean(1, keepdim=True))
    assert torch.equal(top, expected.values) and torch.equal(where, expected.indices)


def test_unsupported_shapes_return_not_implemented() -> None:
    x, rows, columns = small(1, 4, 3, 5), small(1, 4, 3, 1), small(1, 4, 1, 5)
    assert kernels.combine(x, rows, columns, None, None, None, None, None, True) is NotImplemented
    assert kernels.combine_backward(x, x, rows, columns) is NotImplemented
    large = small(1, 130, 2, 2)
    assert kernels.group_gate(large, small(1), small(1), small(0, 1), small(0, 1), 1e-5) is NotImplemented
    with pytest.raises(OverflowError):
        kernels.channel_statistics(torch.empty(1, 2**11, 2**10, 2**10, device="meta"), False, True)


def first_largest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    top = x.amax(dim, keepdim=True)
    return top.squeeze(dim), (x == top).to(torch.uint8).argmax(dim)


@pytest.mark.parametrize("variance, maximum", [(False, False), (True, False), (False, True)])
def test_channel_statistics(x, variance, maximum) -> None:
    x = x.mul(4).round()  # few values, so that many are equal
    flat = x.double().flatten(2)
    mean, var, top, where = kernels.channel_statistics(x, variance, maximum)
    check(mean, flat.mean(2))
    assert len(var) == variance * len(x) and len(top) == len(where) == maximum * len(x)
    if variance:
        check(var, flat.var(2))
    if maximum:
        value, pixel = first_largest(flat, 2)
        assert torch.equal(top.double(), value) and torch.equal(where, pixel)


def test_pixel_statistics(x) -> None:
    x = x.mul(4).round()
    f = torch.randint(1, 4, (*x.shape[:2], 1, 1)).float().to(DEVICE)
    mean, top, where = kernels.pixel_statistics(x, f)
    product = x.double() * f
    check(mean, product.mean(1, keepdim=True))
    value, channel = first_largest(product, 1)
    assert torch.equal(top[:, 0].double(), value) and torch.equal(where[:, 0], channel)


def test_moments_far_from_zero() -> None:
    x = small(1, 2, 33, 67) + 1000
    _, var, _, _ = kernels.channel_statistics(x, True, False)
    check(var, x.double().flatten(2).var(2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_maxima_of_infinite_and_nan_values(layout) -> None:
    x = small(1, 4, 9, 11)
    flat = x.flatten(2)
    flat[0, 0] = float("-inf")
    flat[0, 1, 30] = float("inf")
    flat[0, 2, 30] = flat[0, 2, 70] = float("nan")
    x = x.contiguous(memory_format=LAYOUTS[layout])
    _, _, top, where = kernels.channel_statistics(x, False, True)
    expected = flat.max(2)
    assert torch.equal(top.isnan(), expected.values.isnan())
    assert torch.equal(top.nan_to_num(), expected.values.nan_to_num())
    assert where[0].tolist() == [0, 30, 30, expected.indices[0, 3]]
    _, top, where = kernels.pixel_statistics(x, torch.ones(1, 4, 1, 1, device=DEVICE))
    assert top.flatten()[30].isnan() and where.flatten()[30] == 2
    assert where.flatten()[0] == flat[0, :, 0].argmax()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_are_bitwise_independent_of_the_batch(layout) -> None:
    x = small(3, 8, 9, 5).contiguous(memory_format=LAYOUTS[layout])
    single = x[1:2].contiguous(memory_format=LAYOUTS[layout])
    pairs = zip(kernels.channel_statistics(x, True, True), kernels.channel_statistics(single, True, True), strict=True)
    assert all(torch.equal(batched[1:2], unbatched) for batched, unbatched in pairs)


MODULES = {
    "se": {"channels": 8, "gate": attention.SubAttention(order=2)},
    "srm": {"channels": 8},
    "cbam": {"channels": 8},
    "shuffle": {"channels": 8, "groups": 2, "gate": attention.SubAttention(order=2)},
    "sge": {"channels": 8, "groups": 2, "gate": attention.SubAttention(order=2)},
    "coord": {"channels": 8},
}


def module(name: str) -> nn.Module:
    layer = attention.create(name, **MODULES[name]).to(DEVICE)
    with torch.no_grad():  # away from the initial values, where some gradients are 0
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def outputs(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    x = x.detach().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("name", MODULES)
def test_modules_run_on_the_kernels(monkeypatch, caplog, name) -> None:
    monkeypatch.setattr(operation, "_kernels", lambda backend: kernels)
    monkeypatch.setattr(kernels, "SMALL", 0)
    torch.manual_seed(0)
    layer, x = module(name), small(3, 8, 5, 6) + 0.5
    launches = []
    for function in kernels.__all__[2:]:
        original = getattr(kernels, function)
        monkeypatch.setattr(kernels, function, lambda *a, f=original, n=function, **k: launches.append(n) or f(*a, **k))
    with reference():
        expected = outputs(layer, x)
    assert not launches
    for actual, expected_output in zip(outputs(layer, x), expected, strict=True):
        check(actual, expected_output.double())
    assert launches and not caplog.records


@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
@pytest.mark.parametrize("name", MODULES)
def test_compiled_modules(name) -> None:
    torch.manual_seed(0)
    layer, x = module(name), small(128, 8, 36, 36)
    torch.compiler.reset()
    for actual, expected in zip(outputs(torch.compile(layer, fullgraph=True), x), outputs(layer, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
