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
from regard.maps.layers import Layer, find_layers, last_features, readable
from regard.modes import checked_images, eager_evaluation
from regard.stages import stages

Fuse = Literal["mean", "max"]
T = TypeVar("T")


class Tapped(NamedTuple):
    """The output of a layer, the start of the graph to the class scores, and the function that arranges features."""

    output: Tensor
    arrange: Reshape


class MapMethod(ABC):
    """A CAM method: called with images, it gives a map for each.

    A method is a subclass with its `combine`. One forward takes place, without a graph up to the first tapped layer,
    and for each of K classes one backward, down to the tapped layers. The model runs in evaluation mode, not compiled,
    and is unchanged afterwards, also after an error: mode of every module, hooks, gradients, `requires_grad`. The
    caller may be under `no_grad`, `inference_mode` or autocast; parameters may be frozen; operations after a tapped
    layer may work in place.

    Example::

        maps = GradCAM(model)(images)                          # (N, H, W), of the predicted classes
        maps = GradCAM(model, "layer3")(images, 7)             # of class 7
        maps = GradCAM(model)(images, top=5)                   # (N, 5, H, W), from one forward
        maps = GradCAM(model, ["layer3", "layer4"])(images)    # of both layers, fused

    Args:
        model: maps images to class scores (N, classes), or to a dict or tuple that contains them, see `regard.logits`.
            One output is a binary network's: of class 1 its maps are of that score, of class 0 of its negative.
        layer: a name as in `model.named_modules()`, the module itself, or several of these; None: the last spatial
            features, see `last_features`.
        fuse: how maps of several layers are combined: each is scaled to [0, 1] and resized, then the "mean" is taken
            (as the grad-cam package does) or the "max". Only scaled maps weigh the same, since gradients of early
            layers are smaller by orders; a constant map counts as 0. Maps of one layer are not scaled.
        reshape: makes features (N, C, H, W) of what a layer gives, and of gradients by that; needed only for tokens in
            an unusual order. None: (N, C, H, W) is taken as it is, (N, H, W, C) is turned, tokens (N, T, C) become a
            grid without the prefix tokens.

    Attributes:
        model: the model.
        layers: the names of the tapped layers.
        logits: (N, classes), the scores of the last call; None before it.
        classes: (N,) or (N, K), the classes whose maps the last call gave; None before it.

    Raises:
        InputError: a layer the model does not have, a model without known last features, an unknown `fuse`.
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
        self._network = readable(model)
        self.layers = self._find(layer)
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
            images: (N, 3, H, W), floating point, normalised for the model, on its device; they are cast to
                the dtype of its parameters.
            classes: one class for all images, or one for each, (N,), or several for each, (N, K); None: the predicted.
            top: instead of classes: the number of classes with the highest scores to take, highest first.
            upsample: to the size of the images, bilinearly (`align_corners=False`); False: as large as the features, of
                several layers the largest.

        Returns:
            (N, H, W), or (N, K, H, W) for (N, K) classes or `top`. At least 0, not normalised (of several layers:
            in [0, 1]), without a graph, on the device of the images; float32, or float64 if the features are.

        Raises:
            InputError: images or classes of another shape, dtype, range or device; a layer that gives no features,
                does not run, or has no part in the class scores.

        Warns:
            DataWarning: the maps have one pixel before upsampling.
        """
        maps = self.by_layer(images, classes, top=top, upsample=False)
        self._warn_of_single_pixels(maps)
        size = images.shape[-2:] if upsample else max((part.shape[-2:] for part in maps.values()), key=math.prod)
        return self.fused(maps, size)

    def by_layer(
        self, images: Tensor, classes: Classes | None = None, *, top: int | None = None, upsample: bool = True
    ) -> dict[str, Tensor]:
        """The maps of every layer: name -> maps, neither scaled nor fused.

        Arguments, shapes and errors are those of a call. With `upsample=False` maps are as large as their features.
        """
        images = checked_images(self._network, images)
        with eager_evaluation(self._network):
            maps = self._by_layer(images.clone() if images.is_inference() else images, classes, top)
            if self.classes is not None and self.classes.ndim == 1:
                maps = {name: part[:, 0] for name, part in maps.items()}
            return {name: resized(part, images.shape[-2:]) for name, part in maps.items()} if upsample else maps

    @abstractmethod
    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The map (N, H, W) from the activations (N, C, H, W) of a layer and the gradients of the scores by them.

        Both are float32 or float64. The caller sets negative values of the map to 0. A method whose
        `needs_gradients` is False is given the activations twice.
        """

    @torch.inference_mode(False)
    def fused(self, maps: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """The maps (…, h, w) of the layers as one, `(…, *size)`, as `fuse` says."""
        if len(maps) == 1:
            (whole,) = maps.values()
            return resized(whole, size)
        parts = torch.stack([resized(_scaled(part), size) for part in maps.values()])
        return parts.mean(0) if self.fuse == "mean" else parts.amax(0)

    def _warn_of_single_pixels(self, maps: Mapping[str, Tensor]) -> None:
        if not self.layers or any(part.shape[-2:] != (1, 1) for part in maps.values()):
            return
        earlier: list[str] = []
        with suppress(InputError):  # there are no stages
            for stage in stages(self._network):
                if any(f"{layer}.".startswith(f"{stage}.") for layer in self.layers):
                    break
                earlier.append(stage)
        warnings.warn(
            f"the maps of layer {self.layer} have one pixel, so they have no positions; take them at an earlier layer "
            f"({f'--layer {earlier[-1]}' if earlier else '--layer'}), or give larger images",
            DataWarning,
            stacklevel=3,
        )

    def _find(self, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
        return tuple(find_layers(self._network, last_features(self._network) if layer is None else layer))

    def _explained(self, logits: Tensor, classes: Classes | None, top: int | None) -> Sequence[Tensor]:
        """The classes, K times (N,); keeps them and the logits."""
        self.logits = logits.detach()
        self.classes = chosen_classes(self.logits, classes, top)
        return (self.classes if self.classes.ndim == 2 else self.classes[:, None]).unbind(1)

    def _by_layer(self, images: Tensor, classes: Classes | None, top: int | None) -> dict[str, Tensor]:
        """Name -> maps (N, K, h, w) as large as the features; sets `logits` and `classes`."""
        logits, tapped = self._forward(images)
        explained = self._explained(logits, classes, top)
        return self.combined(logits, tapped, [self._weights(logits.detach(), each) for each in explained])

    def combined(self, scores: Tensor, tapped: Mapping[str, Tapped], weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """Name -> maps (N, K, h, w) as large as the features, of K weighted sums of the scores.

        Args:
            scores: of any shape, with their graph down to the tapped layers.
            tapped: of `tapped_run`.
            weights: K tensors of the shape of the scores, their derivatives.
        """
        maps: dict[str, list[Tensor]] = {name: [] for name in tapped}
        with torch.autocast(scores.device.type, enabled=False):
            features = {name: wide(layer.arrange(layer.output.detach())) for name, layer in tapped.items()}
            gradients = features
            for k, each in enumerate(weights):
                if self.needs_gradients:
                    gradients = _gradients(scores, tapped, each, retain_graph=k + 1 < len(weights))
                for name, activations in features.items():
                    maps[name].append(self.combine(activations, gradients[name]).clamp(min=0))
            return {name: torch.stack(parts, 1) for name, parts in maps.items()}

    def _weights(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The derivatives (N, K) by the logits of what the gradients are of: here of the scores of classes (N,)."""
        if logits.shape[1] == 1:  # the score of class 1, whose negative is that of class 0
            return (2 * classes[:, None] - 1).to(logits.dtype)
        return torch.zeros_like(logits).scatter_(1, classes[:, None], 1)

    def _forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tapped]]:
        """The class scores (N, K), and what the layers gave; of a layer that ran several times the last."""
        return self.tapped_run(lambda: self._scores(images), lambda: images)

    def tapped_run(
        self, run: Callable[[], T], images: Callable[[], Tensor | None], *, first: bool = False
    ) -> tuple[T, dict[str, Tapped]]:
        """What `run` gives, with a graph from the tapped layers on, and what they gave.

        Args:
            run: runs the model.
            images: (N, 3, H, W), what the layers work on, asked for when they run; None: unknown.
            first: whether layers are tapped before hooks that they have, such as those of a pyramid, keep the output.
        """
        if self.needs_gradients:
            self._check_no_inference()
        tapped: dict[str, Tapped] = {}

        def tap(name: str, _module: nn.Module, _args: Any, output: Any) -> Tensor:
            arrange = arrangement(self._network, name, output, images(), self.reshape)
            # A layer behind another stays in the graph, so that gradients get past it to the other. A layer alone need
            # not: if it runs several times, the graph starts at the last.
            if self.needs_gradients and (len(self.layers) == 1 or not output.requires_grad):
                output = output.detach().requires_grad_()
            tapped[name] = Tapped(output, arrange)
            torch.set_grad_enabled(self.needs_gradients)  # from here on; the no_grad block around the forward ends it
            return output.clone()  # what follows may work in place

        with torch.no_grad(), ExitStack() as hooks:
            for name in self.layers:
                module = self._network.get_submodule(name)
                hooks.callback(module.register_forward_hook(partial(tap, name), prepend=first).remove)
            output = run()
        for name in self.layers:
            if name not in tapped:
                raise InputError(f"layer {name!r} did not run; tap a layer that runs")
        return output, {name: tapped[name] for name in self.layers}

    def _scores(self, images: Tensor) -> Tensor:
        with uncached_autocast(images.device.type):
            return class_scores(self._network(images), images)

    def _check_no_inference(self) -> None:
        if any(tensor.is_inference() for tensor in chain(self._network.parameters(), self._network.buffers())):
            raise InputError("the model was made under inference_mode, so it has no gradients; make it outside")


