"""Global context."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from regard.attention import kernels
from regard.attention.gated import ChannelAttention, check_features
from regard.attention.gates import Gate, Sigmoid, parse_gate
from regard.attention.modules.sizes import hidden_units
from regard.attention.registry import register
from regard.errors import InputError, unknown


@register("gc")
class GlobalContext(ChannelAttention):
    """Global context (GCNet, arXiv 1904.11492, equation 5).

    `u = W2 relu(layer_norm(W1 c + b1)) + b2` with the context `c = sum_hw(softmax_hw(w . x + b) * x)`, one value per
    channel. The published block, `fusion="add"`, is `x + u`, without a gate; `fusion="scale"` is `x * gate(u)`, as in
    the paper's ablation.

    `W2` and `b2` start at 0, so the published block starts as the identity; `w` starts normal with variance 2 / C,
    `b` at 0.

    Args:
        channels: C.
        reduction: the hidden layer has `max(C // reduction, 1)` units.
        fusion: 'add' or 'scale'.
        gate: turns the logits into factors, with `fusion="scale"`.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 2 C H + 3 H + 2 C + 1 for H hidden units, plus the gate's parameters.

    Raises:
        InputError: `reduction` is below 1, `fusion` is unknown, or there is a gate with `fusion="add"`.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        fusion: Literal["add", "scale"] = "add",
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if fusion not in ("add", "scale"):
            raise unknown("fusion of global context", fusion, ("add", "scale"))
        if fusion == "add" and parse_gate(gate) != Sigmoid():
            raise InputError(f"global context with fusion='add' has no gate, not {gate!r}; fusion='scale' has one")
        super().__init__(channels, gate=gate, device=device, dtype=dtype)
        self.fusion = fusion
        hidden = hidden_units(channels, reduction)
        self.attend = nn.Linear(channels, 1, device=device, dtype=dtype)
        self.fc1 = nn.Linear(channels, hidden, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, channels, device=device, dtype=dtype)
        self._start()

    def _start(self) -> None:
        nn.init.kaiming_normal_(self.attend.weight)
        for parameter in (self.attend.bias, self.fc2.weight, self.fc2.bias):
            nn.init.zeros_(parameter)

    def statistics(self, x: Tensor) -> tuple[Tensor, ...]:
        return kernels.context(x, self.attend.weight.flatten(), self.attend.bias)

    def channel_logits(self, context: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.norm(self.fc1(context))))

    def forward(self, x: Tensor) -> Tensor:
        if self.fusion == "scale":
            return super().forward(x)
        check_features(self, x)
        x, context = self.statistics(x)
        return kernels.add(x, self.channel_logits(context)[:, :, None, None])

    def gate_values(self, x: Tensor) -> Tensor:
        if self.fusion == "add":
            raise InputError("global context with fusion='add' has no gate; fusion='scale' has one")
        return super().gate_values(x)

    @property
    def starts_as_identity(self) -> bool:
        """Whether the module is the identity at initialisation; `attach` then does not wrap it in `IdentityStart`."""
        return self.fusion == "add"

    def extra_repr(self) -> str:
        return f"channels={self.channels}, fusion={self.fusion!r}"
