"""Checkpoints of the three published codes, read into regard's networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from regard.attention import AttentionSlot
from regard.errors import InputError
from regard.models.functional import as_entries, is_functional
from regard.models.weights import load_weights, read_checkpoint

Model = TypeVar("Model", bound=nn.Module)

_BLOCK = r"(layer\d+\.\d+)"
# Published name -> regard's name, where {slot} is the attribute of a block that holds its attention. In order.
_RENAMED: tuple[tuple[str, str], ...] = (
    (r"((?:.*\.)?)(?:module|_orig_mod)\.(.*)", r"\1\2"),  # DataParallel around all or a part; torch.compile
    (rf"{_BLOCK}\.(?:se|sa)\.(.*)", r"\1.{slot}.\2"),  # LSAS on ImageNet, SA-Net
    (rf"{_BLOCK}\.(fc[12]\..*|[wb]\d*)", r"\1.{slot}.\2"),  # LSAS on CIFAR: straight in the block
    (rf"{_BLOCK}\.{{slot}}\.fc\.0\.(.*)", r"\1.{slot}.fc1.\2"),
    (rf"{_BLOCK}\.{{slot}}\.fc\.2\.(.*)", r"\1.{slot}.fc2.\2"),
    (r"((?:.*\.)?conv(?:\d|dim))", r"\1.weight"),  # Attention Transfer's functional networks
)
_CLASSIFIER = re.compile(
    r"(?:module\.|_orig_mod\.)*(?:fc|classifier(?:\.\d+)?|head|head\.fc|heads\.head|linear|last_linear)\.weight"
)
_GATE_ENTRY = re.compile(r"(layer\d+\.\d+\.\w+)\.([wb])(\d*)")


def load_official(model: Model, checkpoint: str | Path | Mapping[str, Any]) -> Model:
    """Loads a checkpoint of one of the three repositories into `model`, in place.

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

    A state dict that has the names of `model` itself is loaded as it is.

    Args:
        model: of the same network.
        checkpoint: a path, or what such a file holds: a state dict, or a dict around one.

    Returns:
        `model`, with the values cast to its dtype and on its device.

    Raises:
        InputError: the file cannot be read safely, or does not fit the model, which is then as it was.
    """
    if isinstance(checkpoint, Mapping):
        source = "the checkpoint"
    else:
        source = str(checkpoint)
        checkpoint = read_checkpoint(checkpoint)
    state = _state(checkpoint, source)
    own = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    if not own <= state.keys():
        if is_functional(state):
            state = as_entries(state, model, source)
        else:
            slot = "attention" if any(isinstance(module, AttentionSlot) for module in model.modules()) else "se"
            state = _gathered(_renamed(state, slot))
    load_weights(model, state, source)
    return model


def count_classes(checkpoint: Mapping[str, Any]) -> int | None:
    """The number of classes of the network in a checkpoint, by its last matrix; None if that cannot be told.

    Args:
        checkpoint: what `read_checkpoint` gives.

    Raises:
        InputError: it holds no state dict.
    """
    found = None
    for name, value in _state(checkpoint, "the checkpoint").items():
        if _CLASSIFIER.fullmatch(name) and value.ndim in (2, 4):
            found = len(value)  # the last, of a classifier of several layers
    return found


def _state(checkpoint: Any, source: str) -> dict[str, Tensor]:
    """The state dict inside a checkpoint."""
    if isinstance(checkpoint, Mapping):
        for key in ("ema", "state_dict", "model"):
            if isinstance(checkpoint.get(key), Mapping):
                return _state(checkpoint[key], source)
        if isinstance(checkpoint.get("params"), Mapping):  # Attention Transfer; older files keep statistics apart
            return _state({**checkpoint["params"], **(checkpoint.get("stats") or {})}, source)
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise InputError(f"{source} holds no state dict")
    odd = [str(name) for name, value in checkpoint.items() if not isinstance(value, Tensor)]
    if odd:
        raise InputError(
            f"{source} holds no state dict: {', '.join(odd[:3])} {'is' if len(odd) == 1 else 'are'} no tensor"
        )
    students = {name.removeprefix("student."): v for name, v in checkpoint.items() if name.startswith("student.")}
    return students or dict(checkpoint)


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
