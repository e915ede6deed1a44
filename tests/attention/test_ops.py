"""The operations of attention: fast versions against their formulas."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regard import attention
from regard.attention import ops
from regard.attention.ops import choice, native

GATES = ["sigmoid", "sub-attention-1", "sub-attention-3"]


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameter(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return seeded(*shape, seed=seed, dtype=dtype).requires_grad_()


def build_gate(name: str, channels: int, dtype: torch.dtype) -> nn.Module:
    return attention.parse_gate(name).build(channels, dtype=dtype)


def plane(channels: int, gate: str, dtype: torch.dtype, shuffle: bool) -> tuple[Callable, list[Tensor]]:
    scale, shift = (parameter(channels, seed=seed, dtype=dtype) for seed in (1, 2))
    local, built = torch.arange(channels) % 3 > 0, build_gate(gate, channels, dtype)
    return lambda x: ops.plane_gated(x, scale, shift, local, built, shuffle=shuffle), [
        scale,
        shift,
        *built.parameters(),
    ]


def group(channels: int, gate: str, dtype: torch.dtype, groups: int) -> tuple[Callable, list[Tensor]]:
    weight, bias = (parameter(groups, seed=seed, dtype=dtype) for seed in (1, 2))
    built = build_gate(gate, groups, dtype)
    return lambda x: ops.group_gated(x, weight, bias, built), [weight, bias, *built.parameters()]


def channel(channels: int, statistics: tuple[str, ...], dtype: torch.dtype) -> tuple[Callable, list[Tensor]]:
    weights = [parameter(channels, seed=seed, dtype=dtype) for seed in range(len(statistics))]

    def factors(*found: Tensor) -> Tensor:
        return torch.sigmoid(sum(w * s for w, s in zip(weights, found, strict=True)))[:, :, None, None]

    return lambda x: ops.channel_gated(x, statistics, factors), weights


def cross(channels: int, dtype: torch.dtype) -> tuple[Callable, list[Tensor]]:
    a, b = (parameter(channels, 1, seed=seed, dtype=dtype) for seed in (1, 2))

    def factors(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        mixed = columns.mean(2, keepdim=True)
        return torch.sigmoid(a * rows + mixed)[..., None], torch.sigmoid(b * columns)[:, :, None]

    return lambda x: ops.cross_gated(x, factors), [a, b]


def channel_place(channels: int, dtype: torch.dtype) -> tuple[Callable, list[Tensor]]:
    a, b = (parameter(channels, seed=seed, dtype=dtype) for seed in (1, 2))
    c, d = (parameter(1, seed=seed, dtype=dtype) for seed in (3, 4))
    return lambda x: ops.channel_place_gated(
        x,
        lambda mean, top: torch.sigmoid(a * mean + b * top)[:, :, None, None],
        lambda mean, top: torch.sigmoid(c * mean + d * top),
    ), [a, b, c, d]


def context(channels: int, dtype: torch.dtype, added: bool) -> tuple[Callable, list[Tensor]]:
    key, w = (parameter(channels, seed=seed, dtype=dtype) for seed in (1, 2))
    bias = parameter(1, seed=3, dtype=dtype)
    run = ops.context_added if added else ops.context_scaled
    return lambda x: run(x, key, bias, lambda found: torch.sigmoid(w * found)[:, :, None, None]), [key, w, bias]


OPERATIONS = {
    **{f"plane {gate}": lambda c, d, gate=gate: plane(c, gate, d, False) for gate in GATES},
    **{f"plane, shuffled, {gate}": lambda c, d, gate=gate: plane(c, gate, d, True) for gate in GATES},
    **{f"group {gate}": lambda c, d, gate=gate: group(c, gate, d, 2) for gate in GATES},
    "group of one channel": lambda c, d: group(c, "sigmoid", d, c),
    **{
        f"channel {' '.join(names)}": lambda c, d, names=names: channel(c, names, d)
        for names in (("mean",), ("max",), ("mean", "var"), ("var", "max", "mean"))
    },
    "cross": cross,
    "channel and place": channel_place,
    "context scaled": lambda c, d: context(c, d, False),
    "context added": lambda c, d: context(c, d, True),
}


def results(run: Callable, x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Output and gradients."""
    y = run(x)
    g = seeded(*y.shape, seed=9, dtype=y.dtype)
    return [y, *torch.autograd.grad(y, [x, *parameters], g)]


