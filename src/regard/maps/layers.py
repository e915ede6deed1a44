"""Finding the layers of a model by name, by module, or by itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from torch import nn

from regard.errors import InputError
from regard.stages import COMPILED, stages, unwrapped
from regard.with_attention import named_layers, without_attention

Layer = str | nn.Module


def is_compiled(model: nn.Module) -> bool:
    """Whether the model, or a module in it, is compiled."""
    return any(
        isinstance(getattr(module, COMPILED, None), nn.Module) or module._compiled_call_impl is not None
        for module in model.modules()
    )


def readable(model: nn.Module) -> nn.Module:
    """The model inside its wrappers, whose layers can be read.

    Raises:
        InputError: a `DataParallel` of several GPUs.
    """
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise InputError(
            f"the model is wrapped in DataParallel, which runs copies of its layers on {len(model.device_ids)} GPUs, "
            "where they cannot be read; give the model inside (model.module), or wrap it in DistributedDataParallel"
        )
    return unwrapped(model)


def find_layers(model: nn.Module, layers: Layer | Sequence[Layer] | None = None) -> dict[str, nn.Module]:
    """The layers as name -> module, in the order given; None stands for the stages, in order of execution.

    Names are those of `model.named_modules()`, without what `torch.compile`, `DistributedDataParallel` and
    `DataParallel` put before and between them.

    Raises:
        InputError: a name or a module that the model does not have; an empty sequence; a `DataParallel` of several
            GPUs.
    """
    model = readable(model)
    if layers is None:
        return stages(model)
    if isinstance(layers, str | nn.Module):
        layers = [layers]
    names = [layer if isinstance(layer, str) else _name_of(layer, model) for layer in layers]
    modules = {name: _submodule(model, name) for name in names}
    if not modules:
        raise InputError("layers is empty; name at least one, or leave it out for the stages")
    return modules


def stands_for(layer: Layer | Sequence[Layer] | None, name: str, model: nn.Module) -> bool:
    """Whether `layer` is this name alone, and no module of the model has it."""
    alone = layer == name or (isinstance(layer, list | tuple) and list(layer) == [name])
    return alone and name not in dict(unwrapped(model).named_modules())


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    known = [known for known, _ in _named_modules(model)]
    near = difflib.get_close_matches(name, known, n=3) or [child for child, _ in model.named_children()]
    raise InputError(
        f"unknown layer {name!r}; near: {', '.join(near) or 'none'}; model.named_modules() lists all {len(known)}"
    )


def _name_of(layer: nn.Module, model: nn.Module) -> str:
    for name, module in _named_modules(model):
        if without_attention(unwrapped(module)) is without_attention(unwrapped(layer)):
            return name
    raise InputError(
        f"the {type(layer).__name__} given as layer is no part of the {type(model).__name__}; "
        "give one of its modules, or a name of model.named_modules()"
    )


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules but the model itself, without the names that `torch.compile` puts in between."""
    for name, module in named_layers(model):
        if name and not name.endswith(COMPILED):
            yield ".".join(part for part in name.split(".") if part != COMPILED), module
