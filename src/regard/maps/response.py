"""What a layer responds to, as a method among the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from regard.maps.activation import Reduce, activation_map, check_power
from regard.maps.features import Reshape, arrangement
from regard.maps.fusion import Fuse
from regard.maps.graph import check_ran, hooked, run
from regard.maps.layers import Layer, unwrapped
from regard.maps.method import Asked, MapMethod


class ActivationMap(MapMethod):
    """The activation-based attention map of a layer; it does not depend on the classes, and needs no gradients.

    See `activation_map`. Nothing of the features is kept. For several classes the same map is given several times.

    Args:
        model: see `MapMethod`.
        layer: see `MapMethod`.
        power: at least 1.
        reduce: "mean", "sum" or "max".
        fuse: see `MapMethod`.
        reshape: see `MapMethod`.

    Raises:
        InputError: as `MapMethod`; a power below 1, an unknown `reduce`.
    """

    _differentiates = False

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

    def _by_layer(self, images: Tensor, asked: Asked) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}

        def look(name: str, output: Any) -> None:  # at once, so that what follows may work in place
            arrange = arrangement(unwrapped(self.model), name, output, images, self.reshape)
            maps[name] = activation_map(arrange(output), self.power, self.reduce)

        with hooked(self.model, self.layers, look):
            logits = run(self.model, images)
        count = self._choose(logits, asked).shape[1]
        return {name: maps[name][:, None].repeat(1, count, 1, 1) for name in check_ran(self.layers, maps)}
