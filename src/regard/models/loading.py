"""Loads checkpoints of other projects into regard's networks, including the three published repositories."""

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
from regard.models.functional import convert_functional, is_functional
from regard.stages import unwrapped

Model = TypeVar("Model", bound=nn.Module)

MOST_CLASSES = 1_000_000
"""A larger number of classes is an error, raised before memory for the classifier is allocated."""

_BLOCK = r"(layer\d+\.\d+)"
# Published name -> regard's name, applied in order; {slot} is the attribute of a block that holds its attention.
_RENAMED: tuple[tuple[str, str], ...] = (
    (r"backbone\.(.*)", r"\1"),  # OpenMMLab
    (r"(?:head\.fc|linear)\.(weight|bias)", r"fc.\1"),  # OpenMMLab; ResNets for CIFAR elsewhere
    (rf"{_BLOCK}\.(?:se|sa)\.(.*)", r"\1.{slot}.\2"),  # LSAS on ImageNet, SA-Net
    (rf"{_BLOCK}\.(fc[12]\..*|[wb]\d*)", r"\1.{slot}.\2"),  # LSAS on CIFAR: directly in the block
    (rf"{_BLOCK}\.{{slot}}\.fc\.0\.(.*)", r"\1.{slot}.fc1.\2"),
    (rf"{_BLOCK}\.{{slot}}\.fc\.2\.(.*)", r"\1.{slot}.fc2.\2"),
    (r"((?:.*\.)?conv(?:\d|dim))", r"\1.weight"),  # Attention Transfer's functional networks
    (rf"{_BLOCK}\.shortcut\.(.*)", r"\1.downsample.\2"),  # ResNets for CIFAR elsewhere
    (r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)", r"\1\2"),  # torchvision's published DenseNets
)
_GATE_ENTRY = re.compile(r"(layer\d+\.\d+\.\w+)\.([wb])(\d*)")
_CLASSIFIER = re.compile(r"(.*?\.)??(?:fc|classifier(?:\.\d+)?|head|head\.fc|heads\.head|linear|last_linear)\.weight")
_AUXILIARY = re.compile(r"(aux\d|AuxLogits)\.")  # training heads of GoogLeNet and Inception
# Name parts that DataParallel and AveragedModel, torch.compile, FSDP and activation checkpointing add.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Keys of training scripts for the weights, and for a moving average of them, such as a mean teacher.
_WEIGHTS = re.compile(r"(?i)state|model|net|module|student|weights|params|backbone|encoder")
_AVERAGE = re.compile(r"(?i)(?:^|[_.])(?:ema|swa|avg|average|averaged|shadow|teacher)(?:$|[_.])")
_EXTRA_PARAMETERS = 1000  # allowed in addition to a few per tensor of the checkpoint
_MAX_DEPTH = 6  # nested dicts around a tensor
_MAX_KEY = 1000  # characters
_MAX_EXPANDED = 1 << 20  # bytes of a tensor that repeats its stored values


def load_official(
    model: Model,
    checkpoint: str | Path | Mapping[str, Any],
    *,
    ema: bool = False,
    log: Callable[[str], None] | None = None,
) -> Model:
    """Loads a checkpoint of one of the three repositories, or of the same network, into `model`, in place.

    docs/how-to/weights.md lists the network for each checkpoint; LSAS's for CIFAR is `create("cifar-resnet164",
    attention="se", gate=SubAttention(order=1), attention_stages=(3,))`. If a student was saved with its teacher, the
    student is loaded.

    The exports of Attention Transfer (`resnet-34-export.pth`, `resnet-18-at-export.pth`) have no batch norm statistics:
    norms are folded into convolutions with a bias, or into a factor and a bias per channel. The norms of `model` get
    statistics with which they compute the same. Use these weights for evaluation, as a teacher or for maps; in training
    mode the norms would use the statistics of the batch instead.

    The weights are the entries with the names of `model` behind a common prefix: keys of the dicts around them
    (`state_dict`, `model`, …) and prefixes of wrappers (`model.`, `backbone.`; `module.` and others anywhere) are
    equivalent. Other entries of the file are ignored, and so are auxiliary heads of Inception and GoogLeNet that
    `model` does not have.

    Args:
        model: an instance of the same network; it may be compiled or in DataParallel.
        checkpoint: path of the file, or its contents: a state dict, or a dict that contains one.
        ema: load the moving average of the weights, if the file has both.
        log: called with messages: which of several sets of weights was loaded, and which entries were left out.

    Returns:
        `model`, with the values cast to its dtype and on its device.

    Raises:
        InputError: the file cannot be read safely, has no moving average although `ema` is set, or does not fit the
            model, which is then unchanged.
    """
    source = "the checkpoint" if isinstance(checkpoint, Mapping) else str(checkpoint)
    content = checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(checkpoint)
    load_weights(model, entries_for(unwrapped(model), content, source, ema=ema, log=log), source)
    return model


