"""What Triton kernels compute, against the formulas in float64. Run by test_triton.py, in a process of its own.

Under TRITON_INTERPRET=1 the kernels run on the processor, else on a GPU. Tiles are as they are chosen for such shapes,
and, as cut, so small that every loop over tiles has several turns.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from regard import attention
from regard.attention import ops
from regard.attention.ops import choice, gpu
from regard.attention.ops.gpu import launch, tiles

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
KERNELS = launch.TritonKernels()
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
LAYOUTS = {"contiguous": torch.contiguous_format, "last": torch.channels_last}

SHAPES = [(1, 2, 1, 1), (2, 6, 5, 7), (3, 16, 7, 9), (1, 64, 14, 14), (1, 4, 65, 67)]
CUT = {"TILE": 64, "WHOLE": 0, "NARROW": 0}
FEATURES = [
    pytest.param({}, shape, torch.float32, layout, id=f"{shape}-{layout}") for shape in SHAPES for layout in LAYOUTS
]
for _layout in LAYOUTS:
    FEATURES += [
        pytest.param(CUT, (1, 12, 3, 7), torch.float32, _layout, id=f"cut-{_layout}"),
        pytest.param({}, (2, 12, 7, 6), torch.bfloat16, _layout, id=f"bfloat16-{_layout}"),
    ]
FEATURES.append(pytest.param({}, (2, 12, 7, 6), torch.float16, "contiguous", id="float16-contiguous"))


@pytest.fixture
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets constants of tiles.py."""

    def forget() -> None:
        for choose in (tiles.tile, tiles.map_tile, tiles.whole_tile, tiles.column_tile, tiles.box, tiles.group_tile):
            choose.cache_clear()

    for name, size in request.param.items():
        monkeypatch.setattr(tiles, name, size)
    forget()
    yield
    monkeypatch.undo()
    forget()


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(zlib.crc32(request.node.name.encode()))


def features(shape: tuple[int, ...], dtype: torch.dtype, layout: str, levels: int = 0) -> Tensor:
    """Random, around 0.5; of few values, many of them equal, if `levels`."""
    x = torch.randint(levels, shape) - levels / 2 if levels else torch.randn(shape) + 0.5
    return x.to(DEVICE, dtype).contiguous(memory_format=LAYOUTS[layout])


def small(*shape: int) -> Tensor:
    return torch.randn(shape).to(DEVICE)


