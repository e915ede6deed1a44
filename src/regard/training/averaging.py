"""The moving average of the weights."""

from __future__ import annotations

from timm.utils import ModelEmaV3
from torch import nn


class Average:
    """A moving average of a network's weights and buffers, by timm, or where none is asked for the network itself.

    The decay grows to `decay` over the first steps, as `1 - (1 + step) ^ (-2 / 3)`, so that a short run is not held
    back by where it began.

    Args:
        network: that learns.
        decay: a step, in [0, 1); 0: none.

    Attributes:
        kept: what is tested and saved.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._average = ModelEmaV3(network, decay, use_warmup=True) if decay else None
        self.kept: nn.Module = network if self._average is None else self._average.module

    def update(self, step: int) -> None:
        """Takes in the weights after the step of this number, from 0."""
        if self._average is not None:
            self._average.update(self._network, step=step + 1)
