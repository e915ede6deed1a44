"""Folding batch norms into the layer before them: in evaluation mode they are a factor and a bias per channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

# A class derived from these may compute something else, and is left alone. By name: packages that are not there need no
# import.
_LAYERS = {
    *(f"torch.nn.modules.conv.Conv{transpose}{d}d" for transpose in ("", "Transpose") for d in (1, 2, 3)),
    *("torch.nn.modules.linear.Linear", "timm.layers.conv2d_same.Conv2dSame"),
}
_PLAIN = {
    *(f"torch.nn.modules.batchnorm.BatchNorm{d}d" for d in (1, 2, 3)),
    *("torch.nn.modules.batchnorm.SyncBatchNorm", "torchvision.ops.misc.FrozenBatchNorm2d"),
}
_WITH_ACTIVATION = {
    f"timm.layers.norm_act.{name}" for name in ("BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d")
}


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
    grouped = isinstance(module, _ConvTransposeNd) and module.groups > 1  # whose weights are (inputs, C / groups, …)
    return _is_one_of(module, _LAYERS) and isinstance(module._parameters["weight"], nn.Parameter) and not grouped


def is_batch_norm(module: nn.Module) -> bool:
    """Whether `module` is a batch norm that can go into the layer before it: it has statistics of its own."""
    return _is_one_of(module, _PLAIN | _WITH_ACTIVATION) and isinstance(module._buffers.get("running_mean"), Tensor)


@torch.no_grad()
def fold_norm(layer: nn.Module, norm: nn.Module) -> None:
    """Puts `norm` into `layer`, in place; a `FoldedNorm` or `FoldedNormAct` is left of it.

    `layer` then gives what `norm` made of its output. It is computed in float64 (float32 on MPS, which has no more) and
    rounded to the dtype of the layer once.

    Args:
        layer: see `is_layer`; in evaluation mode nothing but `norm` reads its output.
        norm: see `is_batch_norm`; it is the same object afterwards, of another class, so that whoever holds it, in a
            list of its own, say, has what is left of it.
    """
    weight: Tensor = layer.get_parameter("weight")
    dtype = torch.float32 if weight.device.type == "mps" else torch.float64
    source: Any = norm
    tensors: list[Any] = [layer.bias, source.running_mean, source.running_var, source.weight, source.bias]
    tensors = [value if value is None else value.to(dtype) for value in tensors]
    bias, mean, variance, factor, shift = tensors
    transposed = isinstance(layer, _ConvTransposeNd)
    folded = fuse_conv_bn_weights(weight.to(dtype), bias, mean, variance, source.eps, factor, shift, transposed)
    for name, value in zip(("weight", "bias"), folded, strict=True):
        setattr(layer, name, nn.Parameter(value.to(weight.dtype), weight.requires_grad))
    replacement = FoldedNormAct if _is_one_of(norm, _WITH_ACTIVATION) else FoldedNorm
    norm._parameters.clear()
    norm._buffers.clear()
    norm.__class__ = replacement


def _is_one_of(module: nn.Module, classes: set[str]) -> bool:
    """Whether `module` computes what the class of one of these names does."""
    kind = type(module)
    changed = "forward" in vars(module) or is_parametrized(module)
    return f"{kind.__module__}.{kind.__qualname__}" in classes and not changed
