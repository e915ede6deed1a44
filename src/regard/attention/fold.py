"""Attention for inference: what is fixed is folded into the weights around it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Set
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from regard.attention.batch_norm import fold_norm, is_batch_norm, is_layer
from regard.attention.modules.shuffle import ShuffleAttention
from regard.attention.registry import is_registered
from regard.attention.sites import Site, sites
from regard.errors import InputError
from regard.with_attention import without_attention

Model = TypeVar("Model", bound=nn.Module)


@torch.inference_mode(False)  # the copy can be used anywhere
def fold(model: Model) -> Model:
    """A copy of `model` for inference, with the same output, in which attention costs less.

    - The channel shuffle at the end of shuffle attention goes into the weights before it: the convolution and the norm
      that the features come from give their channels in the shuffled order, and the module gates them where they are.
      It stays where these are not known, or shared, or a grouped convolution.
    - Batch norms inside attention modules go into the layers before them.

    The copy is in evaluation mode and not meant for training. `detach` refuses it: without their attention its branches
    would be in another order.

    Args:
        model: a network with attention in it, or an attention module; it stays as it is.
    """
    folded = copy.deepcopy(model).eval()
    fold_attention(folded)
    return folded


def fold_attention(model: nn.Module, kept: Collection[Set[nn.Module]] = ()) -> None:
    """Does that to `model` itself, which is in evaluation mode.

    Args:
        model: a network with attention in it, or an attention module.
        kept: modules of it, each with all that is in it, whose outputs have to stay what they are; whatever would
            change them is left out.
    """
    for site in _sites(model):
        module = site.module
        if not isinstance(module, ShuffleAttention) or not module.can_be_ordered or not _orderable(site, model):
            continue
        # In between the channels are in another order. What has the module in it gives them in the right one again.
        between = {part for within in (site.block, *site.producers) for part in within.modules()}
        if not any(between & inside and module not in inside for inside in kept):
            _fold_shuffle(site, module)
    for module in list(model.modules()):
        if is_registered(module):
            for part in module.modules():
                _fold_norms(part, kept)


def _sites(model: nn.Module) -> list[Site]:
    try:
        return sites(model)
    except InputError:  # nothing with blocks: an attention module alone, say
        return []


def _orderable(site: Site, model: nn.Module) -> bool:
    """Whether the weights before `site` can put its channels in another order."""
    if not site.producers or site.channels_last:
        return False
    conv, *norms = site.producers
    if not site.slot and without_attention(site.host) is not site.producers[-1]:
        return False  # something with an order of its own may lie between
    named = [part for _, part in model.named_modules(remove_duplicate=False)]
    return (
        isinstance(conv, nn.Conv2d)
        and conv.groups == 1
        and all(isinstance(norm, _BatchNorm) for norm in norms)
        and all(named.count(part) == 1 and not is_parametrized(part) for part in site.producers)
    )


@torch.no_grad()
def _fold_shuffle(site: Site, module: ShuffleAttention) -> None:
    order = module.order
    for layer in site.producers:
        for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
            if tensor.dim():  # all but the batches counted
                tensor.copy_(tensor[order])
    setattr(site.host, site.attribute, module.ordered())


def _fold_norms(module: nn.Module, kept: Collection[Set[nn.Module]]) -> None:
    """Folds each batch norm of `module` into the layer right before it."""
    pairs = list(getattr(module, "norms", {}).items())  # (norm, layer)
    if isinstance(module, nn.Sequential):
        names = list(module._modules)
        pairs = list(zip(names[1:], names, strict=False))
    for norm_name, layer_name in pairs:
        norm, layer = getattr(module, norm_name), getattr(module, layer_name)
        cut = any(layer in inside and norm not in inside for inside in kept)
        if is_layer(layer) and is_batch_norm(norm) and not cut:
            fold_norm(layer, norm)
