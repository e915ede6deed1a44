"""Methods that need the gradients of the class scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from regard.errors import unknown
from regard.logits import class_logits
from regard.maps.activation import Reduce, activation_map, check_power
from regard.maps.features import Reshape
from regard.maps.fusion import Fuse
from regard.maps.graph import Graph, graph_from_images, graph_from_layers
from regard.maps.layers import Layer, stands_for
from regard.maps.method import Asked, MapMethod

Loss = Literal["cross-entropy", "score"]

_IMAGES = "input"


class GradientMethod(MapMethod):
    """The common path of methods that need gradients.

    One forward, without a graph up to the first tapped layer; for each of K classes one backward, down to the tapped
    layers; the graph goes with the last.
    """

    def _by_layer(self, images: Tensor, asked: Asked) -> dict[str, Tensor]:
        graph = self._graph(images)
        chosen = self._choose(graph.logits, asked)
        maps: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        with torch.autocast(images.device.type, enabled=False):
            features = {name: _wide(part) for name, part in graph.features.items()}
            for k, classes in enumerate(chosen.unbind(1)):
                gradients = graph.gradients(self._weights(graph.logits, classes), last=k == chosen.shape[1] - 1)
                for name, gradient in gradients.items():
                    maps[name].append(self._map(features[name], _wide(gradient)))
            return {name: torch.stack(parts, 1) for name, parts in maps.items()}

    def _graph(self, images: Tensor) -> Graph:
        return graph_from_layers(self.model, self.layers, images, self.reshape)

    def _weights(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The derivatives (N, classes) by the logits of what the gradients are of: here of the class scores."""
        if logits.shape[1] == 1:  # the score of class 1, whose negative is that of class 0
            return (2 * classes[:, None] - 1).to(logits.dtype)
        return torch.zeros_like(logits).scatter_(1, classes[:, None], 1)

    @abstractmethod
    def _map(self, features: Tensor, gradients: Tensor) -> Tensor:
        """The map (N, h, w), at least 0, from features and gradients (N, C, h, w) of at least single precision."""


class GradientMap(GradientMethod):
    """How much the loss, or the class score, changes with every pixel: the gradient, reduced over the channels.

    `mean_c |dL/dx|^power`, or sum, or max. Source: "Paying More Attention to Attention" (Attention Transfer, arXiv
    1612.03928), section 3.2, where L is the loss and x the image, equations 3 and following; it takes all channels of
    the gradient, for a picture they are reduced. With `symmetric` it is that section's flip-invariant form: the mean of
    the map and of the mirrored image's map, mirrored back.

    Args:
        model: see `MapMethod`.
        layer: see `MapMethod`; None or "input": the images themselves, and `layer` is then "input".
        power: at least 1.
        reduce: "mean", "sum" or "max".
        loss: "cross-entropy" with the asked class as label, or the "score" of the class.
        symmetric: twice the work.
        fuse: see `MapMethod`.
        reshape: see `MapMethod`.

    Raises:
        InputError: as `MapMethod`; a power below 1, an unknown `reduce` or `loss`.
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
        self._of_images = layer is None or stands_for(layer, _IMAGES, model)
        super().__init__(model, layer, fuse=fuse, reshape=reshape)
        self.power = power
        self.reduce: Reduce = reduce
        self.loss: Loss = loss
        self.symmetric = symmetric

    def _find(self, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
        return (_IMAGES,) if self._of_images else super()._find(layer)

    def _graph(self, images: Tensor) -> Graph:
        return graph_from_images(self.model, _IMAGES, images) if self._of_images else super()._graph(images)

    def _by_layer(self, images: Tensor, asked: Asked) -> dict[str, Tensor]:
        if not self.symmetric:
            return super()._by_layer(images, asked)
        maps = super()._by_layer(torch.cat([images, images.flip(3)]), asked)
        halves = {name: part.chunk(2) for name, part in maps.items()}
        return {name: (map_ + mirrored.flip(3)) / 2 for name, (map_, mirrored) in halves.items()}

    def _choose(self, logits: Tensor, asked: Asked) -> Tensor:
        if not self.symmetric:
            return super()._choose(logits, asked)
        return super()._choose(logits[: len(logits) // 2], asked).repeat(2, 1)  # the images decide, not their mirrors

    def _weights(self, logits: Tensor, classes: Tensor) -> Tensor:
        if self.loss == "score":
            return super()._weights(logits, classes)
        # softmax - 1 at the class is minus the sum of the others, which does not round to 0 for a sure network.
        others = class_logits(_wide(logits)).softmax(1).scatter_(1, classes[:, None], 0)
        others.scatter_(1, classes[:, None], -others.sum(1, keepdim=True))
        return others[:, -logits.shape[1] :].to(logits.dtype)  # of one output, the derivative by that of class 1

    def _map(self, features: Tensor, gradients: Tensor) -> Tensor:
        return activation_map(gradients, self.power, self.reduce)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
