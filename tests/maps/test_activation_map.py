"""The activation map against its plain formula: forward, first and second derivatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import jacobian
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from regard.errors import InputError
from regard.maps import activation_map
from regard.maps.taps import _in_one_pass, _in_parts, reference

POWERS = [1, 1.5, 2, 3, 4]


def features(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_known_values():
    a = torch.tensor([[1.0, -2.0], [3.0, 0.0]]).reshape(1, 2, 1, 2)  # two channels, two pixels
    assert activation_map(a).tolist() == [[[5.0, 2.0]]]
    assert activation_map(a, 1).tolist() == [[[2.0, 1.0]]]
    assert activation_map(a, 2, "sum").tolist() == [[[10.0, 4.0]]]
    assert activation_map(a, 2, "max").tolist() == [[[9.0, 4.0]]]


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_forward_and_backward_agree_with_the_formula(power, reduce):
    fast, plain = (features(5, 7, 3, 4).requires_grad_() for _ in range(2))
    actual, expected = activation_map(fast, power, reduce), reference(plain, power, reduce)
    weights = features(5, 3, 4, seed=1)
    (actual * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(fast.grad, plain.grad, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_gradients_of_first_and_second_order(power, reduce):
    a = features(2, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: activation_map(x, power, reduce), a)
    assert torch.autograd.gradgradcheck(lambda x: activation_map(x, power, reduce), a)


def test_second_derivative_where_all_channels_are_zero():
    a = torch.zeros(1, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: activation_map(x, 2, "sum"), a)
    (first,) = torch.autograd.grad(activation_map(a, 2, "sum").sum(), a, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), a)
    assert second.flatten().tolist() == [2.0, 2.0, 2.0]


def test_only_the_features_are_saved_for_backward():
    a = features(2, 16, 8, 8).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        activation_map(a)
    assert [t.data_ptr() for t in saved if t.numel() == a.numel()] == [a.data_ptr()]


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("kernel", [_in_one_pass, _in_parts])
def test_kernels_agree_with_the_formula(kernel, power):
    a = features(5, 7, 3, 4)
    a[0, :, 0, 0] = 0
    torch.testing.assert_close(kernel(a, power), reference(a, power, "sum"), rtol=1e-13, atol=0)
    assert kernel(a.half(), power).dtype == torch.float32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_batches_agree_with_the_formula(layout):
    a = features(9, 64, 40, 40, dtype=torch.float32).to(memory_format=layout)
    torch.testing.assert_close(activation_map(a), reference(a, 2, "mean"))


def test_half_precision_is_summed_in_float32():
    a = (features(2, 3, 4, 4) * 300).half()  # squares that float16 cannot hold
    a.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        map_ = activation_map(a)
    assert map_.dtype == torch.float32
    torch.testing.assert_close(map_, a.detach().float().square().mean(1))
    (map_ / 1e3).sum().backward()
    assert a.grad.dtype == torch.float16


@pytest.mark.parametrize("power", [1.5, 2, 3, 4])
def test_half_precision_gradients_do_not_overflow_on_the_way(power):
    """The cube of 200 is above the range of float16, the gradient of the loss is within it."""
    a = torch.tensor([-200.0, 0.5, 0, 60], dtype=torch.float16).reshape(1, 2, 1, 2).requires_grad_()
    (activation_map(a, power) * 1e-4).sum().backward()
    exact = a.detach().double().requires_grad_()
    (reference(exact, power, "mean") * 1e-4).sum().backward()
    torch.testing.assert_close(a.grad, exact.grad.half(), rtol=2e-3, atol=1e-7)
    _, tangent = jvp(lambda x: activation_map(x, power) * 1e-4, (a.detach(),), (torch.full_like(a, 0.5),))
    torch.testing.assert_close(tangent, exact.grad.sum(1).float() / 2, rtol=2e-3, atol=1e-7)


def test_shapes_on_the_meta_device():
    a = torch.empty(2, 3, 4, 5, dtype=torch.float16, device="meta", requires_grad=True)
    map_ = activation_map(a)
    assert map_.shape == (2, 4, 5) and map_.dtype == torch.float32 and map_.device == a.device


@pytest.mark.slow
def test_compiled_maps_agree_with_the_formula():
    a = features(2, 3, 4, 4).requires_grad_()
    map_ = torch.compile(activation_map, backend="aot_eager", fullgraph=True)(a)
    torch.testing.assert_close(map_, reference(a, 2, "mean"))


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_torch_func_transforms_agree_with_the_formula(power, reduce):
    """All transforms, alone and nested."""
    a, tangent, batches = features(2, 3, 2, 2), features(2, 3, 2, 2, seed=1), features(4, 2, 3, 2, 2, seed=2)
    weights = features(2, 2, 2, seed=3)

    def results(function):
        def total(x):
            return (function(x) * weights).sum()

        return [
            vmap(function)(batches),
            vmap(function, in_dims=2, out_dims=1)(batches.movedim(0, 2)),
            grad(total)(a),
            vmap(grad(total))(batches),
            grad(lambda x: vmap(total)(x).sum())(batches),
            *jvp(function, (a,), (tangent,)),
            jacrev(function)(a),
            jacfwd(function)(a),
            hessian(total)(a),
            jacrev(jacrev(total))(a),
            jacobian(function, a, vectorize=True),
            jacobian(function, a, vectorize=True, strategy="forward-mode"),
        ]

    actual = results(lambda x: activation_map(x, power, reduce))
    expected = results(lambda x: reference(x, power, reduce))
    for actual_result, expected_result in zip(actual, expected, strict=True):
        torch.testing.assert_close(actual_result, expected_result, rtol=1e-12, atol=1e-12)


def test_empty_batches():
    assert activation_map(torch.zeros(0, 3, 4, 5)).shape == (0, 4, 5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.25, 4), st.sampled_from([1, 2, 3]))
def test_maps_scale_with_a_power_of_the_features(seed, scale, power):
    a = features(2, 5, 3, 3, seed=seed)
    torch.testing.assert_close(activation_map(scale * a, power), scale**power * activation_map(a, power))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3, 4),), "expected a floating-point tensor"),
        ((torch.zeros(1, 1, 2, 2, dtype=torch.uint8),), "torch.uint8"),
        (([1],), "list"),
        ((torch.zeros(1, 1, 2, 2), 0.5), "power is 0.5"),
        ((torch.zeros(1, 1, 2, 2), float("nan")), "power is nan"),
        ((torch.zeros(1, 1, 2, 2), 2, "median"), "unknown reduce 'median'"),
    ],
)
def test_wrong_input_fails(arguments, message):
    with pytest.raises(InputError, match=message):
        activation_map(*arguments)
