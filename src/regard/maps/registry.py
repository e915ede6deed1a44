"""The names of the methods that make maps."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from regard.errors import InputError, unknown
from regard.maps import external
from regard.maps.cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from regard.maps.gradient import GradientMap
from regard.maps.layers import Layer
from regard.maps.method import MapMethod
from regard.maps.response import ActivationMap

_METHODS: dict[str, type[MapMethod]] = {
    "activation": ActivationMap,
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "gradient": GradientMap,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "xgradcam": XGradCAM,
}


def names() -> list[str]:
    """The names of all methods: the own, sorted, then those of the grad-cam package, if it is installed."""
    return [*_METHODS, *(f"{external.PREFIX}{name}" for name in external.names())]


def create(name: str, model: nn.Module, layer: Layer | Sequence[Layer] | None = None, **options: Any) -> MapMethod:
    """The method of this name for a model.

    Args:
        name: one of `names()`, in capitals or not. The name of a class will do too; one that is both an own and one of
            the grad-cam package is the own.
        model: maps images to class scores (N, classes).
        layer: a name as in `model.named_modules()`, the module itself, or several of these; None: the method's usual
            place, mostly the last spatial features.
        options: the method's own, for example `fuse`, or `power` of "gradient".

    Raises:
        InputError: an unknown name or option; a method of the grad-cam package, which is not installed; and what the
            method itself raises.
    """
    own = {**_METHODS, **{method.__name__.lower(): method for method in _METHODS.values()}}
    asked = name.lower()
    if asked in own:
        method = own[asked]
        taken = [key for key in inspect.signature(method).parameters if key not in ("model", "layer")]
        for option in options:
            if option not in taken:
                raise unknown(f"option of method {name!r}", option, taken)
        return method(model, layer, **options)
    if asked.startswith(external.PREFIX):
        return external.ExternalMap(name[len(external.PREFIX) :], model, layer, **options)
    if any(asked == theirs.lower() for theirs in external.names()):
        return external.ExternalMap(name, model, layer, **options)
    error = unknown("method", name, names())
    raise error if external.is_installed() else InputError(f"{error}; {external.INSTALL} for more")
