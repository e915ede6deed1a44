"""The last spatial features of a model, whose CAM is taken unless stated."""

from __future__ import annotations

import re
from itertools import takewhile

from torch import nn

from regard.errors import InputError
from regard.stages import has_convolution, is_activation, is_norm, stages, weighted_layers
from regard.with_attention import children, descendants, named_descendants

_ATTENTION = re.compile("(?i)att(entio)?n")
_POOLING = re.compile("Pool|Flatten|Head")


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
    block = _last_attention_block(model)
    if block and (not stage or _comes_after(model, block, stage) or not has_convolution(model.get_submodule(stage))):
        norm = _norm_before_attention(block, model.get_submodule(block))
        if norm and _has_class_token(model):
            return norm
        return stage if stage and f"{block}.".startswith(f"{stage}.") and _runs(model.get_submodule(stage)) else block
    if stage:
        return _pointwise_convolution_behind(model, stage) or stage
    if any(_ATTENTION.search(type(part).__name__) for part in descendants(model)) or not (block := _last_block(model)):
        stages(model)  # raises the error that says what is missing
    return block


def _last_attention_block(model: nn.Module) -> str:
    """The last module with a layer norm and attention for children and no convolution in it; "" if there is none."""
    last = ""
    for name, module in named_descendants("", model):
        inside = children("", module)
        attends = any(_is_attention(*child) for child in inside) and any(_is_layer_norm(child) for _, child in inside)
        if name and attends and not has_convolution(module):
            last = name
    return last


def _norm_before_attention(name: str, block: nn.Module) -> str:
    """The last norm registered before the block's last attention; if none is, its first; "" if it has none."""
    inside = children(name, block)
    norms = [i for i, (_, child) in enumerate(inside) if _is_layer_norm(child)]
    last = max(i for i, (path, child) in enumerate(inside) if _is_attention(path.rpartition(".")[2], child))
    before = [i for i in norms if i < last]
    return inside[before[-1] if before else norms[0]][0] if norms else ""


def _has_class_token(model: nn.Module) -> bool:
    prefix = getattr(model, "num_prefix_tokens", None)
    if isinstance(prefix, int):
        return prefix > 0
    return any(name.rpartition(".")[2] in ("cls_token", "class_token") for name, _ in model.named_parameters())


def _is_attention(name: str, module: nn.Module) -> bool:
    called = _ATTENTION.search(name) or _ATTENTION.search(type(module).__name__)
    return bool(called) and weighted_layers(module) > 0  # no dropout behind it


def _is_layer_norm(module: nn.Module) -> bool:
    return is_norm(module) and not isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm)


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Linear) for part in descendants(module))


def _comes_after(model: nn.Module, name: str, other: str) -> bool:
    """Whether the module called `name` is outside the other and registered behind it."""
    names = [known for known, _ in named_descendants("", model)]
    return not f"{name}.".startswith(f"{other}.") and names.index(name) > names.index(other)


def _runs(module: nn.Module) -> bool:
    """Whether the module is called, not only what it holds."""
    return not isinstance(module, nn.ModuleList | nn.ModuleDict)


def _pools(module: nn.Module) -> bool:
    """Whether the module is one that pools over all pixels; one with a stride is not."""
    return bool(_POOLING.search(type(module).__name__)) and getattr(module, "stride", None) is None


def _last_block(model: nn.Module) -> str:
    """The last child before the pooling with several convolutions and no linear layer; "" if there is none."""
    before = takewhile(lambda child: not _pools(child[1]), children("", model))
    blocks = [name for name, child in before if _runs(child) and weighted_layers(child) > 1 and not _has_linear(child)]
    return blocks[-1] if blocks else ""


def _pointwise_convolution_behind(model: nn.Module, stage: str) -> str:
    """The last 1 x 1 convolution between the stage and the pooling, with what follows it; "" if there is none."""
    last = ""
    while stage:
        parent, _, _ = stage.rpartition(".")
        siblings = children(parent, model.get_submodule(parent))
        follows = False
        for name, module in siblings[[name for name, _ in siblings].index(stage) + 1 :]:
            if _has_linear(module) or any(_pools(part) for part in descendants(module)):
                return last
            if _is_pointwise_convolution(module):
                last, follows = name, True
            elif follows and (is_norm(module) or is_activation(module)):
                last = name
            elif not isinstance(module, nn.Identity):
                follows = False
        stage = parent
    return last


def _is_pointwise_convolution(module: nn.Module) -> bool:
    layers = [part for part in descendants(module) if isinstance(part, nn.modules.conv._ConvNd | nn.Linear)]
    return len(layers) == 1 and max(getattr(layers[0], "kernel_size", (0,))) == 1
