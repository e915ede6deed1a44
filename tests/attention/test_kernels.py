"""The operations of attention: fast versions against their formulas."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from regard import attention
from regard.attention import kernels
from regard.attention.kernels import native

GATES = ["sigmoid", "sub-attention-1", "sub-attention-3"]


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameter(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return seeded(*shape, seed=seed, dtype=dtype).requires_grad_()


def gate(order: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    return [seeded(order, channels, seed=seed, dtype=dtype).requires_grad_(order > 0) for seed in (5, 6)]


def shuffle(channels: int, dtype: torch.dtype, order: int, moved: bool) -> tuple[Callable, list[Tensor]]:
    scale, shift = (parameter(channels, seed=seed, dtype=dtype) for seed in (1, 2))
    local, (w, b) = torch.arange(channels) % 3 > 0, gate(order, channels, dtype)
    return lambda x: kernels.shuffle_gate(x, scale, shift, local, w, b, 1e-5, moved)[0], [
        scale,
        shift,
        *((w, b) if order else ()),
    ]


def group(channels: int, dtype: torch.dtype, order: int, groups: int) -> tuple[Callable, list[Tensor]]:
    weight, bias = (parameter(groups, seed=seed, dtype=dtype) for seed in (1, 2))
    w, b = gate(order, groups, dtype)
    return lambda x: kernels.group_gate(x, weight, bias, w, b, 1e-5)[0], [weight, bias, *((w, b) if order else ())]


def channel(channels: int, dtype: torch.dtype, statistics: Callable) -> tuple[Callable, list[Tensor]]:
    a, b = (parameter(channels, seed=seed, dtype=dtype) for seed in (1, 2))

    def run(x: Tensor) -> Tensor:
        x, *found = (x, statistics(x)) if statistics is kernels.channel_mean else statistics(x)
        u = sum(w * s for w, s in zip((a, b), found, strict=False))
        return kernels.scale(x, torch.sigmoid(u)[:, :, None, None])

    return run, [a, b] if statistics is not kernels.channel_mean else [a]


def strips(channels: int, dtype: torch.dtype) -> tuple[Callable, list[Tensor]]:
    a, b = (parameter(channels, 1, 1, seed=seed, dtype=dtype) for seed in (1, 2))

    def run(x: Tensor) -> Tensor:
        x, rows, columns = kernels.strip_means(x)
        mixed = columns.mean(3, keepdim=True)
        return kernels.scale(x, torch.sigmoid(a * rows + mixed), torch.sigmoid(b * columns))

    return run, [a, b]


def channel_pixel(channels: int, dtype: torch.dtype) -> tuple[Callable, list[Tensor]]:
    a, b = (parameter(channels, seed=seed, dtype=dtype) for seed in (1, 2))
    c, d = (parameter(1, seed=seed, dtype=dtype) for seed in (3, 4))

    def run(x: Tensor) -> Tensor:
        x, mean, top = kernels.channel_mean_max(x)
        by_channel = torch.sigmoid(a * mean + b * top)[:, :, None, None]
        x, mean, top = kernels.pixel_mean_max(x, by_channel)
        return kernels.scale(x, by_channel, torch.sigmoid(c * mean + d * top))

    return run, [a, b, c, d]


def context(channels: int, dtype: torch.dtype, added: bool) -> tuple[Callable, list[Tensor]]:
    key, w = (parameter(channels, seed=seed, dtype=dtype) for seed in (1, 2))
    bias = parameter(1, seed=3, dtype=dtype)
    join = kernels.add if added else kernels.scale

    def run(x: Tensor) -> Tensor:
        x, mean = kernels.context(x, key, bias)
        return join(x, torch.sigmoid(w * mean)[:, :, None, None])

    return run, [key, w, bias]


OPERATIONS = {
    **{f"shuffle of order {order}": lambda c, d, order=order: shuffle(c, d, order, True) for order in (0, 1, 3)},
    "shuffle without a shuffle": lambda c, d: shuffle(c, d, 1, False),
    **{f"group of order {order}": lambda c, d, order=order: group(c, d, order, 2) for order in (0, 1, 3)},
    "group of one channel": lambda c, d: group(c, d, 0, c),
    "mean": lambda c, d: channel(c, d, kernels.channel_mean),
    "mean and maximum": lambda c, d: channel(c, d, kernels.channel_mean_max),
    "mean and variance": lambda c, d: channel(c, d, kernels.channel_mean_variance),
    "strips": strips,
    "channel and pixel": channel_pixel,
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
    if kernels.backend("cpu") != "native":
        pytest.skip("there are no native kernels: no C++ compiler")
    monkeypatch.setattr(native, "SMALL", 0)


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
        with kernels.reference():
            formula = [r.to(dtype) for r in results(run, x.detach().float().requires_grad_(), exact)]
    else:
        with kernels.reference():
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
    with kernels.reference():
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
        with kernels.reference():
            agree(fast, results(run, x, parameters), 1e-11)
        assert all(torch.isfinite(r).all() for r in fast)


@pytest.mark.slow
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
    with kernels.reference():
        expected = torch.autograd.grad(run(x).sum(), parameters)
    agree(of_parameters, list(expected), 1e-10)
    for p in parameters:
        p.requires_grad_(False)
    assert not run(x).requires_grad
    x.requires_grad_()
    (fast,) = torch.autograd.grad(run(x).sum(), x)
    with kernels.reference():
        agree([fast], list(torch.autograd.grad(run(x).sum(), x)), 1e-10)


@pytest.mark.parametrize("name", OPERATIONS)
def test_nan_is_seen(name) -> None:
    run, _ = OPERATIONS[name](6, torch.float32)
    x = seeded(2, 6, 8, 8, dtype=torch.float32)
    x[1, 2, 3, 4] = torch.nan
    with torch.no_grad():
        fast = run(x)
        with kernels.reference():
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


@pytest.mark.parametrize("name", OPERATIONS)
def test_transforms_of_functions(name) -> None:
    run, _ = OPERATIONS[name](4, torch.float64)
    x = seeded(2, 4, 3, 2)

    def loss(x: Tensor) -> Tensor:
        return run(x).square().sum()

    with kernels.reference():
        y, jacobian = run(x), torch.autograd.functional.jacobian(run, x)
        gradient, hessian = torch.autograd.functional.jacobian(loss, x), torch.autograd.functional.hessian(loss, x)
    agree([torch.autograd.functional.jacobian(run, x, vectorize=True)], [jacobian], 1e-11)
    agree([torch.func.jacrev(run)(x), torch.func.jacfwd(run)(x)], [jacobian, jacobian], 1e-11)
    agree([torch.func.grad(loss)(x), torch.func.hessian(loss)(x)], [gradient, hessian], 1e-10)
    agree([torch.func.vmap(run)(torch.stack((x, x)))[1]], [y], 1e-11)
    agree(list(torch.func.vmap(torch.func.grad(loss))(torch.stack((x, x)))), [gradient, gradient], 1e-10)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    agree([tangent], [jacobian.flatten(4).sum(4)], 1e-11)


@pytest.mark.parametrize("name", OPERATIONS)
def test_torchs_own_checks_of_an_operation(name) -> None:
    run, parameters = OPERATIONS[name](4, torch.float64)
    called = []

    class Calls(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "regard":
                called.append((function, args))
            return function(*args, **(kwargs or {}))

    with Calls():
        y = run(seeded(2, 4, 6, 4).to(memory_format=torch.channels_last).requires_grad_())
        y.sum().backward()
    assert len(called) > 1
    for function, args in called:
        needy = [a.detach().requires_grad_(a.is_floating_point()) if isinstance(a, Tensor) else a for a in args]
        checks = ["test_schema", "test_faketensor"]
        if not function._schema.is_mutable:  # what is written over has no gradient
            checks.append("test_autograd_registration")
        torch.library.opcheck(function, needy, test_utils=checks)


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_may_be_changed_in_place(name) -> None:
    for dtype in (torch.float32, torch.float16):  # by kernels and by formulas
        run, _ = OPERATIONS[name](4, dtype)
        y = run(seeded(2, 4, 3, 2, dtype=dtype).requires_grad_())
        y += 1
        y.sum().backward()


def test_the_formula_is_asked_for_in_one_thread_alone() -> None:
    x = seeded(2, 4, 3, 3)
    with kernels.reference(), ThreadPoolExecutor(1) as other:
        assert kernels.in_reference()
        assert not other.submit(kernels.in_reference).result()
    assert not kernels.in_reference()
    assert torch.isfinite(kernels.channel_mean(x)).all()


def test_a_kernel_that_fails_leaves_its_operation_to_the_formula_and_it_is_said_once(monkeypatch, caplog) -> None:
    from regard.attention.kernels import combine

    def fails(*_: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(native, "combine", fails)
    monkeypatch.setattr(combine._combine, "broken", set())
    x, f = seeded(2, 4, 3, 3), seeded(2, 4, 1, 1)
    with caplog.at_level(logging.WARNING, "regard"):
        assert torch.equal(kernels.scale(x, f), x * f) and torch.equal(kernels.scale(x, f), x * f)
    assert len(caplog.records) == 1 and "no such instruction" in caplog.text


def loaded(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"{before}\nimport logging; logging.basicConfig(format='%(message)s'); import torch\n" + (
        "from regard.attention import create, kernels\n"
        "for _ in range(2): create('se', 64)(torch.zeros(2, 64, 32, 32))\n"
        "print(kernels.backend('cpu'))"
    )
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_without_a_compiler_the_formula_runs_and_it_is_said_once(tmp_path) -> None:
    done = loaded(REGARD_CACHE=str(tmp_path / "empty"), CXX="no-such-compiler", PATH=str(tmp_path))
    assert done.stdout == "torch\n"
    assert done.stderr.count("there is no C++ compiler") == 1


@pytest.mark.slow
def test_a_broken_compiler_is_told_and_leaves_nothing(tmp_path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\ncase $* in *-###*) exit 0;; esac\necho no such flag >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = loaded(REGARD_CACHE=str(tmp_path / "cache"), CXX=str(compiler))
    assert done.stdout == "torch\n" and "no such flag" in done.stderr
    assert {path.suffix for path in (tmp_path / "cache").glob("*")} <= {".lock"}


@pytest.mark.slow
def test_kernels_can_be_declined_and_triton_be_absent() -> None:
    done = loaded("import sys; sys.modules['triton'] = None", REGARD_NATIVE="0")
    assert done.stdout == "torch\n" and not done.stderr


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_penalty_on_the_gradient(name) -> None:
    run, parameters = OPERATIONS[name](6, torch.float64)

    def gradients() -> list[Tensor]:
        x = seeded(2, 6, 5, 4).requires_grad_()
        y = run(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return [dx, *torch.autograd.grad(y.sum() + dx.square().sum(), [x, *parameters])]

    fast = gradients()
    with kernels.reference():
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


class Called(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("name", ["mean and variance", "mean and maximum", "strips", "channel and pixel"])
def test_a_gradient_is_written_over_only_where_nobody_else_has_it(name, memory) -> None:
    run, parameters = OPERATIONS[name](12, torch.float64)
    x = seeded(3, 12, 9, 7).to(memory_format=memory).requires_grad_()
    y, g = run(x), seeded(3, 12, 9, 7, seed=9).to(memory_format=memory)
    with Called() as called:
        first = torch.autograd.grad(y, [x, *parameters], g, retain_graph=True)
    assert called.names.count("regard.combine_.default") == (2 if name == "channel and pixel" else 1)
    values = [value.clone() for value in (g, *first)]
    torch.autograd.grad(y, x, first[0], retain_graph=True)
    agree([g, *first], values, 0)
    agree(list(torch.autograd.grad(y, [x, *parameters], g)), list(first), 0)
    for through in (lambda x: run(x) + run(x * 2), lambda x: run(x).square() * x):  # with other gradients in between
        fast = results(through, x, parameters)
        with kernels.reference():
            agree(fast, results(through, x, parameters), 1e-11)


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
        with kernels.reference():
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
def test_what_changes_in_place_before_the_backward_pass_is_refused_or_does_no_harm(name) -> None:
    layer, x, g = eight_channels(name)
    values = {"": x, **dict(layer.named_parameters())}

    def gradient(changed: str | None) -> Tensor | None:
        kept = {key: value.detach().clone() for key, value in values.items()}
        of_x = x.clone().requires_grad_()
        taken = of_x * 1  # no leaf, so that it may change
        y = layer(taken)
        with torch.no_grad():
            if changed is not None:
                (values[changed] if changed else taken).mul_(1.5)
        try:
            return torch.autograd.grad(y, of_x, g)[0]
        except RuntimeError:
            return None
        finally:
            with torch.no_grad():
                for key, value in kept.items():
                    values[key].copy_(value)

    expected = gradient(None)
    assert expected is not None and gradient("") is None
    for key in values:
        found = gradient(key)
        assert found is None or torch.equal(found, expected), key


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
    with kernels.reference():
        agree(fast, gradients(), 1e-11)
