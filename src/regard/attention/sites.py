"""The places in a network where attention can go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from timm.models import resnet as timm_resnet
from torch import nn

from regard.attention.branch import BranchEnd, branch_end, last_called
from regard.attention.shapes import output_shapes
from regard.errors import InputError, unknown
from regard.stages import (
    Named,
    children,
    descendants,
    is_activation,
    is_container,
    is_norm,
    named_descendants,
    stage_blocks,
    stage_layers,
    unwrapped,
)
from regard.stages import stages as find_stages
from regard.with_attention import WithAttention, without_attention

Where = str | Sequence[str]

_WHERE = ("branch", "block", "stage")
_TRANSPARENT = (nn.Identity, nn.modules.dropout._DropoutNd)
_PLAIN = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm)


class AttentionSlot:
    """Mixin of residual blocks that have a place for attention at the end of their residual branch.

    Such a block passes its branch through `attention` unless that is None, and says in `attention_channels` how many
    channels arrive there.
    """

    attention: nn.Module | None
    attention_channels: int


@dataclass(frozen=True, eq=False)
class Site:
    """A place for an attention module.

    Attributes:
        name: what the module is called in the network, and so in its state dict: 'layer1.0.se',
            'layer1.0.bn3.attention'.
        channels: C of the features there.
        stage: the name of the stage it is in, or None.
        block: the block, layer or stage it belongs to; the module takes device, dtype and mode of that.
        host: the block that has a slot for it, called `attribute`; or the layer that it follows or comes before: a
            `WithAttention` with a child `attribute` then stands in the layer's place.
        way: how it is called: 'slot', by the host itself; 'output', on what the host gives; 'input', on what the host
            takes.
        channels_last: whether the features there are (N, H, W, C); attention then sees them as (N, C, H, W).
        residual: whether an addition follows.
        producers: the convolution or linear layer, and the norm behind it, whose output channels arrive here in their
            order, at most with an activation or layer scale between; empty if that is not known.
        wrapper: what stands in the place of the host, if it has attention and no slot for it.
    """

    name: str
    channels: int
    stage: str | None
    block: nn.Module
    host: nn.Module
    attribute: str
    way: Literal["slot", "output", "input"]
    channels_last: bool = False
    residual: bool = False
    producers: tuple[nn.Module, ...] = ()
    wrapper: WithAttention | None = None

    @property
    def module(self) -> nn.Module | None:
        """What is there now."""
        return getattr(self.holder, self.attribute, None) if self.holder is not None else None

    @property
    def holder(self) -> nn.Module | None:
        """The module that has `module` as a child called `attribute`; None as long as there is none."""
        return self.host if self.way == "slot" else self.wrapper


def sites(model: nn.Module, stages: Iterable[int] | None = None, where: Where = "branch") -> list[Site]:
    """The places for attention in `model`, in order of execution; `model` stays as it is.

    They are found without running the network: what a block adds to its input is read off its forward. (Where that does
    not say how many channels there are, the network runs once on the meta device, which computes nothing.)

    Args:
        model: a network of convolutions: one of regard, timm or torchvision, or any other whose stages
            `regard.stages.stages` finds, or, with layer names, any at all.
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
        InputError: `model` has no such stage or layer, or none that gives features (N, C, H, W).
    """
    if unwrapped(model) is not model:
        raise InputError(
            f"the model is wrapped in {type(model).__name__}; put attention into the model inside, and wrap it again"
        )
    if isinstance(where, str):
        if where not in _WHERE:
            raise InputError(
                f"unknown place {where!r} for attention; known: {', '.join(_WHERE)}, or a list of layer names"
            )
        blocks = _blocks(model, stages)
        find = {"branch": _branch_sites, "block": _block_sites, "stage": _stage_sites}[where]
        found = find(model, blocks)
    else:
        found = _layer_sites(model, where, None if stages is None else _chosen(model, stages))
    wrappers = {without_attention(part): part for part in model.modules() if isinstance(part, WithAttention)}
    placed = [_occupied(_outside_fusion(model, site), wrappers) for site in found]
    unique = {(site.host, site.attribute): site for site in reversed(placed)}
    return _with_channels(model, list(unique.values())[::-1])


def _outside_fusion(model: nn.Module, site: Site) -> Site:
    """The site, behind the whole unit that its layer is the last of, if the unit has a method `fuse`.

    Such units, the `ConvNorm` of timm's RepViT for one, make one layer of their own layers, in which there is no place
    for what stands between these or behind.
    """
    host, name = site.host, site.name.rpartition(".")[0]
    while site.way == "output" and not site.channels_last:
        outer, _, last = name.rpartition(".")
        unit = without_attention(model.get_submodule(outer))
        if not outer or not hasattr(unit, "fuse") or last_called(unit) != last:
            break
        host, name = unit, outer
    if host is site.host:
        return site
    moved = _wrapped(name, host, site.stage, site.block, residual=site.residual, producers=site.producers)
    return replace(moved, channels=site.channels)


def _occupied(site: Site, wrappers: Mapping[nn.Module, WithAttention]) -> Site:
    """The site with the wrapper of its host, if it has one."""
    if site.way == "slot" or site.host not in wrappers:
        return site
    wrapper = wrappers[site.host]
    name = f"{site.name.rpartition('.')[0]}.{wrapper.attention_name}"
    return replace(site, name=name, attribute=wrapper.attention_name, wrapper=wrapper)


def _chosen(model: nn.Module, stages: Iterable[int] | None) -> list[str]:
    """The names of the stages of these numbers."""
    try:
        names = list(find_stages(model))
    except InputError as error:
        raise InputError(f"{error}, in where=[...]") from error
    numbers = range(1, len(names) + 1) if stages is None else sorted(set(stages))
    for number in numbers:
        if not 1 <= number <= len(names):
            raise InputError(f"{type(model).__name__} has stages 1 to {len(names)}, not {number}")
    return [names[number - 1] for number in numbers]


def _blocks(model: nn.Module, stages: Iterable[int] | None) -> dict[str, list[Named]]:
    """The blocks of the stages of these numbers, among them whatever has a slot for attention.

    If stages are not chosen one by one and some have blocks, those without are left out: they are the last 1 x 1
    convolution of a network or the like.
    """
    chosen = _chosen(model, stages)
    found = stage_blocks(model)
    for stage in chosen:
        if not any(_slot(block) for _, block in found[stage]):
            inside = named_descendants(stage, model.get_submodule(stage))
            found[stage] = [(name, part) for name, part in inside if _slot(part)] or found[stage]
    skip = stages is None and any(found[stage] for stage in chosen)
    return {stage: found[stage] for stage in chosen if found[stage] or not skip}


def _slot(block: nn.Module) -> str | None:
    """The attribute that `block` keeps for attention."""
    if isinstance(block, AttentionSlot):
        return "attention"
    return "se" if isinstance(block, timm_resnet.BasicBlock | timm_resnet.Bottleneck) else None


def _slot_channels(block: nn.Module) -> int:
    if isinstance(block, AttentionSlot):
        return block.attention_channels
    last = block.get_submodule("conv3" if isinstance(block, timm_resnet.Bottleneck) else "conv2")
    return _channels(last)


def _branch_sites(model: nn.Module, stages: Mapping[str, list[Named]]) -> Iterator[Site]:
    shared = _shared(model)
    for stage, blocks in stages.items():
        for name, block in blocks:
            yield _branch_site(stage, name, block, shared)
        if not blocks:
            yield from _after_convolutions(model, stage, shared)


def _branch_site(stage: str, name: str, block: nn.Module, shared: set[nn.Module]) -> Site:
    end = branch_end(block, shared)
    slot = _slot(block)
    if slot is not None:
        producers = end.producers if end is not None else ()
        return Site(
            f"{name}.{slot}",
            _slot_channels(block),
            stage,
            block,
            block,
            slot,
            "slot",
            residual=True,
            producers=producers,
        )
    if end is None or not _features(end):
        return _wrapped(name, block, stage, block)
    return _wrapped(
        f"{name}.{end.path}",
        end.layer,
        stage,
        block,
        channels_last=end.channels_last,
        residual=end.join == "sum",
        producers=end.producers,
    )


def _after_convolutions(model: nn.Module, stage: str, shared: set[nn.Module]) -> list[Site]:
    """Behind each convolution with its norm and activation, in a stage of layers."""
    found: list[Site] = []
    open_end = False  # whether a norm or activation would still belong to the last site
    for name, layer in stage_layers(model)[stage]:
        if any(isinstance(part, nn.Conv2d) for part in descendants(layer)):
            producers: tuple[nn.Module, ...] = (layer,) if isinstance(layer, nn.Conv2d) else ()
            found.append(_wrapped(name, layer, stage, layer, producers=producers))
            open_end = True
        elif open_end and (is_norm(layer) or is_activation(layer)) and layer not in shared:
            site = found.pop()
            producers = (*site.producers, layer) if is_norm(layer) and site.producers else site.producers
            found.append(_wrapped(name, layer, stage, site.block, producers=producers))
        else:
            open_end = False
    if not found:
        raise InputError(
            f"{stage} of {type(model).__name__} has no convolutions, so no features (N, C, H, W) that attention could "
            "act on; if other layers give such features, name them in where=[...]"
        )
    return found


def _block_sites(model: nn.Module, stages: Mapping[str, list[Named]]) -> Iterator[Site]:
    shared = _shared(model)
    for stage, blocks in stages.items():
        for name, block in blocks:
            yield _after(stage, name, block, shared)
        if not blocks:
            yield from _after_convolutions(model, stage, shared)


def _after(stage: str, name: str, block: nn.Module, shared: set[nn.Module]) -> Site:
    """After a whole block; its channels are those of its branch, unless that is only a part of them."""
    channels = 0
    if _slot(block):
        channels = _slot_channels(block)
    elif (end := branch_end(block, shared)) is not None and end.join != "concatenation" and _features(end):
        channels = _channels(end.layer, *reversed(end.producers))
    return replace(_wrapped(name, block, stage, block), channels=channels)


def _stage_sites(model: nn.Module, stages: Mapping[str, list[Named]]) -> Iterator[Site]:
    shared = _shared(model)
    for stage, blocks in stages.items():
        module = without_attention(model.get_submodule(stage))
        last = _last(stage, module)
        if not blocks:
            yield _after_convolutions(model, stage, shared)[-1]
        elif last is None:
            yield _wrapped(*_next(model, stage), stage, module, way="input")
        else:
            yield _after(stage, *last, shared)


def _last(name: str, module: nn.Module) -> Named | None:
    """The module in `module` whose output is that of `module`; None if there is none that attention can follow."""
    if isinstance(module, nn.ModuleDict | nn.ModuleList):
        return None
    if not is_container(module):
        return name, module
    inside = [child for child in children(name, module) if not isinstance(child[1], _TRANSPARENT)]
    if not isinstance(module, nn.Sequential):
        called = last_called(module)
        if called is None:
            return name, module
        inside = [(f"{name}.{called}", without_attention(module.get_submodule(called)))]
    return _last(*inside[-1]) if inside else None


def _next(model: nn.Module, stage: str) -> Named:
    """The first layer behind a stage, in the Sequential the stage is in."""
    trunk = stage.rpartition(".")[0]
    siblings = children(trunk, model.get_submodule(trunk))
    behind = [child for name, child in zip([name for name, _ in siblings], siblings[1:], strict=False) if name == stage]
    while behind and is_container(behind[0][1]):
        behind = children(*behind[0])
    if not behind or not isinstance(model.get_submodule(trunk), nn.Sequential):
        raise InputError(
            f"{stage} of {type(model).__name__} has no last layer that attention could follow; name layers instead"
        )
    return behind[0]


def _layer_sites(model: nn.Module, patterns: Sequence[str], stages: Sequence[str] | None) -> Iterator[Site]:
    if not patterns:
        raise InputError("no layers named in where=[]; name at least one, or leave where out for the residual branches")
    modules = {name: module for name, module in named_descendants("", model) if name}
    shared = _shared(model)
    try:
        known = list(find_stages(model))
    except InputError:
        known = []
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            raise unknown("layer", pattern, modules)
    for name, module in modules.items():
        stage = next((stage for stage in known if name == stage or name.startswith(f"{stage}.")), None)
        if not any(fnmatchcase(name, pattern) for pattern in patterns) or (stages is not None and stage not in stages):
            continue
        last = _last(name, module)
        if last is None:
            raise InputError(f"{name} is a {type(module).__name__}, which attention cannot follow; name layers in it")
        if last[1] in shared:
            raise InputError(f"{last[0]} is called at several places; name another layer")
        yield _wrapped(*last, stage, last[1])


def _wrapped(
    name: str,
    host: nn.Module,
    stage: str | None,
    block: nn.Module,
    *,
    way: Literal["output", "input"] = "output",
    channels_last: bool = False,
    residual: bool = False,
    producers: tuple[nn.Module, ...] = (),
) -> Site:
    """A place at a module without slot, called `attention`, or `attention2`, … if it has one of that name itself."""
    attribute, number = "attention", 2
    while hasattr(host, attribute):
        attribute, number = f"attention{number}", number + 1
    return Site(f"{name}.{attribute}", 0, stage, block, host, attribute, way, channels_last, residual, producers)


def _with_channels(model: nn.Module, found: list[Site]) -> list[Site]:
    """The sites with their channels, which for some only the whole network can say."""
    for i, site in enumerate(found):
        if not site.channels:
            found[i] = replace(site, channels=_channels(site.host, *reversed(site.producers)))
    shapes = output_shapes(model, [site.host for site in found if not site.channels])
    for i, site in enumerate(found):
        layer = f"{site.name.rpartition('.')[0]} of {type(model).__name__}"
        shape = tuple(shapes.get(site.host, ()))
        advice = "name layers that give features (N, C, H, W) in where=[...]"
        if shape and len(shape) != 4:
            raise InputError(f"{layer} gives a tensor of {len(shape)} dimensions; {advice}")
        if _works_on_last(site.host) and not site.channels_last:
            raise InputError(f"{layer} is a {type(site.host).__name__}, whose channels come last; {advice}")
        if not shape and not site.channels:
            raise InputError(f"it cannot be told how many channels {layer} gives; {advice}")
        if not site.channels:
            found[i] = replace(site, channels=shape[-1] if site.channels_last else shape[1])
    return found


def _channels(*layers: nn.Module) -> int:
    """The channels of the first of the layers whose kind alone says how many it gives; 0 if none does."""
    for layer in layers:
        for attribute in ("out_channels", "out_features", "num_features", "num_channels"):
            if isinstance(layer, _PLAIN) and hasattr(layer, attribute):
                return getattr(layer, attribute)
        if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
            return layer.normalized_shape[0]
    return 0


def _features(end: BranchEnd) -> bool:
    """Whether features (N, C, H, W) come out at the end of the branch, as far as its last layer says."""
    return end.channels_last or not _works_on_last(end.layer)


def _works_on_last(layer: nn.Module) -> bool:
    """Whether `layer` works on the last dimension, so that features (N, C, H, W) do not come out of it."""
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.LayerNorm | nn.RMSNorm) and not type(layer).__name__.endswith("2d")
    )


def _shared(model: nn.Module) -> set[nn.Module]:
    """The modules that are in `model` under several names."""
    times = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    return {module for module, count in times.items() if count > 1}
