"""The backbone of a detector: a pyramid over a network, its weights, its attention, and what of it learns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from math import gcd
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from timm.layers import GroupNormAct
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from regard import models
from regard.attention import attached, detach
from regard.attention.start import Start
from regard.detection.pyramid import Pyramid, trace_network
from regard.errors import InputError, unknown
from regard.models.loading import entries_for
from regard.models.norms import batch_norms, fix_statistics, sync_norms
from regard.stages import stage_parts
from regard.with_attention import exchange

Norm = Literal["statistics", "fixed", "batch", "sync", "group"]
Weights = bool | str | Path | Mapping[str, Any]

_log = logging.getLogger("regard")

_GROUPS = 32  # of group norms (Wu and He, arXiv 1803.08494)
_OUTPUTS = 1000  # of the classifier, which the pyramid removes


def build_backbone(
    network: str | nn.Module,
    pyramid_over: Callable[[nn.Module], Pyramid],
    *,
    attach: Callable[..., nn.Module] | None,
    start: Start | None,
    pretrained: Weights,
    norm: Norm,
    frozen_stages: int,
    options: Mapping[str, Any],
) -> Pyramid:
    """The pyramid of a detector; see `detection.create` for the options.

    Attention for which there are no weights comes into a trained network as the identity, after its stages are frozen,
    so that it learns in frozen stages, too.

    Args:
        pyramid_over: makes the pyramid.
        attach: puts attention into a model, with a keyword `start`; None for none.
        options: of `models.create`, for a network by name.
    """
    trained = pretrained is not False or not isinstance(network, str)
    if isinstance(network, str):
        network = models.create(network, _OUTPUTS, pretrained=pretrained is True, **options)
    elif pretrained is not False or options:
        raise InputError("pretrained and backbone_options go with the name of a backbone; a network has its weights")
    removed = set(network.state_dict())
    body = (pyramid := pyramid_over(network)).body
    removed -= set(body.state_dict())
    as_identity = start == "identity" or (trained and isinstance(pretrained, bool))
    if attach is not None and not as_identity:
        attach(body, start=start or "published")
    if not isinstance(pretrained, bool):
        as_identity |= _load(body, pretrained, removed)
    elif pretrained:
        _log.warning("note: %s", _loaded(body, "its published weights"))
    set_norms(body, norm)
    freeze_stages(body, frozen_stages)
    if attach is not None and as_identity:
        attach(body, start=start or "identity")
        if trained:
            _log.warning(
                "note: attention in the trained %s begins as the identity (attention_start)", type(body).__name__
            )
    return pyramid


def _load(body: nn.Module, weights: str | Path | Mapping[str, Any], removed: set[str]) -> bool:
    """Loads the weights of a backbone, but for those of its `removed` classifier.

    Returns:
        Whether they have none for its attention, which is then detached.
    """
    source = "the state dict" if isinstance(weights, Mapping) else str(weights)
    content = weights if isinstance(weights, Mapping) else models.read_checkpoint(weights)
    entries = entries_for(body, content, source, say=lambda message: _log.warning("note: %s", message))
    entries = {name: value for name, value in entries.items() if name not in removed}
    new = {f"{place}.{name}" for place, module in attached(body).items() for name in module.state_dict()}
    plain = bool(new) and not new & entries.keys()
    if plain:
        detach(body)
    models.load_weights(body, entries, source)
    _log.warning("note: %s", _loaded(body, source))
    return plain


def _loaded(body: nn.Module, source: str) -> str:
    names = list(body.state_dict())
    return (
        f"all {len(names)} tensors of the backbone {type(body).__name__} ({names[0]} … {names[-1]}) are loaded from "
        f"{source}; pyramid and heads are newly initialised"
    )


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
    """Freezes all that `network` runs up to the end of this number of stages, in place: the stem, the stages, with the
    attention that they have, and what is between.

    Parameters do not learn, and batch norms keep their statistics. With 0 stages the stem learns, too.

    Raises:
        InputError: it has fewer stages.
    """
    if count == 0:
        return
    parts = stage_parts(network)
    if not 0 <= count <= len(parts):
        raise InputError(f"{type(network).__name__} has {len(parts)} stages; frozen_stages is {count}")
    chosen = list(parts)[:count]
    trace = trace_network(network)
    end = max(trace.ends[name] for name in chosen)
    frozen = {module for name in chosen for _, part in parts[name] for module in part.modules()}
    frozen |= {module for module, first in trace.first.items() if first < end and module is not network}
    for module in frozen:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    fix_statistics(norm for module in frozen for norm in batch_norms(module))


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