def agree(fast: list[Tensor], formula: list[Tensor], tolerance: float) -> None:
    for found, expected in zip(fast, formula, strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        if found.dtype == torch.bfloat16:  # rounding may move the place of a largest value
            assert (found - expected).norm() <= tolerance * max(1.0, expected.norm().item())
        elif found.numel():
            assert (found - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())


TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 0.05}


@pytest.fixture(autouse=True)
def _native_kernels(monkeypatch) -> None:
    if ops.backend("cpu") != "native":
        pytest.skip("there are no native kernels: no C++ compiler")
    monkeypatch.setattr(choice, "SMALL", 0)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_fast_versions_compute_the_formula(name, dtype, memory) -> None:
    run, parameters = OPERATIONS[name](12, dtype)
    x = seeded(3, 12, 29, 23, dtype=dtype).to(memory_format=memory).requires_grad_()
    fast = results(run, x, parameters)
    assert fast[0].stride() == x.stride() and fast[1].stride() == x.stride()
    if dtype == torch.bfloat16:  # against what is right, not against the formula's own rounding
        run, exact = OPERATIONS[name](12, torch.float32)
        for of, to in zip(parameters, exact, strict=True):
            to.data.copy_(of.data)
        with ops.reference():
            formula = [r.to(dtype) for r in results(run, x.detach().float().requires_grad_(), exact)]
    else:
        with ops.reference():
            formula = results(run, x, parameters)
    agree(fast, formula, TOLERANCE[dtype])


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(OPERATIONS)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    last=st.booleans(),
)
def test_every_shape(name, shape, dtype, last) -> None:
    n, half, h, w = shape
    run, parameters = OPERATIONS[name](2 * half, dtype)
    x = seeded(n, 2 * half, h, w, dtype=dtype)
    x = (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()
    fast = results(run, x, parameters)
    with ops.reference():
        # Few values of float32 leave little of a variance: compare with float64.
        run, exact = OPERATIONS[name](2 * half, torch.float64)
        for of, to in zip(parameters, exact, strict=True):
            to.data.copy_(of.data)
        formula = results(run, x.detach().double().requires_grad_(), exact)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    agree(fast, [r.to(dtype) for r in formula], tolerance)


@pytest.mark.parametrize("name", OPERATIONS)
def test_other_layouts_and_a_lone_pixel_and_an_empty_batch(name) -> None:
    run, parameters = OPERATIONS[name](6, torch.float64)
    whole = seeded(4, 9, 7, 10)
    for x in (whole[:, 1:7, ::2, 1::3], whole.transpose(2, 3)[:, :6], whole[:1, :6, :1, :1], whole[:0, :6]):
        x = x.detach().requires_grad_()
        fast = results(run, x, parameters)
        with ops.reference():
            agree(fast, results(run, x, parameters), 1e-11)
        assert all(torch.isfinite(r).all() for r in fast)


@pytest.mark.parametrize("name", OPERATIONS)
def test_second_derivatives(name) -> None:
    run, parameters = OPERATIONS[name](4, torch.float64)
    x = seeded(2, 4, 3, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, *_: run(x), (x, *parameters), atol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_only_what_needs_a_gradient_gets_one(name) -> None:
    run, parameters = OPERATIONS[name](6, torch.float64)
    x = seeded(2, 6, 5, 4)
    y = run(x)
    y.sum().backward()
    of_parameters = [p.grad.clone() for p in parameters]
    with ops.reference():
        expected = torch.autograd.grad(run(x).sum(), parameters)
    agree(of_parameters, list(expected), 1e-10)
    for p in parameters:
        p.requires_grad_(False)
    assert not run(x).requires_grad
    x.requires_grad_()
    (fast,) = torch.autograd.grad(run(x).sum(), x)
    with ops.reference():
        agree([fast], list(torch.autograd.grad(run(x).sum(), x)), 1e-10)


@pytest.mark.parametrize("name", OPERATIONS)
def test_nan_is_seen(name) -> None:
    run, _ = OPERATIONS[name](6, torch.float32)
    x = seeded(2, 6, 8, 8, dtype=torch.float32)
    x[1, 2, 3, 4] = torch.nan
    with torch.no_grad():
        fast = run(x)
        with ops.reference():
            formula = run(x)
    assert torch.equal(fast.isnan(), formula.isnan()) and not fast[0].isnan().any()


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_of_the_size_of_the_features_is_kept_but_the_features(name) -> None:
    run, _ = OPERATIONS[name](8, torch.float32)
    x = seeded(2, 8, 32, 32, dtype=torch.float32).requires_grad_()
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        run(x)
    features = kept.pop(x.untyped_storage().data_ptr())
    assert features == x.numel() * 4
    # Maps of places (one channel of eight, a position of 8 bytes) are gates and what they are made of.
    assert sum(kept.values()) <= features * 0.65


def test_the_formula_runs_where_someone_looks() -> None:
    layer, x = attention.create("se", 4), seeded(2, 4, 3, 3, dtype=torch.float32)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        watched = layer(x)
    assert any("mean" in name for name in seen)
    torch.testing.assert_close(watched, layer(x))
    batch = torch.func.vmap(layer)(x[None])
    torch.testing.assert_close(batch[0], layer(x))
    _, tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    assert torch.isfinite(tangent).all()


def test_without_a_compiler_the_formula_runs_and_it_is_said_once(monkeypatch, caplog, tmp_path) -> None:
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING, "regard"):
        assert native.load() is None
    assert len(caplog.records) == 1 and "there is no C++ compiler" in caplog.text


def test_a_broken_compiler_is_told_and_leaves_nothing(monkeypatch, caplog, tmp_path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho no such flag >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler))
    with caplog.at_level(logging.WARNING, "regard"):
        assert native.load() is None
    assert "no such flag" in caplog.text
    assert not list((tmp_path / "cache").glob("*"))


