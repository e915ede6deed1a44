"""Creates the classification networks of torchvision by name, such as "torchvision/resnet50"."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torchvision
from torch import nn

from regard.errors import InputError, first_line, unknown
from regard.models.checkpoints import load_weights
from regard.models.loading import entries_for

_PREFIX = "torchvision/"


def is_torchvision_name(name: str) -> bool:
    """Whether `name` starts with "torchvision/"."""
    return name.startswith(_PREFIX)


@cache
def torchvision_names() -> tuple[str, ...]:
    """The names of all classification networks: "torchvision/alexnet", …"""
    return tuple(_PREFIX + name for name in torchvision.models.list_models(module=torchvision.models))


def describe_torchvision(name: str) -> dict[str, Any]:
    """The metadata of a network's `DEFAULT` weights, with timm's keys."""
    weights = _weights(name)
    transforms = weights.transforms()
    (side,), (resized,) = transforms.crop_size, transforms.resize_size
    ratio = side / resized
    return {
        "num_classes": len(weights.meta["categories"]),
        "label_names": tuple(weights.meta["categories"]),
        "input_size": (3, side, side),
        "fixed_input_size": name.removeprefix(_PREFIX).startswith(("vit_", "maxvit_")),
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        # timm resizes to floor(side / crop_pct), which has to be `resized`
        "crop_pct": ratio if math.floor(side / ratio) == resized else math.nextafter(ratio, 0),
        "crop_mode": "center",
        "interpolation": transforms.interpolation.value,
        "url": weights.url,
    }


def create_torchvision(name: str, num_classes: int, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Creates a network of torchvision; its attribute `pretrained_cfg` has the metadata of its weights, as in timm.

    - GoogLeNet and Inception have no auxiliary heads by default, so that they return one tensor of logits, and take
      images with the usual normalisation. `aux_logits=True` and `transform_input=False` change that.
    - Vision transformers have the image size of their published weights by default: `vit_h_14` 518 pixels.

    With `pretrained` it has the `DEFAULT` weights, which are downloaded to torch's cache unless they are there. If they
    have another number of classes, the last layer is newly initialised. Download errors are raised as they are.
    """
    short, metadata = name.removeprefix(_PREFIX), describe_torchvision(name)
    if short in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "transform_input": True, "init_weights": not pretrained, **options}
    elif short.startswith("vit_"):
        options = {"image_size": metadata["input_size"][-1], **options}
    try:
        model = torchvision.models.get_model(short, weights=None, num_classes=num_classes, **options)
    except (ValueError, AssertionError) as error:
        raise InputError(f"{name}: {first_line(error)}") from error
    model.pretrained_cfg = metadata
    if pretrained:
        state = _weights(name).get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
        entries, initial = entries_for(model, state, metadata["url"]), model.state_dict()
        published_classes = metadata["num_classes"]
        if num_classes != published_classes:
            for key in entries.keys() & initial.keys():
                if entries[key].shape[:1] == (published_classes,) and initial[key].shape[:1] == (num_classes,):
                    entries[key] = initial[key]
        load_weights(model, entries, metadata["url"])
    return model


def _weights(name: str) -> Any:
    if name not in torchvision_names():
        raise unknown("network of torchvision", name, torchvision_names())
    return torchvision.models.get_model_weights(name.removeprefix(_PREFIX)).DEFAULT
