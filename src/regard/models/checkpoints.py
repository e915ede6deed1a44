"""Checkpoint files: read without running anything that they carry, written, and compared with a network."""

from __future__ import annotations

import hashlib
import json
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from regard.errors import InputError, first_few, first_line
from regard.files import utf8_path, written_aside

_HEADER = 100_000_000  # bytes that safetensors allows its header
_VALUES = 10_000_000  # in tuples in tuples
_LEGACY_PICKLES = 5  # in a file of torch.save's old format, before the values of its tensors
# How other files begin, and what they are.
_BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, which stands for the file; fetch the file itself (git lfs pull)",
    b"\x1f\x8b": "compressed by gzip; decompress it first",
    b"BZh": "compressed by bzip2; decompress it first",
    b"\xfd7zXZ": "compressed by xz; decompress it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it first",
    b"7z\xbc\xaf": "a 7z archive; extract the checkpoint first",
    b"Rar!": "a RAR archive; extract the checkpoint first",
    b"\x89HDF": "an HDF5 file, as Keras writes them, and no checkpoint of PyTorch",
    b"\x93NUMPY": "a NumPy array, and no checkpoint of PyTorch",
    b"GGUF": "a GGUF file, and no checkpoint of PyTorch",
    **{
        bytes((0x80, protocol)): f"a pickle of protocol {protocol}, which torch does not read safely, and is refused; "
        "where you trust it, unpickle it and save the state_dict() with torch.save"
        for protocol in (4, 5)
    },
    b"<": "a web page, not a checkpoint; download the file itself",
    b"{": "JSON, not a checkpoint",
}


def read_checkpoint(path: str | Path) -> Any:
    """The contents of a checkpoint file: tensors and plain containers, on the CPU.

    The format is detected from the content, not from the file name. A file of safetensors gives a dict of tensors; of
    one of `torch.save`, in its old or its new format, no more than tensors, numbers, text and plain containers are read
    (`weights_only`). Variables of torch before 0.4 become tensors; numbers of numpy and `argparse.Namespace`, which
    many training scripts save beside the weights, are empty objects. Nothing that the file names is called.

    Raises:
        InputError: there is no such file, it is cut short or no checkpoint (the message says what it is), it asks for
            more than tensors and plain containers, or it is compressed or nested out of proportion to its size.
    """
    path = Path(path)
    if _is_safetensors(path):
        with _opened(path) as file:
            names: list[str] = file.keys()
            return {name: file.get_tensor(name) for name in names}
    try:
        _check_tuples(path)
        # A file and not its path, whose ending torch goes by.
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a broken file breaks its reader anywhere
        reason = str(error).split("WeightsUnpickler error: ")[-1]
        if refused := re.search(r"GLOBAL (\S+)", reason):
            raise InputError(
                f"{path} asks for {refused[1][:100]}, no tensor or plain container, as a whole module does, and is "
                "refused; where you trust the file, load it with torch and save the state_dict()"
            ) from error
        short = first_line(ValueError(reason)) or type(error).__name__
        raise InputError(f"{path} is cut short or no checkpoint ({short})") from error


class _Variable(Tensor):
    """Stands in for `torch.autograd.Variable`, which wrapped tensors before torch 0.4."""

    def __new__(cls, data: Tensor) -> _Variable:
        return data.as_subclass(cls)

    def __setstate__(self, state: Any) -> None:
        pass  # whether it needed gradients


class _Empty:
    """Stands in for what is read and not used."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_STAND_INS: list[Any] = [
    (_Variable, "torch.autograd.variable.Variable"),
    (_Empty, "argparse.Namespace"),
    *((_Empty, f"numpy.{name}") for name in ("dtype", "core.multiarray.scalar", "_core.multiarray.scalar")),
]


def _is_safetensors(path: Path) -> bool:
    """Whether a file is one of safetensors.

    Raises:
        InputError: there is none, it is empty, or something else that is known by its content; the message says what.
    """
    if not path.is_file():
        raise InputError(
            f"{path} is a folder; give the checkpoint file in it"
            if path.is_dir()
            else f"there is no checkpoint file {path}"
        )
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _HEADER:
        return True
    kind = None if head else "an empty file, not a checkpoint; copy or download it again"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = kind or next((what for beginning, what in _BEGINNINGS.items() if text.startswith(beginning)), None)
    if head.startswith(b"PK"):
        kind = _zip_kind(path)
    elif head[257:262] == b"ustar":
        kind = "a tar archive, as torch before 0.1.10 saved; extract it, or save it again with a torch from 0.2 to 2.5"
    elif kind is None and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        kind = f"a text file that begins with {' '.join(head.decode().split())[:40]!r}, not a checkpoint"
    if kind is not None:
        raise InputError(f"{path} is {kind}")
    return False


def _zip_kind(path: Path) -> str | None:
    """What a zip archive is; None if it is one that `torch.save` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            pickles = [name for name in names if name.endswith("data.pkl")]
            start = archive.open(pickles[0]).read(2) if pickles else b""
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:  # also if encrypted
        return f"cut short or no checkpoint ({first_line(error)}); copy it again"
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        return "a TorchScript archive (torch.jit.save); save the state_dict() of the module it holds with torch.save"
    if not pickles:
        listed = ", ".join(name[:40] for name in names[:3])
        return f"a zip archive of something else ({listed or 'it is empty'}), not a checkpoint"
    size, unpacked = path.stat().st_size, sum(member.file_size for member in members)
    if unpacked > size:
        return f"compressed: its {size:,} bytes would become {unpacked:,}; save it with torch.save, uncompressed"
    return _BEGINNINGS.get(start)


