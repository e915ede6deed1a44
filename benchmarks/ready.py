"""A network with precomputed outputs, for timing losses and hooks without the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard.maps import Taps


class Ready(nn.Module):
    """The stages of a network with precomputed features, logits, and gradients from the layers after each stage.

    Its forward and backward neither compute nor copy anything.

    Args:
        model: the network to compute features and logits with.
        images: (N, 3, H, W).
        dtype: dtype of autocast; None: no autocast.
    """

    def __init__(self, model: nn.Module, images: Tensor, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        with torch.no_grad(), torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            with Taps(model) as taps:
                self.logits = model(images).float()
            self.features = taps.features
        self.gradients = [torch.randn_like(features) / features.numel() for features in self.features.values()]
        self.stage_names = tuple(self.features)
        for name in self.stage_names:
            self.add_module(name, nn.Identity())
        self.anchor = nn.Parameter(torch.zeros((), device=images.device))  # makes outputs require gradients

    def forward(self, images: Tensor) -> Tensor:
        n = len(images)
        outputs = [
            self.get_submodule(name)(_Features.apply(self.anchor, features[:n]))
            for name, features in self.features.items()
        ]
        return _Logits.apply(self.logits[:n], self.gradients, *outputs)


class _Features(torch.autograd.Function):
    """Returns features as if a network had computed them."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, features: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


class _Logits(torch.autograd.Function):
    """Returns logits as if they were computed from the features."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gradients: list[Tensor], *features: Tensor) -> Tensor:
        ctx.gradients = gradients
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.gradients
