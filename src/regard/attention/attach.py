"""Inserts attention modules into a network, lists them and removes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from itertools import chain, groupby
from typing import Any, TypeVar, get_args

from torch import nn

from regard.attention.gates import Gate
from regard.attention.insertion_points import InsertionPoint, Where, insertion_points
from regard.attention.modules.shuffle import OrderedShuffleAttention
from regard.attention.registry import create, get
from regard.attention.start import IdentityStart, Start
from regard.blocks import AttentionSlot
from regard.errors import InputError, unknown
from regard.with_attention import WithAttention, exchange, is_added, mark_added, plain_name, without_attention

Model = TypeVar("Model", bound=nn.Module)


class PlacementWarning(UserWarning):
    """Attention was attached behind other layers, because the network has no residual branches."""


def attach(
    model: Model,
    name: str | Callable[..., nn.Module],
    stages: Iterable[int] | None = None,
    *,
    where: Where = "branch",
    gate: Gate | str = "sigmoid",
    start: Start = "published",
    **options: Any,
) -> Model:
    """Inserts attention modules into `model`, in place, at the end of every residual branch or as `where` specifies.

    Blocks with a slot for attention (regard's own, and those of timm's ResNets) receive the module in their slot.
    Elsewhere a `WithAttention` replaces the layer before the insertion point, with the attention module as its child
    `attention`. All other names in state dicts stay, so weights of the plain network load with `strict=False`.

    Modules have the device, dtype and mode of their block.

    Args:
        model: a convolutional network of regard, timm, torchvision, or your own. Attach before compiling or wrapping
            it, and before creating an optimizer.
        name: one of `attention.names()`, or a class or function that takes a number of channels and returns a module.
        stages: numbers counted from 1; None means every stage.
        where: 'branch', 'block', 'stage', or a sequence of layer names; see `attention.insertion_points`.
        gate: as in `attention.create`.
        start: 'published', the authors' initialisation, or 'identity', with which the network's output is initially
            unchanged; see `attention.IdentityStart`. Use 'identity' for networks with trained weights, since gates of
            about 1/2 in every branch destroy what they learned. Modules that start as the identity themselves
            (`starts_as_identity`: global context) are not wrapped. With 'identity', shuffle attention has no channel
            shuffle, which would permute the channels of trained features, unless `shuffle=True` is given.
        options: options of the module.

    Returns:
        `model`.

    Warns:
        PlacementWarning: these stages have no residual branch; the message lists the layers before attention.

    Raises:
        InputError: the model has no such insertion point, or already has attention there; the model is then unchanged.
    """
    if start not in get_args(Start):
        raise unknown("start of attention", start, get_args(Start))
    if start == "identity" and name == "shuffle":
        options = {"shuffle": False, **options}
    points = insertion_points(model, stages, where)
    for point in points:
        if point.module is not None:
            attached_before = _was_attached(point.host, point.module)
            advice = "detach(model) removes it" if attached_before else "choose a network without it"
            raise InputError(f"{point.name} holds {type(point.module).__name__} already; {advice}")
    modules = _create_modules(model, points, name, gate, options)
    if where == "branch" and points and not any(point.residual for point in points):
        warnings.warn(_placement_message(model, stages, points), PlacementWarning, stacklevel=2)
    for point, module in zip(points, modules, strict=True):
        if start == "identity" and not getattr(module, "starts_as_identity", False):
            like = _reference_parameter(model, point)
            module = IdentityStart(module, device=like.device, dtype=like.dtype)
        mark_added(module)
        module.train(point.block.training)
        if point.slot:
            setattr(point.host, point.attribute, module)
        else:
            wrapper = WithAttention(point.host, module, point.attribute, channels_last=point.channels_last)
            exchange(model, point.host, wrapper)
    return model


def detach(model: Model) -> Model:
    """Removes the modules that `attach` inserted into `model`, in place, and returns the model.

    Attention that is part of the architecture, such as the squeeze-and-excitation of timm's `seresnet50`, remains.

    Raises:
        InputError: `model` comes from `attention.fold`.
    """
    if any(isinstance(module, OrderedShuffleAttention) for module in model.modules()):
        raise InputError("attention of this model is folded into its weights; call detach on the model before folding")
    for host in list(model.modules()):
        if isinstance(host, WithAttention):
            exchange(model, host, without_attention(host))
            continue
        for attribute, module in list(host.named_children()):
            if _was_attached(host, module):
                setattr(host, attribute, None)
    return model


def attached(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that `attach` inserted into `model`, as name in the model -> module, in the order of its modules."""
    return {
        f"{name}.{attribute}" if name else attribute: module
        for name, host in ((plain_name(name), host) for name, host in model.named_modules())
        for attribute, module in host.named_children()
        if _was_attached(host, module)
    }


def _was_attached(host: nn.Module | None, module: nn.Module) -> bool:
    return is_added(module) or (isinstance(host, AttentionSlot) and module is host.attention)


def _create_modules(
    model: nn.Module,
    points: list[InsertionPoint],
    name: str | Callable[..., nn.Module],
    gate: Gate | str,
    options: dict[str, Any],
) -> list[nn.Module]:
    """One module per insertion point. A class with a method `for_stage` creates the modules of a stage together."""
    for_stage = getattr(get(name) if isinstance(name, str) else name, "for_stage", None)
    modules: list[nn.Module] = []
    for _, stage_points in groupby(points, key=lambda point: point.stage):
        pairs = [(point.channels, _reference_parameter(model, point)) for point in stage_points]
        if for_stage is not None:
            channels, (like, *_) = zip(*pairs, strict=True)
            modules += for_stage(channels, gate=gate, device=like.device, dtype=like.dtype, **options)
        else:
            modules += [
                create(name, channels, gate=gate, device=like.device, dtype=like.dtype, **options)
                for channels, like in pairs
            ]
    return modules


def _reference_parameter(model: nn.Module, point: InsertionPoint) -> nn.Parameter:
    """The parameter that determines device and dtype of the attention module at `point`."""
    parameters = chain(point.block.parameters(), model.parameters())
    return next(parameter for parameter in parameters if parameter.is_floating_point())


def _placement_message(model: nn.Module, stages: Iterable[int] | None, points: list[InsertionPoint]) -> str:
    names = [point.name.rpartition(".")[0] for point in points]
    listed = ", ".join(names if len(names) < 5 else [*names[:2], "…", names[-1]])
    cause = f"{type(model).__name__} has no residual branches{'' if stages is None else ' in these stages'}"
    return f"{cause}; attention was attached behind {len(names)} layer{'s' if len(names) > 1 else ''}: {listed}"
