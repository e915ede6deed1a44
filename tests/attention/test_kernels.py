"""The operations of attention: kernels against their formulas."""

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


def shuffle(channels: int, dtype: torch.dtype, order: int, shuffled: bool) -> tuple[Callable, list[Tensor]]:
    scale, shift = (parameter(channels, seed=seed, dtype=dtype) for seed in (1, 2))
    local, (w, b) = torch.arange(channels) % 3 > 0, gate(order, channels, dtype)
    return lambda x: kernels.shuffle_gate(x, scale, shift, local, w, b, 1e-5, shuffled)[0], [
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
        x, *values = (x, statistics(x)) if statistics is kernels.channel_mean else statistics(x)
        u = sum(w * s for w, s in zip((a, b), values, strict=False))
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


def assert_agree(fast: list[Tensor], formula: list[Tensor], tolerance: float) -> None:
    for actual, expected in zip(fast, formula, strict=True):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape
        if actual.dtype == torch.bfloat16:  # rounding may move the position of a maximum
            assert (actual - expected).norm() <= tolerance * max(1.0, expected.norm().item())
        elif actual.numel():
            assert (actual - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())


TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 0.05}


@pytest.fixture(autouse=True)
def _native_kernels(monkeypatch) -> None:
    if kernels.backend("cpu") != "native":
        pytest.skip("there are no native kernels: no C++ compiler")
    monkeypatch.setattr(native, "SMALL", 0)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_kernels_agree_with_the_formula(name, dtype, memory) -> None:
    run, parameters = OPERATIONS[name](12, dtype)
    x = seeded(3, 12, 29, 23, dtype=dtype).to(memory_format=memory).requires_grad_()
    fast = results(run, x, parameters)
    assert fast[0].stride() == x.stride() and fast[1].stride() == x.stride()
    if dtype == torch.bfloat16:  # against float32, not against the rounding of the formula
        run, exact = OPERATIONS[name](12, torch.float32)
        for source, target in zip(parameters, exact, strict=True):
            target.data.copy_(source.data)
        with kernels.reference():
            formula = [r.to(dtype) for r in results(run, x.detach().float().requires_grad_(), exact)]
    else:
        with kernels.reference():
            formula = results(run, x, parameters)
    assert_agree(fast, formula, TOLERANCE[dtype])


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(OPERATIONS)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    channels_last=st.booleans(),
)
def test_kernels_agree_with_the_formula_at_any_shape(name, shape, dtype, channels_last) -> None:
    n, half, h, w = shape
    run, parameters = OPERATIONS[name](2 * half, dtype)
    x = seeded(n, 2 * half, h, w, dtype=dtype)
    x = (x.to(memory_format=torch.channels_last) if channels_last else x).requires_grad_()
    fast = results(run, x, parameters)
    with kernels.reference():
        # The variance of few float32 values is inexact: compare with float64.
        run, exact = OPERATIONS[name](2 * half, torch.float64)
        for source, target in zip(parameters, exact, strict=True):
            target.data.copy_(source.data)
        formula = results(run, x.detach().double().requires_grad_(), exact)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    assert_agree(fast, [r.to(dtype) for r in formula], tolerance)


