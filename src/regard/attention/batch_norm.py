"""Batch norms that go into the layer before them: in evaluation mode they are a factor and a bias a channel."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, FrozenBatchNormAct2d
from timm.layers.norm_act import SyncBatchNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torchvision.ops import FrozenBatchNorm2d

# A subclass may compute something else. What does not have one of these forwards is left alone.
_LAYERS: tuple[type[Any], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame, nn.Linear),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_PLAIN: tuple[type[Any], ...] = (_BatchNorm, nn.SyncBatchNorm, FrozenBatchNorm2d)
_WITH_ACTIVATION: tuple[type[Any], ...] = (BatchNormAct2d, SyncBatchNormAct, FrozenBatchNormAct2d)


class FoldedNorm(nn.Identity):
    """What is left of a batch norm that went into the layer before it: its place, its name and its hooks."""


class FoldedNormAct(nn.Module):
    """What is left of one with dropout and activation, as timm has them: these, called `drop` and `act`."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


def is_layer(module: nn.Module) -> bool:
    """Whether `module` is a convolution or linear layer that a norm behind it can go into."""
    return _computes_as(module, _LAYERS) and _has_weights(module)


def is_convolution(module: nn.Module) -> bool:
    """Whether it is a convolution, which a norm can go into if it gives what it computes with its weights as it is."""
    return isinstance(module, _ConvNd) and _has_weights(module)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether `module` is a batch norm that can go into the layer before it: it has statistics of its own."""
    known = _computes_as(module, (*_PLAIN, *_WITH_ACTIVATION)) and not is_parametrized(module)
    return known and module.running_mean is not None and module.running_var is not None


@torch.no_grad()
def fold_norm(layer: nn.Module, norm: nn.Module) -> None:
    """Puts `norm` into `layer`, in place; a `FoldedNorm` or `FoldedNormAct` is left of it.

    `layer` then gives what `norm` made of its output. It is computed in float64 (float32 on MPS, which has no more) and
    rounded to the dtype of the layer once. Grouped and transposed convolutions are no exception.

    Args:
        layer: see `is_layer`; in evaluation mode nothing but `norm` reads its output.
        norm: see `is_batch_norm`; it is the same object afterwards, of another class, so that whoever holds it, in a
            list of its own, say, has what is left of it.
    """
    weight: Tensor = layer.get_parameter("weight")
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    values: dict[str, Any] = {name: getattr(norm, name) for name in ("weight", "bias", "running_mean", "running_var")}
    values = {name: None if value is None else value.to(wide) for name, value in values.items()}
    scale = (values["running_var"] + norm.eps).rsqrt()  # (C,)
    if values["weight"] is not None:
        scale = scale * values["weight"]
    shift = -values["running_mean"]
    if layer.bias is not None:
        shift = shift + layer.get_parameter("bias").to(wide)
    shift = shift * scale
    if values["bias"] is not None:
        shift = shift + values["bias"]
    factors = scale[:, None]  # of weights (C, ...)
    if isinstance(layer, _ConvTransposeNd):  # of weights (inputs, C / groups, ...)
        factors = scale.reshape(layer.groups, 1, -1).expand(-1, layer.in_channels // layer.groups, -1).flatten(0, 1)
    factors = factors.reshape(*factors.shape, *(1,) * (weight.ndim - 2))
    layer.weight = nn.Parameter((weight.to(wide) * factors).to(weight.dtype), weight.requires_grad)
    layer.bias = nn.Parameter(shift.to(weight.dtype), weight.requires_grad)
    left = FoldedNormAct if _computes_as(norm, _WITH_ACTIVATION) else FoldedNorm
    norm._parameters.clear()
    norm._buffers.clear()
    norm.__class__ = left


def _has_weights(module: nn.Module) -> bool:
    """Whether its weights are parameters, and not computed from some."""
    weight = module._parameters.get("weight")
    return type(weight) is nn.Parameter and weight.is_floating_point() and not is_parametrized(module)


def _computes_as(module: nn.Module, known: tuple[type[Any], ...]) -> bool:
    """Whether the forward of `module` is that of one of the known classes, and no other."""
    kind: Any = type(module)
    if "forward" in vars(module) or not any(kind.forward is one.forward for one in known):
        return False
    base: Any = next((one for one in known if hasattr(one, "_conv_forward") and issubclass(kind, one)), None)
    return base is None or kind._conv_forward is base._conv_forward
