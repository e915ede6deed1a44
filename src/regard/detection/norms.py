"""What of a backbone learns: its norms, and its frozen stages."""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd
from typing import Literal, get_args

import torch
from timm.layers import GroupNormAct
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from regard.attention import attached
from regard.detection.pyramid import parts_until
from regard.errors import unknown
from regard.models.norms import batch_norms, fix_statistics, sync_norms
from regard.with_attention import exchange

Norm = Literal["statistics", "fixed", "batch", "sync", "group"]

_GROUPS = 32  # Wu and He, arXiv 1803.08494


def set_norms(network: nn.Module, norm: Norm) -> None:
    """Sets what the batch norms of `network` do in training, in place. Those of attached attention always learn.

    Args:
        network: the backbone, with the weights that it starts from.
        norm: 'statistics': mean and variance stay, scale and shift learn (mmdetection's `norm_eval`). 'fixed': nothing
            learns (torchvision's detectors). 'batch': all learns. 'sync': all learns, with the statistics of the batch
            of all processes. 'group': group norms of 32 groups replace them, with their scale and shift.
    """
    if norm not in get_args(Norm):
        raise unknown("norm", norm, get_args(Norm))
    ours = {part for module in attached(network).values() for part in module.modules()}
    norms = [part for part in batch_norms(network) if part not in ours]
    if norm in ("statistics", "fixed"):
        fix_statistics(norms)
    if norm == "fixed":
        for part in norms:
            part.requires_grad_(False)
    if norm == "sync":
        sync_norms(network, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if norm == "group":
        for part in norms:
            exchange(network, part, _group_norm(part))


def freeze_stages(network: nn.Module, count: int) -> None:
    """Freezes the stem and the first `count` stages of `network`, in place, with the attention that they have.

    Parameters do not learn, and batch norms keep their statistics. With 0 stages the stem learns, too.
    """
    parts: Iterable[nn.Module] = parts_until(network, count) if count else ()
    for part in parts:
        for parameter in part.parameters(recurse=False):
            parameter.requires_grad_(False)
    fix_statistics(norm for part in parts for norm in batch_norms(part))


def _group_norm(norm: _BatchNorm) -> nn.Module:
    channels, groups = norm.num_features, gcd(_GROUPS, norm.num_features)
    if hasattr(norm, "act"):  # timm's, with dropout and activation in it
        new: nn.Module = GroupNormAct(channels, groups, eps=norm.eps)
        new.drop, new.act = norm.drop, norm.act
    else:
        new = nn.GroupNorm(groups, channels, eps=norm.eps)
    if norm.affine:
        new.load_state_dict({"weight": norm.weight, "bias": norm.bias})
    return new.to(norm.weight.device, norm.weight.dtype).train(norm.training)
