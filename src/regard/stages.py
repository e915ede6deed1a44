"""The stages of a convolutional network, which are its sequences of blocks at one resolution, and their blocks.

Attention modules are inserted into stages, and saliency maps are computed from the outputs of stages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile

from torch import nn

from regard.blocks import branch_of
from regard.errors import InputError
from regard.with_attention import Named, children, descendants

_STAGE_NAME = re.compile(r"(?:layer|group|stage|block|denseblock)s?_?\d+|s\d+")
_CONVOLUTION = nn.modules.conv._ConvNd
# Where the head of a network in a single Sequential begins.
_HEAD = (nn.Flatten, nn.Linear, nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
COMPILED = "_orig_mod"  # the attribute in which torch.compile keeps the wrapped module


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, `DistributedDataParallel` or `DataParallel`; its layer names have no prefix."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, COMPILED, None), nn.Module):
            model = inner
        else:
            return model


def stages(model: nn.Module) -> dict[str, nn.Module]:
    """The stages of `model`, in order of execution, as name -> the module whose output is the output of the stage.

    If the model has an attribute `stage_names`, those are its stages. If it has a `backbone`, as detectors do, its
    stages are the stages of the backbone. Otherwise its stages are the first of these that exist:

    - its children named `layer1`, `layer2`, … (ResNets of timm, torchvision and regard), `group0`, `stage1`
      (ShuffleNet), `s1` (timm's RegNet), …;
    - the children of a child named `stages`, `blocks`, `layers` or `levels`;
    - children with such names in a child `features` (`denseblock1` of DenseNet) or `trunk_output` (torchvision's
      RegNet);
    - the sequences of layers at one resolution in a Sequential `features` (VGG, torchvision's MobileNet, EfficientNet
      and ConvNeXt), or in the model, if it is a Sequential itself. A new sequence starts at every child with a stride;
      the name and module of the stage are its last child's;
    - the entries of timm's `feature_info`, if the model has known blocks.

    Within such sequences, layers before, between and after blocks, such as a stem or a last 1 x 1 convolution, are
    neither stages nor the end of one: torchvision's `mobilenet_v2` has 5 stages, the first at half the resolution of
    the image, and the last ends at its last inverted residual. Without known blocks, as in VGG, a stage ends at the
    last norm or activation before the next pooling.

    Raises:
        InputError: no stages were found; name the layers instead.
    """
    return {name: model.get_submodule(name) for name in stage_parts(model)}


def stage_parts(model: nn.Module) -> dict[str, list[Named]]:
    """The modules in each stage of `model`, as stage -> [(name in `model`, module), …]."""
    names = getattr(model, "stage_names", None)
    if names is not None:
        return {name: [(name, model.get_submodule(name))] for name in names}
    path, network = backbone(model)
    if path:
        inner = stage_parts(network)
        return {f"{path}.{stage}": [(f"{path}.{n}", part) for n, part in parts] for stage, parts in inner.items()}
    modules = _children_named_as_stages("", model)
    for container in ("stages", "blocks", "layers", "levels"):
        child = getattr(model, container, None)
        if not modules and isinstance(child, nn.Sequential | nn.ModuleList):
            modules = children(container, child)
    for trunk in ("features", "trunk_output"):
        child = getattr(model, trunk, None)
        if not modules and isinstance(child, nn.Module):
            modules = _children_named_as_stages(trunk, child)
    if modules:
        return {name: [(name, stage)] for name, stage in modules}
    trunk = "features" if isinstance(getattr(model, "features", None), nn.Sequential) else ""
    features = model.get_submodule(trunk)
    sequences = _split_at_strides(trunk, features) if isinstance(features, nn.Sequential) else []
    if sequences:
        return {sequence[-1][0]: sequence for sequence in sequences}
    entries = getattr(model, "feature_info", ()) if _blocks("", model) else ()
    names = [entry["module"] for entry in entries if isinstance(entry, dict)]
    if not names:
        child_names = ", ".join(name for name, _ in model.named_children()) or "none"
        raise InputError(
            f"{type(model).__name__} has no stages that regard recognises (its children: {child_names}); "
            "name the layers instead"
        )
    return {name: [(name, model.get_submodule(name))] for name in names}


def backbone(model: nn.Module) -> Named:
    """The name and module of the network that computes the features of `model`: the child `backbone` of a detector, and
    the child `body` of a feature pyramid inside it. For any other model, "" and the model itself.
    """
    path = ""
    for name in ("backbone", "body"):
        child = getattr(model, name, None)
        if isinstance(child, nn.Module):
            path, model = f"{path}.{name}".lstrip("."), child
    return path, model


def stage_blocks(model: nn.Module) -> dict[str, list[Named]]:
    """The known blocks (see `regard.blocks`) of each stage of `model`, in order of execution, as stage ->
    [(name in `model`, block), …]. A stage of plain layers has no blocks.
    """
    return {stage: [block for part in parts for block in _blocks(*part)] for stage, parts in stage_parts(model).items()}


def weighted_layers(module: nn.Module) -> int:
    """The number of convolutions and linear layers in `module`."""
    return sum(isinstance(part, _CONVOLUTION | nn.Linear) for part in descendants(module))


def is_activation(module: nn.Module) -> bool:
    """Whether `module` is an activation of torch or timm."""
    return type(module).__module__.rpartition(".")[2].startswith("activation") and not weighted_layers(module)


def is_norm(module: nn.Module) -> bool:
    """Whether `module` normalises features by their statistics; it may include an activation, as in timm."""
    is_named_norm = "Norm" in type(module).__name__ and not isinstance(module, nn.LocalResponseNorm)
    return is_named_norm and not weighted_layers(module)


def has_convolution(module: nn.Module) -> bool:
    """Whether `module` contains a 2-d convolution."""
    return any(isinstance(part, nn.Conv2d) for part in descendants(module))


def _children_named_as_stages(name: str, module: nn.Module) -> list[Named]:
    return [child for child in children(name, module) if _STAGE_NAME.fullmatch(child[0].rpartition(".")[2])]


def _blocks(name: str, module: nn.Module) -> list[Named]:
    """The known blocks in the module called `name`, without searching inside blocks."""
    if branch_of(module) is not None:
        return [(name, module)]
    return [block for child in children(name, module) for block in _blocks(*child)]


def _split_at_strides(name: str, trunk: nn.Module) -> list[list[Named]]:
    """The children of a Sequential, split where the resolution changes, each part up to its last block or, without
    blocks, its last convolution with norm and activation.
    """
    features = list(takewhile(lambda child: not isinstance(child[1], _HEAD), _flattened(name, trunk)))
    has_blocks = [bool(_blocks(*child)) for child in features]
    sequences: list[list[Named]] = [[]]
    lengths = [0]
    for (name, child), blocks in zip(features, has_blocks, strict=True):
        if _has_stride(child):
            sequences.append([])
            lengths.append(0)
        sequences[-1].append((name, child))
        if any(has_blocks):
            belongs = blocks
        else:
            follows = lengths[-1] == len(sequences[-1]) - 1 > 0 and (is_norm(child) or is_activation(child))
            belongs = follows or has_convolution(child)
        if belongs:
            lengths[-1] = len(sequences[-1])
    return [sequence[:length] for sequence, length in zip(sequences, lengths, strict=True) if length]


def _flattened(name: str, trunk: nn.Module) -> Iterator[Named]:
    """The children of a Sequential, with nested Sequentials of several resolutions replaced by their children."""
    for path, child in children(name, trunk):
        if isinstance(child, nn.Sequential) and sum(_has_stride(part) for part in child) > 1:
            yield from _flattened(path, child)
        else:
            yield path, child


def _has_stride(module: nn.Module) -> bool:
    for part in descendants(module):
        stride = getattr(part, "stride", 1)
        if any(isinstance(step, int) and step > 1 for step in (stride if isinstance(stride, tuple) else (stride,))):
            return True
    return False
