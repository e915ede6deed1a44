"""Batch norms with fixed statistics, and batch norms that are synchronised between processes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All batch norms in `module`, including itself."""
    return [child for child in module.modules() if isinstance(child, _BatchNorm)]


def fix_statistics(norms: Iterable[_BatchNorm]) -> None:
    """Keeps batch norms in evaluation mode, even after `model.train()`, also in copies and pickles of the model."""
    for norm in norms:
        norm.eval()
        # Overrides the method of the class; unlike a lambda, this can be copied and pickled.
        norm.train = partial(_stay, norm)  # type: ignore[method-assign, assignment]


def _stay(norm: nn.Module, mode: bool = True) -> nn.Module:
    """Replaces `norm.train`."""
    return norm


def sync_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Replaces batch norms by norms that compute mean and variance over the batches of all processes.

    `model` is changed in place unless it is itself a norm. On GPUs, torch's synchronised norms are used, which do not
    support CPUs.
    """
    if device.type != "cpu":
        return convert_sync_batchnorm(model)
    for norm in batch_norms(model):
        kind = type(norm)
        norm.__class__ = type(f"Synced{kind.__name__}", (_Synced, kind), {})
    return model


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        values = values.contiguous().clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(_, gradient)


class _Synced(_BatchNorm):
    """A batch norm, by its formula, with sums over all processes, in float32 at least."""

    def forward(self, features: Tensor) -> Tensor:  # (N, C, ...)
        if not (self.training and dist.is_initialized()):
            return super().forward(features)
        dtype = features.dtype
        features = features.to(torch.promote_types(dtype, torch.float32))
        axes = [0, *range(2, features.ndim)]
        shape = (1, -1, *[1] * (features.ndim - 2))
        count = _Sum.apply(features.new_tensor(features.numel() / features.shape[1]))
        mean = _Sum.apply(features.sum(axes)) / count
        centred = features - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            unbiased = variance.detach() * count / (count - 1)
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        normalised = normalised.to(dtype)
        for name in ("drop", "act"):  # of timm's norms
            layer = getattr(self, name, None)
            normalised = normalised if layer is None else layer(normalised)
        return normalised
