"""Creates networks by name, with or without attention modules."""

from __future__ import annotations

import difflib
import inspect
import logging
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models import build_model_with_cfg, get_pretrained_cfg
from torch import nn

from regard import attention as attention_modules
from regard.attention import Gate, Sigmoid, parse_gate
from regard.attention.start import Start
from regard.errors import InputError, first_line
from regard.models.cifar_resnet import CifarResNet, SmallImageResNet
from regard.models.loading import MOST_CLASSES
from regard.models.mobile import SmallImageMobileNetV2, SmallImageShuffleNet
from regard.models.plain import NIN, SmallImageVGG
from regard.models.torchvision import create_torchvision, describe_torchvision, is_torchvision_name, torchvision_names
from regard.models.wide_resnet import PreActResNet, WideResNet

_log = logging.getLogger("regard")

_LARGEST_OPTION = 100_000  # for numeric options of a network, such as its blocks or the side of its images
# Placeholder in a name -> pattern and type of the number.
_NUMBERS: dict[str, tuple[str, Callable[[str], float]]] = {
    "depth": (r"(?P<depth>\d{1,4})", int),
    "width": (r"(?P<width>\d{1,3}(?:\.\d{1,9})?)", float),
}
# Name -> class of the network, and the arguments that the name fixes.
_FAMILIES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "cifar-resnet<depth>": (CifarResNet, {}),
    "cifar-resnet<depth>x<width>": (CifarResNet, {}),
    "wrn-<depth>-<width>": (WideResNet, {}),
    "preact-resnet<depth>": (PreActResNet, {}),
    "nin-wide": (NIN, {"width": 1.0}),
    "nin-thin": (NIN, {"width": 0.5}),
    "nin-<width>": (NIN, {}),
    "resnet<depth>-cifar": (SmallImageResNet, {}),
    "vgg<depth>-cifar": (SmallImageVGG, {}),
    "mobilenetv2-cifar": (SmallImageMobileNetV2, {}),
    "shufflenetv1-cifar": (SmallImageShuffleNet, {"version": 1}),
    "shufflenetv2-cifar": (SmallImageShuffleNet, {"version": 2}),
}
# Arguments of timm and torchvision that are not options of a network: where weights are loaded from, which part of the
# network is returned, how it is compiled.
_NOT_OPTIONS = {
    *inspect.signature(timm.create_model).parameters,
    *inspect.signature(build_model_with_cfg).parameters,
    *("weights", "pruned", "features_only", "feature_cls", "out_indices"),
} - {"kwargs"}