def check(found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
    assert found.dtype == dtype and found.shape == expected.shape
    scale = 1 + (expected.abs().max().item() if expected.numel() else 0)
    assert torch.allclose(found.double(), expected, rtol=0, atol=TOLERANCE[dtype] * scale, equal_nan=True)


def check_features(found: Tensor, expected: Tensor, like: Tensor) -> None:
    check(found, expected, like.dtype)
    assert found.stride() == like.stride()


def gate(u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """On (N, C, P), with w and b (K, C)."""
    f = torch.sigmoid(u)
    for wk, bk in zip(w, b, strict=True):
        u = wk[:, None] * u + bk[:, None]
        f = f * torch.sigmoid(u)
    return f


def plane_gate(x: Tensor, scale: Tensor, shift: Tensor, w: Tensor, b: Tensor, local: Tensor, shuffle: bool) -> Tensor:
    flat = x.flatten(2)
    mean = flat.mean(2, keepdim=True)
    normal = (flat - mean) / (flat.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    t = torch.where(local[:, None], normal, mean)
    y = flat * gate(scale[:, None] * t + shift[:, None], w, b)
    if shuffle:
        y = y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return y.reshape(x.shape)


def group_gate(x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor) -> Tensor:
    parts = x.flatten(2).unflatten(1, (len(weight), -1))  # (N, G, C / G, P)
    s = (parts * parts.mean(3, keepdim=True)).sum(2)
    t = s - s.mean(2, keepdim=True)
    t = t / ((t.square().sum(2, keepdim=True) / max(1, s.shape[2] - 1)).sqrt() + 1e-5)
    return (parts * gate(weight[:, None] * t + bias[:, None], w, b)[:, :, None]).reshape(x.shape)


def doubled(*tensors: Tensor) -> list[Tensor]:
    return [t.double().requires_grad_() for t in tensors]


@pytest.mark.parametrize("order, shuffle", [(0, True), (1, False), (2, True)])
@pytest.mark.parametrize("sizes, shape, dtype, layout", FEATURES, indirect=["sizes"])
def test_plane_gate(sizes, shape, dtype, layout, order, shuffle) -> None:
    x, g = features(shape, dtype, layout), features(shape, dtype, layout)
    c = shape[1]
    scale, shift, w, b = small(c), small(c), small(order, c), small(order, c)
    local = torch.arange(c, device=DEVICE) % 3 > 0
    y, mean, rstd = KERNELS.plane_gate_forward(x, scale, shift, local, w, b, 1e-5, shuffle)
    wide = doubled(x, scale, shift, w, b)
    expected = plane_gate(*wide, local, shuffle)
    check_features(y, expected, x)
    flat = wide[0].flatten(2)
    check(mean, flat.mean(2))
    check(rstd, torch.where(local, (flat.var(2, correction=0) + 1e-5).rsqrt(), 0.0))

    dx, *sums = KERNELS.plane_gate_backward(g, x, mean, rstd, scale, shift, local, w, b, shuffle)
    wanted = torch.autograd.grad(expected, wide, g.double(), materialize_grads=True)
    check_features(dx, wanted[0], x)
    for found, want in zip(sums, wanted[1:], strict=True):
        assert len(found) == shape[0]
        check(found.sum(0), want)


def test_plane_gate_of_planes_larger_than_registers() -> None:
    x, g = features((1, 2, 129, 130), torch.float32, "contiguous"), features((1, 2, 129, 130), torch.float32, "last")
    g = g.contiguous()
    assert not tiles.whole_tile(2, 129 * 130, 4, False)[1]
    parameters = [small(2), small(2), small(1, 2), small(1, 2)]
    local = torch.tensor([False, True], device=DEVICE)
    wide = doubled(x + 100, *parameters)  # a mean far from 0 costs no digits
    x = x + 100
    y, mean, rstd = KERNELS.plane_gate_forward(x, *parameters[:2], local, *parameters[2:], 1e-5, False)
    expected = plane_gate(*wide, local, False)
    check(y, expected)
    dx, *_ = KERNELS.plane_gate_backward(g, x, mean, rstd, *parameters[:2], local, *parameters[2:], False)
    (wanted,) = torch.autograd.grad(expected, wide[:1], g.double())
    check(dx, wanted)


@pytest.mark.parametrize("order, groups", [(0, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("sizes, shape, dtype, layout", FEATURES, indirect=["sizes"])
def test_group_gate(sizes, shape, dtype, layout, groups, order) -> None:
    x, g = features(shape, dtype, layout), features(shape, dtype, layout)
    weight, bias, w, b = small(groups), small(groups), small(order, groups), small(order, groups)
    y, mean, centre, spread = KERNELS.group_gate_forward(x, weight, bias, w, b, 1e-5)
    wide = doubled(x, weight, bias, w, b)
    expected = group_gate(*wide)
    check_features(y, expected, x)
    check(mean, wide[0].mean((2, 3)))
    maps = (wide[0] * wide[0].mean((2, 3), keepdim=True)).flatten(2).unflatten(1, (groups, -1)).sum(2)
    check(centre, maps.mean(2))
    check(spread, maps.std(2) if maps.shape[2] > 1 else torch.zeros_like(maps[:, :, 0]))

    dx, *sums = KERNELS.group_gate_backward(g, x, mean, centre, spread, weight, bias, w, b, 1e-5)
    if shape[2] * shape[3] == 1:  # the standard deviation has no derivative at 0
        check_features(dx, (g * torch.sigmoid(bias)[:, None, None]).double(), x) if order == 0 and groups == 1 else None
        return
    wanted = torch.autograd.grad(expected, wide, g.double(), materialize_grads=True)
    check_features(dx, wanted[0], x)
    for found, want in zip(sums, wanted[1:], strict=True):
        check(found.sum(0), want)


def first_largest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    top = x.amax(dim, keepdim=True)
    return top.squeeze(dim), (x == top).to(torch.uint8).argmax(dim)


@pytest.mark.parametrize("variance, largest", [*itertools.product([False, True], repeat=2)])
@pytest.mark.parametrize("sizes, shape, dtype, layout", FEATURES, indirect=["sizes"])
def test_plane_statistics(sizes, shape, dtype, layout, variance, largest) -> None:
    x = features(shape, dtype, layout, levels=20)
    flat = x.double().flatten(2)
    mean, var, top, where = KERNELS.plane_statistics(x, variance, largest)
    check(mean, flat.mean(2))
    assert (var is not None) == variance and (top is not None) == (where is not None) == largest
    if variance:
        check(var, flat.var(2, correction=min(1, flat.shape[2] - 1)))
    if largest:
        value, place = first_largest(flat, 2)
        assert torch.equal(top.double(), value) and torch.equal(where, place)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [{}, CUT], ids=["chosen", "cut"], indirect=True)
def test_the_largest_of_odd_values(sizes, layout) -> None:
    x = features((1, 4, 9, 11), torch.float32, layout)
    flat = x.permute(0, 2, 3, 1).flatten(1, 2) if layout == "last" else x.flatten(2).transpose(1, 2)  # views (N, P, C)
    flat[0, :, 0] = float("-inf")
    flat[0, 30, 1] = float("inf")
    flat[0, 30, 2] = flat[0, 70, 2] = float("nan")
    _, _, top, where = KERNELS.plane_statistics(x, False, True)
    expected = x.flatten(2).max(2)
    assert torch.allclose(top, expected.values, equal_nan=True)
    assert where[0, :3].tolist() == [0, 30, 30] and where[0, 3] == expected.indices[0, 3]
    _, top, where = KERNELS.place_statistics(x, torch.ones(1, 4, device=DEVICE))
    assert top[0, 30].isnan() and where[0, 30] == 2
    assert where[0, 0] == x[0, :, 0, 0].argmax()


@pytest.mark.parametrize("sizes, shape, dtype, layout", FEATURES, indirect=["sizes"])
def test_planes(sizes, shape, dtype, layout) -> None:
    x, g = features(shape, dtype, layout), features(shape, dtype, layout)
    n, c, h, w = shape
    f, rest, slope, peak = (small(n, c) for _ in range(4))
    where = torch.randint(h * w, (n, c), device=DEVICE)
    wide, over = x.double(), g.double()
    factor, more, steep = (v.double()[:, :, None, None] for v in (f, rest, slope))
    check_features(KERNELS.plane_scale(x, f), wide * factor, x)
    check(KERNELS.plane_dot(g, x), (over * wide).sum((2, 3)))
    spike = torch.zeros(n, c, h * w, device=DEVICE).scatter(2, where[:, :, None], peak[:, :, None]).view(shape).double()
    plain = KERNELS.plane_combine(g, f, rest, None, None, None, None)
    check_features(plain, over * factor + more, x)
    full = KERNELS.plane_combine(g, f, rest, x, slope, peak, where)
    check_features(full, over * factor + more + steep * wide + spike, x)
    peaked = KERNELS.plane_combine(g, f, rest, None, None, peak, where)
    check_features(peaked, over * factor + more + spike, x)


@pytest.mark.parametrize("sizes, shape, dtype, layout", FEATURES, indirect=["sizes"])
def test_cross(sizes, shape, dtype, layout) -> None:
    x, g = features(shape, dtype, layout), features(shape, dtype, layout)
    n, c, h, w = shape
    rows, row_rest = small(n, c, h), small(n, c, h)
    columns, column_rest = small(n, c, w), small(n, c, w)
    found = KERNELS.cross_statistics(x)
    check(found[0], x.double().mean(3))
    check(found[1], x.double().mean(2))
    wide, r, k = doubled(x, rows, columns)
    y = wide * r[:, :, :, None] * k[:, :, None]
    check_features(KERNELS.cross_scale(x, rows, columns), y, x)
    dx, dr, dk = torch.autograd.grad(y, (wide, r, k), g.double())
    drows, dcolumns = KERNELS.cross_dot(g, x, rows, columns)
    check(drows, dr)
    check(dcolumns, dk)
    combined = KERNELS.cross_combine(g, rows, columns, row_rest, column_rest)
    check_features(combined, dx + row_rest.double()[:, :, :, None] + column_rest.double()[:, :, None], x)


@pytest.mark.parametrize("sizes, shape, dtype, layout", FEATURES, indirect=["sizes"])
def test_places(sizes, shape, dtype, layout) -> None:
    x, g = features(shape, dtype, layout, levels=20), features(shape, dtype, layout)
    n, c, h, w = shape
    f = torch.randint(1, 4, (n, c)).float().to(DEVICE)
    mean, top, where = KERNELS.place_statistics(x, f)
    product = x.double().flatten(2) * f.double()[:, :, None]
    check(mean, product.mean(1))
    value, channel = first_largest(product, 1)
    assert torch.equal(top.double(), value) and torch.equal(where, channel)

    x = features(shape, dtype, layout)
    f, m, rest, peak = small(n, c), small(n, h * w), small(n, h * w), small(n, h * w)
    plane_rest, plane_peak = small(n, c), small(n, c)
    plane_where = torch.randint(h * w, (n, c), device=DEVICE)
    wide, over, factor = x.double().flatten(2), g.double().flatten(2), f.double()[:, :, None]
    check_features(KERNELS.place_scale(x, f, m), (wide * factor * m.double()[:, None]).view(shape), x)
    check(KERNELS.place_dot(g, x, f), (over * wide * factor).sum(1))
    reach = over * m.double()[:, None] + rest.double()[:, None]
    reach = reach.scatter_add(1, where[:, None], peak.double()[:, None])
    check(KERNELS.place_plane_dot(g, x, m, rest, peak, where), (wide * reach).sum(2))
    expected = factor * reach + plane_rest.double()[:, :, None]
    expected = expected.scatter_add(2, plane_where[:, :, None], plane_peak.double()[:, :, None])
    dx = KERNELS.place_combine(g, f, m, rest, peak, where, plane_rest, plane_peak, plane_where)
    check_features(dx, expected.view(shape), x)


@pytest.mark.parametrize("sizes, shape, dtype, layout", FEATURES, indirect=["sizes"])
def test_context(sizes, shape, dtype, layout) -> None:
    x = features(shape, dtype, layout)
    n, c, h, w = shape
    f, u, k = (small(n, c) for _ in range(3))
    a, v = (small(n, h * w) for _ in range(2))
    wide = x.double().flatten(2)
    check(KERNELS.over_channels(x, k), (wide * k.double()[:, :, None]).sum(1))
    check(KERNELS.over_places(x, a), (wide * a.double()[:, None]).sum(2))
    of_places = [(s.double()[:, :, None], p.double()[:, None]) for s, p in ((u, a), (k, v))]
    expected = wide * f.double()[:, :, None] + sum(s * p for s, p in of_places)
    check_features(KERNELS.context_combine(x, f, u, a, k, v), expected.view(shape), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_input_gives_equal_bits_in_any_batch(layout) -> None:
    x = features((3, 8, 9, 5), torch.float32, layout)
    one = x[1:2].contiguous(memory_format=LAYOUTS[layout])
    for found, alone in zip(
        KERNELS.plane_statistics(x, True, True), KERNELS.plane_statistics(one, True, True), strict=True
    ):
        assert torch.equal(found[1:2], alone)


@pytest.mark.parametrize("gated", ["sigmoid", "sub-attention-2"])
@pytest.mark.parametrize("name", ["se", "srm", "cbam", "shuffle", "sge", "coord", "gc"])
def test_modules_run_on_the_kernels(monkeypatch, name, gated) -> None:
    monkeypatch.setattr(choice, "_kernels", lambda device: KERNELS)
    monkeypatch.setattr(choice, "SMALL", 0)
    options = {"shuffle": {"groups": 2}, "sge": {"groups": 2}, "gc": {"fusion": "scale", "reduction": 2}}.get(name, {})
    layer = attention.create(name, 8, gate=gated, **options).to(DEVICE)
    with torch.no_grad():  # away from the start, where some gradients are 0
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    # Batch norm over two images would give gradients that nearly cancel, of which rounding leaves little.
    x = features((6, 8, 5, 6), torch.float32, "contiguous")

    def run(x: Tensor) -> list[Tensor]:
        y = layer(x.requires_grad_())
        return [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]

    with ops.reference():
        expected = run(x)
    launched = []
    launch_one = launch._run
    monkeypatch.setattr(launch, "_run", lambda kernel, *a, **k: (launched.append(kernel), launch_one(kernel, *a, **k)))
    found = run(torch._neg_view(-x.detach()))  # the same values, negated when they are read
    assert launched or name == "coord"  # whose kernels are launched otherwise
    for value, wanted in zip(found, expected, strict=True):
        check(value.detach(), wanted.detach().double())


def test_kernels_load() -> None:
    kernels = gpu.load()
    assert kernels is not None and kernels.name == "triton"
