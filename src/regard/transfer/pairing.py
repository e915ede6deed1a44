"""Pairs the layers of the student with layers of the teacher."""

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
"""A layer by name or number of the stage, the same in both networks, or a pair (student's, teacher's)."""


class Pair(NamedTuple):
    """The names of two layers to compare."""

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
    """The pairs of layers to compare, in order.

    Without `layers`, stages are paired: in order, if both networks have the same number. Otherwise each stage of the
    network with fewer stages is paired with one of the other network, in order, such that their strides relative to the
    image differ least, and for equal strides their relative depths in the network.

    Args:
        student, teacher: the networks.
        layers: names or numbers of stages, from 0 or from -1 backwards, each the same in both networks or a pair
            (student's, teacher's); None: the stages.
        size: (h, w) of the student's images.
        teacher_size: (h, w) of the teacher's images; None: the same.

    Raises:
        InputError: an unknown layer or stage, a network without known stages, an empty list.
    """
    student, teacher = unwrapped(student), unwrapped(teacher)
    if layers is not None:
        if not isinstance(layers, Sequence) or isinstance(layers, str) or not layers:
            raise InputError(f"layers are {layers!r}; give a list of names, numbers of stages or pairs of these")
        pairs = map(_as_pair, layers)
        return [Pair(_layer_name("student", student, s), _layer_name("teacher", teacher, t)) for s, t in pairs]
    student_stages, teacher_stages = _stages("student", student), _stages("teacher", teacher)
    if len(student_stages) != len(teacher_stages):
        student_strides = _strides(student, student_stages, size, "student")
        teacher_strides = _strides(teacher, teacher_stages, teacher_size or size, "teacher")
        if len(student_stages) < len(teacher_stages):
            teacher_stages = [teacher_stages[i] for i in _match(student_strides, teacher_strides)]
        else:
            student_stages = [student_stages[i] for i in _match(teacher_strides, student_strides)]
    return [Pair(*names) for names in zip(student_stages, teacher_stages, strict=True)]


@torch.no_grad()
def feature_shapes(
    model: nn.Module, layers: Sequence[str], size: tuple[int, int], network: str
) -> tuple[Shapes, Tensor]:
    """The shapes (C, H, W) of layers, and the logits (1, K), for a black image of the size.

    Raises InputError if the model does not run on the image or a layer gives no features.
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
    """Raises InputError if a layer has a single pixel: its normalised attention map is always 1."""
    for name, (channels, height, width) in shapes.items():
        if height * width < 2:
            raise InputError(
                f"layer {name!r} of the {network} gives {channels} channels at {height} x {width} pixels: no spatial "
                "extent, so its normalised attention map is always 1; use a layer before the pooling, or larger images"
            )


def _as_pair(spec: LayerSpec) -> tuple[str | int, str | int]:
    if isinstance(spec, str | int):
        return spec, spec
    if not isinstance(spec, Sequence) or len(spec) != 2:
        raise InputError(f"layers contain {spec!r}; expected a layer, or a pair (student's, teacher's)")
    return spec[0], spec[1]


def _layer_name(network: str, model: nn.Module, layer: str | int) -> str:
    if isinstance(layer, int):
        names = _stages(network, model)
        if not -len(names) <= layer < len(names):
            raise InputError(f"the {network} has no stage {layer}; it has {len(names)}, from 0: {', '.join(names)}")
        return names[layer]
    try:
        (name,) = find_layers(model, layer)
    except InputError as error:
        try:
            names = list(stages(model))
        except InputError:
            names = [name for name, _ in model.named_children()]
        raise InputError(f"the {network} has no such layer: {error}; its stages: {', '.join(names)}") from error
    return name


def _stages(network: str, model: nn.Module) -> list[str]:
    try:
        return list(stages(model))
    except InputError as error:
        raise InputError(f"the {network}: {error}; give layers as pairs (student's, teacher's)") from error


def _strides(model: nn.Module, names: Sequence[str], size: tuple[int, int], network: str) -> list[float]:
    """The base-2 logarithm of each stage's stride relative to the image."""
    shapes, _ = feature_shapes(model, names, size, network)
    return [math.log2(math.sqrt(math.prod(size) / (shapes[name][1] * shapes[name][2]))) for name in names]


def _match(fewer: Sequence[float], more: Sequence[float]) -> list[int]:
    """For each of the fewer stages the index of one of the others, in order, with the least total cost.

    A factor of 2 in stride costs 1 and the full depth of the network 1/4, so depth decides only between equal strides.
    """

    def cost(i: int, j: int) -> float:
        return abs(fewer[i] - more[j]) + abs((i + 1) / len(fewer) - (j + 1) / len(more)) / 4

    best: dict[tuple[int, int], tuple[float, list[int]]] = {}  # (stage, its partner) -> cost so far, partners so far
    for i in range(len(fewer)):
        for j in range(i, len(more) - (len(fewer) - 1 - i)):
            total, partners = (0.0, []) if i == 0 else min(best[i - 1, k] for k in range(i - 1, j))
            best[i, j] = (total + cost(i, j), [*partners, j])
    return min(best[len(fewer) - 1, j] for j in range(len(fewer) - 1, len(more)))[1]
