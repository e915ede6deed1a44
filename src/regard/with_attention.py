"""`WithAttention`, a layer followed by an attention module, and functions that see networks without these wrappers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

# The wrapper's name for its layer. Networks must not use this name, because `plain_name` removes it.
_LAYER = "without_attention"
_ADDED = "_regard_added"

Named = tuple[str, nn.Module]


class WithAttention(nn.Module):
    """A layer followed by an attention module.

    It replaces `layer` in the modules that call it, so attention keeps running when the layer inside is replaced, for
    example by a synchronised or frozen batch norm, by fusion or by quantisation. State dicts have the names of a
    network without wrappers: the entries of `layer` keep their names, and those of `attention` have its child name in
    front. State dicts with the names of `named_parameters()`, which `FullyShardedDataParallel` makes, load too.
    Attributes that this module lacks are read from `layer`. Methods are not, because calling one would bypass the
    attention module.

    Args:
        layer: any module with a single output.
        attention: features (N, C, H, W) -> (N, C, H, W).
        name: the child name of `attention`; an attribute name that `layer` does not use.
        channels_last: whether the features are (N, H, W, C); attention receives them as (N, C, H, W).
    """

    def __init__(
        self, layer: nn.Module, attention: nn.Module, name: str = "attention", *, channels_last: bool = False
    ) -> None:
        super().__init__()
        self.training = layer.training
        self.attention_name = name
        self._channels_last = channels_last
        self.add_module(_LAYER, layer)
        self.add_module(name, attention)
        self.register_state_dict_post_hook(_after_saving)
        self.register_load_state_dict_pre_hook(_before_loading)
        self.register_load_state_dict_post_hook(_after_loading)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        layer, attention = getattr(self, _LAYER), getattr(self, self.attention_name)
        output = layer(*args, **kwargs)
        if self._channels_last:
            return attention(output.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return attention(output)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or _LAYER not in self.__dict__.get("_modules", {}):
                raise
        value = getattr(self._modules[_LAYER], name)
        if inspect.ismethod(value):
            raise AttributeError(
                f"{type(value.__self__).__name__}.{name} would bypass the attention attached to it; "
                f"call it on .{_LAYER}, or attention.detach(model) first"
            )
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        layer = self.__dict__.get("_modules", {}).get(_LAYER)
        is_own = layer is None or name in self.__dict__ or name in self._modules or hasattr(type(self), name)
        if is_own or not hasattr(layer, name):
            super().__setattr__(name, value)
        elif isinstance(value, Tensor) and name in layer._parameters:
            layer._parameters[name] = value  # torch.func.functional_call sets tensors that are not parameters
        else:
            setattr(layer, name, value)


def without_attention(module: nn.Module) -> nn.Module:
    """The layer inside a `WithAttention`; any other module unchanged."""
    return module.get_submodule(_LAYER) if isinstance(module, WithAttention) else module


def plain_name(name: str) -> str:
    """The name of a module, parameter or buffer in the network without wrappers."""
    return ".".join(part for part in name.split(".") if part != _LAYER)


def named_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """`model.named_modules()` with plain names; a layer with attention appears once, as its `WithAttention`."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] != _LAYER:
            yield plain_name(name), module


def mark_added(module: nn.Module) -> None:
    """Marks `module` as added to a network, so that it does not count as a layer or as part of a block.

    torch.fx then treats it as a leaf, like the layers of torch: its computation may depend on sizes, which have no
    values during tracing.
    """
    setattr(module, _ADDED, True)
    module.__module__ = nn.__name__  # on the instance, where torch.fx looks; its class keeps its own


def is_added(module: nn.Module) -> bool:
    """Whether `mark_added` marked `module`; copies and unpickled modules keep the mark."""
    return getattr(module, _ADDED, False)


def exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replaces the module `old` in `model` with `new`, under each of its names."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def children(name: str, module: nn.Module) -> list[Named]:
    """The children of the module called `name`, with their full names, without modules that were added.

    Wrapped layers are listed without their wrappers, which `get_submodule` returns.
    """
    prefix = f"{name}." if name else ""
    layers = without_attention(module).named_children()
    return [(prefix + child_name, without_attention(child)) for child_name, child in layers if not is_added(child)]


def named_descendants(name: str, module: nn.Module) -> list[Named]:
    """The module called `name` and all modules inside it, with full names; see `children`."""
    if is_added(module):
        return []
    nested = [part for child in children(name, module) for part in named_descendants(*child)]
    return [(name, without_attention(module)), *nested]


def descendants(module: nn.Module) -> list[nn.Module]:
    """`module` and all modules inside it, without modules that were added."""
    return [part for _, part in named_descendants("", module)]


def _after_saving(_module: nn.Module, state: Any, prefix: str, _metadata: Any) -> None:
    if "_fsdp_wrapped_module." in prefix:  # FullyShardedDataParallel expects the names of `named_parameters()`
        return
    for mapping, start in ((state, prefix), (getattr(state, "_metadata", {}), prefix[:-1])):
        for key in [key for key in mapping if key.startswith(start)]:  # every key, to keep their order
            mapping[start + plain_name(key[len(start) :])] = mapping.pop(key)


def _before_loading(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, WithAttention)
    for key in [key for key in state if key.startswith(prefix)]:
        inner = key.removeprefix(prefix)
        if not inner.startswith((f"{module.attention_name}.", f"{_LAYER}.")):
            state[f"{prefix}{_LAYER}.{inner}"] = state.pop(key)


def _after_loading(_module: nn.Module, incompatible: Any) -> None:
    for keys in incompatible:
        keys[:] = map(plain_name, keys)
