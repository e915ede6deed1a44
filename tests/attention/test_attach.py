"""Attention in whole networks: put in, taken out."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from regard import InputError, attention, models
from regard.stages import stages

NETWORKS = {
    "cifar-resnet11": {"groups": 4},
    "wrn-10-1": {"groups": 4},
    "resnet18": {"groups": 32},
    "resnet26": {"groups": 64},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("module", attention.names())
def test_attach_and_detach(name, module) -> None:
    torch.manual_seed(0)
    # timm starts the last norm of a branch at zero, behind which no attention would show
    model = models.create(name, 5, **({"zero_init_last": False} if name.startswith("resnet") else {})).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before, keys = model(images), list(model.state_dict())
        options = NETWORKS[name] if module == "shuffle" else {}
        assert attention.attach(model, module, stages=(2, 3), **options) is model
        after = model(images)
    assert after.shape == before.shape
    assert not torch.allclose(after, before)
    put_in = [m for m in model.modules() if isinstance(m, attention.GatedAttention)]
    assert len(put_in) == sum(len(stage) for stage in list(stages(model).values())[1:3])
    assert not any(m.training for m in put_in)
    attention.detach(model)
    with torch.no_grad():
        assert torch.equal(model(images), before)
    assert list(model.state_dict()) == keys


def test_attention_comes_after_the_last_norm_and_before_the_addition() -> None:
    model = models.create("cifar-resnet11", 5, attention="se").eval()
    block = model.layer1[0]
    features = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        expected = torch.relu(block.attention(block.branch(features)) + block.downsample(features))
        assert torch.equal(block(features), expected)


def test_modules_follow_dtype_and_device_of_their_block() -> None:
    model = attention.attach(models.create("wrn-10-1").double(), "se")
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_wrong_input_leaves_the_model_as_it_was() -> None:
    model = models.create("cifar-resnet11", attention="se", attention_stages=(3,))
    keys = list(model.state_dict())
    for call, words in (
        (lambda: attention.attach(model, "se"), "layer3.0.attention holds SqueezeExcitation already"),
        (lambda: attention.attach(model, "se", stages=(4,)), "stages 1 to 3, not 4"),
        (lambda: attention.attach(model, "shuffle", stages=(1,), groups=64), "groups that fit"),
        (lambda: attention.attach(model, "shuffle", stages=(1, 2), groups=32, colour="red"), "'colour'"),
        (lambda: attention.attach(nn.Linear(2, 2), "se"), "has no stages"),
        (lambda: attention.attach(timm.create_model("vgg11"), "se"), "has no stages"),
        (lambda: attention.attach(timm.create_model("seresnet18"), "se"), "holds SEModule already"),
        (lambda: attention.attach(timm.create_model("convnext_atto"), "se"), "no residual blocks that take attention"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert words in str(caught.value)
        assert list(model.state_dict()) == keys


def test_detach_keeps_what_timm_brings() -> None:
    model = timm.create_model("seresnet18")
    keys = list(model.state_dict())
    assert list(attention.detach(model).state_dict()) == keys
