"""SimAM."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.attention import kernels
from regard.attention.gated import GatedAttention
from regard.attention.gates import Gate
from regard.attention.registry import register
from regard.errors import InputError


@register("simam")
class SimAM(GatedAttention):
    """SimAM (Yang et al., ICML 2021, equations 5 and 6).

    `u = (x - mean_hw(x))^2 / (4 (var_hw(x) + e_lambda)) + 1/2`, the inverse of a neuron's minimal energy: one logit per
    pixel and channel, without parameters. The variance has H W - 1 in the denominator, as in the authors' code (the
    paper has H W); for one pixel it is 0.

    Args:
        channels: C.
        e_lambda: the regularisation of the energy, above 0; the published default is 1e-4 (1e-1 on ImageNet).
        gate: turns the logits into factors.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: only the gate's.

    Raises:
        InputError: `e_lambda` is not above 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        e_lambda: float = 1e-4,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not e_lambda > 0:
            raise InputError(f"e_lambda of SimAM must be above 0, not {e_lambda}")
        super().__init__(channels, gate=gate, device=device, dtype=dtype)
        self.e_lambda = e_lambda

    def logits(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # squares of 256 overflow in float16
        x, mean, variance = kernels.channel_mean_variance(x)
        squares = (x - mean[:, :, None, None]).square()
        return squares / (4 * (variance[:, :, None, None] + self.e_lambda)) + 0.5

    def extra_repr(self) -> str:
        return f"channels={self.channels}, e_lambda={self.e_lambda}"
