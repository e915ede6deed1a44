"""Which layer of the student is compared with which of the teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.logits import class_logits
from regard.maps import Taps
from regard.maps.layers import find_layers
from regard.maps.pooled import logits_on
from regard.modes import evaluation_mode
from regard.stages import stages, unwrapped

LayerSpec = str | int | tuple[str | int, str | int] | Sequence[str | int]
"""A layer by name or by number of the stage, the same in both networks, or a pair (student's, teacher's)."""


class Pair(NamedTuple):
    """Names of layers that are compared."""

    student: str
    teacher: str


Shapes = dict[str, tuple[int, int, int]]
"""Name of a layer -> (C, H, W) of its features."""


def find_pairs(
    student: nn.Module,
    teacher: nn.Module,
    layers: Sequence[LayerSpec] | None,
    size: tuple[int, int],
    teacher_size: tuple[int, int] | None = None,
) -> list[Pair]:
    """The layers that are compared, in order.

    Given, each is a name or the number of a stage, from 0 or from -1 backwards, the same in both networks or a pair
    (student's, teacher's). Not given, they are the stages: in order, if both networks have as many; otherwise each
    stage of the network that has fewer goes with one of the other, in order, so that their strides, relative to the
    image, are as alike as can be, and among equals their relative depths in the network.

    Args:
        student, teacher: the networks.
        layers: see `Objective`; None for the stages.
        size: (h, w) of the student's images.
        teacher_size: of the teacher's; None: the same.

    Raises:
        InputError: a layer or stage that is not there (the error lists those that are), a network without known
            stages, an empty list.
    """
    student, teacher = unwrapped(student), unwrapped(teacher)
    if layers is not None:
        if not isinstance(layers, Sequence) or isinstance(layers, str) or not layers:
            raise InputError(f"layers are {layers!r}; give a list of names, numbers of stages or pairs of these")
        return [
            Pair(_name("student", student, ours), _name("teacher", teacher, theirs))
            for ours, theirs in map(_pair, layers)
        ]
    ours, theirs = _stages("student", student), _stages("teacher", teacher)
    if len(ours) != len(theirs):
        student_strides = _strides(student, ours, size, "student")
        teacher_strides = _strides(teacher, theirs, teacher_size or size, "teacher")
        if len(ours) < len(theirs):
            theirs = [theirs[i] for i in _matched(student_strides, teacher_strides)]
        else:
            ours = [ours[i] for i in _matched(teacher_strides, student_strides)]
    return [Pair(*names) for names in zip(ours, theirs, strict=True)]


@torch.no_grad()
def feature_shapes(
    model: nn.Module, layers: Sequence[str], size: tuple[int, int], network: str
) -> tuple[Shapes, Tensor]:
    """The shapes (C, H, W) of layers for an image of the size, and the logits (1, K) for a black one.

    Raises:
        InputError: the model does not run on such an image, or a layer gives no features.
    """
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise InputError(f"the size of the {network}'s images is {size!r}; give their side in pixels, or (h, w)")
    model = unwrapped(model)
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype)
    hint = " (it can have its own: transfer.teacher_size, or Teacher(size=…))" if network == "teacher" else ""
    taps = Taps(model, list(dict.fromkeys(layers))) if layers else None
    features: dict[str, Tensor] = {}
    with evaluation_mode(model):
        if taps is None:
            logits = logits_on(model, image, network, hint)
        else:
            logits, features = taps.run(logits_on, model, image, network, hint)
    if logits.ndim != 2:
        raise InputError(f"the {network} gives {tuple(logits.shape)}; transfer needs logits (N, K)")
    return {name: (f.shape[1], f.shape[2], f.shape[3]) for name, f in features.items()}, class_logits(logits)


def check_extent(shapes: Shapes, network: str) -> None:
    """Raises InputError if a layer has one pixel only: its normalised attention map is always 1."""
    for name, (channels, height, width) in shapes.items():
        if height * width < 2:
            raise InputError(
                f"layer {name!r} of the {network} gives {channels} channels at {height} x {width} pixels: no spatial "
                "extent, so its normalised attention map is always 1; take a layer before the pooling, or larger images"
            )


def _pair(spec: LayerSpec) -> tuple[str | int, str | int]:
    if isinstance(spec, str | int):
        return spec, spec
    if not isinstance(spec, Sequence) or len(spec) != 2:
        raise InputError(f"layers holds {spec!r}; expected a layer, or a pair (student's, teacher's)")
    return spec[0], spec[1]


def _name(network: str, model: nn.Module, layer: str | int) -> str:
    """The name of a layer given by name or by number of the stage."""
    if isinstance(layer, int):
        known = _stages(network, model)
        if not -len(known) <= layer < len(known):
            raise InputError(f"the {network} has no stage {layer}; it has {len(known)}, from 0: {', '.join(known)}")
        return known[layer]
    try:
        (name,) = find_layers(model, layer)
    except InputError as error:
        try:
            known = list(stages(model))
        except InputError:
            known = [name for name, _ in model.named_children()]
        raise InputError(f"the {network} has no such layer: {error}; its stages: {', '.join(known)}") from error
    return name


def _stages(network: str, model: nn.Module) -> list[str]:
    try:
        return list(stages(model))
    except InputError as error:
        raise InputError(f"the {network}: {error}; give layers as pairs (student's, teacher's)") from error


def _strides(model: nn.Module, names: Sequence[str], size: tuple[int, int], network: str) -> list[float]:
    """By how much each stage is coarser than the image, in each direction, as a logarithm to base 2."""
    shapes, _ = feature_shapes(model, names, size, network)
    return [math.log2(math.sqrt(math.prod(size) / (shapes[name][1] * shapes[name][2]))) for name in names]


def _matched(fewer: Sequence[float], more: Sequence[float]) -> list[int]:
    """For each of the fewer stages one of the others, in order, so that the sum of the costs is least.

    A halving of the resolution costs 1, the whole depth of the network 1/4: depth decides among stages of one
    resolution, and never makes up for another.
    """

    def cost(i: int, j: int) -> float:
        return abs(fewer[i] - more[j]) + abs((i + 1) / len(fewer) - (j + 1) / len(more)) / 4

    best: dict[tuple[int, int], tuple[float, list[int]]] = {}  # (stage, its partner) -> cost so far, partners so far
    for i in range(len(fewer)):
        for j in range(i, len(more) - (len(fewer) - 1 - i)):
            before = (0.0, []) if i == 0 else min(best[i - 1, k] for k in range(i - 1, j))
            best[i, j] = (before[0] + cost(i, j), [*before[1], j])
    return min(best[len(fewer) - 1, j] for j in range(len(fewer) - 1, len(more)))[1]
