"""Layers of a model, by name or as modules, and the last layer with spatial features, the default layer of CAMs."""

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


def hookable(model: nn.Module) -> nn.Module:
    """The model without wrappers, for hooks; raises InputError for a `DataParallel` of several GPUs."""
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise InputError(
            f"the model is wrapped in DataParallel, which runs copies of its layers on {len(model.device_ids)} GPUs, "
            "where hooks cannot read them; use the wrapped model (model.module), or DistributedDataParallel instead"
        )
    return unwrapped(model)


def find_layers(model: nn.Module, layers: Layer | Sequence[Layer] | None = None) -> dict[str, nn.Module]:
    """The layers as name -> module, in the given order; None stands for the stages, in order of execution.

    Names are those of `model.named_modules()`, without the prefixes of `torch.compile`, `DistributedDataParallel` and
    `DataParallel`.

    Raises:
        InputError: a name or module that the model does not have, an empty sequence, a `DataParallel` of several GPUs.
    """
    model = hookable(model)
    if layers is None:
        return stages(model)
    if isinstance(layers, str | nn.Module):
        layers = [layers]
    if not layers:
        raise InputError("layers is empty; name at least one, or leave it out for the stages")
    names = [layer if isinstance(layer, str) else _module_name(layer, model) for layer in layers]
    return {name: _submodule(model, name) for name in names}


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    names = [name for name, _ in _named_modules(model)]
    near = difflib.get_close_matches(name, names, n=3) or [child for child, _ in model.named_children()]
    raise InputError(
        f"unknown layer {name!r}; near: {', '.join(near) or 'none'}; model.named_modules() lists all {len(names)}"
    )


def _module_name(layer: nn.Module, model: nn.Module) -> str:
    for name, module in _named_modules(model):
        if without_attention(unwrapped(module)) is without_attention(unwrapped(layer)):
            return name
    raise InputError(
        f"the {type(layer).__name__} passed as layer is not part of the {type(model).__name__}; "
        "pass one of its modules, or a name of model.named_modules()"
    )


def _named_modules(model: nn.Module) -> Iterator[Named]:
    """The modules of a model, except the model itself, with names without those of `torch.compile`."""
    for name, module in named_layers(model):
        if name and not name.endswith(COMPILED):
            yield uncompiled(name), module


def did_not_run(name: str) -> InputError:
    """The error for a tapped layer that did not run."""
    return InputError(
        f"layer {name!r} did not run; tap one that runs, perhaps inside it: gradient checkpointing and torch.fx run "
        "the children of a layer in its place"
    )


def uncompiled(name: str) -> str:
    """The name of a layer without the parts that `torch.compile` inserts."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def names_within(layers: Iterable[str], names: Sequence[str], what: str) -> list[str]:
    """The names of modules that are one of the layers or inside one, in the order of `names`.

    Raises InputError for a layer that contains none; `what` is its term for the modules.
    """
    selected: set[str] = set()
    for layer in layers:
        inside = {name for name in names if f"{name}.".startswith(f"{layer}.")}
        if not inside:
            raise InputError(f"layer {layer!r} contains no {what}; the model has {', '.join(names)}")
        selected |= inside
    return [name for name in names if name in selected]


def last_features(model: nn.Module) -> str:
    """The name of the last layer whose features are spatial.

    - A vision transformer that classifies by a class token: the first norm of the last block with attention. After this
      attention the scores depend on the class token alone, so the gradients of all other tokens are 0; at this norm
      they are not.
    - Another transformer (Swin, or one that averages all tokens): its last block, or the stage that ends with it.
    - A convolutional network: its last stage, see `regard.stages.stages`, or a 1 x 1 convolution between this and the
      pooling, with its norm and activation (`bn2` of timm's EfficientNet, `features.18` of torchvision's
      `mobilenet_v2`). A convolution after the pooling, as in MobileNetV3, has no spatial features.
    - A network without known stages, such as Inception: the last of its children before the pooling that has several
      convolutions and no linear layer; in a child with stages, such as an encoder, its last features.

    Layers are assumed to run in the order in which they were registered, as in nearly all networks.

    Args:
        model: not compiled, not wrapped.

    Raises:
        InputError: no case applies; name the layer instead.
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
        return stage if ends_with_block and _has_forward(modules[stage]) else block
    if stage:
        return _pointwise_convolution_after(stage, children) or stage
    block = _last_convolutional_child(children[""])
    if not block or any(_ATTENTION.search(type(module).__name__) for module in modules.values()):
        stages(model)  # raises InputError
    child = modules[block]
    try:
        is_network = not isinstance(child, nn.Sequential) and bool(stages(child))
    except InputError:
        is_network = False
    return f"{block}.{last_features(child)}" if is_network else block


def _last_attention_block(modules: dict[str, nn.Module], children: dict[str, list[Named]]) -> str:
    """The last module that has attention and a layer norm as children and contains no convolution; "" if none has."""
    for name in reversed(modules):
        parts = children.get(name, ())
        is_block = any(_is_attention(*child) for child in parts) and any(_is_layer_norm(child) for _, child in parts)
        if name and is_block and not has_convolution(modules[name]):
            return name
    return ""


def _norm_before_attention(children: list[Named]) -> str:
    """The last norm before a block's last attention, or else its first norm; "" if it has none."""
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
    match = _ATTENTION.search(name.rpartition(".")[2]) or _ATTENTION.search(type(module).__name__)
    return bool(match) and weighted_layers(module) > 0  # not the dropout after attention


def _is_layer_norm(module: nn.Module) -> bool:
    return is_norm(module) and not isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm)


def _is_after(name: str, other: str, order: list[str]) -> bool:
    """Whether the module called `name` is outside the other and registered after it."""
    return not f"{name}.".startswith(f"{other}.") and order.index(name) > order.index(other)


def _has_forward(module: nn.Module) -> bool:
    """Whether the module itself is called, not only its children."""
    return not isinstance(module, nn.ModuleList | nn.ModuleDict)


def _pools(module: nn.Module) -> bool:
    """Whether the module pools over all pixels, which a pooling with a stride does not."""
    return bool(_POOLING.search(type(module).__name__)) and getattr(module, "stride", None) is None


def _last_convolutional_child(children: list[Named]) -> str:
    """The last child before the pooling that has several convolutions and no linear layer; "" if none has."""
    last = ""
    for name, child in takewhile(lambda named: not _pools(named[1]), children):
        has_linear = any(isinstance(part, nn.Linear) for part in descendants(child))
        if _has_forward(child) and weighted_layers(child) > 1 and not has_linear:
            last = name
    return last


def _pointwise_convolution_after(stage: str, children: dict[str, list[Named]]) -> str:
    """The last 1 x 1 convolution between the stage and the pooling, or its norm or activation; "" if there is none."""
    last = ""
    while stage:
        parent = stage.rpartition(".")[0]
        siblings = children[parent]
        after_convolution = False
        for name, module in siblings[[name for name, _ in siblings].index(stage) + 1 :]:
            parts = descendants(module)
            if any(isinstance(part, nn.Linear) or _pools(part) for part in parts):
                return last
            convolutions = [part for part in parts if isinstance(part, nn.modules.conv._ConvNd)]
            if len(convolutions) == 1 and max(convolutions[0].kernel_size) == 1:
                last, after_convolution = name, True
            elif after_convolution and (is_norm(module) or is_activation(module)):
                last = name
            elif not isinstance(module, nn.Identity):
                after_convolution = False
        stage = parent
    return last
