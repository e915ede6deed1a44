"""The names of the attention modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from regard.attention.gates import Gate, Sigmoid, parse_gate
from regard.errors import InputError, first_line, unknown

_MODULES: dict[str, type[nn.Module]] = {}
_Module = TypeVar("_Module", bound=type[nn.Module])
_UNNAMED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


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


def get(name: str) -> type[nn.Module]:
    """The class of the attention module `name`.

    Raises:
        InputError: the name is unknown.
    """
    if name not in _MODULES:
        raise unknown("attention module", name, _MODULES)
    return _MODULES[name]


def is_registered(module: nn.Module | None) -> bool:
    """Whether `module` is an attention module of this registry."""
    return isinstance(module, tuple(_MODULES.values()))


def create(
    name: str | Callable[..., nn.Module],
    channels: int,
    *,
    gate: Gate | str = "sigmoid",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """The attention module `name` for features of `channels` channels.

    Args:
        name: one of `names()`, or a class or function that makes an attention module of a number of channels, such as
            those of `timm.layers`. It is given `gate`, `device` and `dtype` if it takes them.
        channels: C of the features (N, C, H, W).
        gate: 'sigmoid', 'hard-sigmoid', 'sub-attention-K', or a specification such as `SubAttention(order=1)`.
        options: the module's own, for example `groups` of 'shuffle' and `reduction` of 'se'.

    Raises:
        InputError: an unknown name, an option the module does not have or a value it does not take, a gate for a
            module that takes none, or channels that do not suit it.
    """
    if isinstance(name, str):
        make: Callable[..., nn.Module] = get(name)
        called = repr(name)
    elif callable(name) and not isinstance(name, nn.Module):
        make = name
        called = getattr(name, "__name__", repr(name))
    else:
        raise InputError(f"an attention module is given by its name or its class, not {type(name).__name__}")
    if channels < 1:
        raise InputError(f"an attention module needs at least 1 channel, not {channels}")
    parameters = inspect.signature(make).parameters
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    options_of_module = [
        key for key, parameter in parameters.items() if key != "channels" and parameter.kind not in _UNNAMED
    ]
    for option in options:
        if option not in options_of_module and not open_ended:
            raise unknown(f"option of attention module {called}", option, options_of_module)
    arguments = dict(options)
    if "gate" in parameters:
        arguments["gate"] = gate
    elif parse_gate(gate) != Sigmoid():
        raise InputError(f"attention module {called} takes no gate, so none can be {gate!r}; leave the gate out")
    placed = {key: value for key, value in (("device", device), ("dtype", dtype)) if key in parameters}
    try:
        module = make(channels, **arguments, **placed)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # whatever layers raise for a value of another kind
        if not options:
            raise
        raise InputError(
            f"attention module {called} does not take the options {options} ({first_line(error)})"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{called} gave no module but {type(module).__name__}; an attention module was expected")
    return module if len(placed) == 2 else module.to(device=device, dtype=dtype)


def layer(name: str, *, gate: Gate | str = "sigmoid", **options: Any) -> Callable[..., nn.Module]:
    """A layer function of the attention module `name`, for timm's models, which build their own layers.

    Example::

        timm.create_model("resnet50", block_args={"attn_layer": attention.layer("shuffle", groups=32)})
        timm.create_model("efficientnet_b0", se_layer=attention.layer("eca"))

    It is called with the number of channels and the keywords that timm gives: `rd_ratio` or `rd_channels` is the
    `reduction` of modules that have one, if `options` do not say otherwise; `act_layer`, `gate_layer` and `norm_layer`
    are not used, since every module has its own.

    Args:
        name, gate, options: see `create`.

    Raises:
        InputError: the name is unknown; when the layer is built, see `create`.
    """
    get(name)
    return partial(_timm_layer, name, gate, options)


def _timm_layer(
    name: str,
    gate: Gate | str,
    options: dict[str, Any],
    channels: int,
    *,
    rd_ratio: float | None = None,
    rd_channels: int | None = None,
    act_layer: object = None,
    gate_layer: object = None,
    norm_layer: object = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    if rd_ratio is not None or rd_channels is not None:
        if "reduction" not in inspect.signature(get(name)).parameters:  # timm asks by trying, and expects this error
            raise TypeError(f"attention module {name!r} takes no rd_ratio and no rd_channels")
        ratio = rd_channels / channels if rd_channels else rd_ratio
        options = {"reduction": max(1, round(1 / ratio)) if ratio else 1, **options}
    return create(name, channels, gate=gate, device=device, dtype=dtype, **options)
