"""The insertion points of a network, where attention modules can be attached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from regard.blocks import branch_of, is_dense
from regard.errors import InputError, unknown
from regard.modes import output_shapes
from regard.stages import (
    backbone,
    has_convolution,
    is_activation,
    is_norm,
    stage_blocks,
    stage_parts,
    unwrapped,
    weighted_layers,
)
from regard.with_attention import Named, WithAttention, children, named_descendants, without_attention

Where = str | Sequence[str]

_WHERE = ("branch", "block", "stage")


@dataclass(frozen=True, eq=False)
class InsertionPoint:
    """A location in a network where an attention module can be attached.

    Attributes:
        name: name of the attention module in the network and its state dict, such as 'layer1.0.se' or
            'layer1.0.bn3.attention'.
        channels: C of the features at this point.
        stage: the name of the stage that contains it, or None.
        block: the block or layer that contains it, which determines device, dtype and mode of the module.
        host: the block with a slot for the module; or the layer before the point, or the `WithAttention` around it.
        attribute: the attribute name of the module in the host.
        slot: whether the host has a slot for the module.
        channels_last: whether the features are (N, H, W, C); the module then receives them as (N, C, H, W).
        residual: whether the output is added to a shortcut.
    """

    name: str
    channels: int
    stage: str | None
    block: nn.Module
    host: nn.Module
    attribute: str
    slot: bool = False
    channels_last: bool = False
    residual: bool = False

    @property
    def module(self) -> nn.Module | None:
        """The attention module at this point, or None."""
        return getattr(self.host, self.attribute) if self.slot or isinstance(self.host, WithAttention) else None


def insertion_points(
    model: nn.Module, stages: Iterable[int] | None = None, where: Where = "branch"
) -> list[InsertionPoint]:
    """The insertion points of `model`, in order of execution; `model` does not change.

    If the class of a layer does not determine its number of channels, the network runs once on the meta device, which
    computes no values.

    Args:
        model: a convolutional network of regard, timm or torchvision, a plain Sequential, or, with layer names, any
            convolutional network.
        stages: the stages, counted from 1; None: all.
        where:
            'branch': the end of every residual branch, before layer scale, drop path and addition: after its last norm,
            or after its last convolution if that follows the norm, as in pre-activation blocks. Blocks without a
            shortcut, because of their stride, are included. Blocks that concatenate have the point at the end of their
            new features: the dense layers of DenseNet after their last convolution, the blocks of ShuffleNet after the
            last activation of their branch. Networks without blocks, such as VGG or a plain Sequential, have it after
            every convolution with its norm and activation (Hu et al., arXiv 1709.01507, section 3.3).
            'block': after every block, with its addition and activation.
            'stage': after every stage (BAM, Park et al., arXiv 1807.06514, is placed after all stages but the last).
            A sequence of layer names, or patterns such as 'layer4.*.bn2' (`*` matches dots too): after these layers.

    Raises:
        InputError: `model` has no such stage or layer, unknown blocks, or no features (N, C, H, W) there.
    """
    if unwrapped(model) is not model:
        raise InputError(
            f"the model is wrapped in {type(model).__name__}; attach attention to the model inside, and wrap it again"
        )
    if not isinstance(where, Sequence) or not all(isinstance(pattern, str) for pattern in where):
        raise InputError(f"where is {where!r}; give one of {', '.join(_WHERE)}, or a list of layer names")
    if not isinstance(where, str):
        points = list(_layer_points(model, where, stages))
    elif where not in _WHERE:
        raise InputError(f"unknown insertion point {where!r}; known: {', '.join(_WHERE)}, or a list of layer names")
    else:
        points = [
            point
            for stage, blocks in _blocks(model, stages).items()
            for point in (_block_points(model, stage, blocks, where) if blocks else _layer_ends(model, stage, where))
        ]
    return _fill_in_channels(model, points)


def _stage_names(model: nn.Module, stages: Iterable[int] | None) -> list[str]:
    """The names of the stages with these numbers."""
    try:
        names = list(stage_parts(model))
    except InputError as error:
        raise InputError(f"{error}, in where=[...]") from error
    if stages is None:
        return names
    numbers = set(stages) if isinstance(stages, Iterable) else {stages}
    if isinstance(stages, int) or not all(isinstance(number, int) for number in numbers):
        raise InputError(f"stages are {stages!r}; give a list of integers counted from 1, such as [3, 4]")
    for number in sorted(numbers):
        if not 1 <= number <= len(names):
            raise InputError(f"{type(model).__name__} has stages 1 to {len(names)}, not {number}")
    return [names[number - 1] for number in sorted(numbers)]


def _blocks(model: nn.Module, stages: Iterable[int] | None) -> dict[str, list[Named]]:
    """The blocks of the stages with these numbers.

    By default (None), the result omits stages without blocks, such as a last 1 x 1 convolution, if others have blocks.
    """
    names = _stage_names(model, stages)
    blocks = stage_blocks(model)
    skip = stages is None and any(blocks.values())
    return {stage: blocks[stage] for stage in names if blocks[stage] or not skip}


def _block_points(model: nn.Module, stage: str, blocks: list[Named], where: str) -> Iterator[InsertionPoint]:
    if where == "stage":
        module = without_attention(model.get_submodule(stage))
        yield _point(model, stage, module, stage) if is_dense(module) else _block_end(model, *blocks[-1], stage)
        return
    for name, block in blocks:
        yield _branch_end(model, name, block, stage) if where == "branch" else _block_end(model, name, block, stage)


def _branch_end(model: nn.Module, name: str, block: nn.Module, stage: str) -> InsertionPoint:
    branch = branch_of(block)
    assert branch is not None  # `stage_blocks` returns known blocks
    if branch.slot is not None:
        slot = f"{name}.{branch.slot}"
        return InsertionPoint(slot, _channels(branch.layer), stage, block, block, branch.slot, True, residual=True)
    return replace(
        _point(model, f"{name}.{branch.path}" if branch.path else name, block, stage),
        channels=_channels(branch.layer),
        channels_last=isinstance(branch.layer, nn.Linear),  # as in ConvNeXt
        residual=branch.residual,
    )


def _block_end(model: nn.Module, name: str, block: nn.Module, stage: str) -> InsertionPoint:
    """The point after a block, which has as many channels as its residual branch."""
    branch = branch_of(block)
    channels = _channels(branch.layer) if branch is not None and branch.residual else 0
    return replace(_point(model, name, block, stage), channels=channels)


def _layer_ends(model: nn.Module, stage: str, where: str) -> list[InsertionPoint]:
    """The points after each convolution with its norm and activation, in a stage of layers; 'stage': the last point."""
    ends: list[tuple[str, nn.Module]] = []  # the name of the last layer, and the convolution
    follows, shared = False, _shared_modules(model)
    for name, layer in (layer for part in stage_parts(model)[stage] for layer in _layers(*part)):
        if isinstance(layer, nn.Conv2d):
            ends.append((name, layer))
            follows = True
        elif follows and (is_norm(layer) or is_activation(layer)) and layer not in shared:
            ends[-1] = (name, ends[-1][1])
        else:
            follows = False
    if not ends:
        raise InputError(
            f"{stage} of {type(model).__name__} has no convolutions, so no features (N, C, H, W) for attention; if "
            "other layers return such features, name them in where=[...]"
        )
    if where == "stage":
        ends = ends[-1:]
    return [replace(_point(model, name, conv, stage), channels=_channels(conv)) for name, conv in ends]


def _layers(name: str, module: nn.Module) -> Iterator[Named]:
    """The layers in a module that runs its children one after another."""
    named_children = children(name, module)
    if named_children and has_convolution(module) and not isinstance(module, nn.Conv2d):
        if not isinstance(module, nn.Sequential | nn.ModuleList) and weighted_layers(module) > 1:
            raise InputError(
                f"{name} is a {type(module).__name__}, a class whose branch end is unknown to regard; name layers in "
                "where=[...], or derive the class from regard.attention.AttentionSlot"
            )
        for child in named_children:
            yield from _layers(*child)
    else:
        yield name, module


def _layer_points(model: nn.Module, patterns: Sequence[str], stages: Iterable[int] | None) -> Iterator[InsertionPoint]:
    if not patterns:
        raise InputError("no layers named in where=[]; name at least one, or leave where out for the residual branches")
    modules = {name: module for name, module in named_descendants("", model) if name}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            raise unknown("layer", pattern, modules)
    try:
        stage_names = _stage_names(model, stages)
    except InputError:
        if stages is not None:
            raise
        stage_names = []
    shared = _shared_modules(model)
    hosts = set()
    for name, module in modules.items():
        stage = next((stage for stage in stage_names if f"{name}.".startswith(f"{stage}.")), None)
        if not any(fnmatchcase(name, pattern) for pattern in patterns) or (stages is not None and stage is None):
            continue
        # Attaches to the last layer of a Sequential, because a WithAttention around a Sequential cannot be indexed.
        while isinstance(module, nn.Sequential) and not hasattr(module, "fuse") and (layers := children(name, module)):
            active = [part for part in layers if not isinstance(part[1], nn.Identity | nn.modules.dropout._DropoutNd)]
            name, module = (active or layers)[-1]
        if isinstance(module, nn.ModuleList) or (isinstance(module, nn.ModuleDict) and not is_dense(module)):
            raise InputError(f"{name} is a {type(module).__name__}, which has no output; name layers inside it")
        if module in shared:
            raise InputError(f"{name} is called several times; name another layer")
        if module not in hosts:
            hosts.add(module)
            yield _point(model, name, module, stage)


def _point(model: nn.Module, name: str, block: nn.Module, stage: str | None) -> InsertionPoint:
    """The point after the layer `name`, named `attention`, or `attention2`, … if the layer has such an attribute."""
    host = model.get_submodule(name)
    attribute, number = "attention", 2
    while hasattr(host, attribute):
        attribute, number = f"attention{number}", number + 1
    if isinstance(host, WithAttention):
        attribute = host.attention_name
    return InsertionPoint(f"{name}.{attribute}", 0, stage, block, host, attribute)


def _fill_in_channels(model: nn.Module, points: list[InsertionPoint]) -> list[InsertionPoint]:
    """Determines the unknown numbers of channels, 0 so far, by a run of the network on the meta device."""
    shapes = output_shapes(backbone(model)[1], [point.host for point in points if not point.channels])
    for i, point in enumerate(points):
        if point.channels:
            continue
        host, shape = without_attention(point.host), tuple(shapes.get(point.host, ()))
        norm = isinstance(host, nn.LayerNorm | nn.RMSNorm) and not type(host).__name__.endswith("2d")
        problem = ""
        if not shape:
            problem = "has an unknown number of channels"
        elif len(shape) != 4:
            problem = f"returns a tensor of {len(shape)} dimensions"
        elif norm or isinstance(host, nn.Linear):
            problem = f"is a {type(host).__name__}, whose channels come last"
        if problem:
            name = f"{point.name.rpartition('.')[0]} of {type(model).__name__}"
            raise InputError(f"{name} {problem}; name layers that return features (N, C, H, W) in where=[...]")
        points[i] = replace(point, channels=shape[1])
    return points


def _channels(layer: nn.Module) -> int:
    """The number of output channels of `layer`, or 0 if its class does not define it."""
    attributes = {
        nn.Conv2d: "out_channels",
        nn.Linear: "out_features",
        nn.modules.batchnorm._NormBase: "num_features",
        nn.GroupNorm: "num_channels",
    }
    return next((getattr(layer, name) for kind, name in attributes.items() if isinstance(layer, kind)), 0)


def _shared_modules(model: nn.Module) -> set[nn.Module]:
    """The modules with several names in `model`."""
    counts = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    return {module for module, count in counts.items() if count > 1}
