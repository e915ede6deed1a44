"""Pickled checkpoints, read without running anything that they carry."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from regard.errors import InputError, first_line

# What needs no leave: torch itself decides on its own names.
_HARMLESS = ("torch.", "collections.OrderedDict", "_codecs.encode", "builtins.set", "builtins.bytearray")


def read_pickled(path: Path) -> Any:
    """What a file of `torch.save`, in its old or its new format, holds: tensors, numbers, text and plain containers.

    Tensors come to the CPU. Numbers of numpy become Python's, and variables of torch before 0.4 their tensors; classes
    of this file stand in for both, and nothing that the file names is called.

    Raises:
        InputError: the file asks for more than that (the message names what), or it is cut short or no checkpoint.
    """
    try:
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols; what comes of them is told below
            return _plain(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except Exception as error:  # a broken file breaks its reader anywhere
        if "legacy .tar" in str(error):
            raise InputError(
                f"{path} is in a format of torch before 0.1.10, which is not read safely; save it again with a torch "
                "from 0.2 to 2.5"
            ) from error
        reason = first_line(error) if isinstance(error, RuntimeError | ValueError | OSError) else type(error).__name__
        raise InputError(f"{path} is cut short or no checkpoint ({reason})") from error


class _Variable:
    """Stands in for `torch.autograd.Variable`, which held a tensor before tensors could do all it did."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __setstate__(self, state: Any) -> None:
        pass  # whether it needed gradients


class _Dtype:
    """Stands in for `numpy.dtype`: a letter for the kind, and the number of bytes."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def _number(dtype: Any, raw: Any) -> float | int | bool | complex:
    """Stands in for `numpy.core.multiarray.scalar`."""
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    code = dtype.code if isinstance(dtype, _Dtype) else None
    if not isinstance(code, str) or not re.fullmatch(r"[biufc]\d+", code) or not isinstance(raw, bytes):
        raise pickle.UnpicklingError(
            "Unsupported global: GLOBAL numpy.core.multiarray.scalar of something but a number"
        )
    return np.frombuffer(raw, dtype.order + code, count=1)[0].item()


_STAND_INS: list[Any] = [
    (_Variable, "torch.autograd.variable.Variable"),
    (_Dtype, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def _plain(value: Any) -> Any:
    if isinstance(value, _Variable):
        return value.data
    if isinstance(value, Tensor) or not isinstance(value, dict | list | tuple):
        return value
    if isinstance(value, dict):
        return type(value)((name, _plain(item)) for name, item in value.items())
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _refused(path: Path, said: str) -> InputError:
    named = re.search(r"GLOBAL ([\w.<>]+)", said)
    if named:
        asked = [named[1]]
    elif "Unsupported" in said:  # a newer protocol of pickle, whose names torch does not come to
        asked = [name for name in _globals(path) if not name.startswith(_HARMLESS)]
        if not asked:
            return InputError(f"{path} is pickled in a protocol that is not read safely; save it with torch.save's own")
    elif "Can only" in said or "unrecognized function" in said:
        asked = [first_line(ValueError(said.split("WeightsUnpickler error: ")[-1]))]
    else:
        return InputError(f"{path} is cut short or no checkpoint ({first_line(ValueError(said))})")
    return InputError(f"{path} asks for more than tensors and plain containers, and is refused: {', '.join(asked[:3])}")


def _globals(path: Path) -> list[str]:
    """The names that the pickles of a file ask for, read off their instructions."""
    found: list[str] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".pkl"):
                        with archive.open(member) as file:
                            found += _named(file)  # type: ignore[arg-type]
        else:
            with path.open("rb") as file:
                while file.peek(1):
                    found += _named(file)
    except Exception:  # what was found up to there is true
        pass
    return list(dict.fromkeys(found))


def _named(file: BinaryIO) -> Iterator[str]:
    texts: list[str] = []
    memo: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif opcode.name == "MEMOIZE":
            memo.append(texts[-1] if texts else "")
        elif opcode.name in ("BINGET", "LONG_BINGET") and isinstance(argument, int) and argument < len(memo):
            texts.append(memo[argument])
        elif isinstance(argument, str):
            texts.append(argument)
