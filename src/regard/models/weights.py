"""Weights on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from regard.errors import InputError
from regard.files import utf8_path, written_aside
from regard.models.file_kinds import file_kind
from regard.models.pickled import read_pickled


def read_checkpoint(path: str | Path) -> Any:
    """What a checkpoint file holds: tensors and plain containers, on the CPU.

    The content decides, whatever the file is called. A file of safetensors gives a dict of tensors; of one of
    `torch.save` no more than tensors, numbers, text and plain containers are read.

    Raises:
        InputError: there is no such file, it is cut short or no checkpoint (the message says what it is), it asks for
            more than tensors and plain containers, or what it holds is out of proportion to its size.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is a folder" if path.is_dir() else f"there is no checkpoint file {path}")
    if file_kind(path) != "safetensors":
        return read_pickled(path)
    try:
        with utf8_path(path) as utf8:
            return safetensors.torch.load_file(utf8)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is cut short or no safetensors file ({error})") from error


def write_weights(model: nn.Module, path: Path, notes: Mapping[str, Any]) -> None:
    """Writes the state of `model` to a safetensors file, whole or not at all, with `notes` in its metadata."""
    state: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        # A module that several blocks share is there under several names, and safetensors wants each of its own.
        shared = value.numel() > 0 and value.data_ptr() in places
        state[name] = value.clone() if shared else value
        places.add(value.data_ptr())
    with written_aside(path) as aside:
        # One entry: of several, safetensors does not keep the order, and the same weights give the same file.
        safetensors.torch.save_file(state, aside, metadata={"notes": json.dumps(notes)})


def read_notes(path: str | Path) -> dict[str, Any]:
    """The notes that `write_weights` left in a safetensors file; empty if there are none.

    Raises:
        InputError: there is no such file, or it is no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if file_kind(path) != "safetensors":
        raise InputError(f"{path} is no safetensors file by its content, whatever it is called")
    try:
        with utf8_path(path) as utf8, safe_open(utf8, "pt") as file:
            notes = json.loads((file.metadata() or {}).get("notes", "{}"))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is cut short or no safetensors file ({error})") from error
    except (ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, by name; their values are not read.

    Raises:
        InputError: it is no safetensors file.
    """
    try:
        with utf8_path(path) as utf8, safe_open(utf8, "pt") as file:
            names: list[str] = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is cut short or no safetensors file ({error})") from error


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies `state` into `model`; every entry must have its place and shape, and every place its entry.

    The count of batches that batch norms keep (`num_batches_tracked`) may be missing: old checkpoints have none.

    Raises:
        InputError: what is missing, left over, of another shape or kind; the model is then as it was.
    """
    check_fit(model, state, source)
    own = model.state_dict()
    # `own` says of each module what version its entries are of.
    own.update({name: value for name, value in state.items() if name in own})
    model.load_state_dict(own, strict=False)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raises the InputError of `load_weights` if `state` does not fit `model`, which may be on the meta device."""
    own = model.state_dict()
    state = {name: value for name, value in state.items() if name in own or not name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    left_over = [name for name in state if name not in own]
    both = [name for name in own if name in state]
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in both
        if state[name].shape != own[name].shape
    ]
    odd = [name for name in both if not _is_dense(state[name]) or (state[name].is_complex() > own[name].is_complex())]
    faults = [
        f"{len(names)} {what} ({', '.join(name[:100] for name in names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", missing),
            ("left over", left_over),
            ("of another shape", shapes),
            ("sparse, quantized, complex or without values", odd),
        )
        if names
    ]
    if faults:
        raise InputError(f"{source} does not fit {type(model).__name__}: {'; '.join(faults)}")


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def fingerprint(model: nn.Module) -> str:
    """What tells the values of a model from those of others: a hash of names, dtypes, shapes and values, hexadecimal.

    On whatever device and in whatever memory format they are.
    """
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
