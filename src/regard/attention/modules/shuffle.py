"""Shuffle attention."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import functional, kernels
from regard.attention.gated import FusedAttention
from regard.attention.gates import Gate, SubAttentionGate
from regard.attention.modules.sizes import fitting_groups
from regard.attention.registry import register
from regard.errors import InputError


@register("shuffle")
class ShuffleAttention(FusedAttention):
    """Shuffle attention (SA-Net, arXiv 2102.00240, equations 1 to 4).

    The channels are split into `groups`, each group into halves. The first half has a channel gate,
    `u = cweight * mean_hw(x) + cbias`, the second a spatial gate, `u = sweight * norm(x) + sbias` with `norm` a group
    norm with one channel per group. The groups share these parameters. Finally, a channel shuffle interleaves the two
    halves of the output: output channel `2 i + j` is input channel `j C / 2 + i`.

    Parameter names and shapes are the same as in the published code. `gate_values` are the factors before the shuffle:
    `(x * gate_values(x))[:, order]` is the output.

    Args:
        channels: C, a multiple of `2 * groups`.
        groups: G; the published value is 64.
        shuffle: whether to shuffle the channels (False is the paper's ablation).
        gate: turns the logits into factors; a gate with parameters has separate ones for each of the C channels.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 3 C / G, plus the gate's parameters.

    Raises:
        InputError: `channels` is not a multiple of `2 * groups`.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 64,
        shuffle: bool = True,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if groups < 1 or channels % (2 * groups):
            raise InputError(
                f"shuffle attention with {groups} groups needs a multiple of {2 * groups} channels, not {channels} "
                f"({fitting_groups(channels, 2)})"
            )
        super().__init__(channels, gate=gate, device=device, dtype=dtype)
        self.groups = groups
        self.shuffle = shuffle
        half = channels // (2 * groups)
        self.cweight = nn.Parameter(torch.empty(1, half, 1, 1, device=device, dtype=dtype))
        self.cbias = nn.Parameter(torch.empty(1, half, 1, 1, device=device, dtype=dtype))
        self.sweight = nn.Parameter(torch.empty(1, half, 1, 1, device=device, dtype=dtype))
        self.sbias = nn.Parameter(torch.empty(1, half, 1, 1, device=device, dtype=dtype))
        self.gn = nn.GroupNorm(half, half, device=device, dtype=dtype)
        self._start()

    def _start(self) -> None:
        # Every gate starts at sigmoid(1), as published.
        for weight, bias in ((self.cweight, self.cbias), (self.sweight, self.sbias)):
            nn.init.zeros_(weight)
            nn.init.ones_(bias)

    def logits(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        first, second = x.reshape(n * self.groups, c // self.groups, h, w).chunk(2, dim=1)  # (N G, C/2G, H, W)
        channel_logits = self.cweight * first.mean((2, 3), keepdim=True) + self.cbias  # (N G, C/2G, 1, 1)
        pixel_logits = self.sweight * self.gn(second) + self.sbias  # (N G, C/2G, H, W)
        return torch.cat((channel_logits.expand_as(pixel_logits), pixel_logits), dim=1).reshape(n, c, h, w)

    def fused(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if kernels.in_reference():  # the published operations, for counting
            return self.by_formula(x)
        return kernels.shuffle_gate(x, *self._linear(), w, b, self.gn.eps, self.shuffle)[0]

    def by_formula(self, x: Tensor) -> Tensor:
        y = super().by_formula(x)
        return F.channel_shuffle(y, 2) if self.shuffle else y

    def _linear(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scale and shift of every channel, (C,) each, and `by_pixel`."""
        scale = torch.cat((self.cweight.flatten(), self.sweight.flatten() * self.gn.weight)).repeat(self.groups)
        shift = torch.cat((self.cbias.flatten(), self.sweight.flatten() * self.gn.bias + self.sbias.flatten()))
        return scale, shift.repeat(self.groups), self.by_pixel

    @property
    def by_pixel(self) -> Tensor:
        """Bool (C,): whether a channel has a spatial gate, as in the second half of each group."""
        group = torch.cat((torch.zeros_like(self.cweight), torch.ones_like(self.sweight)), 1)
        return group.flatten().bool().repeat(self.groups)

    @property
    def order(self) -> Tensor:
        """The index of the input channel of each output channel, (C,)."""
        channels = torch.arange(self.channels, device=self.cweight.device)
        return channels.reshape(2, -1).T.flatten() if self.shuffle else channels

    @property
    def can_be_ordered(self) -> bool:
        """Whether the module has a shuffle, and a gate without parameters or with parameters of a known order."""
        return self.shuffle and (isinstance(self.gate, SubAttentionGate) or not list(self.gate.parameters()))

    def ordered(self) -> OrderedShuffleAttention:
        """The module for features in shuffled order, which it keeps; see `OrderedShuffleAttention`."""
        return OrderedShuffleAttention(self)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, groups={self.groups}, shuffle={self.shuffle}"


class OrderedShuffleAttention(FusedAttention):
    """Shuffle attention for inference, on features whose channels are already in the shuffled order.

    `module.ordered()(x[:, module.order])` equals `module(x)`. It has no trainable parameters.

    Shape: (N, C, H, W) -> (N, C, H, W).
    """

    scale: Tensor
    shift: Tensor
    by_pixel: Tensor

    @torch.no_grad()
    def __init__(self, module: ShuffleAttention) -> None:
        super().__init__(module.channels)
        self.gate = copy.deepcopy(module.gate).requires_grad_(False)
        for parameter in self.gate.parameters():  # (order, C, 1, 1)
            parameter.copy_(parameter[:, module.order])
        self.eps = module.gn.eps
        for name, value in zip(("scale", "shift", "by_pixel"), module._linear(), strict=True):
            self.register_buffer(name, value[module.order])
        self.train(module.training)

    def logits(self, x: Tensor) -> Tensor:
        return functional.shuffle_logits(x, self.scale, self.shift, self.by_pixel, self.eps)

    def fused(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return kernels.shuffle_gate(x, self.scale, self.shift, self.by_pixel, w, b, self.eps, False)[0]
