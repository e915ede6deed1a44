"""Converts the flat parameter dicts of Attention Transfer's functional ImageNet networks to state dicts of modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.models.wide_resnet import PreActResNet

_ENTRY = re.compile(r"(?:group(\d+)\.block(\d+)\.)?(conv|affine|bn)(\d|_?dim|_last)?(?:\.(\w+))?")


def is_functional(state: Mapping[str, Tensor]) -> bool:
    """Whether these are parameters of a functional ImageNet network: it has four groups, CIFAR networks have three."""
    return any(name.startswith("group3.") for name in state)


def convert_functional(state: Mapping[str, Tensor], model: nn.Module, source: str) -> dict[str, Tensor]:
    """The entries with which `model` computes, in evaluation mode, the same as the functional network.

    `resnet-34-export.pth` has convolutions with a bias, into which norms are folded, and `imagenet.py` saves students
    with convolutions and norms; both need a ResNet of timm or torchvision. `resnet-18-at-export.pth` has convolutions
    and affine maps, and needs a `PreActResNet`. If a norm was folded or is missing, the norm of `model` gets statistics
    with which it only adds the bias.
    """
    preact = isinstance(model, PreActResNet)
    if any("affine" in name for name in state) and not preact:
        raise InputError(f"{source} is a pre-activation ResNet; models.create('preact-resnet18', 1000) takes it")
    if any(re.search(r"conv\w+\.bias$", name) for name in state) and preact:
        raise InputError(f"{source} is a ResNet with its norms folded; models.create('resnet34', 1000) takes it")
    entries = {_rename(name, preact): value for name, value in state.items()}
    neutral: dict[str, Tensor] = {}
    for name, norm in model.named_modules():
        biased = f"{name}.bias" in entries or name.endswith("downsample.1")
        if isinstance(norm, nn.BatchNorm2d) and biased and f"{name}.running_var" not in entries:
            zeros, ones = torch.zeros(norm.num_features), torch.ones(norm.num_features)
            # The norm divides by `sqrt(running_var + eps)`, which is 1.
            values = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones - norm.eps}
            neutral |= {f"{name}.{key}": value for key, value in values.items()}
    return neutral | entries


def _rename(name: str, preact: bool) -> str:
    match = _ENTRY.fullmatch(name)
    if match is None:
        return name  # an entry of the classifier; load_weights rejects any other
    group, block, layer, number, part = match.groups()
    part = {None: "weight", "a": "weight", "b": "bias"}.get(part, part)
    if preact:
        layer = {"affine": "bn"}.get(layer, layer) + {"_last": "", "_dim": "dim"}.get(number, number or "")
        return f"{f'group{group}.block{block}.' if group else ''}{layer}.{part}"
    if layer == "conv" and part == "bias":  # the bias of the folded norm
        layer = "bn"
    if number in ("dim", "_dim"):
        layer = "downsample.1" if layer == "bn" else "downsample.0"
    elif number is not None:
        layer += str(int(number) + 1)
    return f"{f'layer{int(group) + 1}.{block}.' if group else ''}{layer}.{part}"
