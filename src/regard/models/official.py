"""Checkpoints of the three published codes, read into regard's networks."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from regard.attention import AttentionSlot
from regard.errors import InputError
from regard.models.create import MOST_CLASSES
from regard.models.functional import as_entries, is_functional
from regard.models.torchvision_networks import is_auxiliary
from regard.models.weights import load_weights, read_checkpoint

Model = TypeVar("Model", bound=nn.Module)

_BLOCK = r"(layer\d+\.\d+)"
# Published name -> regard's name, where {slot} is the attribute of a block that holds its attention. In order.
_RENAMED: tuple[tuple[str, str], ...] = (
    (rf"{_BLOCK}\.(?:se|sa)\.(.*)", r"\1.{slot}.\2"),  # LSAS on ImageNet, SA-Net
    (rf"{_BLOCK}\.(fc[12]\..*|[wb]\d*)", r"\1.{slot}.\2"),  # LSAS on CIFAR: straight in the block
    (rf"{_BLOCK}\.{{slot}}\.fc\.0\.(.*)", r"\1.{slot}.fc1.\2"),
    (rf"{_BLOCK}\.{{slot}}\.fc\.2\.(.*)", r"\1.{slot}.fc2.\2"),
    (r"((?:.*\.)?conv(?:\d|dim))", r"\1.weight"),  # Attention Transfer's functional networks
    (rf"{_BLOCK}\.shortcut\.(.*)", r"\1.downsample.\2"),  # ResNets for CIFAR elsewhere
    (r"linear\.(weight|bias)", r"fc.\1"),
    (r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)", r"\1\2"),  # torchvision's published DenseNets
)
_WRAPPERS = ("module", "_orig_mod")  # DataParallel, AveragedModel; torch.compile: around all or a part
_CLASSIFIER = re.compile(
    r"(?:(.*?)\.)??(?:fc|classifier(?:\.\d+)?|head|head\.fc|heads\.head|linear|last_linear)\.weight"
)
# Where training scripts put the weights, the likeliest first.
_WEIGHTS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "student", "weights"),
    *("net_state_dict", "network_state_dict", "backbone", "params"),
)
# Moving averages of them (a teacher that learns from no data is one), and what is neither.
_AVERAGE = re.compile(r"(?i)(?:^|[_.])(?:ema|swa|avg|average|averaged|shadow|teacher)(?:$|[_.])")
_OTHER = re.compile(r"(?i)optim|sched|scaler|loss|criterion|rng|hyper|callback|regressors")
_DEPTH = 4  # of dicts around a state dict
_SHARE = 0.2  # of the entries, which a prefix has at least
_GATE_ENTRY = re.compile(r"(layer\d+\.\d+\.\w+)\.([wb])(\d*)")


def load_official(
    model: Model,
    checkpoint: str | Path | Mapping[str, Any],
    *,
    ema: bool = False,
    say: Callable[[str], None] | None = None,
) -> Model:
    """Loads a checkpoint of one of the three repositories, or of the same network, into `model`, in place.

    | Repository | Network in regard |
    |---|---|
    | LSAS, CIFAR | `create("cifar-resnet164", attention="se", gate=SubAttention(order=1), attention_stages=(3,))` |
    | LSAS, ImageNet | `create("resnet50", 1000, attention="se", gate=SubAttention(order=1), attention_stages=(3, 4))` |
    | SA-Net | `create("resnet50", 1000, attention="shuffle")` |
    | Attention Transfer, CIFAR | `create("wrn-16-1")`; of a student saved with its teacher, the student |
    | Attention Transfer, `resnet-34-export.pth` | `create("resnet34", 1000)` |
    | Attention Transfer, `resnet-18-at-export.pth` | `create("preact-resnet18", 1000)` |
    | Attention Transfer, what `imagenet.py` saves | `create("resnet18", 1000)`; the student |

    The two exports keep no statistics of batch norms: these are folded into convolutions with a bias, or into a factor
    and a bias a channel. The norms of `model` then get statistics with which they compute just that. Such weights are
    for evaluation, as a teacher or for maps; in training mode the norms would use the statistics of the batch instead.

    A state dict that has the names of `model` itself is loaded as it is. It may be in a dict, under any of the usual
    keys (`state_dict`, `model_state_dict`, `model`, `net`, …). Names may carry what DataParallel, torch.compile and
    AveragedModel put before them, in any order, and a prefix (`model.`, `backbone.`); what a file holds besides, under
    other prefixes, and auxiliary heads of Inception and GoogLeNet that `model` does not have, are left out.

    Args:
        model: of the same network.
        checkpoint: a path, or what such a file holds: a state dict, or a dict around one.
        ema: take the moving average of the weights, where a file holds both.
        say: is told what was taken where a file holds several state dicts, and what was left out.

    Returns:
        `model`, with the values cast to its dtype and on its device.

    Raises:
        InputError: the file cannot be read safely, holds no moving average where that is asked for, or does not fit
            the model, which is then as it was.
    """
    source = "the checkpoint" if isinstance(checkpoint, Mapping) else str(checkpoint)
    content = checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(checkpoint)
    load_weights(model, entries_for(model, content, source, ema=ema, say=say), source)
    return model


def entries_for(
    model: nn.Module,
    checkpoint: Any,
    source: str,
    *,
    ema: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict[str, Tensor]:
    """The entries of a checkpoint by the names of `model`, which may be on the meta device; see `load_official`.

    Raises:
        InputError: there is no state dict, or no moving average where that is asked for.
    """
    say = say or (lambda _: None)
    state, averaged = _chosen(checkpoint, source, ema, say)
    everything = model.state_dict().keys()
    own = {name for name in everything if not name.endswith("num_batches_tracked")}
    if not own <= state.keys():
        state = _unwrapped(state)
    found: dict[str, dict[str, Tensor]] = {}  # prefix -> entries
    for prefix in _prefixes(state):
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        found[prefix] = _published(model, part, source, own)
    fitting = [prefix for prefix, entries in found.items() if own <= entries.keys()]
    if ema and not averaged:
        fitting = [prefix for prefix in fitting if _is_average(prefix)]
        if not fitting:
            raise InputError(f"{source} holds no moving average of the weights; leave --ema out")
    # Of several the weights themselves come first; if none fits, the nearest shows what is missing.
    prefix = min(fitting or found, key=lambda prefix: (-len(own & found[prefix].keys()), _is_average(prefix), prefix))
    others = [other for other in fitting if other != prefix]
    if others:
        say(_taken(source, prefix, others[0], ema))
    entries = {name: value for name, value in found[prefix].items() if not name.startswith(tuple(others))}
    heads = [name for name in entries if is_auxiliary(name) and name not in everything]
    if heads:
        say(f"{source}: left out are {len(heads)} entries of auxiliary heads, which the network does not have")
    outside = sum(not name.startswith((prefix, *others)) for name in state)
    if prefix in fitting and outside:
        say(f"{source}: left out are {outside} entries whose names do not begin with {prefix!r}")
    return {name: value for name, value in entries.items() if name not in heads}


def described_options(name: str, checkpoint: Any, source: str = "the checkpoint") -> dict[str, Any]:
    """The options of the network `name` that its checkpoint shows: of a ResNet for CIFAR its blocks and shortcuts.

    Args:
        name: as `create` knows it.
        checkpoint: what `read_checkpoint` gives.
        source: what to call it in messages.

    Raises:
        InputError: it holds no state dict.
    """
    if not name.startswith("cifar-resnet"):
        return {}
    state = _unwrapped(_chosen(checkpoint, source, False, lambda _: None)[0])
    names = " ".join(state)
    if "layer1.0.conv2.weight" not in names:
        return {}
    basic = "layer1.0.conv3.weight" not in names
    padded = not re.search(r"layer2\.0\.(downsample|shortcut)\.", names)
    return {**({"block": "basic"} if basic else {}), **({"shortcut": "A"} if padded else {})}


def count_entries(checkpoint: Any) -> int:
    """How many tensors the largest state dict in a checkpoint has; 0 if there is none."""
    return max(map(len, _state_dicts(checkpoint).values()), default=0)


def count_classes(checkpoint: Any, source: str = "the checkpoint") -> int | None:
    """The number of logits of the network in a checkpoint, by its last matrix; None if that cannot be told.

    Args:
        checkpoint: what `read_checkpoint` gives.
        source: what to call it in messages.

    Raises:
        InputError: it holds no state dict, or a last matrix of no network.
    """
    count = None
    state = _unwrapped(_chosen(checkpoint, source, False, lambda _: None)[0])
    prefixes = _prefixes(state)
    for name, value in state.items():
        classifier = _CLASSIFIER.fullmatch(name)
        if classifier and f"{classifier[1] or ''}.".lstrip(".") in prefixes and value.ndim in (2, 4):
            count = len(value)  # the last, of a classifier of several layers
            if not value.numel() or count > MOST_CLASSES:
                raise InputError(
                    f"{source}: {name[:100]} is {tuple(value.shape)}; expected at most {MOST_CLASSES:,} rows"
                )
    return count


def _chosen(checkpoint: Any, source: str, ema: bool, say: Callable[[str], None]) -> tuple[dict[str, Tensor], bool]:
    """The state dict inside a checkpoint, and whether it is a moving average by what it is called."""
    found = _state_dicts(checkpoint)
    if not found:
        raise InputError(f"{source} holds no state dict{_what_instead(checkpoint)}")
    averages = [key for key in found if _is_average(key)]
    plain = [key for key in found if key not in averages]
    known = [key for key in plain if key.rpartition(".")[2] in _WEIGHTS or not key]
    if len(plain) > 1 and not known:
        raise InputError(
            f"{source} holds several state dicts ({', '.join(plain[:5])}); save the one of the network alone"
        )
    candidates = averages if ema and averages else known or plain or averages
    key = min(candidates, key=lambda key: (key.count("."), _place(key)))
    others = sorted((other for other in found if other != key), key=lambda other: other not in averages)
    if others:
        say(_taken(source, key, others[0], ema))
    state = found[key]
    students = {name.removeprefix("student."): v for name, v in state.items() if name.startswith("student.")}
    return students or dict(state), key in averages


def _is_average(key: str) -> bool:
    """Whether a key of a checkpoint, or a prefix of names, says that what it holds is a moving average."""
    return _AVERAGE.search(key.rstrip(".")) is not None


def _taken(source: str, taken: str, other: str, ema: bool) -> str:
    """What is said where a file holds several state dicts."""
    hint = ""
    if _is_average(taken) != _is_average(other):
        hint = (
            ", the weights without averaging"
            if ema
            else ", their moving average, which --ema takes (`regard import --ema` for a teacher)"
        )
    return f"{source}: taken are the weights in {taken!r}; it also holds {other!r}{hint}"


def _place(key: str) -> int:
    """The rank of a key among those under which weights are saved."""
    name = key.rpartition(".")[2]
    return _WEIGHTS.index(name) if name in _WEIGHTS else len(_WEIGHTS)


def _state_dicts(content: Any, key: str = "", depth: int = 0) -> dict[str, Mapping[str, Tensor]]:
    """Where in a checkpoint there are state dicts: keys joined by dots -> names and tensors."""
    if not isinstance(content, Mapping) or not content or depth > _DEPTH:
        return {}
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        return {key: content}
    if isinstance(content.get("params"), Mapping):  # Attention Transfer; older files keep statistics apart
        stats = content.get("stats")
        content = {**content, "params": {**content["params"], **(stats if isinstance(stats, Mapping) else {})}}
        content.pop("stats", None)
    found: dict[str, Mapping[str, Tensor]] = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping) and not _OTHER.search(name):
            found |= _state_dicts(value, f"{key}.{name}".lstrip("."), depth + 1)
    return found


def _what_instead(content: Any) -> str:
    """What a checkpoint without a state dict holds."""
    if not isinstance(content, Mapping):
        return f", but a {type(content).__name__}"
    inside = [part for part in content.values() if isinstance(part, Mapping)]
    content = next((part for part in inside if any(isinstance(value, Tensor) for value in part.values())), content)
    odd = [name for name, value in content.items() if not isinstance(value, Tensor | Mapping)]
    numbers = [name for name in content if not isinstance(name, str)]
    if numbers:
        return f": its keys are no names ({reprlib.repr(numbers[0])})"
    if odd:
        names = ", ".join(str(name)[:40] for name in odd[:3])
        return f": {names} {'is' if len(odd) == 1 else 'are'} no tensor"
    return ""


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers put into the names, and the count of models that an average is of."""
    return {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): value
        for name, value in state.items()
        if name != "n_averaged"
    }


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Prefixes that the names of a network may have: none, and those of many entries ("model.", "net.backbone.")."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        counts.update(".".join(parts[:end]) + "." for end in range(1, min(len(parts), 4)))
    return ["", *(prefix for prefix, count in counts.items() if count >= _SHARE * len(state))]


def _published(model: nn.Module, state: dict[str, Tensor], source: str, own: Set[str]) -> dict[str, Tensor]:
    """The entries of the published codes by the names of `model`."""
    if own <= state.keys():
        return state
    if is_functional(state):
        return as_entries(state, model, source)
    slot = "attention" if any(isinstance(module, AttentionSlot) for module in model.modules()) else "se"
    return _gathered(_renamed(state, slot))


def _renamed(state: Mapping[str, Tensor], slot: str) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(f"^{pattern.replace('{slot}', slot)}$", replacement.replace("{slot}", slot), name)
        renamed[name] = value
    return renamed


def _gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stacks the gates' published entries `w`, `w2`, `w3`, … (1, C, 1, 1) into one `gate.w` (order, C, 1, 1)."""
    gathered = {}
    gates: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        entry = _GATE_ENTRY.fullmatch(name)
        if entry:
            gates.setdefault(f"{entry[1]}.gate.{entry[2]}", {})[int(entry[3] or 1)] = value
        else:
            gathered[name] = value
    for name, orders in gates.items():
        gathered[name] = torch.cat([orders[order] for order in sorted(orders)])
    return gathered
