"""Stages: the runs of blocks at one resolution that make up a convolutional network.

Attention is put into stages and maps are read behind them, so both ask here which ones a model has.
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
# What ends the features of a Sequential that holds a whole network.
_HEAD = (nn.Flatten, nn.Linear, nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
COMPILED = "_orig_mod"  # where torch.compile keeps the module it wraps


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, `DistributedDataParallel` and `DataParallel`; its layers have their own names
    there.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, COMPILED, None), nn.Module):
            model = inner
        else:
            return model


def stages(model: nn.Module) -> dict[str, nn.Module]:
    """The stages of `model`, in order of execution, as name -> module; the module's output is the stage's.

    A model that has an attribute `stage_names` names them itself. Those of a model with a `backbone`, such as a
    detector, are those of its backbone. Otherwise they are, whichever is found first:

    - its children called `layer1`, `layer2`, … (ResNets of timm, torchvision and regard), `group0`, `stage1`
      (ShuffleNet), `s1` (timm's RegNet), …;
    - the children of a child called `stages`, `blocks` or `layers`;
    - such children as the first in a child `features` (`denseblock1` of DenseNet) or `trunk_output` (torchvision's
      RegNet);
    - the runs at one resolution in a Sequential `features` (VGG, torchvision's MobileNet, EfficientNet and ConvNeXt),
      or in the model, if it is a Sequential itself. A run starts where a child has a stride; its name and module are
      those of its last child;
    - what timm says in the `feature_info` of a model with blocks that are known.

    In runs, layers before, between and behind blocks, such as a stem or a last 1 x 1 convolution, are no stage of their
    own and end none: torchvision's `mobilenet_v2` has 5 stages, the first at half the resolution of the image, and the
    last is its last inverted residual. Only where there are no blocks, as in VGG, layers make stages; those end in the
    last norm or activation before the next pooling.

    Raises:
        InputError: no stages were found; name the layers instead.
    """
    return {name: model.get_submodule(name) for name in stage_parts(model)}


def stage_parts(model: nn.Module) -> dict[str, list[Named]]:
    """The modules that each stage of `model` consists of, as stage -> [(name in `model`, module), …].

    Raises:
        InputError: no stages were found.
    """
    names = getattr(model, "stage_names", None)
    if names is not None:
        return {name: [(name, model.get_submodule(name))] for name in names}
    path, network = backbone(model)
    if path:
        by_stage = stage_parts(network)
        return {f"{path}.{stage}": [(f"{path}.{n}", part) for n, part in parts] for stage, parts in by_stage.items()}
    named = _called_stages("", model)
    for container in ("stages", "blocks", "layers"):
        child = getattr(model, container, None)
        if not named and isinstance(child, nn.Sequential | nn.ModuleList):
            named = children(container, child)
    for trunk in ("features", "trunk_output"):
        child = getattr(model, trunk, None)
        if not named and isinstance(child, nn.Module):
            named = _called_stages(trunk, child)
    if named:
        return {name: [(name, stage)] for name, stage in named}
    trunk = "features" if isinstance(getattr(model, "features", None), nn.Sequential) else ""
    features = model.get_submodule(trunk)
    runs = _runs(trunk, features) if isinstance(features, nn.Sequential) else []
    if runs:
        return {run[-1][0]: run for run in runs}
    entries = getattr(model, "feature_info", ()) if _blocks("", model) else ()
    declared = [entry["module"] for entry in entries if isinstance(entry, dict)]
    if not declared:
        inside = ", ".join(name for name, _ in model.named_children()) or "none"
        raise InputError(
            f"{type(model).__name__} has no stages regard knows (its children: {inside}); name the layers instead"
        )
    return {name: [(name, model.get_submodule(name))] for name in declared}


def backbone(model: nn.Module) -> Named:
    """The network that gives the features of `model` and its name there: that in the child `backbone` of a detector,
    and in the child `body` of a feature pyramid; any other model itself, called "".
    """
    path = ""
    for name in ("backbone", "body"):
        child = getattr(model, name, None)
        if isinstance(child, nn.Module):
            path, model = f"{path}.{name}".lstrip("."), child
    return path, model


def stage_blocks(model: nn.Module) -> dict[str, list[Named]]:
    """The blocks of each stage of `model` that `regard.blocks` knows, as stage -> [(name in `model`, block), …], in
    order of execution. A stage of plain layers has none.

    Raises:
        InputError: no stages were found.
    """
    return {stage: [block for part in parts for block in _blocks(*part)] for stage, parts in stage_parts(model).items()}


def weighted_layers(module: nn.Module) -> int:
    """How many convolutions and linear layers are in `module`."""
    return sum(isinstance(part, _CONVOLUTION | nn.Linear) for part in descendants(module))


def is_activation(module: nn.Module) -> bool:
    """Whether `module` is an activation, of torch or timm."""
    return type(module).__module__.rpartition(".")[2].startswith("activation") and not weighted_layers(module)


def is_norm(module: nn.Module) -> bool:
    """Whether `module` normalises by statistics of the features; it may have an activation in it, as in timm."""
    called = "Norm" in type(module).__name__ and not isinstance(module, nn.LocalResponseNorm)
    return called and not weighted_layers(module)


def has_convolution(module: nn.Module) -> bool:
    """Whether there is a convolution over images in `module`."""
    return any(isinstance(part, nn.Conv2d) for part in descendants(module))


def _called_stages(name: str, module: nn.Module) -> list[Named]:
    return [child for child in children(name, module) if _STAGE_NAME.fullmatch(child[0].rpartition(".")[2])]


def _blocks(name: str, module: nn.Module) -> list[Named]:
    """The blocks in the module called `name`; what is in a block is not looked at."""
    if branch_of(module) is not None:
        return [(name, module)]
    return [block for child in children(name, module) for block in _blocks(*child)]


def _runs(name: str, trunk: nn.Module) -> list[list[Named]]:
    """The children of a Sequential, cut where the resolution changes."""
    features = list(takewhile(lambda child: not isinstance(child[1], _HEAD), _flat(name, trunk)))
    has_blocks = [bool(_blocks(*child)) for child in features]
    runs: list[list[Named]] = [[]]
    ends = [0]  # of each run: how much of it is up to its last block, or convolution
    for (name, child), blocks in zip(features, has_blocks, strict=True):
        if _has_stride(child):
            runs.append([])
            ends.append(0)
        runs[-1].append((name, child))
        if any(has_blocks):
            counts = blocks
        else:
            follows = ends[-1] == len(runs[-1]) - 1 > 0 and (is_norm(child) or is_activation(child))
            counts = follows or has_convolution(child)
        if counts:
            ends[-1] = len(runs[-1])
    return [run[:end] for run, end in zip(runs, ends, strict=True) if end]


def _flat(name: str, trunk: nn.Module) -> Iterator[Named]:
    """The children of a Sequential; in place of those with several resolutions, theirs."""
    for path, child in children(name, trunk):
        if isinstance(child, nn.Sequential) and sum(_has_stride(part) for part in child) > 1:
            yield from _flat(path, child)
        else:
            yield path, child


def _has_stride(module: nn.Module) -> bool:
    for part in descendants(module):
        stride = getattr(part, "stride", 1)
        if any(isinstance(step, int) and step > 1 for step in (stride if isinstance(stride, tuple) else (stride,))):
            return True
    return False