def create(
    name: str,
    num_classes: int = 10,
    *,
    attention: str | None = None,
    gate: Gate | str = "sigmoid",
    attention_stages: Iterable[int] | None = None,
    attention_options: Mapping[str, Any] | None = None,
    attention_start: Start | None = None,
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """Creates the network `name`, with or without attention modules.

    Args:
        name: `cifar-resnet<depth>` (`block="basic"` for depths 6 n + 2, `shortcut="A"` for parameter-free shortcuts),
            `cifar-resnet<depth>x<width>`, `wrn-<depth>-<width>`, `preact-resnet18`, `preact-resnet34`, `nin-wide`,
            `nin-thin`, `nin-<width>` (1 is `nin-wide`); ImageNet architectures adapted to small images:
            `resnet<depth>-cifar`, `vgg<depth>-cifar`, `mobilenetv2-cifar`, `shufflenetv1-cifar`, `shufflenetv2-cifar`;
            any model of timm; or `torchvision/<name>`, any classification network of torchvision, such as
            `torchvision/resnet50`.
        num_classes: length of the logits.
        attention: name of the module at the end of every residual branch, see `attention.names()`; None for no module.
        gate: gate of the module.
        attention_stages: stages that get the module, counted from 1; None for all.
        attention_options: options of the module, for example `{"groups": 64}`.
        attention_start: 'published' or 'identity', see `attention.attach`. None means 'identity' in a `pretrained`
            network, with a log message, and 'published' otherwise.
        pretrained: load the pretrained weights of timm, or torchvision's `DEFAULT` weights. They are downloaded unless
            they are cached. If they have another number of classes, the classifier is newly initialised.
        options: options of the network.

    Shape of the network: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: the name or an option is unknown, an option has an invalid value or controls where weights are
            loaded from, or the network has no insertion point for attention.
    """
    if not 1 <= num_classes <= MOST_CLASSES:
        raise InputError(f"a network needs at least 1 class and at most {MOST_CLASSES:,}, not {num_classes}")
    build = _builder(name, pretrained)
    for option in sorted(_NOT_OPTIONS & options.keys()):
        raise InputError(
            f"{option!r} is not an option of the network {name}; leave it out (`regard import` loads weights from a "
            "file, pretrained loads published weights)"
        )
    if any(not abs(number) <= _LARGEST_OPTION for number in _numbers(options)):
        raise InputError(f"an option of {name} is NaN or beyond {_LARGEST_OPTION:,}; give a smaller number")
    try:
        model = build(num_classes=num_classes, **options)
    except TypeError as error:
        # Removes the function name from Python's message about a wrong keyword.
        raise InputError(f"{name}: {str(error).split('() ', 1)[-1]}") from error
    except InputError:
        raise
    except Exception as error:  # networks raise almost any exception for an invalid value
        if not options:
            raise
        raise InputError(f"{name} cannot be created with the options {options} ({first_line(error)})") from error
    attention_stages = None if attention_stages is None else list(attention_stages)
    attach = attacher(attention, gate, attention_stages, attention_options, attention_start)
    start = None
    if attach is not None:
        if attention_start is None and pretrained:
            _log.warning("note: attention in the pretrained %s begins as the identity (attention_start)", name)
        start = attention_start or ("identity" if pretrained else "published")
        attach(model, start=start)
    vars(model)["created_with"] = {  # for `save_pretrained`
        "name": name,
        "num_classes": int(num_classes),  # not NumPy's
        "attention": attention,
        "gate": gate,
        "attention_stages": attention_stages,
        "attention_options": dict(attention_options or {}),
        "attention_start": start,
        "options": options,
    }
    return model


def is_regard_name(name: str) -> bool:
    """Whether `name` is a network that regard implements."""
    return _regard_network(name) is not None


def is_for_small_images(name: str) -> bool:
    """Whether `name` is a network of regard for small images."""
    return is_regard_name(name) and not name.startswith("preact")


def attacher(
    attention: str | None,
    gate: Gate | str,
    stages: Sequence[int] | None,
    options: Mapping[str, Any] | None,
    start: Start | None,
) -> Callable[..., nn.Module] | None:
    """Returns a function that attaches the module to a network, with a keyword `start`; None without attention."""
    if attention is None:
        reject_attention_options(gate, stages, options, start)
        return None
    for option in options or {}:
        if option in inspect.signature(attention_modules.attach).parameters:
            raise InputError(f"{option!r} is not an option of the attention module {attention}; leave it out")
    return partial(attention_modules.attach, name=attention, stages=stages, gate=gate, **(options or {}))


def reject_attention_options(gate: Gate | str, stages: object, options: object, start: object) -> None:
    """Raises InputError if an attention option is set for a network without attention."""
    settings = {
        "gate": parse_gate(gate) != Sigmoid(),
        "attention_stages": stages is not None,
        "attention_options": bool(options),
        "attention_start": start is not None,
    }
    for name, is_set in settings.items():
        if is_set:
            raise InputError(f"{name} is given, and attention is not; name a module (attention), or leave {name} out")


def _numbers(options: Any) -> Iterator[float]:
    """Yields all numbers in nested options."""
    if isinstance(options, Mapping | list | tuple):
        for value in options.values() if isinstance(options, Mapping) else options:
            yield from _numbers(value)
    elif isinstance(options, int | float):
        yield options


def _builder(name: str, pretrained: bool) -> Callable[..., nn.Module]:
    """Returns the function that builds the network `name` from `num_classes` and its options."""
    if network := _regard_network(name):
        if pretrained:
            raise InputError(f"there are no pretrained weights for {name}; models.load_official loads published ones")
        return network
    if is_torchvision_name(name):
        source = f" ({describe_torchvision(name)['url']}, to {torch.hub.get_dir()}/checkpoints)"
        return partial(partial(_pretrained, create_torchvision, source) if pretrained else create_torchvision, name)
    if timm.is_model(name):
        try:
            get_pretrained_cfg(name)
        except RuntimeError as error:
            raise InputError(f"timm has no weights {name[:100]!r}; leave out the part after the dot") from error
        return partial(partial(_pretrained, timm.create_model, "") if pretrained else timm.create_model, name)
    examples = ("cifar-resnet164", "wrn-16-1", "nin-wide", "resnet50-cifar", "vgg13-cifar", "mobilenetv2-cifar")
    raise InputError(
        f"unknown network {name[:100]!r}{suggest_names(name, examples)}; known: {', '.join(_FAMILIES)}, timm's names, "
        "torchvision/<name>"
    )


def _regard_network(name: str) -> Callable[..., nn.Module] | None:
    """Returns the function that builds regard's network of this name; None if there is none."""
    for template, (network, fixed) in _FAMILIES.items():
        pattern = re.sub(r"<(\w+)>", lambda key: _NUMBERS[key[1]][0], template)
        if match := re.fullmatch(pattern, name):
            numbers = {key: _NUMBERS[key][1](digits) for key, digits in match.groupdict().items()}
            return lambda **options: network(**fixed, **numbers, **options)
    return None


def suggest_names(name: str, candidates: Iterable[str] = ()) -> str:
    """A "did you mean" with the names of timm, torchvision and `candidates` closest to `name`; empty without any."""
    near = difflib.get_close_matches(name, [*timm.list_models(), *torchvision_names(), *candidates], n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _pretrained(build: Callable[..., nn.Module], source: str, name: str, **options: Any) -> nn.Module:
    try:
        return build(name, pretrained=True, **options)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:  # no network or weights, a broken file
        offline = isinstance(error, LocalEntryNotFoundError)
        reason = "no answer from the Hugging Face Hub" if offline else f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"the pretrained weights of {name} could not be loaded ({reason}); download them once with an internet "
            f"connection{source}, pass a file ({name}=FILE on the command line), or leave pretrained out"
        ) from error
