"""Checks of the features that an attention module takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.errors import InputError


def check_features(module: nn.Module, x: Tensor) -> None:
    """Raises an error for features that attention module `module` was not made for, before they reach a kernel.

    Features are (N, C, H, W), in a floating-point dtype, of the `channels` of the module, with H and W of at least 1.
    They have the device of all its parameters and, outside of autocast, the dtype of some; that of a gate may differ.

    Raises:
        InputError: they are something else.
    """
    if torch.jit.is_tracing() or not isinstance(x, Tensor):  # shapes are no numbers then; or a proxy of torch.fx
        return
    kind = type(module).__name__
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise InputError(f"{kind} takes features (N, C, H, W) with C, H and W of at least 1, not {_sizes(x)}")
    if not x.is_floating_point():
        raise InputError(f"{kind} takes features of a floating-point dtype, not {_name(x.dtype)}; convert them first")
    channels = getattr(module, "channels", x.shape[1])
    if x.shape[1] != channels:
        raise InputError(f"{kind} was made for features of {channels} channels, and got {x.shape[1]}: {_sizes(x)}")
    if any(value.device != x.device or value.dtype != x.dtype for value in module.parameters()):
        _check_parameters(module, x)


def _check_parameters(module: nn.Module, x: Tensor) -> None:
    kind, dtypes = type(module).__name__, set()
    for name, value in module.named_parameters():
        if value.device != x.device:
            raise InputError(f"{kind} has {name} on {value.device}, and got features on {x.device}; move one of them")
        if not any(part.startswith("gate") for part in name.split(".")):
            dtypes.add(value.dtype)
    if dtypes and x.dtype not in dtypes and not _autocasts(x.device):
        raise InputError(
            f"{kind} has parameters of {', '.join(sorted(map(_name, dtypes)))}, and got features of {_name(x.dtype)}; "
            "convert one of them, or run under torch.autocast"
        )


def _autocasts(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _sizes(x: Tensor) -> str:
    return f"({', '.join(map(str, x.shape))})"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
