"""Putting attention modules into a network, and taking them out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from timm.models import resnet as timm_resnet
from torch import nn

from regard.attention.gates import Gate
from regard.attention.registry import create, is_registered
from regard.errors import InputError
from regard.stages import stages as find_stages

Model = TypeVar("Model", bound=nn.Module)


class AttentionSlot:
    """Mixin of residual blocks that have a place for attention at the end of their residual branch.

    Such a block passes its branch through `attention` unless that is None, and says in `attention_channels` how many
    channels arrive there.
    """

    attention: nn.Module | None
    attention_channels: int


class Site(NamedTuple):
    """A place where attention goes: an attribute of a residual block that holds a module or None."""

    name: str
    block: nn.Module
    attribute: str
    channels: int

    @property
    def occupant(self) -> nn.Module | None:
        return getattr(self.block, self.attribute)


def sites(model: nn.Module, stages: Iterable[int] | None = None) -> Iterator[Site]:
    """The places for attention in the `stages` (counted from 1; None: all) of `model`, in order.

    Raises:
        InputError: `model` has no such stage, or no residual blocks with a place for attention in it.
    """
    named = list(find_stages(model).items())
    chosen = range(1, len(named) + 1) if stages is None else sorted(set(stages))
    for number in chosen:
        if not 1 <= number <= len(named):
            raise InputError(f"{type(model).__name__} has stages 1 to {len(named)}, not {number}")
        stage_name, stage = named[number - 1]
        found = False
        for name, block in stage.named_modules():
            site = _site(f"{stage_name}.{name}" if name else stage_name, block)
            if site is not None:
                found = True
                yield site
        if not found:
            raise InputError(
                f"{stage_name} of {type(model).__name__} has no residual blocks that take attention; attention goes "
                "into regard's networks and timm's ResNets"
            )


def _site(name: str, block: nn.Module) -> Site | None:
    if isinstance(block, AttentionSlot):
        return Site(name, block, "attention", block.attention_channels)
    if isinstance(block, timm_resnet.Bottleneck):
        return Site(name, block, "se", block.conv3.out_channels)
    if isinstance(block, timm_resnet.BasicBlock):
        return Site(name, block, "se", block.conv2.out_channels)
    return None


def attach(
    model: Model,
    name: str,
    stages: Iterable[int] | None = None,
    *,
    gate: Gate | str = "sigmoid",
    **options: Any,
) -> Model:
    """Puts attention module `name` at the end of every residual branch of `model`, in place.

    In blocks that add after their last norm it comes right after that norm; in pre-activation blocks, whose branch ends
    in a convolution, after that convolution. Either way it comes before the addition. Modules take the device and
    dtype of their block.

    Args:
        model: one of regard's CIFAR networks or a ResNet of timm.
        name: one of `attention.names()`.
        stages: numbers counted from 1; None means every stage.
        gate: as in `attention.create`.
        options: the module's own.

    Returns:
        `model`.

    Raises:
        InputError: the model has no place for attention there, or carries some already; it is left as it was.
    """
    places = list(sites(model, stages))
    for site in places:
        if site.occupant is not None:
            advice = "detach(model) takes it out" if is_registered(site.occupant) else "choose a network without"
            raise InputError(f"{site.name}.{site.attribute} holds {type(site.occupant).__name__} already; {advice}")
    modules = []
    for site in places:
        like = next(site.block.parameters())
        modules.append(create(name, site.channels, gate=gate, device=like.device, dtype=like.dtype, **options))
    for site, module in zip(places, modules, strict=True):
        setattr(site.block, site.attribute, module.train(site.block.training))
    return model


def detach(model: Model) -> Model:
    """Takes the modules that `attach` put in out of `model` again, in place, and returns it.

    What a network of timm brings of its own, such as the squeeze-and-excitation of `seresnet50`, stays.

    Raises:
        InputError: `model` has no residual blocks that take attention.
    """
    for site in sites(model):
        if is_registered(site.occupant):
            setattr(site.block, site.attribute, None)
    return model
