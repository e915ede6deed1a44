"""Methods by name, and functions as methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError, unknown
from regard.logits import Classes
from regard.maps.cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from regard.maps.gradient import ActivationMap, GradientMap
from regard.maps.layers import Layer
from regard.maps.method import MapMethod, wide

MapFunction = Callable[[nn.Module, Tensor, Tensor], Any]
"""A function of a model, images (N, 3, H, W) and classes (N,), which gives maps (N, h, w)."""

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
    """A function `(model, images, classes) -> maps` as a method.

    It is called with the model in evaluation mode, not compiled, images (N, 3, H, W) and int64 classes (N,), with
    gradients on, and gives maps (N, h, w), which are not scaled; of (N, K) classes it is called K times. It must
    restore what it changes in the model.

    Args:
        model: see `MapMethod`.
        function: the function, which knows its layer itself; `layers` is then empty.
    """

    def __init__(self, model: nn.Module, function: MapFunction) -> None:
        self.function = function
        super().__init__(model)

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        raise NotImplementedError

    def _find(self, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
        return ()

    def _by_layer(self, images: Tensor, classes: Classes | None, top: int | None) -> dict[str, Tensor]:
        explained = self._explained(self._scores(images), classes, top)
        with torch.enable_grad():
            maps = [self._maps_of(images, each) for each in explained]
        return {"": torch.stack(maps, 1)}

    def _maps_of(self, images: Tensor, classes: Tensor) -> Tensor:
        given = self.function(self._network, images, classes)
        try:
            maps = torch.as_tensor(given, device=images.device)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"the method gives {type(given).__name__}; expected maps ({len(images)}, h, w)") from error
        if maps.ndim != 3 or len(maps) != len(images):
            raise InputError(
                f"the method gives {tuple(maps.shape)}; expected a map for each image, ({len(images)}, h, w)"
            )
        return wide(maps.detach())


def method_name(method: str | MapFunction | MapMethod) -> str:
    """The name of a method in results; of a function, MODULE:FUNCTION, as the commands take it."""
    if isinstance(method, str):
        return method
    if isinstance(method, MapMethod):
        return method_name(method.function) if isinstance(method, FunctionMap) else type(method).__name__.lower()
    return f"{method.__module__}:{getattr(method, '__qualname__', type(method).__name__)}"


def names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(_METHODS)


def register(name: str, method: type[MapMethod] | MapFunction) -> None:
    """Adds a method under a name, and replaces one that has it.

    Args:
        name: for `create`, `bias.evaluate` and `report.explain`; any case.
        method: a subclass of `MapMethod`, or a function `(model, images, classes) -> maps`, see `FunctionMap`.
    """
    _METHODS[name.lower()] = method


def create(
    method: str | MapFunction, model: nn.Module, layer: Layer | Sequence[Layer] | None = None, **options: Any
) -> MapMethod:
    """The method of this name for a model.

    Args:
        method: one of `names()`, in any case; the name of a class will do too. Or a function, see `FunctionMap`.
        model: maps images to class scores (N, classes).
        layer: a name as in `model.named_modules()`, the module itself, or several of these; None: the method's usual
            one, mostly the last spatial features. A function knows its layer itself.
        options: of the method, for example `fuse`, or `power` of "gradient".

    Raises:
        InputError: an unknown name or option, a layer for a function, and what the method itself raises.
    """
    kind = _named(method) if isinstance(method, str) else method
    if not isinstance(kind, type):
        if layer or options:
            raise InputError("a layer or option is for a method of regard; a function has its own: leave it out")
        return FunctionMap(model, kind)
    taken = [key for key in inspect.signature(kind).parameters if key not in ("model", "layer")]
    for option in options:
        if option not in taken:
            raise unknown(f"option of method {method!r}", option, taken)
    return kind(model, layer, **options)


def _named(name: str) -> type[MapMethod] | MapFunction:
    known = {method.__name__.lower(): method for method in _METHODS.values() if isinstance(method, type)} | _METHODS
    if name.lower() in known:
        return known[name.lower()]
    raise unknown("method", name, names())
