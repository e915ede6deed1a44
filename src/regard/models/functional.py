"""Attention Transfer's ImageNet networks, functions of a flat dict of tensors, as the entries of modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.models.preact_resnet import PreActResNet

_ENTRY = re.compile(
    r"(?:group(?P<group>\d+)\.block(?P<block>\d+)\.)?"
    r"(?:(?P<conv>conv(?:\d|_?dim))(?:\.(?P<folded>weight|bias))?"
    r"|affine(?P<affine>\d|_last)\.(?P<factor>[ab])"
    r"|(?P<norm>bn\d?)\.(?P<part>\w+)"
    r"|(?P<linear>fc\.\w+))"
)


def is_functional(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the parameters of one of those networks: they have four groups, those for CIFAR three."""
    return any(name.startswith("group3.") for name in state)


def as_entries(state: Mapping[str, Tensor], model: nn.Module, source: str) -> dict[str, Tensor]:
    """The entries of `model` that compute, in evaluation mode, what those parameters compute.

    | Parameters | `model` |
    |---|---|
    | convolutions with a bias, norms folded into them (`resnet-34-export.pth`) | a ResNet of timm or torchvision |
    | convolutions and norms (what `imagenet.py` saves of its student) | a ResNet of timm or torchvision |
    | convolutions and affine maps, pre-activation (`resnet-18-at-export.pth`) | `PreActResNet` |

    Where a norm was folded or is missing, the one of `model` gets statistics that make it add the bias and no more.

    Raises:
        InputError: parameters of the other kind of network.
    """
    affine = any(".affine" in name or name.startswith("affine") for name in state)
    biased = any(re.search(r"conv\w+\.bias$", name) for name in state)
    preact = isinstance(model, PreActResNet)
    if affine and not preact:
        raise InputError(f"{source} is a pre-activation ResNet; models.create('preact-resnet18', 1000) takes it")
    if biased and preact:
        raise InputError(f"{source} is a ResNet with its norms folded; models.create('resnet34', 1000) takes it")
    entries: dict[str, Tensor] = {}
    neutral: dict[str, Tensor] = {}  # of norms that have no statistics of their own
    for name, value in state.items():
        found = _ENTRY.fullmatch(name)
        if found is None:
            entries[name] = value  # nobody's, and load_weights says so
        elif found["linear"]:
            entries[name] = value
        elif found["conv"]:
            conv, norm = _places(found, preact)
            if found["folded"] == "bias":
                neutral[f"{norm}.bias"] = value
            else:
                entries[f"{conv}.weight"] = value
        elif found["norm"]:
            entries[f"{_norm(found, found['norm'], preact)}.{found['part']}"] = value
        else:
            norm = _norm(found, "bn" if found["affine"] == "_last" else f"bn{found['affine']}", preact)
            neutral[f"{norm}.{'weight' if found['factor'] == 'a' else 'bias'}"] = value
    shortcuts = [name for name, _ in model.named_modules() if name.endswith("downsample.1")]
    for norm in {name.rpartition(".")[0] for name in neutral} | set(shortcuts):
        if f"{norm}.weight" not in entries:
            neutral = {**_statistics(model, norm), **neutral}
    return {**neutral, **entries}


def _places(found: re.Match[str], preact: bool) -> tuple[str, str]:
    """The names of a convolution and of the norm behind it."""
    prefix, conv = _prefix(found, preact), found["conv"].replace("_", "")
    if preact:
        return f"{prefix}{conv}", ""
    if conv == "convdim":
        return f"{prefix}downsample.0", f"{prefix}downsample.1"
    number = int(conv[-1]) + 1
    return f"{prefix}conv{number}", f"{prefix}bn{number}"


def _norm(found: re.Match[str], norm: str, preact: bool) -> str:
    if not preact and norm != "bn":
        norm = f"bn{int(norm[-1]) + 1}"
    return _prefix(found, preact) + norm


def _prefix(found: re.Match[str], preact: bool) -> str:
    if found["group"] is None:
        return ""
    if preact:
        return f"group{found['group']}.block{found['block']}."
    return f"layer{int(found['group']) + 1}.{found['block']}."


def _statistics(model: nn.Module, name: str) -> dict[str, Tensor]:
    """The state of a batch norm that changes nothing: it divides by `sqrt(running_var + eps)`, which is then 1."""
    norm = model.get_submodule(name) if name in dict(model.named_modules()) else None
    if not isinstance(norm, nn.BatchNorm2d):
        return {}
    zeros, ones = torch.zeros(norm.num_features), torch.ones(norm.num_features)
    return {
        f"{name}.weight": ones,
        f"{name}.bias": zeros,
        f"{name}.running_mean": zeros,
        f"{name}.running_var": ones - norm.eps,
    }
