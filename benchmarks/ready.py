"""Networks that compute nothing, to time by itself what is done with what networks give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard.maps import Taps


class Ready(nn.Module):
    """The stages of a network without the network: what they gave for a batch lies ready, and so do the gradients that
    come back to them from the rest of the network. A forward and backward moves no memory.

    Args:
        model: the network that gives features and logits.
        images: (N, 3, H, W).
        dtype: to run it in under autocast; None: as it is.
    """

    def __init__(self, model: nn.Module, images: Tensor, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        with torch.no_grad(), torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            with Taps(model) as taps:
                self.logits = model(images).float()
            self.given = taps.features
        self.returned = [torch.randn_like(features) / features.numel() for features in self.given.values()]
        self.stage_names = tuple(self.given)
        for name in self.stage_names:
            self.add_module(name, nn.Identity())
        self.anchor = nn.Parameter(torch.zeros((), device=images.device))  # what asks for gradients

    def forward(self, images: Tensor) -> Tensor:
        n = len(images)
        outputs = [
            self.get_submodule(name)(_Given.apply(self.anchor, features[:n])) for name, features in self.given.items()
        ]
        return _Rest.apply(self.logits[:n], self.returned, *outputs)


class _Given(torch.autograd.Function):
    """Features as if a network had computed them."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, features: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


class _Rest(torch.autograd.Function):
    """Logits as if the rest of a network had computed them from the features."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, returned: list[Tensor], *features: Tensor) -> Tensor:
        ctx.returned = returned
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.returned
