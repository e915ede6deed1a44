"""The base of all CAM methods."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import DataWarning, InputError, unknown
from regard.logits import Classes, chosen_classes, class_scores
from regard.maps.features import Reshape, arrangement
from regard.maps.layers import Layer, did_not_run, find_layers, hookable, last_features
from regard.modes import checked_images, eager_evaluation
from regard.stages import stages

Fuse = Literal["mean", "max"]
T = TypeVar("T")


class Tapped(NamedTuple):
    """The output of a layer, where the graph to the class scores starts, and its `features.arrangement`."""

    output: Tensor
    arrange: Reshape


class MapMethod(ABC):
    """The base class of CAM methods; a call maps images to one map per image.

    A subclass implements `combine`. A call runs one forward, without a graph up to the first tapped layer, and for each
    of K classes one backward, down to the tapped layers. The model runs in evaluation mode, not compiled. Afterwards,
    also after an error, it is unchanged: the mode of every module, hooks, gradients, `requires_grad`. The caller may be
    under `no_grad`, `inference_mode` or autocast, parameters may be frozen, and operations after a tapped layer may be
    in-place.

    Example::

        maps = GradCAM(model)(images)                          # (N, H, W), for the predicted classes
        maps = GradCAM(model, "layer3")(images, 7)             # for class 7
        maps = GradCAM(model)(images, top=5)                   # (N, 5, H, W), from one forward
        maps = GradCAM(model, ["layer3", "layer4"])(images)    # fused from both layers

    Args:
        model: maps images to class scores (N, classes), or to a dict or tuple that contains them, see `regard.logits`.
            A single output is the score of class 1 of a binary network; maps of class 0 are those of its negative.
        layer: a name as in `model.named_modules()`, the module itself, or several of these; None: the last spatial
            features, see `last_features`.
        fuse: how maps of several layers are combined: each is scaled to [0, 1] and resized, then averaged ("mean", as
            the grad-cam package does) or maximised ("max"). Without scaling, layers would count unequally, because
            gradients of early layers are orders of magnitude smaller. A constant map becomes 0. Maps of a single layer
            are not scaled.
        reshape: arranges the output of a layer, and its gradients, as features (N, C, H, W); needed only for tokens in
            an unusual order. None: (N, C, H, W) stays, (N, H, W, C) is permuted, tokens (N, T, C) become a grid
            without prefix tokens.

    Attributes:
        model: the model.
        layers: the names of the tapped layers.
        logits: (N, classes), the scores of the last call; None before it.
        classes: (N,) or (N, K), the classes of the last call's maps; None before it.

    Raises:
        InputError: an unknown layer, a model whose last features are not known, an unknown `fuse`.
    """

    needs_gradients = True

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        fuse: Fuse = "mean",
        reshape: Reshape | None = None,
    ) -> None:
        if fuse not in get_args(Fuse):
            raise unknown("fuse", fuse, get_args(Fuse))
        if reshape is not None and not callable(reshape):
            raise InputError(f"reshape is a {type(reshape).__name__}; expected a function tensor -> (N, C, H, W)")
        self.model = model
        self._network = hookable(model)
        self.layers = self._layer_names(layer)
        self.fuse: Fuse = fuse
        self.reshape = reshape
        self.logits: Tensor | None = None
        self.classes: Tensor | None = None

    @property
    def layer(self) -> str:
        """The names of the tapped layers, joined by "+"."""
        return "+".join(self.layers)

    def __call__(
        self, images: Tensor, classes: Classes | None = None, *, top: int | None = None, upsample: bool = True
    ) -> Tensor:
        """The maps of one class per image, or of several.

        Args:
            images: (N, 3, H, W), floating point, normalised for the model, on its device; cast to the dtype of the
                model's parameters.
            classes: one class for all images, one per image, (N,), or several per image, (N, K); None: the predicted.
            top: instead of classes, the number of highest-scoring classes to explain, highest first.
            upsample: whether to resize to the images, bilinearly (`align_corners=False`); False: maps have the size of
                the features, or of the largest features of several layers.

        Returns:
            (N, H, W), or (N, K, H, W) for (N, K) classes or `top`. At least 0, not normalised (for several layers: in
            [0, 1]), without a graph, on the device of the images; float32, or float64 for float64 features.

        Raises:
            InputError: images or classes of another shape, dtype, range or device; a layer that gives no features,
                does not run, or does not affect the class scores.

        Warns:
            DataWarning: the maps have one pixel before upsampling.
        """
        maps = self.by_layer(images, classes, top=top, upsample=False)
        self._warn_about_single_pixels(maps)
        size = images.shape[-2:] if upsample else max((m.shape[-2:] for m in maps.values()), key=math.prod)
        return self.fused(maps, size)

    def by_layer(
        self, images: Tensor, classes: Classes | None = None, *, top: int | None = None, upsample: bool = True
    ) -> dict[str, Tensor]:
        """The maps of every layer as name -> maps, neither scaled nor fused.

        Arguments, shapes and errors are those of a call. With `upsample=False` maps have the size of their features.
        """
        images = checked_images(self._network, images)
        with eager_evaluation(self._network):
            maps = self._compute_by_layer(images.clone() if images.is_inference() else images, classes, top)
            if self.classes is not None and self.classes.ndim == 1:
                maps = {name: layer_maps[:, 0] for name, layer_maps in maps.items()}
            if upsample:
                maps = {name: resized(layer_maps, images.shape[-2:]) for name, layer_maps in maps.items()}
            return maps

    @abstractmethod
    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The map (N, H, W) from the activations (N, C, H, W) of a layer and the scores' gradients by them.

        Both are float32 or float64. The caller sets negative values of the map to 0. If `needs_gradients` is False,
        `gradients` are the activations again.
        """

    @torch.inference_mode(False)
    def fused(self, maps: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """Resizes the maps (…, h, w) of all layers and fuses them into one, `(…, *size)`."""
        if len(maps) == 1:
            (layer_maps,) = maps.values()
            return resized(layer_maps, size)
        stacked = torch.stack([resized(_scaled(layer_maps), size) for layer_maps in maps.values()])
        return stacked.mean(0) if self.fuse == "mean" else stacked.amax(0)

    def _warn_about_single_pixels(self, maps: Mapping[str, Tensor]) -> None:
        if not self.layers or any(layer_maps.shape[-2:] != (1, 1) for layer_maps in maps.values()):
            return
        earlier: list[str] = []
        with suppress(InputError):  # the model has no known stages
            for stage in stages(self._network):
                if any(f"{layer}.".startswith(f"{stage}.") for layer in self.layers):
                    break
                earlier.append(stage)
        warnings.warn(
            f"the maps of layer {self.layer} have a single pixel, so they show no position; choose an earlier layer "
            f"({f'--layer {earlier[-1]}' if earlier else '--layer'}) or larger images",
            DataWarning,
            stacklevel=3,
        )

    def _layer_names(self, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
        return tuple(find_layers(self._network, last_features(self._network) if layer is None else layer))

    def _set_classes(self, logits: Tensor, classes: Classes | None, top: int | None) -> Sequence[Tensor]:
        """Sets `logits` and `classes`; returns the classes as K tensors (N,)."""
        self.logits = logits.detach()
        self.classes = chosen_classes(self.logits, classes, top)
        return (self.classes if self.classes.ndim == 2 else self.classes[:, None]).unbind(1)

    def _compute_by_layer(self, images: Tensor, classes: Classes | None, top: int | None) -> dict[str, Tensor]:
        """Layer -> maps (N, K, h, w), with the size of the features; sets `logits` and `classes`."""
        logits, tapped = self._forward(images)
        targets = self._set_classes(logits, classes, top)
        return self.compute(logits, tapped, [self._score_gradients(logits.detach(), target) for target in targets])

    def compute(self, scores: Tensor, tapped: Mapping[str, Tapped], weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """Layer -> maps (N, K, h, w), with the size of the features, of K weighted sums of the scores.

        The scores have a graph to the layers `tapped` by `tapped_run`, and each of the K weights has their shape.
        """
        maps: dict[str, list[Tensor]] = {name: [] for name in tapped}
        with torch.autocast(scores.device.type, enabled=False):
            features = {name: promote(layer.arrange(layer.output.detach())) for name, layer in tapped.items()}
            gradients = features
            for k, weight in enumerate(weights):
                if self.needs_gradients:
                    gradients = _gradients(scores, tapped, weight, retain_graph=k + 1 < len(weights))
                for name, activations in features.items():
                    maps[name].append(self.combine(activations, gradients[name]).clamp(min=0))
            return {name: torch.stack(layer_maps, 1) for name, layer_maps in maps.items()}

    def _score_gradients(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The gradients (N, K) by the logits of the explained quantity, here the scores of classes (N,)."""
        if logits.shape[1] == 1:  # the score of class 1, whose negative is the score of class 0
            return (2 * classes[:, None] - 1).to(logits.dtype)
        return torch.zeros_like(logits).scatter_(1, classes[:, None], 1)

    def _forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tapped]]:
        """The class scores (N, K) and the layers' outputs, the last of a layer that ran several times."""
        return self.tapped_run(lambda: self._scores(images), lambda: images)

    def tapped_run(
        self, run: Callable[[], T], images: Callable[[], Tensor | None], *, first: bool = False
    ) -> tuple[T, dict[str, Tapped]]:
        """The output of `run`, with a graph from the tapped layers on, and the outputs of these layers.

        Args:
            run: runs the model.
            images: called when a layer runs; returns the images (N, 3, H, W) that reach it, None if unknown.
            first: whether to tap layers before their other hooks, such as those with which a pyramid reads them.
        """
        if self.needs_gradients:
            self._check_not_inference()
        tapped: dict[str, Tapped] = {}

        def tap(name: str, _module: nn.Module, _args: Any, output: Any) -> Tensor:
            arrange = arrangement(self._network, name, output, images(), self.reshape)
            # Of several layers, a later one stays in the graph, so that gradients reach the earlier ones. A single
            # layer is detached each time, so that the graph starts at its last run.
            if self.needs_gradients and (len(self.layers) == 1 or not output.requires_grad):
                output = output.detach().requires_grad_()
            tapped[name] = Tapped(output, arrange)
            torch.set_grad_enabled(self.needs_gradients)  # until the no_grad block around the forward ends
            return output.clone()  # later operations may be in-place

        with torch.no_grad(), ExitStack() as hooks:
            for name in self.layers:
                module = self._network.get_submodule(name)
                hooks.callback(module.register_forward_hook(partial(tap, name), prepend=first).remove)
            output = run()
        for name in self.layers:
            if name not in tapped:
                raise did_not_run(name)
        return output, {name: tapped[name] for name in self.layers}

    def _scores(self, images: Tensor) -> Tensor:
        with uncached_autocast(images.device.type):
            return class_scores(self._network(images), images)

    def _check_not_inference(self) -> None:
        if any(tensor.is_inference() for tensor in chain(self._network.parameters(), self._network.buffers())):
            raise InputError("the model was created under inference_mode, so it has no gradients; create it outside")


def uncached_autocast(device: str) -> AbstractContextManager[Any]:
    """The active autocast without its cache, which would keep weights cast without a graph for the caller's step."""
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, dtype=torch.get_autocast_dtype(device), cache_enabled=False)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (..., h, w) resized to `(..., *size)`, bilinearly (`align_corners=False`).

    Values are clamped to the range of the map, so a constant map stays constant despite rounding.
    """
    if maps.shape[-2:] == tuple(size):
        return maps
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    result = F.interpolate(maps.flatten(0, -3)[:, None], list(size), mode="bilinear", align_corners=False)[:, 0]
    return result.unflatten(0, maps.shape[:-2]).clamp(low, high)


def _scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return ((maps - low) / (high - low)).nan_to_num(0)


def _gradients(
    logits: Tensor, tapped: Mapping[str, Tapped], weights: Tensor, *, retain_graph: bool
) -> dict[str, Tensor]:
    """The gradients of `(weights * logits).sum()` by the features of every layer, from one backward."""
    if not logits.requires_grad:
        names = ", ".join(repr(name) for name in tapped)
        raise InputError(f"no gradient reaches layer {names}; does the model run under no_grad inside?")
    outputs = [layer.output for layer in tapped.values()]
    output_gradients = torch.autograd.grad(logits, outputs, weights, retain_graph=retain_graph, allow_unused=True)
    gradients = {}
    for (name, layer), gradient in zip(tapped.items(), output_gradients, strict=True):
        if gradient is None:
            raise InputError(f"the scores do not depend on layer {name!r}; tap another layer")
        gradients[name] = promote(layer.arrange(gradient))
    return gradients


def promote(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is float64."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
