"""Attention maps of layers, made while a model runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.maps.activation import Reduce, activation_map, check_power, passing_map
from regard.maps.features import Reshape
from regard.maps.layers import Layer
from regard.maps.taps import Taps


class MapTaps(Taps):
    """Reads the attention maps of layers while a model runs: `Taps` that keep maps in place of features.

        with MapTaps(model, ["layer3", "layer4"]) as taps:
            logits = model(images)
            maps = taps.maps  # {"layer3": (N, H, W), "layer4": …}

    A map is made as soon as its features are there, so they are read once, while they are near, and of what the model
    does not need itself nothing is held. In training, the gradient that a map sends back is added to the one that comes
    from the rest of the model in a single pass.

    Unlike `Taps` it can run within a compiled function, which then compiles the maps with the model.

    Args:
        model: see `Taps`.
        layers: see `Taps`.
        power: at least 1; see `activation_map`.
        reduce: "mean", "sum" or "max".
        reshape: see `Taps`.

    Raises:
        InputError: as `Taps`; a power below 1, an unknown `reduce`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        *,
        power: float = 2,
        reduce: Reduce = "mean",
        reshape: Reshape | None = None,
    ) -> None:
        check_power(power, reduce)
        super().__init__(model, layers, reshape=reshape)
        self.power = power
        self.reduce: Reduce = reduce

    @property
    def maps(self) -> dict[str, Tensor]:
        """Name -> map (N, H, W) of the last forward, in the order of `layers`; see `Taps.features` for the errors."""
        return super().features

    @property
    def features(self) -> dict[str, Tensor]:
        raise InputError("MapTaps keep maps, no features; ask for .maps, or use Taps")

    def _take(self, name: str, output: Any, arrange: Reshape) -> Tensor | None:
        features = arrange(output)
        passes = features is output and features.requires_grad and not torch.compiler.is_compiling()
        if not passes or self.reduce == "max":
            self._keep(name, activation_map(features, self.power, self.reduce))
            return None
        output, made = passing_map(features, self.power, self.reduce)
        self._keep(name, made)
        return output
