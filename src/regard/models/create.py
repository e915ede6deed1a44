"""Networks by name, with attention in them."""

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
from regard.models.torchvision import create_torchvision, describe_torchvision, is_of_torchvision, torchvision_names
from regard.models.wide_resnet import PreActResNet, WideResNet

_log = logging.getLogger("regard")

_MOST = 100_000  # of a number among the options of a network, such as its blocks or the side of its images
# Of the numbers in names: their form, and their type.
_NUMBERS: dict[str, tuple[str, Callable[[str], float]]] = {
    "depth": (r"(?P<depth>\d{1,4})", int),
    "width": (r"(?P<width>\d{1,3}(?:\.\d{1,9})?)", float),
}
# Name -> network, and the arguments that are not in the name.
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
# What timm and torchvision take besides the options of a network: files and addresses to load weights from, what is
# left of the network, how it is compiled.
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
    """The network `name`, with or without attention.

    Args:
        name: `cifar-resnet<depth>` (`block="basic"` for depths 6 n + 2, `shortcut="A"` for one without projections),
            or `cifar-resnet<depth>x<width>`, `wrn-<depth>-<width>`, `preact-resnet18`, `preact-resnet34`, `nin-wide`,
            `nin-thin`, `nin-<width>` (a factor of the wide one); networks of ImageNet for small images:
            `resnet<depth>-cifar`, `vgg<depth>-cifar`, `mobilenetv2-cifar`, `shufflenetv1-cifar`, `shufflenetv2-cifar`;
            any name of timm, or `torchvision/<name>`: any classification network of torchvision, such as
            `torchvision/resnet50`.
        num_classes: length of the logits.
        attention: a module of `attention.names()`, put at the end of every residual branch; None for none.
        gate: the gate of that module.
        attention_stages: the stages that get it, counted from 1; None for all.
        attention_options: the module's own options, for example `{"groups": 64}`.
        attention_start: 'published' or 'identity', see `attention.attach`; None for 'identity' in a network that is
            `pretrained`, which is logged, and 'published' in others.
        pretrained: with the weights of timm, or torchvision's `DEFAULT` ones, which are downloaded unless they are
            cached. If they are for another number of classes, the classifier is newly initialised.
        options: the network's own.

    Shape of the network: images (N, 3, H, W) -> logits (N, num_classes).

    Raises:
        InputError: an unknown name, an option that is unknown, has no such value or is not the network's own but says
            where weights are loaded from, or attention without an insertion point in the network.
    """
    if not 1 <= num_classes <= MOST_CLASSES:
        raise InputError(f"a network needs at least 1 class, and at most {MOST_CLASSES:,}; {num_classes} are asked for")
    build = _builder(name, pretrained)
    for option in sorted(_NOT_OPTIONS & options.keys()):
        raise InputError(
            f"{option!r} is no option of the network {name} itself; leave it out (weights of a file come by "
            "`regard import`, published ones by pretrained)"
        )
    if any(not abs(number) <= _MOST for number in _numbers(options)):
        raise InputError(
            f"{name} has an option beyond {_MOST:,}, or NaN; expected the size of a network that can be made"
        )
    try:
        model = build(num_classes=num_classes, **options)
    except TypeError as error:
        # Python's message for a wrong keyword, without the name of the function.
        raise InputError(f"{name}: {str(error).split('() ', 1)[-1]}") from error
    except InputError:
        raise
    except Exception as error:  # networks raise almost any exception for an invalid value
        if not options:
            raise
        raise InputError(f"{name} cannot be made with the options {options} ({first_line(error)})") from error
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
        "num_classes": num_classes,
        "attention": attention,
        "gate": gate,
        "attention_stages": attention_stages,
        "attention_options": dict(attention_options or {}),
        "attention_start": start,
        "options": options,
    }
    return model


def is_of_regard(name: str) -> bool:
    """Whether it is the name of a network that regard makes itself."""
    return _of_family(name) is not None


def is_for_small_images(name: str) -> bool:
    """Whether it is the name of one of these that is for small images."""
    return is_of_regard(name) and not name.startswith("preact")


