"""Every attention module: shape, gradients, gates, start, wrong input."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import InputError, attention
from regard.attention import SubAttention

OPTIONS = {"shuffle": {"groups": 2}}
GATES = ["sigmoid", *(SubAttention(order) for order in range(6))]


def make(name: str, channels: int = 8, **settings):
    torch.manual_seed(0)
    layer = attention.create(name, channels, dtype=torch.float64, **{**OPTIONS.get(name, {}), **settings})
    with torch.no_grad():  # away from the start, where some gradients are 0
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("name", attention.names())
def test_gradients(name, gate) -> None:
    layer = make(name, gate=gate)
    features = torch.randn(2, 8, 3, 2, dtype=torch.float64, requires_grad=True)
    assert layer(features).shape == features.shape
    parameters = list(layer.parameters())

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(dict(layer.named_parameters()), values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (features, *parameters))


@pytest.mark.parametrize("name", attention.names())
def test_order_0_is_the_plain_gate(name) -> None:
    features = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    plain, zero = make(name), make(name, gate=SubAttention(0))
    assert plain.state_dict().keys() == zero.state_dict().keys()
    assert torch.equal(plain(features), zero(features))


@given(order=st.integers(0, 5), n=st.integers(0, 3), c=st.integers(1, 5), h=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_the_sub_attention_gate_is_its_formula(order, n, c, h) -> None:
    gate = SubAttention(order).build(c, dtype=torch.float64)
    logits = torch.randn(n, c, h, 1, dtype=torch.float64)
    expected, u = torch.ones_like(logits), logits
    for i in range(order + 1):
        expected = expected / (1 + torch.exp(-u))
        if i < order:
            u = 0.5 * u - 0.5  # the published start
    torch.testing.assert_close(gate(logits), expected)
    assert sum(p.numel() for p in gate.parameters()) == 2 * order * c


def test_shuffle_without_shuffle_leaves_channels_in_place() -> None:
    features = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    still, moved = make("shuffle", shuffle=False), make("shuffle")
    order = torch.arange(8).reshape(2, 4).T.flatten()
    assert torch.equal(still(features)[:, order], moved(features))


def test_parameter_counts_are_the_published_ones() -> None:
    def count(name: str, **options) -> int:
        return sum(p.numel() for p in attention.create(name, 256, **options).parameters())

    assert count("shuffle", groups=64) == 3 * 256 // 64
    assert count("se") == 2 * 256 * 16 + 16 + 256
    assert count("se", gate=SubAttention(1)) == count("se") + 2 * 256


@pytest.mark.parametrize("name", attention.names())
def test_half_precision_channels_last_and_copies(name) -> None:
    layer = make(name).float()
    features = torch.randn(2, 8, 5, 3).to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(features), layer(features.contiguous()))
    assert copy.deepcopy(layer)(features).equal(layer(features))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(features).isfinite().all()


@pytest.mark.parametrize("name", attention.names())
def test_compiles_and_exports_whole(name) -> None:
    layer = make(name, gate=SubAttention(1)).float()
    features = torch.randn(2, 8, 4, 4)
    program = torch.export.export(layer, (features,))
    torch.testing.assert_close(program.module()(features), layer(features))


def test_wrong_input_is_said_in_a_line() -> None:
    for call, words in (
        (lambda: attention.create("sufle", 64), "did you mean 'shuffle'"),
        (lambda: attention.create("se", 0), "at least 1 channel"),
        (lambda: attention.create("se", 64, redaction=4), "did you mean 'reduction'"),
        (lambda: attention.create("shuffle", 64, groups=64), "groups that fit: 1, 2, 4, 8, 16, 32"),
        (lambda: attention.create("se", 64, gate="softmax"), "known: sigmoid"),
        (lambda: attention.create("se", 64, gate=SubAttention), "SubAttention(order=1)"),
        (lambda: SubAttention(-1), "at least 0"),
        (lambda: attention.register("se")(torch.nn.Identity), "registered already"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_gates_by_name() -> None:
    assert attention.parse_gate("sub-attention") == SubAttention(1)
    assert attention.parse_gate("sub-attention-4") == SubAttention(4)
    assert attention.parse_gate(SubAttention(2)) == SubAttention(2)
