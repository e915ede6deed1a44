"""Reads checkpoint files without running code from them, writes weights, and compares weights with a network."""

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
from regard.files import atomic_write, utf8_path
from regard.stages import unwrapped

_MAX_HEADER = 100_000_000  # bytes, the limit of safetensors
_MAX_TUPLE = 10_000_000  # values, including nested tuples
_LEGACY_PICKLES = 5  # number of pickles before the tensor values in torch.save's old format
# First bytes of a file -> what it is.
_SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself (git lfs pull)",
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
        "if you trust it, unpickle it and save the state_dict() with torch.save"
        for protocol in (4, 5)
    },
    b"<": "a web page, not a checkpoint; download the file itself",
    b"{": "JSON, not a checkpoint",
}


def read_checkpoint(path: str | Path) -> Any:
    """Reads a checkpoint file: tensors and plain containers, on the CPU.

    The format is detected from the content, not from the file name. A safetensors file gives a dict of tensors. From a
    file of `torch.save`, in its old or new format, only tensors, numbers, text and plain containers are read
    (`weights_only`). Variables of torch before 0.4 become tensors; NumPy numbers and `argparse.Namespace`, which many
    training scripts save with the weights, become empty objects. Nothing that the file names is called.

    Raises:
        InputError: there is no such file, it is truncated or no checkpoint (the message describes what it is), it
            contains other objects than tensors and plain containers, or it expands far beyond its size.
    """
    path = Path(path)
    if _is_safetensors(path):
        with _open_safetensors(path) as file:
            names: list[str] = file.keys()
            return {name: file.get_tensor(name) for name in names}
    try:
        _check_tuples(path)
        # An open file, because torch chooses the format by the ending of a path.
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # an invalid file can raise almost any exception
        reason = str(error).split("WeightsUnpickler error: ")[-1]
        if refused := re.search(r"GLOBAL (\S+)", reason):
            raise InputError(
                f"{path} contains {refused[1][:100]}, as a whole module does, and is refused; expected tensors and "
                "plain containers; if you trust the file, load it with torch and save the state_dict()"
            ) from error
        reason = first_line(ValueError(reason)) or type(error).__name__
        raise InputError(f"{path} is cut short or no checkpoint ({reason})") from error


class _Variable(Tensor):
    """Replaces `torch.autograd.Variable`, which wrapped tensors before torch 0.4."""

    def __new__(cls, data: Tensor) -> _Variable:
        return data.as_subclass(cls)

    def __setstate__(self, state: Any) -> None:
        pass  # requires_grad


