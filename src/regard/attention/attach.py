"""Putting attention modules into a network, and taking them out again."""

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
    """Attention was not attached at the end of a residual branch, because there is none."""


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
    """Puts attention module `name` into `model`, in place: at the end of every residual branch, or as `where` states.

    Where blocks have a slot for attention (regard's own, and those of timm's ResNets), it goes there. Elsewhere a
    `WithAttention` replaces the layer before it: that layer, with the attention module as its child `attention`. All
    other names in state dicts stay, so weights of the plain network load with `strict=False`.

    Modules take the device, dtype and mode of their block.

    Args:
        model: a convolutional network of regard, timm, torchvision, or your own. Attach before it is compiled or
            wrapped, and before an optimizer is made.
        name: one of `attention.names()`, or a class or function that makes a module of a number of channels.
        stages: numbers counted from 1; None means every stage.
        where: 'branch', 'block', 'stage', or a sequence of layer names; `attention.insertion_points` describes them.
        gate: as in `attention.create`.
        start: 'published', the authors' initialisation, or 'identity': the network's output is unchanged at first; see
            `attention.IdentityStart`. Use 'identity' for networks with trained weights, since gates of about 1/2 in
            every branch undo what they learned. Modules that start as the identity themselves (`starts_as_identity`:
            global context) are not wrapped. With 'identity', shuffle attention has no channel shuffle, which would
            permute the channels of trained features, unless `shuffle=True` is given.
        options: the module's own.

    Returns:
        `model`.

    Warns:
        PlacementWarning: these stages have no residual branch; the message states where attention was attached.

    Raises:
        InputError: the model has no insertion point there, or has attention there already; the model is then unchanged.
    """
    if start not in get_args(Start):
        raise unknown("start of attention", start, get_args(Start))
    if start == "identity" and name == "shuffle":
        options = {"shuffle": False, **options}
    points = insertion_points(model, stages, where)
    for point in points:
        if point.module is not None:
            advice = (
                "detach(model) takes it out" if _was_attached(point.host, point.module) else "choose a network without"
            )
            raise InputError(f"{point.name} holds {type(point.module).__name__} already; {advice}")
    modules = _modules(model, points, name, gate, options)
    if where == "branch" and points and not any(point.residual for point in points):
        warnings.warn(_went_elsewhere(model, stages, points), PlacementWarning, stacklevel=2)
    for point, module in zip(points, modules, strict=True):
        if start == "identity" and not getattr(module, "starts_as_identity", False):
            like = _like(model, point)
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
    """Removes the modules that `attach` put into `model`, in place, and returns the model.

    Attention that is part of the architecture, such as the squeeze-and-excitation of timm's `seresnet50`, stays.

    Raises:
        InputError: `model` comes from `attention.fold`.
    """
    if any(isinstance(module, OrderedShuffleAttention) for module in model.modules()):
        raise InputError("attention of this model is folded into its weights; detach from the model it was folded from")
    for host in list(model.modules()):
        if isinstance(host, WithAttention):
            exchange(model, host, without_attention(host))
            continue
        for attribute, module in list(host.named_children()):
            if _was_attached(host, module):
                setattr(host, attribute, None)  # the slot stays
    return model


def attached(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that `attach` put into `model`, as name in the model -> module, in the order of its modules."""
    return {
        f"{name}.{attribute}" if name else attribute: module
        for name, host in ((plain_name(name), host) for name, host in model.named_modules())
        for attribute, module in host.named_children()
        if _was_attached(host, module)
    }


def _was_attached(host: nn.Module | None, module: nn.Module) -> bool:
    return is_added(module) or (isinstance(host, AttentionSlot) and module is host.attention)


def _modules(
    model: nn.Module,
    points: list[InsertionPoint],
    name: str | Callable[..., nn.Module],
    gate: Gate | str,
    options: dict[str, Any],
) -> list[nn.Module]:
    """The module of each insertion point. A class with a method `for_stage` makes all those of a stage at once."""
    for_stage = getattr(get(name) if isinstance(name, str) else name, "for_stage", None)
    modules: list[nn.Module] = []
    for _, group in groupby(points, key=lambda point: point.stage):
        together = [(point.channels, _like(model, point)) for point in group]
        if for_stage is not None:
            stage_channels, likes = zip(*together, strict=True)
            modules += for_stage(stage_channels, gate=gate, device=likes[0].device, dtype=likes[0].dtype, **options)
        else:
            modules += [
                create(name, channels, gate=gate, device=like.device, dtype=like.dtype, **options)
                for channels, like in together
            ]
    return modules


def _like(model: nn.Module, point: InsertionPoint) -> nn.Parameter:
    """A parameter whose device and dtype attention at `point` takes."""
    return next(like for like in chain(point.block.parameters(), model.parameters()) if like.is_floating_point())


def _went_elsewhere(model: nn.Module, stages: Iterable[int] | None, points: list[InsertionPoint]) -> str:
    names = [point.name.rpartition(".")[0] for point in points]
    listed = ", ".join(names if len(names) < 5 else [*names[:2], "…", names[-1]])
    lacking = f"{type(model).__name__} has no residual branches{'' if stages is None else ' in these stages'}"
    return f"{lacking}; attention went behind {len(names)} layer{'s' if len(names) > 1 else ''}: {listed}"
