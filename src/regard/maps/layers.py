"""Layers of a model: by name, as modules, and the last one with spatial features, whose CAM is taken unless stated."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from torch import nn

from regard.errors import InputError
from regard.stages import COMPILED, has_convolution, is_activation, is_norm, stages, unwrapped, weighted_layers
from regard.with_attention import Named, descendants, named_descendants, named_layers, without_attention

Layer = str | nn.Module

_ATTENTION = re.compile("(?i)att(entio)?n")
_POOLING = re.compile("Pool|Flatten|Head")


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
    if not layers:
        raise InputError("layers is empty; name at least one, or leave it out for the stages")
    names = [layer if isinstance(layer, str) else _name_of(layer, model) for layer in layers]
    return {name: _submodule(model, name) for name in names}


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


def _named_modules(model: nn.Module) -> Iterator[Named]:
    """All modules but the model itself, without the names that `torch.compile` puts in between."""
    for name, module in named_layers(model):
        if name and not name.endswith(COMPILED):
            yield uncompiled(name), module


def uncompiled(name: str) -> str:
    """The name of a layer without what `torch.compile` puts in between."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def names_within(layers: Iterable[str], names: Sequence[str], what: str) -> list[str]:
    """Those of the names that are one of the layers or in it, in their order.

    Args:
        layers: names of layers.
        names: of modules.
        what: what the message calls these modules.

    Raises:
        InputError: a layer without any.
    """
    chosen: set[str] = set()
    for layer in layers:
        inside = {name for name in names if f"{name}.".startswith(f"{layer}.")}
        if not inside:
            raise InputError(f"layer {layer!r} contains no {what}; those of the model: {', '.join(names)}")
        chosen |= inside
    return [name for name in names if name in chosen]


def last_features(model: nn.Module) -> str:
    """The name of the last layer whose features are spatial.

    - A vision transformer that reads its class off a class token: the first norm of the last block with
      attention. Behind that attention the scores depend on the class token alone, so there every other token's gradient
      is 0; at this norm they still have one.
    - Another transformer (Swin, and those that take the mean of all tokens): its last block, or the stage that ends
      with it.
    - A convolutional network: its last stage, see `regard.stages.stages`, or a 1 x 1 convolution that follows before
      the pooling, with its norm and activation (`bn2` of timm's EfficientNet, `features.18` of torchvision's
      `mobilenet_v2`). One behind the pooling, as in MobileNetV3, has no spatial features.
    - A network without known stages, such as Inception: the last of its children before the pooling that has several
      convolutions and no linear layer.

    This goes by the order in which modules were registered, which is that of execution in all but odd networks.

    Args:
        model: not compiled, not wrapped.

    Raises:
        InputError: the model has none of these; name the layer instead.
    """
    try:
        stage = list(stages(model))[-1]
    except InputError:
        stage = ""
    modules = dict(named_descendants("", model))
    children: dict[str, list[Named]] = defaultdict(list)
    for name, module in list(modules.items())[1:]:
        children[name.rpartition(".")[0]].append((name, module))
    block = _last_attention_block(modules, children)
    if block and (not stage or _is_after(block, stage, list(modules)) or not has_convolution(modules[stage])):
        norm = _norm_before_attention(children[block])
        if norm and _has_class_token(model):
            return norm
        ends_with_block = stage and f"{block}.".startswith(f"{stage}.")
        return stage if ends_with_block and _is_called(modules[stage]) else block
    if stage:
        return _pointwise_convolution_behind(stage, children) or stage
    block = _last_convolutional_child(children[""])
    if not block or any(_ATTENTION.search(type(module).__name__) for module in modules.values()):
        stages(model)  # raises the error that says what is missing
    return block


def _last_attention_block(modules: dict[str, nn.Module], children: dict[str, list[Named]]) -> str:
    """The last module with a layer norm and attention for children and no convolution in it; "" if there is none."""
    for name in reversed(modules):
        inside = children.get(name, ())
        attends = any(_is_attention(*child) for child in inside) and any(_is_layer_norm(child) for _, child in inside)
        if name and attends and not has_convolution(modules[name]):
            return name
    return ""


def _norm_before_attention(children: list[Named]) -> str:
    """The last norm registered before a block's last attention; if none is, its first; "" if it has none."""
    norms = [i for i, (_, child) in enumerate(children) if _is_layer_norm(child)]
    last = max(i for i, child in enumerate(children) if _is_attention(*child))
    before = [i for i in norms if i < last]
    return children[before[-1] if before else norms[0]][0] if norms else ""


def _has_class_token(model: nn.Module) -> bool:
    prefix = getattr(model, "num_prefix_tokens", None)
    if isinstance(prefix, int):
        return prefix > 0
    return any(name.rpartition(".")[2] in ("cls_token", "class_token") for name, _ in model.named_parameters())


def _is_attention(name: str, module: nn.Module) -> bool:
    named_so = _ATTENTION.search(name.rpartition(".")[2]) or _ATTENTION.search(type(module).__name__)
    return bool(named_so) and weighted_layers(module) > 0  # no dropout behind it


def _is_layer_norm(module: nn.Module) -> bool:
    return is_norm(module) and not isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm)


def _is_after(name: str, other: str, order: list[str]) -> bool:
    """Whether the module called `name` is outside the other and registered behind it."""
    return not f"{name}.".startswith(f"{other}.") and order.index(name) > order.index(other)


def _is_called(module: nn.Module) -> bool:
    """Whether the module is called, not only what it holds."""
    return not isinstance(module, nn.ModuleList | nn.ModuleDict)


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Linear) for part in descendants(module))


def _pools(module: nn.Module) -> bool:
    """Whether the module is one that pools over all pixels; one with a stride is not."""
    return bool(_POOLING.search(type(module).__name__)) and getattr(module, "stride", None) is None


def _last_convolutional_child(children: list[Named]) -> str:
    """The last child before the pooling with several convolutions and no linear layer; "" if there is none."""
    names = [
        name
        for name, child in takewhile(lambda named: not _pools(named[1]), children)
        if _is_called(child) and weighted_layers(child) > 1 and not _has_linear(child)
    ]
    return names[-1] if names else ""


def _pointwise_convolution_behind(stage: str, children: dict[str, list[Named]]) -> str:
    """The last 1 x 1 convolution between the stage and the pooling, with what follows it; "" if there is none."""
    last = ""
    while stage:
        parent = stage.rpartition(".")[0]
        siblings = children[parent]
        follows = False
        for name, module in siblings[[name for name, _ in siblings].index(stage) + 1 :]:
            parts = descendants(module)
            if any(isinstance(part, nn.Linear) or _pools(part) for part in parts):
                return last
            weighted = [part for part in parts if isinstance(part, nn.modules.conv._ConvNd)]
            if len(weighted) == 1 and max(weighted[0].kernel_size) == 1:
                last, follows = name, True
            elif follows and (is_norm(module) or is_activation(module)):
                last = name
            elif not isinstance(module, nn.Identity):
                follows = False
        stage = parent
    return last
