"""The attention maps of Attention Transfer as methods: activation-based and gradient-based."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from regard.errors import unknown
from regard.logits import Classes, class_logits
from regard.maps.features import Reshape
from regard.maps.layers import Layer, hookable
from regard.maps.method import Fuse, MapMethod, Tapped, promote
from regard.maps.taps import Reduce, activation_map, check_power

Loss = Literal["cross-entropy", "score"]

_INPUT = "input"


class ActivationMap(MapMethod):
    """The activation-based attention map of a layer, see `activation_map`.

    It needs no gradients and is the same for every class.

    Args:
        power: at least 1.
        reduce: "mean", "sum" or "max".
        model, layer, fuse, reshape: see `MapMethod`.
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
    """The gradient-based attention map: the gradient of the loss or of the class score, reduced over the channels.

    `mean_c |dL/dx|^power`, or sum, or max. Source: "Paying More Attention to Attention" (Attention Transfer, arXiv
    1612.03928), section 3.2, equations 3 and following, where L is the loss and x the image. The paper keeps the
    channels of the gradient; here they are reduced to a map. `symmetric` is the section's flip-invariant form: the mean
    of the map and of the mirrored image's map, mirrored back.

    Args:
        layer: None or "input" for the images themselves; the attribute `layer` is then "input".
        power: at least 1.
        reduce: "mean", "sum" or "max".
        loss: "cross-entropy" with the class as label, or the "score" of the class.
        symmetric: the flip-invariant form, at twice the cost.
        model, fuse, reshape: see `MapMethod`.
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
        first = layer[0] if isinstance(layer, list | tuple) and len(layer) == 1 else layer
        self._taps_images = layer is None or (first == _INPUT and _INPUT not in dict(hookable(model).named_modules()))
        super().__init__(model, layer, fuse=fuse, reshape=reshape)
        self.power = power
        self.reduce: Reduce = reduce
        self.loss: Loss = loss
        self.symmetric = symmetric

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return activation_map(gradients, self.power, self.reduce)

    def _layer_names(self, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
        return (_INPUT,) if self._taps_images else super()._layer_names(layer)

    def _compute_by_layer(self, images: Tensor, classes: Classes | None, top: int | None) -> dict[str, Tensor]:
        maps = super()._compute_by_layer(images, classes, top)
        if self.symmetric:
            logits = self.logits  # of the images, not of their mirrors
            mirrored = super()._compute_by_layer(images.flip(3), self.classes, None)
            maps = {name: (layer_maps + mirrored[name].flip(3)) / 2 for name, layer_maps in maps.items()}
            self.logits = logits
        return maps

    def _forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tapped]]:
        if not self._taps_images:
            return super()._forward(images)
        self._check_not_inference()
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            return self._scores(leaf.clone()), {_INPUT: Tapped(leaf, nn.Identity())}

    def _score_gradients(self, logits: Tensor, classes: Tensor) -> Tensor:
        if self.loss == "score":
            return super()._score_gradients(logits, classes)
        # At the class, softmax - 1 is computed as minus the sum of the other entries, which does not round to 0 if the
        # network is certain.
        gradients = class_logits(promote(logits)).softmax(1).scatter_(1, classes[:, None], 0)
        gradients.scatter_(1, classes[:, None], -gradients.sum(1, keepdim=True))
        return gradients[:, -logits.shape[1] :].to(logits.dtype)  # one output is the logit of class 1
