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

    For the means `y` and the state `(h, c)`, `z = input(y) + hidden(h)` is split into four parts of C values:
    `c' = sigmoid(z_f) c + sigmoid(z_i) tanh(z_c)` and `h' = sigmoid(z_o) gate(c')`. Where an LSTM has one layer,
    `input` and `hidden` are two, with biases and a ReLU between; where an LSTM has `tanh(c')` there is a gate.

    Shape: y, h, c: (N, C) -> h', c': (N, C). h' holds the factors.
    Parameters: 10 C K + 2 K + 8 C for K hidden units, and those of the gate.
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
        narrow = hidden_units(channels, reduction)

        def layers() -> nn.Sequential:
            wide = 4 * channels
            return nn.Sequential(nn.Linear(channels, narrow, **factory), nn.ReLU(), nn.Linear(narrow, wide, **factory))

        self.input = layers()
        self.hidden = layers()
        self.gate = parse_gate(gate).build(channels, device=device, dtype=dtype)

    def forward(self, mean: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        enter, keep, candidate, out = (self.input(mean) + self.hidden(h)).chunk(4, dim=1)
        c = torch.sigmoid(keep) * c + torch.sigmoid(enter) * torch.tanh(candidate)
        return torch.sigmoid(out) * self.gate(c[:, :, None, None])[:, :, 0, 0], c


class _Passed:
    """The state that the blocks of a stage pass on within one forward pass; it is neither copied nor saved."""

    state: tuple[int, Tensor, Tensor] | None = None  # the number of the block it is for, h, c

    def __getstate__(self) -> dict[str, Any]:
        return {}


@register("dia")
class DIA(AttentionModule):
    """Dense and implicit attention (DIANet, arXiv 1905.10671): `x * h'`, with h' and c' passed to the next block.

    The blocks of a stage share one cell, `DIACell`; `for_stage` makes them. The state starts at zero in the first block
    of every forward pass, and is dropped after the last block. A block created alone is a stage of one block.

    The blocks of a stage run in order, in one thread; a block that runs out of order raises an error. With
    activation checkpointing, a stage is checkpointed as a whole.

    Args:
        channels: C.
        reduction: the cell's hidden layers have `max(C // reduction, 1)` units.
        gate: turns the cell's state into factors, in place of the published sigmoid; the blocks of a stage share it.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Parameters: those of the cell, 10 C K + 2 K + 8 C for K hidden units, and those of the gate; once per stage.

    Raises:
        InputError: `reduction` is below 1; in a forward pass: the block before did not run just before.
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
        self._passed, self.number, self.blocks = _Passed(), 0, 1

    @classmethod
    def for_stage(cls, channels: Sequence[int], **options: Any) -> list[nn.Module]:
        """The modules of a stage, one per block, in order, sharing one cell.

        Args:
            channels: C of each block, all the same.
            options: as for the class.

        Raises:
            InputError: the blocks differ in their channels, or there are none.
        """
        if len(set(channels)) != 1:
            raise InputError(
                f"dense and implicit attention shares one cell along a stage, whose blocks need one number of "
                f"channels, not {', '.join(map(str, channels)) or 'none'}; choose stages where it does not change"
            )
        first = create(cls, channels[0], **options)  # which checks the options
        assert isinstance(first, cls)
        first.blocks = len(channels)
        modules: list[nn.Module] = [first]
        for number in range(1, first.blocks):
            module = cls.__new__(cls)
            nn.Module.__init__(module)
            module.channels, module.cell = first.channels, first.cell
            module._passed, module.number, module.blocks = first._passed, number, first.blocks
            modules.append(module)
        return modules

    def gate_values(self, x: Tensor) -> Tensor:
        """The factors (N, C, 1, 1) of the first block of a stage; those of the others depend on the block before.

        Raises:
            InputError: this is not the first block.
        """
        if self.number:
            raise InputError(
                f"block {self.number + 1} of a stage with dense and implicit attention takes part of its gate from the "
                "block before; studies.gate_activations reads it while the network runs"
            )
        mean = kernels.channel_mean(x)
        h, _ = self.cell(mean, torch.zeros_like(mean), torch.zeros_like(mean))
        return h[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        check_features(self, x)
        mean = kernels.channel_mean(x)
        h, c = self._received(mean)
        h, c = self.cell(mean, h, c)
        if self.number + 1 < self.blocks:
            self._passed.state = (self.number + 1, h, c)
        return kernels.scale(x, h[:, :, None, None])

    def _received(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The state before this block."""
        state, self._passed.state = self._passed.state, None
        if self.number == 0:
            return torch.zeros_like(mean), torch.zeros_like(mean)
        if state is None or state[0] != self.number:
            raise InputError(
                f"block {self.number + 1} of {self.blocks} of a stage with dense and implicit attention ran without "
                f"block {self.number} just before it; run, or checkpoint, the stage as a whole"
            )
        return state[1], state[2]

    def extra_repr(self) -> str:
        return f"channels={self.channels}, block {self.number + 1} of {self.blocks}"
