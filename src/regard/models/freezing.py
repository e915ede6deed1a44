"""Batch norms that keep their statistics, and modules that do not learn."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import nn
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
