"""What timm, torchvision and convention say of a network: how images come to it, what its outputs are called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import timm
from timm.data import ImageNetInfo
from torch import nn

from regard import models
from regard.models.torchvision_networks import describe_torchvision, is_of_torchvision
from regard.training.run import Channels, Preprocessing


def described_preprocessing(model: nn.Module) -> Preprocessing:
    """What is known of how images come to a network of this kind.

    Of those of timm and torchvision, what these say; of ImageNet, its usual.
    """
    if isinstance(model, models.PreActResNet):
        return Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, 0.875)
    about = getattr(model, "pretrained_cfg", None)
    return _preprocessing(about) if about else Preprocessing()


def published_preprocessing(name: str) -> Preprocessing | None:
    """The same of a network by its name, if that says it without the network."""
    return _preprocessing(describe_torchvision(name)) if is_of_torchvision(name) else None


def _preprocessing(about: Mapping[str, Any]) -> Preprocessing:
    size = about.get("input_size")
    return Preprocessing(
        three_numbers(about.get("mean")),
        three_numbers(about.get("std")),
        size[-1] if size else None,
        about.get("crop_pct"),
        about.get("crop_mode"),
        about.get("interpolation"),
    )


def described_classes(name: str) -> int | None:
    """How many classes the published weights of the network of timm or torchvision called `name` have, if these say so.

    Raises:
        InputError: torchvision has no network of that name.
    """
    if is_of_torchvision(name):
        return int(describe_torchvision(name)["num_classes"])
    about = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return about.num_classes if about else None


def published_classes(name: str) -> tuple[str, ...] | None:
    """What the classes of these weights are called; None where nobody says, as timm does not.

    Those of ImageNet have one name each, whatever the network: see `imagenet_classes`.

    Raises:
        InputError: torchvision has no network of that name.
    """
    if not is_of_torchvision(name):
        return None
    names: tuple[str, ...] = describe_torchvision(name)["label_names"]
    known = imagenet_classes()
    # "crane bird" is "crane (134)" there, as there is another crane.
    same = len(names) == len(known) and all(a.startswith(b.split(" (")[0]) for a, b in zip(names, known, strict=True))
    return known if same else names


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet by WordNet's names ("n01440764"), in the order of the outputs."""
    return tuple(ImageNetInfo().label_names())


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The same in words: the first of each class's names ("tench"), with its number behind it where two are alike."""
    said = [description.split(",")[0] for description in ImageNetInfo().label_descriptions()]
    return tuple(f"{name} ({i})" if said.count(name) > 1 else name for i, name in enumerate(said))


def three_numbers(values: Any) -> Channels | None:
    """Numbers for the three channels; None of None.

    Raises:
        ValueError: not three, or infinite ones.
    """
    if values is None:
        return None
    red, green, blue = map(float, values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError("no numbers")
    return red, green, blue
