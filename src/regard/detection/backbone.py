"""Builds the backbone of a detector: pyramid, weights, attention, norms and frozen stages."""

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
_CLASSES = 1000  # of the classifier, which the pyramid removes


def build_backbone(
    network: str | nn.Module,
    build_pyramid: Callable[[nn.Module], Pyramid],
    *,
    attach: Callable[..., nn.Module] | None,
    start: Start | None,
    pretrained: Weights,
    norm: Norm,
    frozen_stages: int,
    options: Mapping[str, Any],
) -> Pyramid:
    """Builds the pyramid of a detector; see `detection.create` for the options.

    In a trained network, attention without weights starts as the identity. It is attached after freezing the stages, so
    that it can be trained in frozen stages, too. `options` are for `models.create`, if `network` is a name.
    """
    trained = pretrained is not False or not isinstance(network, str)
    if isinstance(network, str):
        network = models.create(network, _CLASSES, pretrained=pretrained is True, **options)
    elif pretrained is not False or options:
        raise InputError("the backbone is a module; pretrained and backbone_options need the name of a network instead")
    names = set(network.state_dict())
    body = (pyramid := build_pyramid(network)).body
    removed = names - set(body.state_dict())
    as_identity = start == "identity" or (trained and isinstance(pretrained, bool))
    if attach is not None and not as_identity:
        attach(body, start=start or "published")
    if not isinstance(pretrained, bool):
        as_identity |= _load(body, pretrained, removed)
    elif pretrained:
        _log.warning("note: %s", _loading_message(body, "its published weights"))
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
    """Loads the weights of a backbone, except those of its `removed` classifier; returns whether there are none for its
    attention, which is then detached."""
    source = "the state dict" if isinstance(weights, Mapping) else str(weights)
    content = weights if isinstance(weights, Mapping) else models.read_checkpoint(weights)
    entries = entries_for(body, content, source, log=lambda message: _log.warning("note: %s", message))
    entries = {name: value for name, value in entries.items() if name not in removed}
    names = {f"{path}.{name}" for path, module in attached(body).items() for name in module.state_dict()}
    lacks_attention = bool(names) and not names & entries.keys()
    if lacks_attention:
        detach(body)
    models.load_weights(body, entries, source)
    _log.warning("note: %s", _loading_message(body, source))
    return lacks_attention


def _loading_message(body: nn.Module, source: str) -> str:
    names = list(body.state_dict())
    return (
        f"all {len(names)} tensors of the backbone {type(body).__name__} ({names[0]} … {names[-1]}) are loaded from "
        f"{source}; pyramid and heads are newly initialised"
    )


def set_norms(network: nn.Module, norm: Norm) -> None:
    """Sets, in place, how the batch norms of `network` train. Norms of attached attention do not change.

    Args:
        network: the backbone, with its initial weights.
        norm: 'statistics': mean and variance are fixed, scale and shift are trained (mmdetection's `norm_eval`).
            'fixed': all are fixed (torchvision's detectors). 'batch': all are trained. 'sync': all are trained, with
            batch statistics over all processes. 'group': replaces them by group norms of 32 groups that start from
            their scale and shift.

    Raises:
        InputError: `norm` is unknown.
    """
    if norm not in get_args(Norm):
        raise unknown("norm", norm, get_args(Norm))
    attention = {child for module in attached(network).values() for child in module.modules()}
    modules = [module for module in batch_norms(network) if module not in attention]
    if norm in ("statistics", "fixed"):
        fix_statistics(modules)
    if norm == "fixed":
        for module in modules:
            module.requires_grad_(False)
    if norm == "sync":
        sync_norms(network, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if norm == "group":
        for module in modules:
            exchange(network, module, _group_norm(module))


def freeze_stages(network: nn.Module, count: int) -> None:
    """Freezes, in place, all modules that `network` runs up to the end of stage `count`: the stem, the stages with
    their attention, and the modules between.

    Their parameters require no gradients, and batch norms keep their statistics. With 0 stages nothing is frozen.

    Raises:
        InputError: the network has fewer stages.
    """
    if count == 0:
        return
    parts = stage_parts(network)
    if not 0 <= count <= len(parts):
        raise InputError(f"frozen_stages is {count}; {type(network).__name__} has {len(parts)} stages")
    names = list(parts)[:count]
    trace = trace_network(network)
    end = max(trace.ends[name] for name in names)
    frozen = {module for name in names for _, part in parts[name] for module in part.modules()}
    frozen |= {module for module, first in trace.first.items() if first < end and module is not network}
    for module in frozen:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    fix_statistics(norm for module in frozen for norm in batch_norms(module))


def _group_norm(norm: _BatchNorm) -> nn.Module:
    channels, groups = norm.num_features, gcd(_GROUPS, norm.num_features)
    if hasattr(norm, "act"):  # timm's norm with dropout and activation
        new: nn.Module = GroupNormAct(channels, groups, eps=norm.eps)
        new.drop, new.act = norm.drop, norm.act
    else:
        new = nn.GroupNorm(groups, channels, eps=norm.eps)
    if norm.affine:
        new.load_state_dict({"weight": norm.weight, "bias": norm.bias})
    return new.to(norm.weight.device, norm.weight.dtype).train(norm.training)