def attacher(
    attention: str | None,
    gate: Gate | str,
    stages: Sequence[int] | None,
    options: Mapping[str, Any] | None,
    start: Start | None,
) -> Callable[..., nn.Module] | None:
    """What attaches a module to a network, with a keyword `start`; None without attention.

    Raises:
        InputError: an option of attention without attention, or one that is not the module's own.
    """
    if attention is None:
        check_without(gate, stages, options, start)
        return None
    for option in options or {}:
        if option in inspect.signature(attention_modules.attach).parameters:
            raise InputError(f"{option!r} is no option of the attention module {attention} itself; leave it out")
    return partial(attention_modules.attach, name=attention, stages=stages, gate=gate, **(options or {}))


def check_without(gate: Gate | str, stages: object, options: object, start: object) -> None:
    """Raises InputError for an option of attention, of a network that has none."""
    given = {
        "gate": parse_gate(gate) != Sigmoid(),
        "attention_stages": stages is not None,
        "attention_options": bool(options),
        "attention_start": start is not None,
    }
    for name in (name for name, is_given in given.items() if is_given):
        raise InputError(f"{name} is given, and attention is not; name a module (attention), or leave {name} out")


def _numbers(options: Any) -> Iterator[float]:
    """The numbers among options."""
    if isinstance(options, Mapping | list | tuple):
        for part in options.values() if isinstance(options, Mapping) else options:
            yield from _numbers(part)
    elif isinstance(options, int | float):
        yield options


def _builder(name: str, pretrained: bool) -> Callable[..., nn.Module]:
    """The function that makes the network of a name from `num_classes` and its options."""
    if family := _of_family(name):
        if pretrained:
            raise InputError(f"there are no pretrained weights for {name}; models.load_official reads published ones")
        return family
    if is_of_torchvision(name):
        about = describe_torchvision(name)
        place = f" ({about['url']}, to {torch.hub.get_dir()}/checkpoints)"
        return partial(partial(_pretrained, create_torchvision, place) if pretrained else create_torchvision, name)
    if timm.is_model(name):
        try:
            get_pretrained_cfg(name)
        except RuntimeError as error:
            raise InputError(f"timm knows no weights {name[:100]!r}; leave out what follows the dot") from error
        return partial(partial(_pretrained, timm.create_model, "") if pretrained else timm.create_model, name)
    examples = ("cifar-resnet164", "wrn-16-1", "nin-wide", "resnet50-cifar", "vgg13-cifar", "mobilenetv2-cifar")
    raise InputError(
        f"unknown network {name[:100]!r}{near_names(name, examples)}; known: {', '.join(_FAMILIES)}, timm's names, "
        "torchvision/<name>"
    )


def _of_family(name: str) -> Callable[..., nn.Module] | None:
    """What makes the network of regard that has this name; None if there is none."""
    for form, (network, fixed) in _FAMILIES.items():
        pattern = re.sub(r"<(\w+)>", lambda key: _NUMBERS[key[1]][0], form)
        if match := re.fullmatch(pattern, name):
            numbers = {key: _NUMBERS[key][1](digits) for key, digits in match.groupdict().items()}
            return lambda **options: network(**fixed, **numbers, **options)
    return None


def near_names(name: str, others: Iterable[str] = ()) -> str:
    """A question for names of timm, torchvision and `others` that are near to `name`; empty if none is."""
    near = difflib.get_close_matches(name, [*timm.list_models(), *torchvision_names(), *others], n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _pretrained(build: Callable[..., nn.Module], place: str, name: str, **options: Any) -> nn.Module:
    try:
        return build(name, pretrained=True, **options)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:  # no network or weights, a broken file
        offline = isinstance(error, LocalEntryNotFoundError)
        reason = "no answer from the Hugging Face Hub" if offline else f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"the pretrained weights of {name} could not be loaded ({reason}); download them once where there is a "
            f"network{place}, give a file of them ({name}=FILE on the command line), or leave pretrained out"
        ) from error
