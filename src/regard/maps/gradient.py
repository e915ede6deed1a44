"""Attention maps of Attention Transfer as methods: of activations, and of the gradient of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from regard.errors import unknown
from regard.logits import Classes, class_logits
from regard.maps.features import Reshape
from regard.maps.layers import Layer, readable
from regard.maps.method import Fuse, MapMethod, Tapped, wide
from regard.maps.taps import Reduce, activation_map, check_power

Loss = Literal["cross-entropy", "score"]

_IMAGES = "input"


class ActivationMap(MapMethod):
    """The activation-based attention map of a layer; it does not depend on the classes, and needs no gradients.

    See `activation_map`. For several classes the same map is given several times.

    Args:
        power: at least 1.
        reduce: "mean", "sum" or "max". The others are those of `MapMethod`.
    """

    needs_gradients = False

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        power: float = 2,
        reduce: Reduce = "mean",
        fuse: Fuse = "mean",
        reshape: Reshape | None = None,
    ) -> None:
        check_power(power, reduce)
        super().__init__(model, layer, fuse=fuse, reshape=reshape)
        self.power = power
        self.reduce: Reduce = reduce

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return activation_map(activations, self.power, self.reduce)


class GradientMap(MapMethod):
    """How much the loss, or the class score, changes with every pixel: the gradient, reduced over the channels.

    `mean_c |dL/dx|^power`, or sum, or max. Source: "Paying More Attention to Attention" (Attention Transfer, arXiv
    1612.03928), section 3.2, where L is the loss and x the image, equations 3 and following; it takes all channels of
    the gradient, here they are reduced to a map. With `symmetric` it is that section's flip-invariant form: the mean of
    the map and of the mirrored image's map, mirrored back.

    Args:
        layer: None or "input": the images themselves, and `layer` is then "input".
        power: at least 1.
        reduce: "mean", "sum" or "max".
        loss: "cross-entropy" with the class as label, or the "score" of the class.
        symmetric: twice the work. The others are those of `MapMethod`.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        power: float = 1,
        reduce: Reduce = "mean",
        loss: Loss = "cross-entropy",
        symmetric: bool = False,
        fuse: Fuse = "mean",
        reshape: Reshape | None = None,
    ) -> None:
        check_power(power, reduce)
        if loss not in get_args(Loss):
            raise unknown("loss", loss, get_args(Loss))
        alone = layer[0] if isinstance(layer, list | tuple) and len(layer) == 1 else layer
        self._of_images = layer is None or (alone == _IMAGES and _IMAGES not in dict(readable(model).named_modules()))
        super().__init__(model, layer, fuse=fuse, reshape=reshape)
        self.power = power
        self.reduce: Reduce = reduce
        self.loss: Loss = loss
        self.symmetric = symmetric

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return activation_map(gradients, self.power, self.reduce)

    def _find(self, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
        return (_IMAGES,) if self._of_images else super()._find(layer)

    def _by_layer(self, images: Tensor, classes: Classes | None, top: int | None) -> dict[str, Tensor]:
        maps = super()._by_layer(images, classes, top)
        if self.symmetric:
            logits = self.logits  # the images decide, not their mirrors
            mirrored = super()._by_layer(images.flip(3), self.classes, None)
            maps = {name: (part + mirrored[name].flip(3)) / 2 for name, part in maps.items()}
            self.logits = logits
        return maps

    def _forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tapped]]:
        if not self._of_images:
            return super()._forward(images)
        self._check_no_inference()
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            return self._scores(leaf.clone()), {_IMAGES: Tapped(leaf, nn.Identity())}

    def _weights(self, logits: Tensor, classes: Tensor) -> Tensor:
        if self.loss == "score":
            return super()._weights(logits, classes)
        # softmax - 1 at the class is minus the sum of the others, which does not round to 0 for a sure network.
        others = class_logits(wide(logits)).softmax(1).scatter_(1, classes[:, None], 0)
        others.scatter_(1, classes[:, None], -others.sum(1, keepdim=True))
        return others[:, -logits.shape[1] :].to(logits.dtype)  # of one output, the derivative by that of class 1
