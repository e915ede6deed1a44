"""Attention that starts as the identity, for networks with trained weights."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from regard.attention import kernels
from regard.attention.gated import AttentionModule, ChannelAttention, check_features

Start = Literal["published", "identity"]


class IdentityStart(AttentionModule):
    """An attention module that starts as the identity: `x + a (module(x) - x)` with one learned `a`, initially 0.

    For a module `x * gate` this is `x * (1 + a (gate - 1))`. At `a = 0` the output equals the input, bit for bit.
    `a` has a gradient from the first step on, the module from the second. A module with one factor per channel computes
    only its factors, so that the features are read and written once.

    Args:
        module: features (N, C, H, W) -> (N, C, H, W), all finite.

    Shape: (N, C, H, W) -> (N, C, H, W), in the dtype of the features.
    Parameters: `strength` (1,), which is `a`, plus the parameters of `module`.
    """

    def __init__(
        self, module: nn.Module, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.module = module
        self.by_channel = isinstance(module, ChannelAttention) and not getattr(module, "starts_as_identity", False)
        self.strength = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self._start()

    def _start(self) -> None:
        nn.init.zeros_(self.strength)

    def forward(self, x: Tensor) -> Tensor:
        if self.by_channel:
            module = cast(ChannelAttention, self.module)
            check_features(module, x)
            x, factors = module.factors(x)
            return kernels.scale(x, 1 - self.strength * (1 - factors))
        return torch.lerp(self.module(x), x, 1 - self.strength.to(x.dtype))  # initially x - (1 - 1) (x - module(x))