def test_kernels_can_be_declined(monkeypatch) -> None:
    monkeypatch.setenv("REGARD_NATIVE", "0")
    assert native.load() is None


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_penalty_on_the_gradient(name) -> None:
    run, parameters = OPERATIONS[name](6, torch.float64)

    def gradients() -> list[Tensor]:
        x = seeded(2, 6, 5, 4).requires_grad_()
        y = run(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return [dx, *torch.autograd.grad(y.sum() + dx.square().sum(), [x, *parameters])]

    fast = gradients()
    with ops.reference():
        agree(fast, gradients(), 1e-10)


@pytest.mark.parametrize("name", ["se", "srm", "cbam", "coord", "gc", "shuffle", "sge"])
def test_checkpointing_and_hooks_see_the_same_gradients(name) -> None:
    torch.manual_seed(0)
    layer = attention.create(name, 8, dtype=torch.float64, **({"groups": 2} if name in ("shuffle", "sge") else {}))
    x = seeded(3, 8, 6, 5).requires_grad_()
    seen: list[Tensor] = []
    hook = layer.register_full_backward_hook(lambda module, of_input, of_output: seen.extend((*of_input, *of_output)))
    y = layer(x)
    g = seeded(*y.shape, seed=9)
    plain = torch.autograd.grad(y, [x, *layer.parameters()], g)
    hook.remove()
    agree(seen, [plain[0], g], 1e-12)
    layer.eval() if name in ("srm", "cbam", "coord") else layer  # batch norms count the images of a second pass too
    for reentrant in (False, True):
        expected = torch.autograd.grad(layer(x), [x, *layer.parameters()], g)
        y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
        if reentrant:
            y.backward(g)
            agree([x.grad, *(p.grad for p in layer.parameters())], list(expected), 1e-12)
        else:
            agree(list(torch.autograd.grad(y, [x, *layer.parameters()], g)), list(expected), 1e-12)


@pytest.mark.parametrize("channels", [1, 6, 11, 13, 24])
@pytest.mark.parametrize("name", OPERATIONS)
def test_features_of_other_channels_than_the_parameters_are_refused_or_computed_by_the_formula(name, channels) -> None:
    run, _ = OPERATIONS[name](12, torch.float64)
    x = seeded(2, channels, 3, 4)
    with torch.no_grad():
        try:
            fast = run(x)
        except RuntimeError:  # refused, by shapes
            return
        with ops.reference():
            agree([fast], [run(x)], 1e-11)


def eight_channels(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A module away from its start, features and a gradient."""
    torch.manual_seed(0)
    options = {"groups": 2} if name in ("shuffle", "sge") else {"fusion": "scale"} if name == "gc" else {}
    layer = attention.create(name, 8, gate="sub-attention-1", dtype=torch.float64, **options).eval()
    with torch.no_grad():
        for value in layer.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return layer, seeded(2, 8, 6, 5), seeded(2, 8, 6, 5, seed=9)


@pytest.mark.parametrize("name", attention.names())
def test_lazily_negated_views_are_the_values_that_they_stand_for(name) -> None:
    layer, x, g = eight_channels(name)
    parameters = dict(layer.named_parameters())

    def run(through: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_(), *(p.detach().clone().requires_grad_() for p in parameters.values())]
        of_x, *values = map(through, leaves)
        y = torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (of_x,))
        return [y, *torch.autograd.grad(y, leaves, through(g))]

    assert torch._neg_view(-x).is_neg()
    agree(run(lambda value: torch._neg_view(-value)), run(lambda value: value), 1e-11)


@pytest.mark.parametrize("name", attention.names())
def test_what_changed_in_place_before_the_backward_pass_is_refused_where_the_formula_refuses(name) -> None:
    layer, x, g = eight_channels(name)
    values = {"": x, **dict(layer.named_parameters())}

    def refused(changed: str) -> bool:
        kept = {key: value.detach().clone() for key, value in values.items()}
        of_x = x.clone().requires_grad_()
        taken = of_x * 1  # no leaf, so that it may change
        y = layer(taken)
        with torch.no_grad():
            (values[changed] if changed else taken).mul_(1.5)
        try:
            y.backward(g)
        except RuntimeError:
            return True
        finally:
            with torch.no_grad():
                for key, value in kept.items():
                    values[key].copy_(value)
        return False

    fast = {key: refused(key) for key in values}
    with ops.reference():
        formula = {key: refused(key) for key in values}
    assert formula[""] and any(formula[key] for key in formula if key or name == "simam")
    assert all(fast[key] for key in formula if formula[key]), (fast, formula)


@pytest.mark.parametrize("name", ["se", "srm", "cbam", "coord", "gc"])
def test_gradients_that_reach_a_gate_alone(name) -> None:
    layer, x, _ = eight_channels(name)
    x.requires_grad_()
    seen: list[Tensor] = []
    for key, module in layer.named_modules():
        if key.split(".")[-1].startswith("gate"):
            module.register_forward_hook(lambda _module, _args, factors: seen.append(factors))

    def gradients() -> list[Tensor]:
        seen.clear()
        layer(x)
        return [torch.autograd.grad(factors.sum(), x, retain_graph=True)[0] for factors in seen]

    fast = gradients()
    with ops.reference():
        agree(fast, gradients(), 1e-11)
