"""The common face of all methods that make maps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, get_args

from torch import Tensor, nn

from regard.errors import InputError, unknown
from regard.maps.checks import Classes, check_classes, check_images, check_top
from regard.maps.features import Reshape
from regard.maps.fusion import Fuse, fused
from regard.maps.graph import at_rest
from regard.maps.last import last_features
from regard.maps.layers import Layer, find_layers, unwrapped
from regard.maps.resize import resized
from regard.modes import of_its_dtype


class MapMethod(ABC):
    """A method that shows where a model looks: called with images, it gives a map for each.

    The model runs in evaluation mode, not compiled, and is afterwards as it was, by error or not: mode of every
    module, hooks, gradients, `requires_grad`. The caller may be under `no_grad`, `inference_mode` or autocast;
    parameters may be frozen; operations after a tapped layer may work in place.

        maps = GradCAM(model)(images)                          # (N, H, W), of the predicted classes
        maps = GradCAM(model, "layer3")(images, 7)             # of class 7
        maps = GradCAM(model)(images, top=5)                   # (N, 5, H, W), from one forward
        maps = GradCAM(model, ["layer3", "layer4"])(images)    # of both layers, fused

    Args:
        model: maps images to class scores (N, classes), or to a dict or tuple that holds them, see `regard.logits`. One
            output is a binary network's: of class 1 its maps are of that score, of class 0 of its negative.
        layer: a name as in `model.named_modules()`, the module itself, or several of these; None: the last spatial
            features, see `regard.maps.last.last_features`.
        fuse: what becomes of the maps of several layers: each is scaled to [0, 1] and resized, then the "mean" is taken
            (as the grad-cam package does) or the "max". Maps of one layer are not scaled.
        reshape: makes features (N, C, H, W) of what a layer gives, and of gradients by that; needed only for tokens in
            an unusual order. None: (N, C, H, W) is taken as it is, (N, H, W, C) is turned, tokens (N, T, C) become a
            grid without those in front that stand for no place.

    Attributes:
        model: the model.
        layers: the names of the tapped layers.
        layer: the same in one, joined by "+".
        logits: (N, classes), the scores of the last call; None before it.
        classes: (N,) or (N, K), the classes whose maps the last call gave; None before it.

    Raises:
        InputError: a layer the model does not have, a model without known last features, an unknown `fuse`.
    """

    _differentiates = True  # whether gradients are needed

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
        self.layers = self._find(layer)
        self.fuse: Fuse = fuse
        self.reshape = reshape
        self.logits: Tensor | None = None
        self.classes: Tensor | None = None

    def _find(self, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
        return tuple(find_layers(self.model, last_features(unwrapped(self.model)) if layer is None else layer))

    @property
    def layer(self) -> str:
        return "+".join(self.layers)

    def __call__(
        self, images: Tensor, classes: Classes | None = None, *, top: int | None = None, upsample: bool = True
    ) -> Tensor:
        """The maps of one class an image, or of several.

        Args:
            images: (N, 3, H, W), floating point, normalised as the model wants them, on its device; they are cast to
                the dtype of its parameters.
            classes: one class for all images, or one for each, (N,), or several for each, (N, K); None: the predicted.
            top: in place of classes: the so many with the highest scores, highest first.
            upsample: to the size of the images, bilinearly (`align_corners=False`); False: as large as the features, of
                several layers the largest.

        Returns:
            (N, H, W), or (N, K, H, W) for (N, K) classes or `top`. At least 0, not normalised (of several layers:
            in [0, 1]), without a graph, on the device of the images; float32, or float64 if the features are.

        Raises:
            InputError: images or classes of another shape, dtype, range or device; a layer that gives no features,
                does not run, or has no part in the class scores.
        """
        asked = Asked(classes, top)
        with self._ready(images, asked) as images:
            maps = self._whole(images, asked, upsample)
        return self._one_or_several(maps)

    def by_layer(
        self, images: Tensor, classes: Classes | None = None, *, top: int | None = None, upsample: bool = True
    ) -> dict[str, Tensor]:
        """The maps of every layer: name -> maps, neither scaled nor fused.

        Arguments, shapes and errors are those of a call. With `upsample=False` maps are as large as their features.
        """
        asked = Asked(classes, top)
        with self._ready(images, asked) as images:
            maps = self._by_layer(images, asked)
            if upsample:
                maps = {name: _each_resized(part, images.shape[-2:]) for name, part in maps.items()}
        return {name: self._one_or_several(part) for name, part in maps.items()}

    @abstractmethod
    def _by_layer(self, images: Tensor, asked: Asked) -> dict[str, Tensor]:
        """Name -> maps (N, K, h, w) as large as the features, at least 0, of the classes that `_choose` gives."""

    def _whole(self, images: Tensor, asked: Asked, upsample: bool) -> Tensor:
        """The maps (N, K, H, W) of all layers in one."""
        maps = self._by_layer(images, asked)
        sizes = [part.shape[-2:] for part in maps.values()]
        size = images.shape[-2:] if upsample else max(sizes, key=math.prod)
        if len(maps) == 1:
            return _each_resized(maps[self.layers[0]], size)
        whole = fused({name: part.flatten(0, 1) for name, part in maps.items()}, size, self.fuse)
        return whole.unflatten(0, next(iter(maps.values())).shape[:2])

    def _choose(self, logits: Tensor, asked: Asked) -> Tensor:
        """The classes (N, K) that are asked for, which are kept with the logits."""
        self.logits = logits
        if asked.top is not None:
            self.classes = check_top(asked.top, logits)
        else:
            self.classes = check_classes(asked.classes, logits, several=True)
        return self.classes if self.classes.ndim == 2 else self.classes[:, None]

    def _one_or_several(self, maps: Tensor) -> Tensor:
        assert self.classes is not None
        return maps if self.classes.ndim == 2 else maps[:, 0]

    @contextmanager
    def _ready(self, images: Tensor, asked: Asked) -> Iterator[Tensor]:
        """The images as the model can be given them, the model at rest, and no autocast of what is not the model's."""
        if asked.classes is not None and asked.top is not None:
            raise InputError("classes and top are both given; give one of them")
        check_images(self.model, images, differentiates=self._differentiates)
        with at_rest(self.model):
            images = of_its_dtype(self.model, images)
            yield images.clone() if images.is_inference() else images


class Asked(NamedTuple):
    """Of which classes maps are wanted: these, the `top` highest, or the predicted ones."""

    classes: Classes | None
    top: int | None


def _each_resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, K, h, w) -> (N, K, *size)."""
    return resized(maps.flatten(0, 1), size).unflatten(0, maps.shape[:2])
