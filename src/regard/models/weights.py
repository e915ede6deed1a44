"""Weights on disk: read without running anything that a file may carry."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from regard.errors import InputError, first_line


def read_checkpoint(path: str | Path) -> Any:
    """What a checkpoint file holds: tensors and plain containers, on the CPU.

    `.safetensors` files give a dict of tensors; anything else is read by `torch.load` with `weights_only=True`.

    Raises:
        InputError: there is no such file, it is cut short or no checkpoint, or it asks for more than tensors and plain
            containers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is cut short or no safetensors file ({error})") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), first_line(error))
            raise InputError(
                f"{path} asks for more than tensors and plain containers, and is refused: {reason}"
            ) from error
        raise InputError(f"{path} is cut short or no checkpoint ({first_line(error)})") from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputError(f"{path} is cut short or no checkpoint ({first_line(error)})") from error


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies `state` into `model`; every entry must have its place and shape, and every place its entry.

    The count of batches that batch norms keep (`num_batches_tracked`) may be missing: old checkpoints have none.

    Raises:
        InputError: what is missing, left over or of another shape; the model is then as it was.
    """
    own = model.state_dict()
    state = {name: value for name, value in state.items() if name in own or not name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    left_over = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("left over", left_over), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise InputError(f"{source} does not fit {type(model).__name__}: {'; '.join(faults)}")
    model.load_state_dict(dict(state), strict=False)
