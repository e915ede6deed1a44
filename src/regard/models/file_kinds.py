"""What a file that is called a checkpoint is, by its content."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import Literal

from regard.errors import InputError, first_line

# How other files begin, and what they are.
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for the file; fetch the file itself (git lfs pull)"),
    (b"\x1f\x8b", "compressed by gzip; decompress it first"),
    (b"BZh", "compressed by bzip2; decompress it first"),
    (b"\xfd7zXZ", "compressed by xz; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; decompress it first"),
    (b"7z\xbc\xaf", "a 7z archive; extract the checkpoint first"),
    (b"Rar!", "a RAR archive; extract the checkpoint first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them, and no checkpoint of PyTorch"),
    (b"\x93NUMPY", "a NumPy array, and no checkpoint of PyTorch"),
    (b"GGUF", "a GGUF file, and no checkpoint of PyTorch"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x7fELF", "a program or library (ELF)"),
)
_HEAD = 512
_HEADER = 100_000_000  # bytes that safetensors allows its header


def file_kind(path: Path) -> Literal["safetensors", "zip", "pickle"]:
    """The format of a checkpoint: of safetensors, or of `torch.save`, the new one or the old one.

    Raises:
        InputError: it is empty, or something else that is known by its content; the message says what.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if not head:
        raise InputError(f"{path} is an empty file, not a checkpoint; copy or download it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _HEADER:
        return "safetensors"
    if head.startswith(b"PK"):
        _check_zip(path, size)
        return "zip"
    kind = next((kind for beginning, kind in _BEGINNINGS if head.startswith(beginning)), None)
    kind = kind or (_tar(path) if head[257:262] == b"ustar" else _text(head))
    if kind is not None:
        raise InputError(f"{path} is {kind}")
    return "pickle"


def _check_zip(path: Path, size: int) -> None:
    """Raises InputError unless a zip archive is one that `torch.save` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is cut short or no checkpoint ({first_line(error)}); copy it again") from error
    names = [member.filename for member in members]
    if any("/code/" in name for name in names) or any(name.endswith("/constants.pkl") for name in names):
        raise InputError(
            f"{path} is a TorchScript archive (torch.jit.save); save the state_dict() of the module it holds with "
            "torch.save"
        )
    if not any(name.endswith("data.pkl") for name in names):
        shown = ", ".join(name[:40] for name in names[:3])
        raise InputError(f"{path} is a zip archive of something else ({shown or 'it is empty'}), not a checkpoint")
    unpacked = sum(member.file_size for member in members)
    if unpacked > size:  # torch.save does not compress
        raise InputError(
            f"{path} is compressed: its {size:,} bytes would become {unpacked:,}; save it with torch.save, which does "
            "not compress"
        )


def _tar(path: Path) -> str:
    try:
        with tarfile.open(path, "r:") as archive:
            names = [member.name for member in (archive.next() for _ in range(3)) if member is not None]
    except (tarfile.TarError, OSError, EOFError, ValueError):
        names = []
    if {"storages", "tensors"} & set(names):
        return (
            "in a format of torch before 0.1.10, which is not read safely; save it again with a torch from 0.2 to 2.5"
        )
    return f"a tar archive ({', '.join(name[:40] for name in names)}); extract the checkpoint first"


def _text(head: bytes) -> str | None:
    """What a text is; None if it is no text."""
    try:
        text = head.decode("utf-8-sig", "ignore" if len(head) == _HEAD else "strict").strip()
    except UnicodeDecodeError:
        return None
    if not all(character.isprintable() or character.isspace() for character in text):
        return None
    if text[:1] == "<":
        return "a web page, not a checkpoint; download the file itself"
    if text[:1] in "{[":
        return "JSON, not a checkpoint"
    words = " ".join(text.split())[:40]
    return f"a text file that begins with {words!r}, not a checkpoint"
