"""Networks as recipes describe them, untrained or with the weights of a checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from regard import models
from regard.errors import InputError
from regard.training.frozen import freeze
from regard.training.recipe import ModelRecipe, Recipe

_PARAMETERS = 1000  # that a network may have whatever its weights, until they are compared


def make_model(recipe: Recipe, classes: int, *, pretrained: bool | None = None) -> nn.Module:
    """The network of a recipe as its training begins: untrained unless it asks for pretrained weights, and what it
    wants frozen is.
    """
    model = build_network(recipe.model, classes, pretrained=pretrained)
    freeze(model, recipe.model.frozen, fixed_norms=recipe.model.fixed_norms)
    return model


def build_network(network: ModelRecipe, classes: int, *, pretrained: bool | None = None) -> nn.Module:
    """The network that a part of a recipe describes, untrained unless it asks for pretrained weights; none of it is
    frozen.

    Raises:
        InputError: as `models.create`.
    """
    for option in network.options:
        if option in inspect.signature(models.create).parameters:
            raise InputError(
                f"model.options has {option}, which is no option of a network; leave it out, or give model.{option}"
            )
    return models.create(
        network.name,
        classes,
        attention=network.attention,
        gate=network.gate,
        attention_stages=network.attention_stages,
        attention_options=network.attention_options,
        pretrained=network.pretrained if pretrained is None else pretrained,
        **network.options,
    )


def load_network(
    network: ModelRecipe,
    outputs: int,
    checkpoint: Any,
    source: str,
    *,
    ema: bool = False,
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """The network that a part of a recipe describes, with the weights of a checkpoint, in evaluation mode, on the CPU.

    It is first made without memory for its values, and made in earnest only if the weights fit.

    Args:
        network: what to make.
        outputs: length of its logits.
        checkpoint: what `models.read_checkpoint` gives.
        source: what to call it in messages.
        ema: see `models.load_official`, like `say`.

    Raises:
        InputError: the weights do not fit the network, or it cannot be made.
    """
    most = _PARAMETERS + 4 * models.count_entries(checkpoint)
    model = _shaped(network, outputs, most)
    entries = models.entries_for(model, checkpoint, source, ema=ema, say=say)
    models.check_fit(model, entries, source)
    model = build_network(network, outputs, pretrained=False)
    models.load_weights(model, entries, source)
    return model.eval()


def _shaped(network: ModelRecipe, outputs: int, most: int) -> nn.Module:
    """The network that a part of a recipe describes, with shapes and no values, where it can be made so.

    Args:
        network: what to make.
        outputs: length of its logits.
        most: parameters (tensors) that it may have.

    Raises:
        InputError: it has more parameters, or it cannot be made.
    """
    count = 0

    def register(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise InputError(f"the network {network.name} has far more parameters than there are weights for it")

    registered = register_module_parameter_registration_hook(register)
    try:
        with torch.device("meta"):
            return build_network(network, outputs, pretrained=False)
    except (RuntimeError, InputError):  # it computes with values as it is made, or says what is wrong again
        return build_network(network, outputs, pretrained=False)
    finally:
        registered.remove()