@pytest.mark.parametrize("name", OPERATIONS)
def test_strided_single_pixel_and_empty_inputs(name) -> None:
    run, parameters = OPERATIONS[name](6, torch.float64)
    full = seeded(4, 9, 7, 10)
    for x in (full[:, 1:7, ::2, 1::3], full.transpose(2, 3)[:, :6], full[:1, :6, :1, :1], full[:0, :6]):
        x = x.detach().requires_grad_()
        fast = results(run, x, parameters)
        with kernels.reference():
            assert_agree(fast, results(run, x, parameters), 1e-11)
        assert all(torch.isfinite(r).all() for r in fast)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_second_derivatives(name) -> None:
    run, parameters = OPERATIONS[name](4, torch.float64)
    x = seeded(2, 4, 3, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, *_: run(x), (x, *parameters), atol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_computed_only_where_required(name) -> None:
    run, parameters = OPERATIONS[name](6, torch.float64)
    x = seeded(2, 6, 5, 4)
    y = run(x)
    y.sum().backward()
    gradients = [p.grad.clone() for p in parameters]
    with kernels.reference():
        expected = torch.autograd.grad(run(x).sum(), parameters)
    assert_agree(gradients, list(expected), 1e-10)
    for p in parameters:
        p.requires_grad_(False)
    assert not run(x).requires_grad
    x.requires_grad_()
    (fast,) = torch.autograd.grad(run(x).sum(), x)
    with kernels.reference():
        assert_agree([fast], list(torch.autograd.grad(run(x).sum(), x)), 1e-10)


@pytest.mark.parametrize("name", OPERATIONS)
def test_nan_propagates(name) -> None:
    run, _ = OPERATIONS[name](6, torch.float32)
    x = seeded(2, 6, 8, 8, dtype=torch.float32)
    x[1, 2, 3, 4] = torch.nan
    with torch.no_grad():
        fast = run(x)
        with kernels.reference():
            formula = run(x)
    assert torch.equal(fast.isnan(), formula.isnan()) and not fast[0].isnan().any()


@pytest.mark.parametrize("name", OPERATIONS)
def test_only_the_features_are_saved_at_full_size(name) -> None:
    run, _ = OPERATIONS[name](8, torch.float32)
    x = seeded(2, 8, 32, 32, dtype=torch.float32).requires_grad_()
    saved: dict[int, int] = {}

    def save(t: Tensor) -> Tensor:
        saved[t.untyped_storage().data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(save, lambda t: t):
        run(x)
    features = saved.pop(x.untyped_storage().data_ptr())
    assert features == x.numel() * 4
    # Spatial maps (one channel of eight, indices of 8 bytes) hold gates and their inputs.
    assert sum(saved.values()) <= features * 0.65


@pytest.mark.parametrize("name", OPERATIONS)
def test_torch_func_transforms_agree_with_the_formula(name) -> None:
    run, _ = OPERATIONS[name](4, torch.float64)
    x = seeded(2, 4, 3, 2)

    def loss(x: Tensor) -> Tensor:
        return run(x).square().sum()

    with kernels.reference():
        y, jacobian = run(x), torch.autograd.functional.jacobian(run, x)
        gradient, hessian = torch.autograd.functional.jacobian(loss, x), torch.autograd.functional.hessian(loss, x)
    assert_agree([torch.autograd.functional.jacobian(run, x, vectorize=True)], [jacobian], 1e-11)
    assert_agree([torch.func.jacrev(run)(x), torch.func.jacfwd(run)(x)], [jacobian, jacobian], 1e-11)
    assert_agree([torch.func.grad(loss)(x), torch.func.hessian(loss)(x)], [gradient, hessian], 1e-10)
    assert_agree([torch.func.vmap(run)(torch.stack((x, x)))[1]], [y], 1e-11)
    assert_agree(list(torch.func.vmap(torch.func.grad(loss))(torch.stack((x, x)))), [gradient, gradient], 1e-10)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    assert_agree([tangent], [jacobian.flatten(4).sum(4)], 1e-11)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operators_pass_opcheck(name) -> None:
    run, parameters = OPERATIONS[name](4, torch.float64)
    calls = []

    class Calls(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "regard":
                calls.append((function, args))
            return function(*args, **(kwargs or {}))

    with Calls():
        y = run(seeded(2, 4, 6, 4).to(memory_format=torch.channels_last).requires_grad_())
        y.sum().backward()
    assert len(calls) > 1
    for function, args in calls:
        inputs = [a.detach().requires_grad_(a.is_floating_point()) if isinstance(a, Tensor) else a for a in args]
        checks = ["test_schema", "test_faketensor"]
        if not function._schema.is_mutable:  # an operator that overwrites its input has no gradient
            checks.append("test_autograd_registration")
        torch.library.opcheck(function, inputs, test_utils=checks)


@pytest.mark.parametrize("name", OPERATIONS)
def test_outputs_can_be_changed_in_place(name) -> None:
    for dtype in (torch.float32, torch.float16):  # computed by kernels and by formulas
        run, _ = OPERATIONS[name](4, dtype)
        y = run(seeded(2, 4, 3, 2, dtype=dtype).requires_grad_())
        y += 1
        y.sum().backward()


def test_reference_mode_is_thread_local() -> None:
    x = seeded(2, 4, 3, 3)
    with kernels.reference(), ThreadPoolExecutor(1) as other:
        assert kernels.in_reference()
        assert not other.submit(kernels.in_reference).result()
    assert not kernels.in_reference()
    assert torch.isfinite(kernels.channel_mean(x)).all()


def test_a_failing_kernel_falls_back_to_the_formula_with_one_warning(monkeypatch, caplog) -> None:
    from regard.attention.kernels import combine

    def fails(*_: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(native, "combine", fails)
    monkeypatch.setattr(combine._combine, "broken", set())
    x, f = seeded(2, 4, 3, 3), seeded(2, 4, 1, 1)
    with caplog.at_level(logging.WARNING, "regard"):
        assert torch.equal(kernels.scale(x, f), x * f) and torch.equal(kernels.scale(x, f), x * f)
    assert len(caplog.records) == 1 and "no such instruction" in caplog.text


def run_in_subprocess(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"{before}\nimport logging; logging.basicConfig(format='%(message)s'); import torch\n" + (
        "from regard.attention import create, kernels\n"
        "for _ in range(2): create('se', 64)(torch.zeros(2, 64, 32, 32))\n"
        "print(kernels.backend('cpu'))"
    )
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_a_missing_compiler_falls_back_with_one_warning(tmp_path) -> None:
    process = run_in_subprocess(REGARD_CACHE=str(tmp_path / "empty"), CXX="no-such-compiler", PATH=str(tmp_path))
    assert process.stdout == "torch\n"
    assert process.stderr.count("there is no C++ compiler") == 1


@pytest.mark.slow
def test_a_broken_compiler_is_reported_and_leaves_no_files(tmp_path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\ncase $* in *-###*) exit 0;; esac\necho no such flag >&2\nexit 1\n")
    compiler.chmod(0o755)
    process = run_in_subprocess(REGARD_CACHE=str(tmp_path / "cache"), CXX=str(compiler))
    assert process.stdout == "torch\n" and "no such flag" in process.stderr
    assert {path.suffix for path in (tmp_path / "cache").glob("*")} <= {".lock"}


@pytest.mark.slow
def test_kernels_can_be_disabled_and_triton_can_be_missing() -> None:
    process = run_in_subprocess("import sys; sys.modules['triton'] = None", REGARD_NATIVE="0")
    assert process.stdout == "torch\n" and not process.stderr


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient_penalties_agree_with_the_formula(name) -> None:
    run, parameters = OPERATIONS[name](6, torch.float64)

    def gradients() -> list[Tensor]:
        x = seeded(2, 6, 5, 4).requires_grad_()
        y = run(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return [dx, *torch.autograd.grad(y.sum() + dx.square().sum(), [x, *parameters])]

    fast = gradients()
    with kernels.reference():
        assert_agree(fast, gradients(), 1e-10)


@pytest.mark.parametrize("name", ["se", "srm", "cbam", "coord", "gc", "shuffle", "sge"])
def test_checkpointing_and_hooks_see_the_same_gradients(name) -> None:
    torch.manual_seed(0)
    layer = attention.create(name, 8, dtype=torch.float64, **({"groups": 2} if name in ("shuffle", "sge") else {}))
    x = seeded(3, 8, 6, 5).requires_grad_()
    hook_gradients: list[Tensor] = []
    hook = layer.register_full_backward_hook(
        lambda module, input_gradients, output_gradients: hook_gradients.extend((*input_gradients, *output_gradients))
    )
    y = layer(x)
    g = seeded(*y.shape, seed=9)
    plain = torch.autograd.grad(y, [x, *layer.parameters()], g)
    hook.remove()
    assert_agree(hook_gradients, [plain[0], g], 1e-12)
    layer.eval() if name in ("srm", "cbam", "coord") else layer  # batch norms would be updated by the second pass too
    for reentrant in (False, True):
        expected = torch.autograd.grad(layer(x), [x, *layer.parameters()], g)
        y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
        if reentrant:
            y.backward(g)
            assert_agree([x.grad, *(p.grad for p in layer.parameters())], list(expected), 1e-12)
        else:
            assert_agree(list(torch.autograd.grad(y, [x, *layer.parameters()], g)), list(expected), 1e-12)


class OperatorLog(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("name", ["mean and variance", "mean and maximum", "strips", "channel and pixel"])
def test_gradients_are_overwritten_only_if_unshared(name, memory) -> None:
    run, parameters = OPERATIONS[name](12, torch.float64)
    x = seeded(3, 12, 9, 7).to(memory_format=memory).requires_grad_()
    y, g = run(x), seeded(3, 12, 9, 7, seed=9).to(memory_format=memory)
    with OperatorLog() as log:
        first = torch.autograd.grad(y, [x, *parameters], g, retain_graph=True)
    assert log.names.count("regard.combine_.default") == (2 if name == "channel and pixel" else 1)
    values = [value.clone() for value in (g, *first)]
    torch.autograd.grad(y, x, first[0], retain_graph=True)
    assert_agree([g, *first], values, 0)
    assert_agree(list(torch.autograd.grad(y, [x, *parameters], g)), list(first), 0)
    for function in (lambda x: run(x) + run(x * 2), lambda x: run(x).square() * x):  # with further gradients
        fast = results(function, x, parameters)
        with kernels.reference():
            assert_agree(fast, results(function, x, parameters), 1e-11)


@pytest.mark.parametrize("channels", [1, 6, 11, 13, 24])
@pytest.mark.parametrize("name", OPERATIONS)
def test_mismatched_channels_fail_or_use_the_formula(name, channels) -> None:
    run, _ = OPERATIONS[name](12, torch.float64)
    x = seeded(2, channels, 3, 4)
    with torch.no_grad():
        try:
            fast = run(x)
        except RuntimeError:  # the shapes do not match
            return
        with kernels.reference():
            assert_agree([fast], [run(x)], 1e-11)


def module_and_inputs(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A module with randomised parameters, features and an output gradient."""
    torch.manual_seed(0)
    options = {"groups": 2} if name in ("shuffle", "sge") else {"fusion": "scale"} if name == "gc" else {}
    layer = attention.create(name, 8, gate="sub-attention-1", dtype=torch.float64, **options).eval()
    with torch.no_grad():
        for value in layer.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return layer, seeded(2, 8, 6, 5), seeded(2, 8, 6, 5, seed=9)


@pytest.mark.parametrize("name", attention.names())
def test_lazily_negated_views_are_resolved(name) -> None:
    layer, x, g = module_and_inputs(name)
    parameters = dict(layer.named_parameters())

    def run(view: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_(), *(p.detach().clone().requires_grad_() for p in parameters.values())]
        features, *values = map(view, leaves)
        y = torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (features,))
        return [y, *torch.autograd.grad(y, leaves, view(g))]

    assert torch._neg_view(-x).is_neg()
    assert_agree(run(lambda value: torch._neg_view(-value)), run(lambda value: value), 1e-11)


@pytest.mark.parametrize("name", attention.names())
def test_changes_in_place_before_backward_fail_or_have_no_effect(name) -> None:
    layer, x, g = module_and_inputs(name)
    values = {"": x, **dict(layer.named_parameters())}

    def gradient(changed: str | None) -> Tensor | None:
        originals = {key: value.detach().clone() for key, value in values.items()}
        leaf = x.clone().requires_grad_()
        features = leaf * 1  # not a leaf, so that it can change in place
        y = layer(features)
        with torch.no_grad():
            if changed is not None:
                (values[changed] if changed else features).mul_(1.5)
        try:
            return torch.autograd.grad(y, leaf, g)[0]
        except RuntimeError:
            return None
        finally:
            with torch.no_grad():
                for key, value in originals.items():
                    values[key].copy_(value)

    expected = gradient(None)
    assert expected is not None and gradient("") is None
    for key in values:
        actual = gradient(key)
        assert actual is None or torch.equal(actual, expected), key


@pytest.mark.parametrize("name", ["se", "srm", "cbam", "coord", "gc"])
def test_gradients_through_the_gate_only(name) -> None:
    layer, x, _ = module_and_inputs(name)
    x.requires_grad_()
    gate_outputs: list[Tensor] = []
    for key, module in layer.named_modules():
        if key.split(".")[-1].startswith("gate"):
            module.register_forward_hook(lambda _module, _args, factors: gate_outputs.append(factors))

    def gradients() -> list[Tensor]:
        gate_outputs.clear()
        layer(x)
        return [torch.autograd.grad(factors.sum(), x, retain_graph=True)[0] for factors in gate_outputs]

    fast = gradients()
    with kernels.reference():
        assert_agree(fast, gradients(), 1e-11)
