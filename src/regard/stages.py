"""Stages: the runs of blocks at one resolution that make up a convolutional network.

Attention is put into stages and maps are read behind them, so both ask here which ones a model has.
"""

from __future__ import annotations

import re

from torch import nn

from regard.errors import InputError

_STAGE_NAME = re.compile(r"(?:layer|group|stage|block)s?_?\d+")


def stages(model: nn.Module) -> dict[str, nn.Module]:
    """The stages of `model`, in order of execution, as name -> module.

    A model that has an attribute `stage_names` names them itself. Otherwise they are its children called `layer1`,
    `layer2`, … (ResNets of timm, torchvision and regard), `group0`, … or `stage1`, …, or the children of a child called
    `stages`, `blocks` or `layers`.

    Raises:
        InputError: no stages were found; name the layers instead.
    """
    names = getattr(model, "stage_names", None)
    if names is not None:
        return {name: model.get_submodule(name) for name in names}
    found = {name: child for name, child in model.named_children() if _STAGE_NAME.fullmatch(name)}
    for container in ("stages", "blocks", "layers"):
        child = getattr(model, container, None)
        if not found and isinstance(child, nn.Sequential | nn.ModuleList):
            found = {f"{container}.{name}": stage for name, stage in child.named_children()}
    if not found:
        children = ", ".join(name for name, _ in model.named_children()) or "none"
        raise InputError(
            f"{type(model).__name__} has no stages regard knows (its children: {children}); name the layers instead"
        )
    return found
