"""Networks in DataParallel: reading and weights are of the inner network, changing it is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from regard import InputError, attention, bias, data, maps, models, transfer
from regard.studies import gate_activations

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
LABELS = torch.tensor([1, 2])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return models.create("wrn-10-0.5", 10, attention="se").eval()


def features(model: nn.Module) -> dict[str, torch.Tensor]:
    with maps.Taps(model) as taps:
        model(IMAGES)
    return taps.features


READERS: dict[str, Callable[[nn.Module], Any]] = {
    "taps": features,
    "method": lambda model: maps.GradCAM(model)(IMAGES, classes=LABELS),
    "groups": lambda model: maps.group_activation(model, "group2", IMAGES, LABELS, 4),
    "gates": lambda model: [
        gates.by_class.mean for gates in gate_activations(model, [(IMAGES, LABELS)]).layers.values()
    ],
    "objective": lambda model: transfer.Objective(model, model)(IMAGES, LABELS).total,
    "bias": lambda model: bias.evaluate(model, data.load("clutter", train=10, test=10).test).rows["spill"],
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_reading_a_wrapped_network_uses_the_inner_network(network, read) -> None:
    wrapped = nn.DataParallel(network)
    torch.testing.assert_close(read(wrapped), read(network), rtol=0, atol=0, equal_nan=True)
    wrapped.device_ids = [0, 1]  # as on two GPUs, where replicas run
    with pytest.raises(InputError, match="DataParallel.* on 2 GPUs"):
        read(wrapped)


def test_weights_of_a_wrapped_network_are_those_of_the_inner_network(network, tmp_path) -> None:
    state = {name: value + 1 for name, value in network.state_dict().items()}
    for wrap in (nn.DataParallel, torch.compile):
        wrapped = wrap(copy.deepcopy(network))
        assert models.fingerprint(wrapped) == models.fingerprint(network)
        models.load_official(wrapped, state)
        models.write_weights(wrapped, tmp_path / "weights.safetensors", {})
        written = models.read_checkpoint(tmp_path / "weights.safetensors")
        torch.testing.assert_close(written, state, rtol=0, atol=0)


def test_changing_a_wrapped_network_is_refused(network) -> None:
    wrapped = nn.DataParallel(network)
    assert models.complexity(wrapped, 32) == models.complexity(network, 32)
    for change in (attention.fold, lambda model: attention.attach(model, "eca")):
        with pytest.raises(InputError, match="wrapped in DataParallel"):
            change(wrapped)
