"""Batch norms with the statistics of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def sync_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Replaces batch norms by ones whose mean and variance are those of the whole batch, over all processes.

    Parameters and buffers keep their names. On GPUs the norms of torch and timm are used, which do not support CPUs.

    Args:
        model: model, changed in place unless it is itself a norm.
        device: device on which the model will run.
    """
    if device.type != "cpu":
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            kind = type(module)
            module.__class__ = type(f"Synced{kind.__name__}", (_Synced, kind), {})
    return model


class _Sum(torch.autograd.Function):
    """The sum over the processes. Its gradient is the sum of the gradients in all processes."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        values = values.contiguous().clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(_, gradient)


class _Synced(_BatchNorm):
    """The formula of a batch norm, with sums over the processes."""

    def forward(self, features: Tensor) -> Tensor:  # (N, C, ...)
        if not (self.training and dist.is_initialized()):
            return super().forward(features)
        over = [0, *range(2, features.ndim)]
        shape = (1, -1, *[1] * (features.ndim - 2))
        count = _Sum.apply(features.new_tensor(features.numel() / features.shape[1]))
        mean = _Sum.apply(features.sum(over)) / count
        centred = features - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(over)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * count / (count - 1), momentum)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        # used by timm's norms
        for further in (getattr(self, "drop", None), getattr(self, "act", None)):
            normalised = normalised if further is None else further(normalised)
        return normalised