def _check_tuples(path: Path) -> None:
    """Raises InputError where tuples contain the same tuples many times: as a key of a dict each would be hashed."""
    with ExitStack() as stack:
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in archive.namelist() if name.endswith(".pkl")]
            pickles = [stack.enter_context(archive.open(name)) for name in names]
        else:
            pickles = [stack.enter_context(path.open("rb"))] * _LEGACY_PICKLES  # one after another
        if any(size > _VALUES for pickle in pickles for size in _tuple_sizes(pickle)):
            raise InputError(f"{path} has a tuple that unfolds to more than {_VALUES:,} values")


def _tuple_sizes(pickle: IO[bytes]) -> Iterator[int]:
    """The number of values in each tuple of a pickle, with those of tuples in it, until the pickle ends or breaks."""
    stack: list[int] = []  # what the instructions of the pickle push: tuples by their size, anything else as 1
    marks: list[int] = []
    memo: dict[Any, int] = {}
    with suppress(Exception):  # a broken file, of which torch says more, or nothing follows the first pickle
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name == "MARK":
                marks.append(len(stack))
            elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo.get(argument, 1))
            elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
                memo[len(memo) if argument is None else argument] = stack[-1]
            else:
                before = opcode.stack_before
                start = marks.pop() if pickletools.markobject in before else len(stack)
                start -= sum(part not in (pickletools.markobject, pickletools.stackslice) for part in before)
                size = 1 + sum(stack[start:]) if opcode.name.startswith("TUPLE") else 1
                stack[start:] = [size] * len(opcode.stack_after)
                yield size


def write_weights(model: nn.Module, path: Path, notes: Mapping[str, Any]) -> None:
    """Writes the state of `model` to a safetensors file, whole or not at all, with `notes` in its metadata."""
    state: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        # A module that several blocks share is there under several names, and safetensors wants each of its own.
        shared = value.numel() > 0 and value.data_ptr() in addresses
        state[name] = value.clone() if shared else value
        addresses.add(value.data_ptr())
    with written_aside(path) as aside:
        # One entry: of several, safetensors does not keep the order, and the same weights give the same file.
        safetensors.torch.save_file(state, aside, metadata={"notes": json.dumps(notes)})


def read_notes(path: str | Path) -> dict[str, Any]:
    """The notes that `write_weights` left in a safetensors file; empty if there are none.

    Raises:
        InputError: there is no such file, or it is no safetensors file.
    """
    path = Path(path)
    if not _is_safetensors(path):
        raise InputError(f"{path} is no safetensors file by its content, whatever it is called")
    with _opened(path) as file:
        metadata = file.metadata() or {}
    try:
        notes = json.loads(metadata.get("notes", "{}"))
    except (ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, by name; their values are not read.

    Raises:
        InputError: it is no safetensors file.
    """
    with _opened(Path(path)) as file:
        names: list[str] = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with utf8_path(path) as utf8, safe_open(utf8, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is cut short or no safetensors file ({error})") from error


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies `state` into `model`; names and shapes must match those of the model, with none missing or left over.

    The count of batches that batch norms keep (`num_batches_tracked`) may be missing: old checkpoints have none.

    Raises:
        InputError: what is missing, left over, of another shape or kind; the model is then unchanged.
    """
    check_fit(model, state, source)
    expected = model.state_dict()
    # `expected` says of each module what version its entries are of.
    expected.update({name: value for name, value in state.items() if name in expected})
    model.load_state_dict(expected, strict=False)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raises the InputError of `load_weights` if `state` does not fit `model`, which may be on the meta device."""
    expected = model.state_dict()
    both = [name for name in expected if name in state]
    faults = {
        "missing": [name for name in expected if name not in state and not name.endswith("num_batches_tracked")],
        "left over": [name for name in state if name not in expected and not name.endswith("num_batches_tracked")],
        "of another shape": [
            f"{name} is {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in both
            if state[name].shape != expected[name].shape
        ],
        "sparse, quantized, complex or without values": [
            name for name in both if not is_dense(state[name]) or state[name].is_complex() > expected[name].is_complex()
        ],
    }
    parts = [
        f"{len(names)} {what} ({first_few([name[:100] for name in names])})" for what, names in faults.items() if names
    ]
    if parts:
        raise InputError(f"{source} does not fit {type(model).__name__}: {'; '.join(parts)}")


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is dense: every value stored."""
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def fingerprint(model: nn.Module) -> str:
    """Identifies the values of a model: a hash of names, dtypes, shapes and values, hexadecimal.

    It does not depend on the device or the memory format.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
