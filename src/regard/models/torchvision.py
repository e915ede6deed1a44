"""The classification networks of torchvision, by name: "torchvision/resnet50"."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torchvision
from torch import nn

from regard.errors import InputError, first_line, unknown
from regard.models.checkpoints import load_weights
from regard.models.loading import entries_for

_PREFIX = "torchvision/"


def is_of_torchvision(name: str) -> bool:
    """Whether the name has the prefix of torchvision's networks."""
    return name.startswith(_PREFIX)


@cache
def torchvision_names() -> tuple[str, ...]:
    """All of them: "torchvision/alexnet", …"""
    return tuple(_PREFIX + name for name in torchvision.models.list_models(module=torchvision.models))


def describe_torchvision(name: str) -> dict[str, Any]:
    """torchvision's metadata of a network's `DEFAULT` weights, with timm's keys.

    Returns:
        `num_classes`, `label_names`, `input_size` (3, H, W), `fixed_input_size`, `mean`, `std`, `crop_pct`,
        `crop_mode`, `interpolation` and `url`.

    Raises:
        InputError: torchvision has no classification network of that name.
    """
    weights = _weights(name)
    images = weights.transforms()
    (side,), (resized,) = images.crop_size, images.resize_size
    share = side / resized
    return {
        "num_classes": len(weights.meta["categories"]),
        "label_names": tuple(weights.meta["categories"]),
        "input_size": (3, side, side),
        "fixed_input_size": name.removeprefix(_PREFIX).startswith(("vit_", "maxvit_")),
        "mean": tuple(images.mean),
        "std": tuple(images.std),
        # a number by which `side` divides to `resized`, rounded down
        "crop_pct": share if math.floor(side / share) == resized else math.nextafter(share, 0),
        "crop_mode": "center",
        "interpolation": images.interpolation.value,
        "url": weights.url,
    }


def create_torchvision(name: str, num_classes: int, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """A network of torchvision, with torchvision's metadata of its weights as `pretrained_cfg`, as in timm.

    - GoogLeNet and Inception are made without the auxiliary heads that they have in training, so that they give one
      tensor of logits, and take images normalised as all others do (`transform_input`). `aux_logits=True` and
      `transform_input=False` make them otherwise.
    - Vision transformers are made for the images of their published weights: `vit_h_14` for 518 pixels.

    Args:
        name: one of `torchvision_names()`.
        num_classes: length of the logits.
        pretrained: with its `DEFAULT` weights, which are downloaded to torch's cache unless they are there. If they
            are for another number of classes, the classifier, the last layer, is newly initialised.
        options: the network's own.

    Raises:
        InputError: no such name; an option whose value does not fit; weights that do not fit the options.
        Exception: the weights cannot be downloaded or read.
    """
    short, about = name.removeprefix(_PREFIX), describe_torchvision(name)
    if short in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "transform_input": True, "init_weights": not pretrained, **options}
    elif short.startswith("vit_"):
        options = {"image_size": about["input_size"][-1], **options}
    try:
        model = torchvision.models.get_model(short, weights=None, num_classes=num_classes, **options)
    except (ValueError, AssertionError) as error:
        raise InputError(f"{name}: {first_line(error)}") from error
    model.pretrained_cfg = about
    if pretrained:
        state = _weights(name).get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
        entries, drawn = entries_for(model, state, about["url"]), model.state_dict()
        classes = torch.Size((about["num_classes"],)), torch.Size((num_classes,))
        for entry in entries.keys() & drawn.keys():
            if num_classes != about["num_classes"] and (entries[entry].shape[:1], drawn[entry].shape[:1]) == classes:
                entries[entry] = drawn[entry]
        load_weights(model, entries, about["url"])
    return model


def _weights(name: str) -> Any:
    if name not in torchvision_names():
        raise unknown("network of torchvision", name, torchvision_names())
    return torchvision.models.get_model_weights(name.removeprefix(_PREFIX)).DEFAULT