class _Empty:
    """Replaces objects that are not used."""

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
    """Whether a file has the safetensors format; raises InputError if it is missing or known to be no checkpoint."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the checkpoint file in it")
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER:
        return True
    kind = None if head else "an empty file, not a checkpoint; copy or download it again"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = kind or next((kind for signature, kind in _SIGNATURES.items() if text.startswith(signature)), None)
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
    """Describes a zip archive; None for one that `torch.save` wrote."""
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
        return f"a zip archive of {', '.join(name[:40] for name in names[:3]) or 'nothing'}, not a checkpoint"
    size, unpacked = path.stat().st_size, sum(member.file_size for member in members)
    if unpacked > size:
        return f"compressed: its {size:,} bytes would become {unpacked:,}; save it with torch.save, uncompressed"
    return _SIGNATURES.get(start)


def _check_tuples(path: Path) -> None:
    """Raises InputError if nested tuples repeat each other many times: as keys of a dict, all would be hashed."""
    with ExitStack() as stack:
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in archive.namelist() if name.endswith(".pkl")]
            pickles = [stack.enter_context(archive.open(name)) for name in names]
        else:
            pickles = [stack.enter_context(path.open("rb"))] * _LEGACY_PICKLES  # one after another
        if any(size > _MAX_TUPLE for pickle in pickles for size in _tuple_sizes(pickle)):
            raise InputError(f"{path} has a nested tuple of over {_MAX_TUPLE:,} values; save the state_dict() alone")


def _tuple_sizes(pickle: IO[bytes]) -> Iterator[int]:
    """Yields the number of values in each tuple of a pickle, including nested tuples, until it ends or is invalid."""
    stack: list[int] = []  # the pickle machine's stack: the size of tuples, 1 for anything else
    marks: list[int] = []
    memo: dict[Any, int] = {}
    with suppress(Exception):  # an invalid file, which torch reports, or the end of the pickles
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
                start -= sum(item not in (pickletools.markobject, pickletools.stackslice) for item in before)
                size = 1 + sum(stack[start:]) if opcode.name.startswith("TUPLE") else 1
                stack[start:] = [size] * len(opcode.stack_after)
                yield size


def write_weights(model: nn.Module, path: Path, notes: Mapping[str, Any]) -> None:
    """Writes the state of `model` to a safetensors file atomically, with `notes` in its metadata."""
    state: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, value in unwrapped(model).state_dict().items():
        value = value.detach().cpu().contiguous()
        # A module that blocks share has several names; safetensors needs a separate tensor for each.
        address = value.untyped_storage().data_ptr()
        state[name] = value.clone() if value.numel() > 0 and address in addresses else value
        addresses.add(address)
    with atomic_write(path) as temporary:
        # A single entry, because safetensors does not keep their order, and equal weights have to give equal files.
        safetensors.torch.save_file(state, temporary, metadata={"notes": json.dumps(notes)})


def read_notes(path: str | Path) -> dict[str, Any]:
    """Reads the notes of `write_weights` from a safetensors file; empty if there are none.

    Raises:
        InputError: there is no such file, or it is no safetensors file.
    """
    path = Path(path)
    if not _is_safetensors(path):
        raise InputError(f"the content of {path} is not in the safetensors format; `regard import` converts it")
    with _open_safetensors(path) as file:
        metadata = file.metadata() or {}
    try:
        notes = json.loads(metadata.get("notes", "{}"))
    except (ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file by name, without reading their values.

    Raises:
        InputError: it is no safetensors file.
    """
    with _open_safetensors(Path(path)) as file:
        names: list[str] = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    try:
        with utf8_path(path) as utf8, safe_open(utf8, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is cut short or no safetensors file ({error})") from error


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies `state` into `model`; the names and shapes have to be those of the model, with none missing or left over.

    For a compiled model or one in DataParallel, they are those of the model inside. Only the batch counts of batch
    norms (`num_batches_tracked`) may be missing, as in old checkpoints.

    Raises:
        InputError: entries are missing, left over, or of another shape or kind; the model is then unchanged.
    """
    model = unwrapped(model)
    check_fit(model, state, source)
    expected = model.state_dict()
    # Updates this dict because it has the version of each module's entries.
    expected.update({name: value for name, value in state.items() if name in expected})
    model.load_state_dict(expected, strict=False)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raises the InputError of `load_weights` if `state` does not fit `model`, which may be on the meta device."""
    expected = model.state_dict()
    shared = [name for name in expected if name in state]
    faults = {
        "missing": [name for name in expected if name not in state and not name.endswith("num_batches_tracked")],
        "left over": [name for name in state if name not in expected and not name.endswith("num_batches_tracked")],
        "of another shape": [
            f"{name} is {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in shared
            if state[name].shape != expected[name].shape
        ],
        "sparse, quantized, complex or without values": [
            name
            for name in shared
            if not is_dense(state[name]) or state[name].is_complex() > expected[name].is_complex()
        ],
    }
    lists = [f"{len(ns)} {fault} ({first_few([name[:100] for name in ns])})" for fault, ns in faults.items() if ns]
    if lists:
        raise InputError(f"{source} does not fit {type(model).__name__}: {'; '.join(lists)}")


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor stores all its values."""
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def fingerprint(model: nn.Module) -> str:
    """A hexadecimal hash of names, dtypes, shapes and values of a model, independent of device and memory format."""
    digest = hashlib.sha256()
    for name, value in unwrapped(model).state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
