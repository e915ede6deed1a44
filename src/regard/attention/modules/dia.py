"""Dense and implicit attention: one recurrent cell shared by the blocks of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention import kernels
from regard.attention.gated import AttentionModule, check_features
from regard.attention.gates import Gate, parse_gate
from regard.attention.modules.sizes import hidden_units
from regard.attention.registry import create, register
from regard.errors import InputError


class DIACell(AttentionModule):
    """The recurrent cell of DIANet (arXiv 1905.10671, section 3.2).

    For channel means `y` and the state `(h, c)`, `z = input(y) + hidden(h)` is split into four parts of C values:
    `c' = sigmoid(z_f) c + sigmoid(z_i) tanh(z_c)` and `h' = sigmoid(z_o) gate(c')`. Unlike in an LSTM, `input` and
    `hidden` have two layers each, with biases and a ReLU in between, and the gate replaces the tanh of `c'`.

    All are (N, C); h' are the factors.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 4,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: Any = {"device": device, "dtype": dtype}
        width = hidden_units(channels, reduction)

        def layers() -> nn.Sequential:
            first, second = nn.Linear(channels, width, **factory), nn.Linear(width, 4 * channels, **factory)
            return nn.Sequential(first, nn.ReLU(), second)

        self.input = layers()
        self.hidden = layers()
        self.gate = parse_gate(gate).build(channels, device=device, dtype=dtype)

    def forward(self, mean: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        input_gate, forget_gate, candidate, output_gate = (self.input(mean) + self.hidden(h)).chunk(4, dim=1)
        c = torch.sigmoid(forget_gate) * c + torch.sigmoid(input_gate) * torch.tanh(candidate)
        return torch.sigmoid(output_gate) * self.gate(c[:, :, None, None])[:, :, 0, 0], c


class _StageState:
    """The state of the cell between two blocks of a stage in a forward pass; it is neither copied nor saved."""

    state: tuple[int, Tensor, Tensor] | None = None  # the number of the next block, h, c

    def __getstate__(self) -> dict[str, Any]:
        return {}


@register("dia")
class DIA(AttentionModule):
    """Dense and implicit attention (DIANet, arXiv 1905.10671): `x * h'`, with h' and c' passed to the next block.

    The blocks of a stage share one cell, `DIACell`; `for_stage` creates them. The state is zero at the first block of
    every forward pass, and is discarded after the last block. A block created alone is a stage of one block.

    The blocks of a stage must run in order, in one thread; a block that runs out of order raises an error. Activation
    checkpointing must checkpoint a stage as a whole.

    Args:
        channels: C.
        reduction: the cell's hidden layers have `max(C // reduction, 1)` units.
        gate: turns the cell's state into factors, in place of the published sigmoid; the blocks of a stage share it.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: 10 C K + 2 K + 8 C for K hidden units of the cell, plus the gate's parameters; once per stage.

    Raises:
        InputError: `reduction` is below 1; or, in a forward pass, the preceding block did not run before this one.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 4,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.cell = DIACell(channels, reduction=reduction, gate=gate, device=device, dtype=dtype)
        self._stage_state, self.number, self.blocks = _StageState(), 0, 1

    @classmethod
    def for_stage(cls, channels: Sequence[int], **options: Any) -> list[nn.Module]:
        """The modules of a stage, one per block, in order, sharing one cell.

        Args:
            channels: C of each block, all equal.
            options: as for the class.
        """
        if len(set(channels)) != 1:
            raise InputError(
                "dense and implicit attention needs the same number of channels in all blocks of a stage, because they "
                f"share one cell, not {', '.join(map(str, channels)) or 'none'}; choose other stages"
            )
        first = create(cls, channels[0], **options)  # checks the options
        assert isinstance(first, cls)
        first.blocks = len(channels)
        modules: list[nn.Module] = [first]
        for number in range(1, first.blocks):
            module = cls.__new__(cls)
            nn.Module.__init__(module)
            module.channels, module.cell = first.channels, first.cell
            module._stage_state, module.number, module.blocks = first._stage_state, number, first.blocks
            modules.append(module)
        return modules

    def gate_values(self, x: Tensor) -> Tensor:
        """The factors (N, C, 1, 1) of the first block of a stage; later factors depend on preceding blocks."""
        if self.number:
            raise InputError(
                f"the gate of block {self.number + 1} of a stage with dense and implicit attention depends on the "
                "preceding block; studies.gate_activations measures it while the network runs"
            )
        mean = kernels.channel_mean(x)
        h, _ = self.cell(mean, torch.zeros_like(mean), torch.zeros_like(mean))
        return h[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        mean = kernels.channel_mean(x)
        h, c = self.cell(mean, *self._take_state(mean))
        if self.number + 1 < self.blocks:
            self._stage_state.state = (self.number + 1, h, c)
        return kernels.scale(x, h[:, :, None, None])

    def _take_state(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The state h, c before this block, removed from the stage."""
        state, self._stage_state.state = self._stage_state.state, None
        if self.number == 0:
            return torch.zeros_like(mean), torch.zeros_like(mean)
        if state is None or state[0] != self.number:
            raise InputError(
                f"block {self.number + 1} of {self.blocks} of a stage with dense and implicit attention ran without "
                f"block {self.number} before it; run, or checkpoint, the stage as a whole"
            )
        return state[1], state[2]

    def extra_repr(self) -> str:
        return f"channels={self.channels}, block {self.number + 1} of {self.blocks}"
