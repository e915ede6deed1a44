"""The classification networks of torchvision, by name: "torchvision/resnet50"."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from regard.errors import InputError, first_line
from regard.models.checkpoints import load_weights, read_checkpoint

_PREFIX = "torchvision/"
_AUXILIARY = re.compile(r"(aux\d|AuxLogits)\.")
# The published weights of DenseNets have an older name of their layers: "denselayer1.norm.1.weight".
_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


def is_auxiliary(entry: str) -> bool:
    """Whether an entry of a state dict belongs to a head that GoogLeNet and Inception have in training only."""
    return _AUXILIARY.match(entry) is not None


def is_of_torchvision(name: str) -> bool:
    """Whether the name begins as those of torchvision's networks do."""
    return name.startswith(_PREFIX)


@cache
def torchvision_names() -> tuple[str, ...]:
    """All of them: "torchvision/alexnet", …"""
    return tuple(_PREFIX + name for name in torchvision.models.list_models(module=torchvision.models))


def describe_torchvision(name: str) -> dict[str, Any]:
    """What torchvision says of a network's published weights, its `DEFAULT` ones, in the words of timm.

    Returns:
        `num_classes`, `label_names`, `input_size` (3, H, W), `fixed_input_size`, `mean`, `std`, `crop_pct`,
        `crop_mode`, `interpolation` and `url`.

    Raises:
        InputError: torchvision has no classification network of that name.
    """
    weights = torchvision.models.get_model_weights(_known(name)).DEFAULT
    images = weights.transforms()
    (side,), (resized,) = images.crop_size, images.resize_size
    return {
        "num_classes": len(weights.meta["categories"]),
        "label_names": tuple(weights.meta["categories"]),
        "input_size": (3, side, side),
        "fixed_input_size": _known(name).startswith(("vit_", "maxvit_")),
        "mean": tuple(images.mean),
        "std": tuple(images.std),
        "crop_pct": _share(side, resized),
        "crop_mode": "center",
        "interpolation": images.interpolation.value,
        "url": weights.url,
    }


def create_torchvision(name: str, num_classes: int, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """A network of torchvision, with what torchvision says of its weights as its `pretrained_cfg`, as timm's have it.

    - GoogLeNet and Inception are made without the auxiliary heads that they have in training, so that they give one
      tensor of logits, and take images normalised as all others do (`transform_input`). `aux_logits=True` and
      `transform_input=False` make them otherwise.
    - Vision transformers are made for the images of their published weights: `vit_h_14` for 518 pixels.

    Args:
        name: one of `torchvision_names()`.
        num_classes: length of the logits.
        pretrained: with its `DEFAULT` weights, which are downloaded to torch's cache unless they are there. If they
            are for another number of classes, the classifier, the last layer, starts anew.
        options: the network's own.

    Raises:
        InputError: no such name; an option whose value does not fit; weights that are broken or do not fit the options.
        OSError, RuntimeError: they cannot be downloaded.
    """
    own, about = _known(name), describe_torchvision(name)
    if own in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "transform_input": True, "init_weights": not pretrained, **options}
    elif own.startswith("vit_"):
        options = {"image_size": about["input_size"][-1], **options}
    try:
        model = torchvision.models.get_model(own, weights=None, num_classes=num_classes, **options)
    except (ValueError, AssertionError) as error:
        raise InputError(f"{name}: {first_line(error)}") from error
    model.pretrained_cfg = about
    if pretrained:
        path = weights_file(name)
        load_weights(model, _entries(model, read_checkpoint(path), about["num_classes"], num_classes), str(path))
    return model


def weights_file(name: str) -> Path:
    """The file of the published weights of a network, in torch's cache; it is downloaded unless it is there.

    Raises:
        InputError: torchvision has no classification network of that name.
        OSError, RuntimeError: it cannot be downloaded, or what came is not what its name says.
    """
    url = describe_torchvision(name)["url"]
    path = torch_cache() / PurePosixPath(urlparse(url).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        checksum = re.search(r"-([0-9a-f]{8,})\.", path.name)
        torch.hub.download_url_to_file(url, str(path), checksum and checksum[1])
    return path


def torch_cache() -> Path:
    """The folder in which torch keeps what it downloads."""
    return Path(torch.hub.get_dir(), "checkpoints")


def _known(name: str) -> str:
    """What torchvision calls it."""
    if name not in torchvision_names():
        near = difflib.get_close_matches(name, torchvision_names(), n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else f"; known: {', '.join(torchvision_names())}"
        raise InputError(f"torchvision has no classification network {name!r}{hint}")
    return name.removeprefix(_PREFIX)


def _share(side: int, resized: int) -> float:
    """The share of the resized image's side that is cut out, as a number by which `side` divides to `resized`."""
    share = side / resized
    return share if math.floor(side / share) == resized else math.nextafter(share, 0)


def _entries(model: nn.Module, state: Mapping[str, Tensor], published: int, classes: int) -> dict[str, Tensor]:
    """The published entries by the names of `model`, those of a classifier for other classes as they are in it."""
    own = model.state_dict()
    entries = {_DENSE_LAYER.sub(r"\1", name): value for name, value in state.items()}
    for name, value in list(entries.items()):
        if name not in own and is_auxiliary(name):
            del entries[name]
        elif name in own and value.shape != own[name].shape and (len(value), len(own[name])) == (published, classes):
            entries[name] = own[name]
    return entries
