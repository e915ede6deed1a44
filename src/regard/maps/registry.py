"""The registry of map methods, and functions as methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError, unknown
from regard.logits import Classes
from regard.maps.cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from regard.maps.gradient import ActivationMap, GradientMap
from regard.maps.layers import Layer
from regard.maps.method import MapMethod, promote

MapFunction = Callable[[nn.Module, Tensor, Tensor], Any]
"""A function of a model, images (N, 3, H, W) and classes (N,) that returns maps (N, h, w)."""

_METHODS: dict[str, type[MapMethod] | MapFunction] = {
    "activation": ActivationMap,
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "gradient": GradientMap,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "xgradcam": XGradCAM,
}


class FunctionMap(MapMethod):
    """A function `(model, images, classes) -> maps` as a method, with empty `layers`.

    The function is called with the model in evaluation mode, not compiled, images (N, 3, H, W) and int64 classes (N,),
    with gradients enabled, K times for (N, K) classes. It returns maps (N, h, w), which are not scaled, and has to undo
    its changes to the model.
    """

    def __init__(self, model: nn.Module, function: MapFunction) -> None:
        self.function = function
        super().__init__(model)

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        raise NotImplementedError

    def _layer_names(self, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
        return ()

    def _compute_by_layer(self, images: Tensor, classes: Classes | None, top: int | None) -> dict[str, Tensor]:
        targets = self._set_classes(self._scores(images), classes, top)
        with torch.enable_grad():
            maps = [self._call(images, target) for target in targets]
        return {"": torch.stack(maps, 1)}

    def _call(self, images: Tensor, classes: Tensor) -> Tensor:
        output = self.function(self._network, images, classes)
        expected = f"expected one map per image, ({len(images)}, h, w)"
        try:
            maps = torch.as_tensor(output, device=images.device)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"the method gives {type(output).__name__}; {expected}") from error
        if maps.ndim != 3 or len(maps) != len(images):
            raise InputError(f"the method gives {tuple(maps.shape)}; {expected}")
        return promote(maps.detach())


def method_name(method: str | MapFunction | MapMethod) -> str:
    """The name of a method in results; for a function MODULE:FUNCTION, as on the command line."""
    if isinstance(method, str):
        return method
    if isinstance(method, partial):
        return method_name(method.func)
    if isinstance(method, MapMethod):
        return method_name(method.function) if isinstance(method, FunctionMap) else type(method).__name__.lower()
    return f"{method.__module__}:{getattr(method, '__qualname__', type(method).__name__)}"


def method_options(method: object) -> dict[str, str]:
    """The options of a method as texts, by which evaluations are told apart."""

    def text(value: Any) -> str:
        if isinstance(value, partial):
            return f"{text(value.func)} {value.args} {value.keywords}"
        return method_name(value) if callable(value) else str(value)

    options = inspect.signature(type(method)).parameters.keys() - {"model", "detector", "layer"}
    return {name: text(getattr(method, name, None)) for name in sorted(options)}


def names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(_METHODS)


def register(name: str, method: type[MapMethod] | MapFunction) -> None:
    """Registers a method for `create`, `bias.evaluate` and `report.explain`, replacing any of the same name.

    Args:
        name: not case-sensitive.
        method: a subclass of `MapMethod`, or a function `(model, images, classes) -> maps`, see `create`.
    """
    _METHODS[name.lower()] = method


def create(
    method: str | MapFunction, model: nn.Module, layer: Layer | Sequence[Layer] | None = None, **options: Any
) -> MapMethod:
    """Creates a method for a model.

    Args:
        method: one of `names()` or the name of a class, not case-sensitive. Or a function of the model in evaluation
            mode, images (N, 3, H, W) and int64 classes (N,) that returns maps (N, h, w).
        model: maps images to class scores (N, classes).
        layer: a name as in `model.named_modules()`, the module itself, or several of these; None: the method's default,
            mostly the last spatial features. Not for a function.
        options: options of the method, for example `fuse`, or `power` of "gradient".

    Raises:
        InputError: an unknown name or option, a layer for a function, or an error of the method itself.
    """
    kind = _lookup(method) if isinstance(method, str) else method
    if not isinstance(kind, type):
        if layer or options:
            raise InputError("layers and options are for methods of regard, and the method is a function; leave it out")
        return FunctionMap(model, kind)
    known = [key for key in inspect.signature(kind).parameters if key not in ("model", "layer")]
    for option in options:
        if option not in known:
            raise unknown(f"option of method {method!r}", option, known)
    return kind(model, layer, **options)


def _lookup(name: str) -> type[MapMethod] | MapFunction:
    methods = {method.__name__.lower(): method for method in _METHODS.values() if isinstance(method, type)} | _METHODS
    if name.lower() in methods:
        return methods[name.lower()]
    raise unknown("method", name, names())
