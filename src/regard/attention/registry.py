"""The names of the attention modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from regard.attention.gates import Gate
from regard.errors import InputError, unknown

_MODULES: dict[str, type[nn.Module]] = {}
_Module = TypeVar("_Module", bound=type[nn.Module])


def register(name: str) -> Callable[[_Module], _Module]:
    """A class decorator that makes an attention module known as `name`.

    The class takes `channels` first, then keywords, with `gate`, `device` and `dtype` among them.
    """

    def enter(module: _Module) -> _Module:
        if name in _MODULES:
            raise InputError(f"an attention module {name!r} is registered already: {_MODULES[name].__qualname__}")
        _MODULES[name] = module
        return module

    return enter


def names() -> list[str]:
    """The names of all attention modules, sorted."""
    return sorted(_MODULES)


def is_registered(module: nn.Module | None) -> bool:
    """Whether `module` is an attention module of this registry."""
    return isinstance(module, tuple(_MODULES.values()))


def create(
    name: str,
    channels: int,
    *,
    gate: Gate | str = "sigmoid",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """The attention module `name` for features of `channels` channels.

    Args:
        name: one of `names()`.
        channels: C of the features (N, C, H, W).
        gate: 'sigmoid', 'sub-attention-K', or a specification such as `SubAttention(order=1)`.
        options: the module's own, for example `groups` of 'shuffle' and `reduction` of 'se'.

    Raises:
        InputError: an unknown name, an option the module does not have, or channels that do not suit it.
    """
    if name not in _MODULES:
        raise unknown("attention module", name, _MODULES)
    if channels < 1:
        raise InputError(f"an attention module needs at least 1 channel, not {channels}")
    own = [key for key in inspect.signature(_MODULES[name]).parameters if key != "channels"]
    for option in options:
        if option not in own:
            raise unknown(f"option of attention module {name!r}", option, own)
    return _MODULES[name](channels, gate=gate, device=device, dtype=dtype, **options)
