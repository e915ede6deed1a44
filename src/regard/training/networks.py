"""Builds the networks of recipes: untrained, with the weights of a checkpoint, or partly frozen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regard import detection, models
from regard.attention import attached
from regard.errors import InputError
from regard.maps.layers import find_layers
from regard.models.loading import build_on_meta, entries_for
from regard.models.norms import batch_norms, fix_statistics, sync_norms
from regard.training.datasets import detector_size
from regard.training.distributed import Processes
from regard.training.recipe import DataRecipe, ModelRecipe, Recipe


def make_model(recipe: Recipe, classes: int, *, pretrained: bool | None = None) -> nn.Module:
    """Builds the network of a recipe with its frozen layers, before training; see `build_network`."""
    model = build_network(recipe.model, classes, pretrained=pretrained)
    freeze(model, recipe.model.frozen, fixed_norms=recipe.model.fixed_norms)
    return model


def build_network(
    network: ModelRecipe, classes: int, *, pretrained: bool | None = None, data: DataRecipe | None = None
) -> nn.Module:
    """Builds the network of a recipe, untrained unless it is pretrained. Only a detector's frozen_stages are frozen.

    Args:
        network: network to build.
        classes: number of classes.
        pretrained: None to use the recipe's.
        data: data of the recipe, which give a detector the size, mean and std of its images.

    Raises:
        InputError: as `models.create`.
    """
    for group in ("options", "detector_options"):
        for option in getattr(network, group):
            if option == "num_classes":
                raise InputError(f"model.{group} has num_classes, which the data set gives; leave it out")
            if option in inspect.signature(models.create).parameters:
                raise InputError(f"model.{group} has {option}, which is a field; give it as model.{option}")
    start = network.attention_start
    if network.attention is not None and network.pretrained and pretrained is False:
        start = start or "identity"  # a file of weights replaces pretrained weights
    options: dict[str, Any] = {
        "attention": network.attention,
        "gate": network.gate,
        "attention_stages": network.attention_stages,
        "attention_options": network.attention_options,
        "attention_start": start,
        "pretrained": _weights_path(network.pretrained) if pretrained is None else pretrained,
    }
    if network.detector is None:  # `sources` loads the weights of a run or file
        options["pretrained"] = options["pretrained"] is True
        return models.create(network.name, classes, **options, **network.options)
    if data is not None:
        options["min_size"], options["max_size"] = detector_size(data)
        options |= {f"image_{name}": list(values) for name in ("mean", "std") if (values := getattr(data, name))}
    options |= {"backbone_options": network.options, **network.detector_options}
    return detection.create(network.detector, network.name, classes, **options)


def _weights_path(pretrained: bool | str) -> bool | Path:
    """The path of the weights in a run folder or file; a bool is returned as it is."""
    if isinstance(pretrained, bool):
        return pretrained
    return Path(pretrained) / "last.safetensors" if Path(pretrained).is_dir() else Path(pretrained)


def has_attention(network: ModelRecipe) -> bool:
    """Whether the run or file that a detector's backbone starts from has weights of its attention modules."""
    backbone = replace(network, detector=None, attention_start="published")
    model = build_on_meta(partial(build_network, backbone, 1, pretrained=False))
    path = _weights_path(network.pretrained)
    assert isinstance(path, Path)
    entries = entries_for(model, models.read_checkpoint(path), str(path))
    return any(
        f"{layer}.{name}" in entries for layer, module in attached(model).items() for name in module.state_dict()
    )


def load_network(
    network: ModelRecipe,
    outputs: int,
    path: Path,
    content: Any = None,
    *,
    data: DataRecipe | None = None,
    ema: bool = False,
    log: Callable[[str], None] | None = None,
) -> nn.Module:
    """Builds the network of a recipe with the weights of a file, in evaluation mode on the CPU (`models.load_built`).

    `content` is what `models.read_checkpoint` returns for the file, or a part of it; by default the file is read.
    `data` is as in `build_network`, `ema` and `log` as in `models.load_official`. Raises InputError if the weights do
    not fit.
    """
    checkpoint = models.read_checkpoint(path) if content is None else content
    build = partial(build_network, network, outputs, pretrained=False, data=data)
    return models.load_built(build, checkpoint, str(path), network.name, ema=ema, log=log)


def freeze(model: nn.Module, frozen: Sequence[str] = (), *, fixed_norms: bool = False) -> None:
    """Freezes the named layers of `model`, in place, and the batch norms in them, or all with `fixed_norms`.

    A fixed batch norm stays in evaluation mode, also after `model.train()`: it uses and keeps its running mean and
    variance, and its parameters do not learn. Copies and pickles of the model are fixed, too; the state dict is
    unchanged. Dropout stays active in training. Raises InputError for an unknown layer, or if nothing can be fixed or
    left to learn.
    """
    if isinstance(frozen, str):
        raise InputError(f"model.frozen is {frozen!r}; give a list of layers, [{frozen}]")
    try:
        layers = list(find_layers(model, frozen).values()) if frozen else []
    except InputError as error:
        raise InputError(f"model.frozen: {error}") from error
    norms = batch_norms(model) if fixed_norms else [norm for layer in layers for norm in batch_norms(layer)]
    if fixed_norms and not norms:
        raise InputError(f"model.fixed_norms: the {type(model).__name__} has no batch norms; leave it out")
    for module in (*layers, *norms):
        module.requires_grad_(False)
    fix_statistics(norms)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"model.frozen ({', '.join(frozen)}){' and model.fixed_norms' if fixed_norms else ''} leave no parameter "
            "to learn; leave a layer out"
        )


def prepare_network(model: nn.Module, recipe: Recipe, images: int, processes: Processes) -> tuple[nn.Module, bool]:
    """Synchronises the batch norms and freezes the layers that the recipe names, and moves the network to the device.

    Also returns whether it is in the channels last layout.
    """
    if recipe.sync_norms and processes.count > 1:
        model = sync_norms(model, processes.device)
    freeze(model, recipe.model.frozen, fixed_norms=recipe.model.fixed_norms)
    model = model.to(processes.device)
    channels_last = recipe.channels_last and _takes_channels_last(model, recipe, images, processes)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model, channels_last


def _takes_channels_last(model: nn.Module, recipe: Recipe, images: int, processes: Processes) -> bool:
    """Whether the network can be trained in the channels last layout on this number of images.

    On a CPU, oneDNN writes the weight gradient of a strided 1 x 1 convolution with fewer than 16 channels out of bounds
    if the number of threads does not divide the number of images (torch 2.14.1, AMD EPYC).
    """
    batch, threads = recipe.schedule.batch_size, torch.get_num_threads() * processes.count
    divisible = recipe.schedule.accumulate == 1 and batch % threads == 0 and images % batch % threads == 0
    if processes.device.type != "cpu" or torch.get_num_threads() == 1 or divisible:
        return True
    convolutions = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return all(
        layer.kernel_size != (1, 1) or layer.stride == (1, 1) or layer.in_channels >= 16 for layer in convolutions
    )
