"""Writes a folder of pictures with a JSON index, which replaces an earlier one only after it is complete."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, TypeVar

from PIL import Image

from regard.data import ImageDataset
from regard.data import Unreadable as UnreadableImage
from regard.data.decode import SKIP, OnUnreadable
from regard.errors import InputError, UnfitImage
from regard.files import check_replaceable
from regard.report.explanation import Unreadable

Result = TypeVar("Result")


def check_folder(folder: Path, index: str, *, overwrite: bool = False) -> None:
    """Raises InputError if a folder exists and `overwrite` is not set, or contains a file that the command did not
    write, or is the working or the home folder.

    `index` is the name of the command's JSON file, whose fields `picture` and `map` name all pictures.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} exists already and is not a folder; choose another path (--out)")
    check_replaceable(folder)
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{folder} exists already; replace it (--overwrite) or choose another (--out)")
    foreign = _foreign_file(folder, index)
    if foreign is not None:
        raise InputError(
            f"{folder} is not overwritten: {foreign} in it was not written by regard ({index} does not name it); move "
            "it, or choose another folder (--out)"
        )


def _foreign_file(folder: Path, index: str) -> str | None:
    """The path of a file in the folder that is not in its index; None if there is none."""
    try:
        content = json.loads((folder / index).read_text(encoding="utf-8"))
        listed = {index, str(Path(index).with_suffix(".html")), *_pictures(content)}
    except (OSError, ValueError, RecursionError):
        listed = set()
    for root, folders, names in os.walk(folder):
        for name in (*names, *(name for name in folders if os.path.islink(os.path.join(root, name)))):
            path = Path(root, name)
            if path.relative_to(folder).as_posix() not in listed:
                return str(path)
    return None


def _pictures(content: Any) -> Iterator[str]:
    """The values of the fields `picture` and `map`, at any depth."""
    if isinstance(content, list):
        for value in content:
            yield from _pictures(value)
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("picture", "map") and isinstance(value, str):
                yield value
            yield from _pictures(value)


@contextmanager
def written_folder(folder: Path, index: str, *, overwrite: bool) -> Iterator[Path]:
    """Yields a temporary folder, and renames it to `folder` at the end; see `check_folder`."""
    check_folder(folder, index, overwrite=overwrite)
    folder = Path(os.path.realpath(folder))
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{suffix}") for suffix in ("part", "old"))
    try:
        try:
            temporary.mkdir(parents=True)
            yield temporary
            check_folder(folder, index, overwrite=overwrite)  # files may have been added meanwhile
            if folder.exists():
                os.rename(folder, old)
            os.rename(temporary, folder)
        except BrokenPipeError:  # the reader of the command's output has ended
            raise
        except OSError as error:
            raise InputError(
                f"cannot write {folder}: {error.strerror or error}; make room, or give another path"
            ) from error
    finally:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        for path in (temporary, old):
            shutil.rmtree(path, ignore_errors=True)


def each_image(
    images: ImageDataset, compute: Callable[[Image.Image], Result], unreadable: OnUnreadable
) -> Iterator[Result | Unreadable]:
    """The result of `compute` for each upright RGB image, in order; `compute` may raise UnfitImage.

    For an image that cannot be read or does not fit, "error" raises InputError, and "skip" yields an `Unreadable`.
    """
    for index, key in enumerate(images.keys):
        result: Result | Unreadable
        try:
            result = compute(images.image(index))
        except (UnreadableImage, UnfitImage) as error:
            reason = str(error) if isinstance(error, UnreadableImage) else f"{key}: {error}"
            if unreadable == "error":
                raise InputError(f"{reason}; {SKIP}") from error
            result = Unreadable(index, key, reason)
        yield result


def stems_of(images: ImageDataset) -> list[str]:
    """Unique paths for the files of each image in the folder, without suffix, similar to the image's own path."""
    paths = getattr(images, "relative_paths", None) or [PurePath(key) for key in images.keys]
    used: set[str] = set()
    stems = []
    for path in paths:
        parts = path.with_suffix("").parts if path.name else ("_",)
        stem = "/".join(plain_name(part, 100) for part in parts if part != path.anchor) or "_"
        unique, count = stem, 1
        while unique.casefold() in used:
            count += 1
            unique = f"{stem}-{count}"
        used.add(unique.casefold())
        stems.append(unique)
    return stems


def plain_name(text: str, longest: int) -> str:
    """A path component of letters, digits, - and _ (no dots, which begin suffixes), at most `longest` bytes."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in text)
    return text.encode()[:longest].decode(errors="ignore") or "_"
