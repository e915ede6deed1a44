"""Attention modules against the published ones."""

from __future__ import annotations

import pytest
import torch

from regard import attention


@pytest.mark.parametrize(
    "case", ["shuffle_attention_c32_g4", "shuffle_attention_c256_g64", "shuffle_attention_c512_g64"]
)
def test_shuffle_attention_matches_the_published_code(case, goldens, relative_error) -> None:
    settings, expected = goldens.index[case], goldens.outputs(case)
    layer = attention.create("shuffle", settings["channels"], groups=settings["groups"], dtype=torch.float64)
    layer.load_state_dict(goldens.state(case))
    images = goldens.images(case).requires_grad_()
    output = layer(images)
    output.backward(goldens.inputs(settings["grad_name"], settings["input_shape"]))
    assert relative_error(output, expected["output"]) < 1e-12
    assert relative_error(images.grad, expected["grad_input"]) < 1e-12
    for name, parameter in layer.named_parameters():
        assert relative_error(parameter.grad, expected[f"grad.{name}"]) < 1e-12, name
