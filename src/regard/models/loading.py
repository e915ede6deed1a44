"""Loads checkpoints of other projects into regard's networks; those of the three published codes among them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from regard.attention import AttentionSlot
from regard.errors import InputError
from regard.models.checkpoints import check_fit, is_dense, load_weights, read_checkpoint
from regard.models.functional import as_entries, is_functional

Model = TypeVar("Model", bound=nn.Module)

MOST_CLASSES = 1_000_000
"""More are taken for an error, before there is memory for a classifier of so many rows."""

_BLOCK = r"(layer\d+\.\d+)"
# Published name -> regard's name, where {slot} is the attribute of a block that holds its attention. In order.
_RENAMED: tuple[tuple[str, str], ...] = (
    (r"backbone\.(.*)", r"\1"),  # OpenMMLab
    (r"(?:head\.fc|linear)\.(weight|bias)", r"fc.\1"),  # OpenMMLab; ResNets for CIFAR elsewhere
    (rf"{_BLOCK}\.(?:se|sa)\.(.*)", r"\1.{slot}.\2"),  # LSAS on ImageNet, SA-Net
    (rf"{_BLOCK}\.(fc[12]\..*|[wb]\d*)", r"\1.{slot}.\2"),  # LSAS on CIFAR: straight in the block
    (rf"{_BLOCK}\.{{slot}}\.fc\.0\.(.*)", r"\1.{slot}.fc1.\2"),
    (rf"{_BLOCK}\.{{slot}}\.fc\.2\.(.*)", r"\1.{slot}.fc2.\2"),
    (r"((?:.*\.)?conv(?:\d|dim))", r"\1.weight"),  # Attention Transfer's functional networks
    (rf"{_BLOCK}\.shortcut\.(.*)", r"\1.downsample.\2"),  # ResNets for CIFAR elsewhere
    (r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)", r"\1\2"),  # torchvision's published DenseNets
)
_GATE_ENTRY = re.compile(r"(layer\d+\.\d+\.\w+)\.([wb])(\d*)")
_CLASSIFIER = re.compile(r"(.*?\.)??(?:fc|classifier(?:\.\d+)?|head|head\.fc|heads\.head|linear|last_linear)\.weight")
_AUXILIARY = re.compile(r"(aux\d|AuxLogits)\.")  # heads that GoogLeNet and Inception have in training only
# Of DataParallel and AveragedModel, torch.compile, FSDP, activation checkpointing: around all or a part.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What training scripts call the weights, and a moving average of them: a teacher that learns from no data is one.
_WEIGHTS = re.compile(r"(?i)state|model|net|module|student|weights|params|backbone|encoder")
_AVERAGE = re.compile(r"(?i)(?:^|[_.])(?:ema|swa|avg|average|averaged|shadow|teacher)(?:$|[_.])")
_PARAMETERS = 1000  # that a network may have before its weights are compared
_DEPTH = 6  # of dicts around a tensor
_KEY = 1000  # characters of a key
_REPEATED = 1 << 20  # bytes of a tensor that repeats fewer


def load_official(
    model: Model,
    checkpoint: str | Path | Mapping[str, Any],
    *,
    ema: bool = False,
    say: Callable[[str], None] | None = None,
) -> Model:
    """Loads a checkpoint of one of the three repositories, or of the same network, into `model`, in place.

    docs/how-to/weights.md lists the network of each; LSAS's for CIFAR is `create("cifar-resnet164", attention="se",
    gate=SubAttention(order=1), attention_stages=(3,))`. Of a student saved with its teacher, the student is loaded.

    The exports of Attention Transfer (`resnet-34-export.pth`, `resnet-18-at-export.pth`) keep no statistics of batch
    norms: these are folded into convolutions with a bias, or into a factor and a bias per channel. The norms of `model`
    then get statistics with which they compute just that. Such weights are for evaluation, as a teacher or for maps; in
    training mode the norms would use the statistics of the batch instead.

    The weights are the entries with the names of `model` after some prefix: the keys of the dicts around them
    (`state_dict`, `model`, …) and what wrappers put before names (`model.`, `backbone.`; `module.` and others anywhere)
    are equivalent. Other entries of the file, and auxiliary heads of Inception and GoogLeNet that `model` does not
    have, are left out.

    Args:
        model: of the same network.
        checkpoint: a path, or the contents of such a file: a state dict, or a dict around one.
        ema: load the moving average of the weights, if a file has both.
        say: called with messages: which of several sets of weights was loaded, and which entries were left out.

    Returns:
        `model`, with the values cast to its dtype and on its device.

    Raises:
        InputError: the file cannot be read safely, has no moving average although `ema` is set, or does not fit the
            model, which is then unchanged.
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
        InputError: there are no weights, several sets of weights without a known key, or no moving average although
            `ema` is set.
    """
    state = _flat(checkpoint, source)
    names = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    candidates: dict[str, dict[str, Tensor]] = {}  # prefix -> entries
    refused: list[InputError] = []
    for prefix in _prefixes(state, len(names) // 5):
        part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        try:
            candidates[prefix] = _published(model, part, source, names)
        except InputError as error:
            refused.append(error)
    fitting: list[str] = []  # those with the least besides first, and of nested ones the first
    for prefix in sorted(candidates, key=lambda prefix: len(candidates[prefix])):
        if names <= candidates[prefix].keys() and not any(
            prefix.startswith(f) or f.startswith(prefix) for f in fitting
        ):
            fitting.append(prefix)
    fitting.sort(key=list(candidates).index)
    averages = [prefix for prefix in fitting if _AVERAGE.search(prefix.rstrip("."))]
    plain = [prefix for prefix in fitting if prefix not in averages]
    named = [prefix for prefix in plain if _WEIGHTS.search(prefix)]
    if refused and not fitting:
        raise refused[0]
    if ema and not averages:
        raise InputError(f"{source} holds no moving average of the weights; leave --ema out")
    if len(plain) > 1 and not named and not ema:
        keys = ", ".join(prefix.rstrip(".")[:100] for prefix in plain[:5])
        raise InputError(f"{source} holds several state dicts ({keys}); save the one of the network alone")
    # If none fits, the nearest shows what is missing.
    nearest = min(candidates, key=lambda prefix: len(names - candidates[prefix].keys()))
    prefix = next(iter(averages if ema else named or plain or averages), nearest)
    heads = [name for name in candidates[prefix] if _AUXILIARY.match(name) and name not in model.state_dict()]
    beside = {".".join(name.split(".")[: prefix.count(".")]): None for name in state if not name.startswith(prefix)}
    if say and fitting and beside:
        others = ", ".join(repr(name[:100]) for name in list(beside)[:3])
        hint = (
            ", a moving average, which --ema takes (`regard import --ema` for a teacher)" if averages and plain else ""
        )
        say(f"{source}: taken are the weights in {prefix[:-1]!r}, left out {others}{'' if ema else hint}")
    if say and heads:
        say(f"{source}: left out are {len(heads)} entries of auxiliary heads, which the network does not have")
    return {name: value for name, value in candidates[prefix].items() if name not in heads}


def without_values(build: Callable[[], Model]) -> Model:
    """The network that `build` makes, on the meta device where possible."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, InputError):  # it depends on values when made, or raises the same error again below
        return build()


def load_built(
    build: Callable[[], Model],
    checkpoint: Any,
    source: str,
    network: str,
    *,
    ema: bool = False,
    say: Callable[[str], None] | None = None,
) -> Model:
    """The network that `build` makes, with the weights that `read_checkpoint` gives, in evaluation mode.

    It is first made without memory for its values, of at most a few times as many parameters as there are tensors, and
    memory is allocated only if the weights fit. `source` and `network` are names for messages; `ema` and `say` are as
    in `load_official`.

    Raises:
        InputError: the weights do not fit the network, or it cannot be made.
    """
    left = _PARAMETERS + 4 * len(_flat(checkpoint, source))

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise InputError(f"the network {network[:100]} has far more parameters than there are weights for it")

    counting = register_module_parameter_registration_hook(count)
    try:
        model = without_values(build)
    finally:
        counting.remove()
    entries = entries_for(model, checkpoint, source, ema=ema, say=say)
    check_fit(model, entries, source)
    model = build()
    load_weights(model, entries, source)
    return model.eval()


def described_options(name: str, checkpoint: Any, source: str = "the checkpoint") -> dict[str, Any]:
    """The options of the network `name` inferred from what `read_checkpoint` gives: of a ResNet for CIFAR, blocks and
    shortcuts. `source` is its name in messages.

    Raises:
        InputError: it has no weights.
    """
    names = " ".join(_flat(checkpoint, source))
    if not name.startswith("cifar-resnet") or "layer1.0.conv2.weight" not in names:
        return {}
    basic = "layer1.0.conv3.weight" not in names
    padded = not re.search(r"layer2\.0\.(downsample|shortcut)\.", names)
    return {**({"block": "basic"} if basic else {}), **({"shortcut": "A"} if padded else {})}


def count_classes(checkpoint: Any, source: str = "the checkpoint") -> int | None:
    """The number of logits of the network in what `read_checkpoint` gives, by its last matrix; None if that is not
    known. `source` is its name in messages.

    Raises:
        InputError: it has no weights, or a last matrix of no network.
    """
    state = _flat(checkpoint, source)
    prefixes = _prefixes(state, len(state) // 5)
    matrices = [
        (name, value)
        for name, value in state.items()
        if (match := _CLASSIFIER.fullmatch(name)) and (match[1] or "") in prefixes and value.ndim in (2, 4)
    ]
    plain = [matrix for matrix in matrices if not _AVERAGE.search(matrix[0])]
    for name, value in (plain or matrices)[-1:]:  # the last, of a classifier of several layers
        if value.numel() and len(value) <= MOST_CLASSES:
            return len(value)
        raise InputError(f"{source}: {name[:100]} is {tuple(value.shape)}; expected at most {MOST_CLASSES:,} rows")
    return None


def _flat(checkpoint: Any, source: str) -> dict[str, Tensor]:
    """All tensors in the dicts of a checkpoint, by their keys joined by dots.

    Raises:
        InputError: there are none, or one repeats few values many times (by a stride of 0).
    """
    state: dict[str, Tensor] = {}
    gone_into: set[int] = set()  # each dict once, however often it is there

    def collect(content: Mapping[Any, Any], start: str, depth: int) -> None:
        gone_into.add(id(content))
        if isinstance(content.get("params"), Mapping) and isinstance(content.get("stats"), Mapping):
            # Attention Transfer's older files, which keep statistics apart.
            content = {"params": {**content["params"], **content["stats"]}}
        for key, value in content.items():
            if not isinstance(key, str) or len(key) > _KEY or key == "n_averaged":
                continue
            if isinstance(value, Mapping) and depth < _DEPTH and id(value) not in gone_into:
                collect(value, f"{start}{key}.", depth + 1)
            elif isinstance(value, Tensor):
                state[f"{start}{key}"] = value

    if isinstance(checkpoint, Mapping):
        collect(checkpoint, "", 0)
    for name, value in state.items():
        claimed = value.numel() * value.element_size()
        if is_dense(value) and claimed > max(value.untyped_storage().nbytes(), _REPEATED):
            raise InputError(f"{source}: {name[:100]} repeats a few values {claimed:,} bytes long; save it as it is")
    if not state:
        odd = [f"{key!r:.40}" for key in checkpoint] if isinstance(checkpoint, Mapping) else []
        inside = f"; under {', '.join(odd[:3])} there is no tensor with a name" if odd else ""
        raise InputError(f"{source} holds no state dict, but a {type(checkpoint).__name__}{inside}")
    return state


def _prefixes(state: Mapping[str, Tensor], least: int) -> list[str]:
    """What many names begin with: nothing, the keys of dicts, and what wrappers put before names."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        counts.update(".".join(parts[:end]) + "." for end in range(1, min(len(parts), _DEPTH)))
    return ["", *(prefix for prefix, count in counts.items() if count >= max(least, 1))]


def _published(model: nn.Module, state: dict[str, Tensor], source: str, names: Set[str]) -> dict[str, Tensor]:
    """The entries of wrapped networks and of the published codes by the names of `model`."""
    if names <= state.keys():
        return state
    state = {".".join(part for part in name.split(".") if part not in _WRAPPERS): v for name, v in state.items()}
    if names <= state.keys():
        return state
    if is_functional(state):
        return as_entries(state, model, source)
    slot = "attention" if any(isinstance(module, AttentionSlot) for module in model.modules()) else "se"
    entries: dict[str, Tensor] = {}
    gates: dict[str, dict[int, Tensor]] = {}  # published as w, w2, w3, … (1, C, 1, 1) each, here (order, C, 1, 1)
    for name, value in state.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(f"^{pattern.replace('{slot}', slot)}$", replacement.replace("{slot}", slot), name)
        if gate := _GATE_ENTRY.fullmatch(name):
            gates.setdefault(f"{gate[1]}.gate.{gate[2]}", {})[int(gate[3] or 1)] = value
        else:
            entries[name] = value
    return entries | {name: torch.cat([orders[k] for k in sorted(orders)]) for name, orders in gates.items()}
