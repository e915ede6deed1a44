"""Batch norms that keep their statistics, and batch norms with the statistics of all processes."""

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
    """The batch norms in `module`, itself included."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def fix_statistics(norms: Iterable[_BatchNorm]) -> None:
    """Batch norms stay in evaluation mode, also after `model.train()`: they use and keep their running mean and
    variance. Their scale and shift go on learning. Copies and pickles of the model are fixed, too; its state dict is
    unchanged.
    """
    for norm in norms:
        norm.eval()
        # Set on the instance, which overrides the method of the class; a partial of a module-level function can be
        # copied and pickled.
        norm.train = partial(_stay, norm)  # type: ignore[method-assign, assignment]


def _stay(norm: nn.Module, mode: bool = True) -> nn.Module:
    """Replaces `norm.train`."""
    return norm


def sync_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Replaces batch norms by ones whose mean and variance are those of the whole batch, over all processes.

    Parameters and buffers keep their names, and `model` is changed in place unless it is itself a norm. If `device`, on
    which it will run, is a GPU, the norms of torch and timm are used, which do not support CPUs.
    """
    if device.type != "cpu":
        return convert_sync_batchnorm(model)
    for norm in batch_norms(model):
        kind = type(norm)
        norm.__class__ = type(f"Synced{kind.__name__}", (_Synced, kind), {})
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
