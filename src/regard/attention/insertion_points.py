"""The insertion points of a network: where attention can go."""

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
    """Where an attention module can go.

    Attributes:
        name: name of the module in the network and its state dict: 'layer1.0.se',
            'layer1.0.bn3.attention'.
        channels: C of the features there.
        stage: the name of the stage it is in, or None.
        block: the block or layer it belongs to; the module takes device, dtype and mode of that.
        host: the block that has a slot for it; or the layer that it follows, in a `WithAttention` if it has one.
        attribute: what it is called in its host.
        slot: whether the host has a slot for it.
        channels_last: whether the features there are (N, H, W, C); attention then sees them as (N, C, H, W).
        residual: whether an addition follows.
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
        """The module at this point."""
        filled = self.slot or isinstance(self.host, WithAttention)
        return getattr(self.host, self.attribute) if filled else None


def insertion_points(
    model: nn.Module, stages: Iterable[int] | None = None, where: Where = "branch"
) -> list[InsertionPoint]:
    """The insertion points of `model`, in order of execution; `model` stays as it is.

    Blocks are those that `regard.blocks` knows. (Where a layer's class does not say how many channels it gives, the
    network runs once on the meta device, which computes nothing.)

    Args:
        model: a network of convolutions: one of regard, timm or torchvision, a plain Sequential, or, with layer names,
            any at all.
        stages: the stages, counted from 1; None: all.
        where:
            'branch': the end of every residual branch, before the addition: after its last norm or, where that comes
            before the last convolution, as in pre-activation blocks, after that convolution; before layer scale and
            drop path. Blocks whose stride leaves them no shortcut count too. Blocks that concatenate instead have it at
            the end of what they compute new: the dense layers of DenseNet after their last convolution, the blocks of
            ShuffleNet after the last activation of their branch. Networks without blocks, such as VGG or a plain
            Sequential, have it after every convolution with its norm and activation (Hu et al., arXiv 1709.01507,
            section 3.3).
            'block': after every block, with its addition and activation.
            'stage': after every stage (as Park et al., arXiv 1807.06514, place BAM, there after all but the last).
            A sequence of layer names, or patterns such as 'layer4.*.bn2' (`*` matches dots too): after these layers.

    Raises:
        InputError: `model` has no such stage or layer, none that gives features (N, C, H, W), or blocks that are not
            known.
    """
    if unwrapped(model) is not model:
        raise InputError(
            f"the model is wrapped in {type(model).__name__}; put attention into the model inside, and wrap it again"
        )
    if not isinstance(where, Sequence) or not all(isinstance(pattern, str) for pattern in where):
        raise InputError(f"attention goes to {where!r}; give one of {', '.join(_WHERE)}, or a list of layer names")
    if not isinstance(where, str):
        points = list(_layer_points(model, where, stages))
    elif where not in _WHERE:
        raise InputError(f"unknown insertion point {where!r}; known: {', '.join(_WHERE)}, or a list of layer names")
    else:
        points = [
            point
            for stage, blocks in _blocks(model, stages).items()
            for point in (_block_points(model, stage, blocks, where) if blocks else _after_layers(model, stage, where))
        ]
    return _with_channels(model, points)


def _chosen(model: nn.Module, stages: Iterable[int] | None) -> list[str]:
    """The names of the stages of these numbers."""
    try:
        names = list(stage_parts(model))
    except InputError as error:
        raise InputError(f"{error}, in where=[...]") from error
    if stages is None:
        return names
    numbers = set(stages) if isinstance(stages, Iterable) else {stages}
    if isinstance(stages, int) or not all(isinstance(number, int) for number in numbers):
        raise InputError(f"stages are {stages!r}; give a list of whole numbers counted from 1, such as [3, 4]")
    for number in sorted(numbers):
        if not 1 <= number <= len(names):
            raise InputError(f"{type(model).__name__} has stages 1 to {len(names)}, not {number}")
    return [names[number - 1] for number in sorted(numbers)]


def _blocks(model: nn.Module, stages: Iterable[int] | None) -> dict[str, list[Named]]:
    """The blocks of the stages of these numbers.

    If stages are not chosen one by one and some have blocks, those without are left out: they are the last 1 x 1
    convolution of a network or the like.
    """
    chosen = _chosen(model, stages)
    blocks = stage_blocks(model)
    skip = stages is None and any(blocks.values())
    return {stage: blocks[stage] for stage in chosen if blocks[stage] or not skip}


def _block_points(model: nn.Module, stage: str, blocks: list[Named], where: str) -> Iterator[InsertionPoint]:
    if where == "stage":
        module = without_attention(model.get_submodule(stage))
        yield _after(model, stage, module, stage) if is_dense(module) else _after_block(model, *blocks[-1], stage)
        return
    for name, block in blocks:
        yield (
            _branch_points(model, name, block, stage) if where == "branch" else _after_block(model, name, block, stage)
        )


def _branch_points(model: nn.Module, name: str, block: nn.Module, stage: str) -> InsertionPoint:
    branch = branch_of(block)
    assert branch is not None  # for it is a block
    if branch.slot is not None:
        slot = f"{name}.{branch.slot}"
        return InsertionPoint(slot, _channels(branch.layer), stage, block, block, branch.slot, True, residual=True)
    return replace(
        _after(model, f"{name}.{branch.path}" if branch.path else name, block, stage),
        channels=_channels(branch.layer),
        channels_last=isinstance(branch.layer, nn.Linear),  # as in ConvNeXt
        residual=branch.residual,
    )


def _after_block(model: nn.Module, name: str, block: nn.Module, stage: str) -> InsertionPoint:
    """After a whole block, whose channels are those of the branch that it adds."""
    branch = branch_of(block)
    channels = _channels(branch.layer) if branch is not None and branch.residual else 0
    return replace(_after(model, name, block, stage), channels=channels)


def _after_layers(model: nn.Module, stage: str, where: str) -> list[InsertionPoint]:
    """After each convolution with its norm and activation, in a stage of layers; 'stage': after the last of them."""
    ends: list[tuple[str, nn.Module]] = []  # the last layer's name, and the convolution
    follows, shared = False, _shared(model)
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
            f"{stage} of {type(model).__name__} has no convolutions, so no features (N, C, H, W) that attention could "
            "act on; if other layers give such features, name them in where=[...]"
        )
    chosen = ends[-1:] if where == "stage" else ends
    return [replace(_after(model, name, conv, stage), channels=_channels(conv)) for name, conv in chosen]


def _layers(name: str, module: nn.Module) -> Iterator[Named]:
    """The layers in a module that runs its children one after another."""
    inside = children(name, module)
    if inside and has_convolution(module) and not isinstance(module, nn.Conv2d):
        if not isinstance(module, nn.Sequential | nn.ModuleList) and weighted_layers(module) > 1:
            raise InputError(
                f"{name} is a {type(module).__name__}, of which regard does not know where its branch ends; name "
                "layers in where=[...], or derive the class from regard.attention.AttentionSlot"
            )
        for child in inside:
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
        known = _chosen(model, stages)
    except InputError:
        if stages is not None:
            raise
        known = []
    shared = _shared(model)
    hosts = set()
    for name, module in modules.items():
        stage = next((stage for stage in known if f"{name}.".startswith(f"{stage}.")), None)
        if not any(fnmatchcase(name, pattern) for pattern in patterns) or (stages is not None and stage is None):
            continue
        while isinstance(module, nn.Sequential) and not hasattr(module, "fuse") and children(name, module):
            inside = children(name, module)  # a wrapper of a Sequential could not be indexed
            real = [child for child in inside if not isinstance(child[1], nn.Identity | nn.modules.dropout._DropoutNd)]
            name, module = (real or inside)[-1]
        if isinstance(module, nn.ModuleList) or (isinstance(module, nn.ModuleDict) and not is_dense(module)):
            raise InputError(f"{name} is a {type(module).__name__}, which attention cannot follow; name layers in it")
        if module in shared:
            raise InputError(f"{name} is called several times; name another layer")
        if module not in hosts:
            hosts.add(module)
            yield _after(model, name, module, stage)


def _after(model: nn.Module, name: str, block: nn.Module, stage: str | None) -> InsertionPoint:
    """After the layer of this name, called `attention`, or `attention2`, … if it has one of that name itself."""
    host = model.get_submodule(name)
    attribute, number = "attention", 2
    while hasattr(host, attribute):
        attribute, number = f"attention{number}", number + 1
    if isinstance(host, WithAttention):
        attribute = host.attention_name
    return InsertionPoint(f"{name}.{attribute}", 0, stage, block, host, attribute)


def _with_channels(model: nn.Module, points: list[InsertionPoint]) -> list[InsertionPoint]:
    """The insertion points with the channels that only the whole network can say."""
    shapes = output_shapes(backbone(model)[1], [point.host for point in points if not point.channels])
    for i, point in enumerate(points):
        if point.channels:
            continue
        host, shape = without_attention(point.host), tuple(shapes.get(point.host, ()))
        norm = isinstance(host, nn.LayerNorm | nn.RMSNorm) and not type(host).__name__.endswith("2d")
        problem = ""
        if not shape:
            problem = "does not say how many channels it gives"
        elif len(shape) != 4:
            problem = f"gives a tensor of {len(shape)} dimensions"
        elif norm or isinstance(host, nn.Linear):
            problem = f"is a {type(host).__name__}, whose channels come last"
        if problem:
            name = f"{point.name.rpartition('.')[0]} of {type(model).__name__}"
            raise InputError(f"{name} {problem}; name layers that give features (N, C, H, W) in where=[...]")
        points[i] = replace(point, channels=shape[1])
    return points


def _channels(layer: nn.Module) -> int:
    """The channels that `layer` gives, if it is of a kind that says so; 0 for others."""
    attributes = {
        nn.Conv2d: "out_channels",
        nn.Linear: "out_features",
        nn.modules.batchnorm._NormBase: "num_features",
        nn.GroupNorm: "num_channels",
    }
    return next((getattr(layer, name) for kind, name in attributes.items() if isinstance(layer, kind)), 0)


def _shared(model: nn.Module) -> set[nn.Module]:
    """The modules that are in `model` under several names."""
    times = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    return {module for module, count in times.items() if count > 1}