def uncached_autocast(device: str) -> AbstractContextManager[Any]:
    """Autocast as it is, but for its cache: no weights are cast without a graph for the caller's next step."""
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, dtype=torch.get_autocast_dtype(device), cache_enabled=False)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (..., h, w) -> `(..., *size)`, bilinearly (`align_corners=False`).

    Rounding does not lead out of the range of a map's values, so a constant map stays constant.
    """
    if maps.shape[-2:] == tuple(size):
        return maps
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    stacked = maps.flatten(0, -3)[:, None]
    larger = F.interpolate(stacked, list(size), mode="bilinear", align_corners=False)[:, 0]
    return larger.unflatten(0, maps.shape[:-2]).clamp(low, high)


def _scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return ((maps - low) / (high - low)).nan_to_num(0)


def _gradients(
    logits: Tensor, tapped: Mapping[str, Tapped], weights: Tensor, *, retain_graph: bool
) -> dict[str, Tensor]:
    """The gradients of `(weights * logits).sum()` by the features of every layer, by one backward."""
    if not logits.requires_grad:
        names = ", ".join(repr(name) for name in tapped)
        raise InputError(f"no gradient reaches layer {names}; does the model run under no_grad inside?")
    outputs = [layer.output for layer in tapped.values()]
    gradients_of = torch.autograd.grad(logits, outputs, weights, retain_graph=retain_graph, allow_unused=True)
    gradients = {}
    for (name, layer), gradient in zip(tapped.items(), gradients_of, strict=True):
        if gradient is None:
            raise InputError(f"the scores do not depend on layer {name!r}; tap another layer")
        gradients[name] = wide(layer.arrange(gradient))
    return gradients


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or float64 if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
