"""What timm and torchvision say of the weights that they publish: for what images, and of what classes they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import timm
from timm.data import ImageNetInfo

from regard.models.torchvision_networks import describe_torchvision, is_of_torchvision

# The published LSAS and SE ResNets were trained with the usual preprocessing of ImageNet.
_IMAGENET = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
}


def describe(name: str) -> Mapping[str, Any]:
    """The published weights of a network by its name, as in timm's `pretrained_cfg`; empty where nothing is known.

    Returns:
        `num_classes`, `input_size` (3, H, W), `mean`, `std`, `crop_pct`, `crop_mode`, `interpolation`; of torchvision
        also `label_names`.

    Raises:
        InputError: torchvision has no network of that name.
    """
    if is_of_torchvision(name):
        return describe_torchvision(name)
    if name.startswith("preact-resnet"):
        return _IMAGENET
    try:
        about = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # a tag behind the name that timm does not know
        about = None
    return about.to_dict() if about else {}


def class_names(name: str) -> tuple[str, ...] | None:
    """What the classes of these weights are called; None where nobody says, as timm does not.

    Those of ImageNet have one name each, whatever the network: see `imagenet_classes`.

    Raises:
        InputError: torchvision has no network of that name.
    """
    names: tuple[str, ...] | None = describe(name).get("label_names") if is_of_torchvision(name) else None
    known = imagenet_classes()
    if names is None or len(names) != len(known):
        return names
    # "crane bird" is "crane (134)" there, as there is another crane.
    same = all(a.startswith(b.split(" (")[0]) for a, b in zip(names, known, strict=True))
    return known if same else names


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet by WordNet's names ("n01440764"), in the order of the outputs."""
    return tuple(ImageNetInfo().label_names())


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The same in words: the first of each class's names ("tench"), with its number behind it where two are alike."""
    names = [description.split(",")[0] for description in ImageNetInfo().label_descriptions()]
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))