def entries_for(
    model: nn.Module,
    checkpoint: Any,
    source: str,
    *,
    ema: bool = False,
    log: Callable[[str], None] | None = None,
) -> dict[str, Tensor]:
    """The entries of a checkpoint under the names of `model`, which may be on the meta device; see `load_official`."""
    state = _flatten(checkpoint, source)
    names = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    candidates: dict[str, dict[str, Tensor]] = {}  # prefix -> entries
    errors: list[InputError] = []
    for prefix in _prefixes(state, len(names) // 5):
        entries = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        try:
            candidates[prefix] = _rename(model, entries, source, names)
        except InputError as error:
            errors.append(error)
    fitting: list[str] = []  # of nested prefixes, only the one with the fewest other entries
    for prefix in sorted(candidates, key=lambda prefix: len(candidates[prefix])):
        is_nested = any(prefix.startswith(other) or other.startswith(prefix) for other in fitting)
        if names <= candidates[prefix].keys() and not is_nested:
            fitting.append(prefix)
    fitting.sort(key=list(candidates).index)
    averages = [prefix for prefix in fitting if _AVERAGE.search(prefix.rstrip("."))]
    plain = [prefix for prefix in fitting if prefix not in averages]
    named = [prefix for prefix in plain if _WEIGHTS.search(prefix)]
    if errors and not fitting:
        raise errors[0]
    if ema and not averages:
        raise InputError(f"{source} holds no moving average of the weights; leave --ema out")
    if len(plain) > 1 and not named and not ema:
        keys = ", ".join(prefix.rstrip(".")[:100] for prefix in plain[:5])
        raise InputError(f"{source} holds several state dicts ({keys}); save the one of the network alone")
    # If none fits, the closest one shows which entries are missing.
    closest = min(candidates, key=lambda prefix: len(names - candidates[prefix].keys()))
    prefix = next(iter(averages if ema else named or plain or averages), closest)
    heads = [name for name in candidates[prefix] if _AUXILIARY.match(name) and name not in model.state_dict()]
    ignored = {".".join(name.split(".")[: prefix.count(".")]): None for name in state if not name.startswith(prefix)}
    if log and fitting and ignored:
        keys = ", ".join(repr(name[:100]) for name in list(ignored)[:3])
        has_average = averages and plain and not ema
        hint = "; --ema loads the moving average (`regard import --ema` for a teacher)" if has_average else ""
        log(f"{source}: loaded the weights in {prefix[:-1]!r}, left out {keys}{hint}")
    if log and heads:
        log(f"{source}: left out {len(heads)} entries of auxiliary heads, which the network does not have")
    return {name: value for name, value in candidates[prefix].items() if name not in heads}


def build_on_meta(build: Callable[[], Model]) -> Model:
    """Builds a network on the meta device if possible."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, InputError):  # its constructor depends on values, or raises the same error again
        return build()


def load_built(
    build: Callable[[], Model],
    checkpoint: Any,
    source: str,
    network: str,
    *,
    ema: bool = False,
    log: Callable[[str], None] | None = None,
) -> Model:
    """Builds a network and loads the weights of a checkpoint from `read_checkpoint`; in evaluation mode.

    The network is first built on the meta device, with at most a few times as many parameters as the checkpoint has
    tensors. Memory is allocated only if the weights fit. `source` and `network` are names for messages; `ema` and `log`
    are as in `load_official`.

    Raises:
        InputError: the weights do not fit the network, or it cannot be built.
    """
    remaining = _EXTRA_PARAMETERS + 4 * len(_flatten(checkpoint, source))

    def count(*_: Any) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise InputError(f"the network {network[:100]} has far more parameters than {source} has tensors")

    hook = register_module_parameter_registration_hook(count)
    try:
        model = build_on_meta(build)
    finally:
        hook.remove()
    entries = entries_for(model, checkpoint, source, ema=ema, log=log)
    check_fit(model, entries, source)
    model = build()
    load_weights(model, entries, source)
    return model.eval()


def described_options(name: str, checkpoint: Any, source: str = "the checkpoint") -> dict[str, Any]:
    """Infers options of the network `name` from a checkpoint of `read_checkpoint`: `block` and `shortcut` of a ResNet
    for CIFAR. `source` is a name for messages.

    Raises:
        InputError: the checkpoint has no weights.
    """
    names = " ".join(_flatten(checkpoint, source))
    if not name.startswith("cifar-resnet") or "layer1.0.conv2.weight" not in names:
        return {}
    basic = "layer1.0.conv3.weight" not in names
    padded = not re.search(r"layer2\.0\.(downsample|shortcut)\.", names)
    return {**({"block": "basic"} if basic else {}), **({"shortcut": "A"} if padded else {})}


def count_classes(checkpoint: Any, source: str = "the checkpoint") -> int | None:
    """The number of classes of a checkpoint of `read_checkpoint`, from its classifier's weight; None if it has none.

    `source` is a name for messages.

    Raises:
        InputError: the checkpoint has no weights, or a classifier that is empty or has too many classes.
    """
    state = _flatten(checkpoint, source)
    prefixes = _prefixes(state, len(state) // 5)
    matrices = [
        (name, value)
        for name, value in state.items()
        if (match := _CLASSIFIER.fullmatch(name)) and (match[1] or "") in prefixes and value.ndim in (2, 4)
    ]
    plain = [matrix for matrix in matrices if not _AVERAGE.search(matrix[0])]
    for name, value in (plain or matrices)[-1:]:  # the last layer of the classifier
        if value.numel() and len(value) <= MOST_CLASSES:
            return len(value)
        raise InputError(f"{source}: {name[:100]} is {tuple(value.shape)}; expected at most {MOST_CLASSES:,} rows")
    return None


def _flatten(checkpoint: Any, source: str) -> dict[str, Tensor]:
    """All tensors in the nested dicts of a checkpoint, at least one; their keys are joined by dots."""
    state: dict[str, Tensor] = {}
    visited: set[int] = set()  # ids of dicts

    def collect(content: Mapping[Any, Any], prefix: str, depth: int) -> None:
        visited.add(id(content))
        if isinstance(content.get("params"), Mapping) and isinstance(content.get("stats"), Mapping):
            # Attention Transfer's older files have separate statistics.
            content = {"params": {**content["params"], **content["stats"]}}
        for key, value in content.items():
            if not isinstance(key, str) or len(key) > _MAX_KEY or key == "n_averaged":
                continue
            if isinstance(value, Mapping) and depth < _MAX_DEPTH and id(value) not in visited:
                collect(value, f"{prefix}{key}.", depth + 1)
            elif isinstance(value, Tensor):
                state[f"{prefix}{key}"] = value

    if isinstance(checkpoint, Mapping):
        collect(checkpoint, "", 0)
    for name, value in state.items():
        size = value.numel() * value.element_size()
        if is_dense(value) and size > max(value.untyped_storage().nbytes(), _MAX_EXPANDED):
            raise InputError(f"{source}: {name[:100]} expands a few values to {size:,} bytes; save a contiguous copy")
    if not state:
        keys = [f"{key!r:.40}" for key in checkpoint] if isinstance(checkpoint, Mapping) else []
        content = f"; under {', '.join(keys[:3])} there is no tensor with a name" if keys else ""
        raise InputError(f"{source} holds no state dict, but a {type(checkpoint).__name__}{content}")
    return state


def _prefixes(state: Mapping[str, Tensor], minimum: int) -> list[str]:
    """The empty prefix, and all prefixes that at least `minimum` names share: keys of dicts and of wrappers."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        counts.update(".".join(parts[:end]) + "." for end in range(1, min(len(parts), _MAX_DEPTH)))
    return ["", *(prefix for prefix, count in counts.items() if count >= max(minimum, 1))]


def _rename(model: nn.Module, state: dict[str, Tensor], source: str, names: Set[str]) -> dict[str, Tensor]:
    """Renames the entries of wrapped networks and of the published repositories to the names of `model`."""
    if names <= state.keys():
        return state
    state = {".".join(part for part in name.split(".") if part not in _WRAPPERS): v for name, v in state.items()}
    if names <= state.keys():
        return state
    if is_functional(state):
        return convert_functional(state, model, source)
    slot = "attention" if any(isinstance(module, AttentionSlot) for module in model.modules()) else "se"
    entries: dict[str, Tensor] = {}
    gates: dict[str, dict[int, Tensor]] = {}  # published as w, w2, w3, …, each (1, C, 1, 1); here (order, C, 1, 1)
    for name, value in state.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(f"^{pattern.replace('{slot}', slot)}$", replacement.replace("{slot}", slot), name)
        if gate := _GATE_ENTRY.fullmatch(name):
            gates.setdefault(f"{gate[1]}.gate.{gate[2]}", {})[int(gate[3] or 1)] = value
        else:
            entries[name] = value
    return entries | {name: torch.cat([orders[k] for k in sorted(orders)]) for name, orders in gates.items()}
