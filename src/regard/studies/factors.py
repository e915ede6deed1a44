"""What attention modules multiply features with."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor, nn

from regard import attention
from regard.errors import InputError


def gate_factors(module: nn.Module, x: Tensor) -> Tensor:
    """What an attention module multiplies the features `x` with.

    It is `gate(logits(x))`, and where a module has several gates, or does more with one, what becomes of them:

    - bottleneck attention: 1 + gate, so from 1 to 2 with a sigmoid;
    - CBAM: the product of its two gates, the second computed from what the first lets through;
    - coordinate attention: the product of the gates of row and column;
    - dense and implicit attention: what its cell gives, an output gate times the gate;
    - triplet attention: the mean of its three gates;
    - a module of another class: what its method `factors(x)` gives, if it has one.

    Where the module shuffles channels, that comes after the product: with shuffle attention
    `(x * gate_factors(module, x))[:, module.order]` is the output.

    Args:
        module: an attention module of regard, or one that has a method `factors`.
        x: (N, C, H, W), the module's input.

    Returns:
        Broadcastable to `x`: (N, C, 1, 1), (N, C, H, W), (N, 1, H, W), …

    Raises:
        InputError: the module has no gate, as global context that is added; it takes part of its gate from the block
            before it, as dense and implicit attention does; or it is of an unknown class.
    """
    own = getattr(module, "factors", None)
    return own(x) if callable(own) else _factors(module, x)


def has_gate(module: nn.Module) -> bool:
    """Whether `gate_factors`, or the cell of dense and implicit attention, says what the module multiplies with."""
    if isinstance(module, attention.GlobalContext):
        return module.fusion == "scale"
    if callable(getattr(module, "factors", None)):
        return True
    return _factors.dispatch(type(module)) is not _factors.dispatch(nn.Module)


@singledispatch
def _factors(module: nn.Module, x: Tensor) -> Tensor:
    raise InputError(
        f"{type(module).__name__} does not say what it multiplies features with; give it a method factors(x)"
    )


@_factors.register
def _gated(module: attention.GatedAttention, x: Tensor) -> Tensor:
    return module.gate(module.logits(x))


@_factors.register
def _bottleneck(module: attention.BottleneckAttention, x: Tensor) -> Tensor:
    return 1 + module.gate(module.logits(x))


@_factors.register
def _cbam(module: attention.ConvolutionalBlockAttention, x: Tensor) -> Tensor:
    by_channel = gate_factors(module.channel, x)
    return by_channel * module.spatial.factors(x * by_channel.to(x.dtype))


@_factors.register
def _coordinate(module: attention.CoordinateAttention, x: Tensor) -> Tensor:
    by_row, by_column = module.strip_logits(x.mean(3), x.mean(2))
    return module.gate_h(by_row) * module.gate_w(by_column)


@_factors.register
def _dia(module: attention.DIA, x: Tensor) -> Tensor:
    if module.number:
        raise InputError(
            f"block {module.number + 1} of a stage with dense and implicit attention takes part of its gate from the "
            "block before; gate_activations reads it while the network runs"
        )
    mean = x.mean((2, 3))
    return dia_factors(module.cell(mean, torch.zeros_like(mean), torch.zeros_like(mean)))


@_factors.register
def _context(module: attention.GlobalContext, x: Tensor) -> Tensor:
    if not has_gate(module):
        raise InputError("global context with fusion='add' adds and has no gate; fusion='scale' has one")
    return module.gate(module.logits(x))


@_factors.register
def _groups(module: attention.SpatialGroupEnhance, x: Tensor) -> Tensor:
    return module.gate(module.logits(x)).repeat_interleave(module.channels // module.groups, dim=1)


@_factors.register
def _triplet(module: attention.TripletAttention, x: Tensor) -> Tensor:
    by_row = module.cw.factors(x.transpose(1, 2)).transpose(1, 2)  # (N, C, 1, W)
    by_column = module.hc.factors(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)  # (N, C, H, 1)
    return (module.hw.factors(x) + by_row + by_column) / 3


def dia_factors(state: tuple[Tensor, Tensor]) -> Tensor:
    """The factors (N, C, 1, 1) in what the cell of dense and implicit attention gives."""
    return state[0][:, :, None, None]
