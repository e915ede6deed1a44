"""Pickled checkpoints, read without running anything that they carry."""

from __future__ import annotations

import itertools
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from regard.errors import InputError, first_line

_DEPTH = 100  # of containers in containers
_VALUES = 10_000_000  # in all containers
_REPEATED = 1 << 20  # bytes of a tensor that repeats fewer
_LEGACY_PICKLES = 5  # in a file of the old format, before the values of its tensors

# What needs no leave: torch itself decides on its own names.
_HARMLESS = ("torch.", "collections.OrderedDict", "_codecs.encode", "builtins.set", "builtins.bytearray")


def read_pickled(path: Path) -> Any:
    """What a file of `torch.save`, in its old or its new format, holds: tensors, numbers, text and plain containers.

    Tensors come to the CPU. Numbers of numpy become Python's, and variables of torch before 0.4 their tensors; classes
    of this file stand in for these and for `argparse.Namespace`, and nothing that the file names is called. What the
    file holds is bounded by its size: a container that stands in many places, or a tensor that repeats its values, is
    refused where it would not be.

    Raises:
        InputError: the file asks for more than that (the message names what), or it is cut short or no checkpoint.
    """
    try:
        _check_tuples(path)
        # A file and not its path, whose ending torch goes by.
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of protocols; what comes of them is told below
            return _Plain().of(torch.load(file, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except _Unbounded as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # a broken file breaks its reader anywhere
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


class _Namespace:
    """Stands in for `argparse.Namespace`, in which timm saves the options of a training."""


_STAND_INS: list[Any] = [
    (_Namespace, "argparse.Namespace"),
    (_Variable, "torch.autograd.variable.Variable"),
    (_Dtype, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


class _Unbounded(Exception):
    """What a file holds is out of proportion to its size."""


class _Plain:
    """Variables as their tensors, in any depth of containers, each container once.

    Attributes:
        made: id of a container -> what became of it and how many values it unfolds to; None while it is gone into.
    """

    def __init__(self) -> None:
        self.made: dict[int, tuple[Any, int] | None] = {}

    def of(self, value: Any) -> Any:
        return self._of(value, 0)[0]

    def _of(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, _Variable):
            value = value.data
        if isinstance(value, Tensor):
            _check_extent(value)
        if not isinstance(value, dict | list | tuple):
            return value, 1
        if depth > _DEPTH:
            raise _Unbounded(f"nests containers more than {_DEPTH} deep; save the state dict alone")
        if id(value) in self.made:
            known = self.made[id(value)]
            if known is None:
                raise _Unbounded("has a container that holds itself; save the state dict alone")
            return known
        self.made[id(value)] = None
        items = [self._of(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)]
        values = 1 + sum(count for _, count in items)
        if values > _VALUES:
            raise _Unbounded(f"unfolds to more than {_VALUES:,} values; save the state dict alone")
        plain: Any = value
        if isinstance(value, dict):
            plain = type(value)(dict(zip(value, (item for item, _ in items), strict=True)))  # a Counter, too
        elif type(value) in (list, tuple):
            plain = type(value)(item for item, _ in items)
        self.made[id(value)] = plain, values
        return plain, values


def _check_extent(tensor: Tensor) -> None:
    """Raises unless the values of a large tensor are in the file, and not one value many times (a stride of 0)."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return  # which no network takes
    claimed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > max(stored, _REPEATED):
        raise _Unbounded(
            f"has a tensor of shape {tuple(tensor.shape)} whose {claimed:,} bytes repeat the {stored:,} that are stored"
        )


def _check_tuples(path: Path) -> None:
    """Raises for tuples that hold the same tuples many times: as a key of a dict each of them would be hashed."""
    try:
        with _pickles(path) as files:
            for file in files:
                _check_sizes(file)
    except _Unbounded:
        raise
    except Exception:  # a broken file, of which torch says more, or nothing follows the first pickle
        pass


def _check_sizes(file: BinaryIO) -> None:
    """Follows the instructions of a pickle with the number of values in every tuple in place of the tuples."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo.get(argument, 1))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        else:
            before = opcode.stack_before
            taken = marks.pop() if pickletools.markobject in before else len(stack)
            taken -= sum(part not in (pickletools.markobject, pickletools.stackslice) for part in before)
            if name.startswith("TUPLE"):
                stack[taken:] = [1 + sum(stack[taken:])]
                if stack[-1] > _VALUES:
                    raise _Unbounded(f"has a tuple that unfolds to more than {_VALUES:,} values")
            else:
                stack[taken:] = [1] * len(opcode.stack_after)


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
    if any(name.startswith("torch.nn.modules.") for name in _globals(path)):
        return InputError(
            f"{path} holds a whole module ({asked[0]}), which cannot be read safely, and is refused; where you trust "
            "it, load it with torch and save its state_dict()"
        )
    return InputError(f"{path} asks for more than tensors and plain containers, and is refused: {', '.join(asked[:3])}")


def _globals(path: Path) -> list[str]:
    """The names that the pickles of a file ask for, read off their instructions."""
    found: list[str] = []
    try:
        with _pickles(path) as files:
            for file in files:
                found += _named(file)
    except Exception:  # what was found up to there is true
        pass
    return list(dict.fromkeys(found))


@contextmanager
def _pickles(path: Path) -> Iterator[Iterator[BinaryIO]]:
    """The pickles of a file, each to be read before the next: of the new format its members, of the old the first."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive, ExitStack() as opened:
            names = [name for name in archive.namelist() if name.endswith(".pkl")]
            yield (cast(BinaryIO, opened.enter_context(archive.open(name))) for name in names)
    else:
        with path.open("rb") as file:
            yield itertools.repeat(file, _LEGACY_PICKLES)


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
