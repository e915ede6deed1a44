"""The registry of attention modules, and their creation by name."""

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
    """Returns a class decorator that registers an attention module under `name`.

    The constructor's first parameter is `channels`; its keyword parameters include `gate`, `device` and `dtype`.
    """

    def decorator(module: _Module) -> _Module:
        if name in _MODULES:
            raise InputError(f"an attention module {name!r} is registered already: {_MODULES[name].__qualname__}")
        _MODULES[name] = module
        return module

    return decorator


def names() -> list[str]:
    """The names of all attention modules, sorted."""
    return sorted(_MODULES)


def get(name: str) -> type[nn.Module]:
    """The class of the attention module `name`."""
    if name not in _MODULES:
        raise unknown("attention module", name, _MODULES)
    return _MODULES[name]


def is_registered(module: nn.Module | None) -> bool:
    """Whether the class of `module`, or a base of it, is registered."""
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
        name: one of `names()`, or a class or function that takes a number of channels and returns an attention module,
            such as those of `timm.layers`. `gate`, `device` and `dtype` are passed to it if it has these parameters.
        channels: C of the features (N, C, H, W).
        gate: 'sigmoid', 'hard-sigmoid', 'sub-attention-K', or a specification such as `SubAttention(order=1)`.
        options: options of the module, for example `groups` of 'shuffle' and `reduction` of 'se'.

    Raises:
        InputError: an unknown name, an unknown option or an invalid value of one, a gate for a module without a gate,
            or a number of channels that the module does not support.
    """
    if isinstance(name, str):
        factory: Callable[..., nn.Module] = get(name)
        label = repr(name)
    elif callable(name) and not isinstance(name, nn.Module):
        factory = name
        label = getattr(name, "__name__", repr(name))
    else:
        raise InputError(f"an attention module is given by its name or its class, not {type(name).__name__}")
    if channels < 1:
        raise InputError(f"an attention module needs at least 1 channel, not {channels}")
    parameters = inspect.signature(factory).parameters
    takes_any_keyword = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    option_names = [
        key for key, parameter in parameters.items() if key != "channels" and parameter.kind not in _UNNAMED
    ]
    for option in options:
        if option not in option_names and not takes_any_keyword:
            raise unknown(f"option of attention module {label}", option, option_names)
    arguments = dict(options)
    if "gate" in parameters:
        arguments["gate"] = gate
    elif parse_gate(gate) != Sigmoid():
        raise InputError(f"attention module {label} has no gate, but gate is {gate!r}; leave it out")
    tensor_options = {key: value for key, value in (("device", device), ("dtype", dtype)) if key in parameters}
    try:
        module = factory(channels, **arguments, **tensor_options)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # layers raise any of these for values of the wrong type
        if not options:
            raise
        raise InputError(
            f"attention module {label} does not take the options {options} ({first_line(error)})"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{label} returned {type(module).__name__}; expected an attention module, an nn.Module")
    return module if len(tensor_options) == 2 else module.to(device=device, dtype=dtype)


def layer(name: str, *, gate: Gate | str = "sigmoid", **options: Any) -> Callable[..., nn.Module]:
    """Returns a function that creates the attention module `name`, for timm's models, which create their own layers.

    Example::

        timm.create_model("resnet50", block_args={"attn_layer": attention.layer("shuffle", groups=32)})
        timm.create_model("efficientnet_b0", se_layer=attention.layer("eca"))

    The function takes the number of channels and timm's keywords: `rd_ratio` or `rd_channels` sets the `reduction` of
    modules that have one, unless `options` contain it; `act_layer`, `gate_layer` and `norm_layer` are ignored, since
    every module has its own.

    Args:
        name, gate, options: see `create`.

    Raises:
        InputError: the name is unknown; or, when the layer is created, as `create`.
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
        if "reduction" not in inspect.signature(get(name)).parameters:  # timm tries the keyword and catches this error
            raise TypeError(f"attention module {name!r} takes no rd_ratio and no rd_channels")
        ratio = rd_channels / channels if rd_channels else rd_ratio
        options = {"reduction": max(1, round(1 / ratio)) if ratio else 1, **options}
    return create(name, channels, gate=gate, device=device, dtype=dtype, **options)
