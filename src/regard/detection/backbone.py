"""The backbone of a detector: a pyramid over a network, its weights, its attention, and what of it learns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from regard import models
from regard.attention import attached, detach
from regard.attention.start import Start
from regard.detection.norms import Norm, freeze_stages, set_norms
from regard.detection.pyramid import Pyramid
from regard.errors import InputError
from regard.models.loading import entries_for

Weights = bool | str | Path | Mapping[str, Any]

_log = logging.getLogger("regard")

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
