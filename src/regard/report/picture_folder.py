"""A folder of pictures with a JSON file that names them, which replaces an earlier one only when it is whole."""

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
    """Checks that a command may write its folder there.

    Args:
        folder: folder to write.
        index: name of the JSON file that the command writes, whose fields `picture` and `map` name all pictures.
        overwrite: replace what an earlier call wrote.

    Raises:
        InputError: something is there and `overwrite` is not set, or something that the command did not write; or it
            is the working or the home folder.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} exists already and is no folder; choose another place (--out)")
    check_replaceable(folder)
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{folder} exists already; replace it (--overwrite) or choose another (--out)")
    other = _foreign(folder, index)
    if other is not None:
        raise InputError(
            f"{folder} is not overwritten: {other} in it was not written by regard ({index} does not name it); move "
            "it, or choose another folder (--out)"
        )


def _foreign(folder: Path, index: str) -> str | None:
    """The path of a file in the folder that its index does not account for."""
    try:
        content = json.loads((folder / index).read_text(encoding="utf-8"))
        known = {index, str(Path(index).with_suffix(".html")), *_pictures(content)}
    except (OSError, ValueError, RecursionError):
        known = set()
    for place, folders, names in os.walk(folder):
        for name in (*names, *(name for name in folders if os.path.islink(os.path.join(place, name)))):
            path = Path(place, name)
            if path.relative_to(folder).as_posix() not in known:
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
    """Gives a new folder beside `folder`, and puts it in its place once it is whole; see `check_folder`."""
    check_folder(folder, index, overwrite=overwrite)
    folder = Path(os.path.realpath(folder))
    aside, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("part", "old"))
    try:
        try:
            aside.mkdir(parents=True)
            yield aside
            check_folder(folder, index, overwrite=overwrite)  # meanwhile somebody may have put a file there
            if folder.exists():
                os.rename(folder, old)
            os.rename(aside, folder)
        except BrokenPipeError:  # the reader of the output is gone
            raise
        except OSError as error:
            raise InputError(
                f"cannot write {folder}: {error.strerror or error}; make room, or give another place"
            ) from error
    finally:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)


def each_image(
    images: ImageDataset, compute: Callable[[Image.Image], Result], unreadable: OnUnreadable
) -> Iterator[Result | Unreadable]:
    """What `compute` makes of each image, in their order.

    Args:
        images: to read.
        compute: of an upright RGB image; may raise UnfitImage.
        unreadable: on an image that cannot be read or does not fit, "error", or "skip" it and give an `Unreadable`.

    Raises:
        InputError: an image that cannot be read or does not fit.
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
    """For each image the path of its files in the folder, without the ending; like its own, and no two alike."""
    places = getattr(images, "relative_paths", None) or [PurePath(key) for key in images.keys]
    taken: set[str] = set()
    stems = []
    for place in places:
        parts = place.with_suffix("").parts if place.name else ("_",)
        stem = "/".join(plain_name(part, 100) for part in parts if part != place.anchor) or "_"
        unique, count = stem, 1
        while unique.casefold() in taken:
            count += 1
            unique = f"{stem}-{count}"
        taken.add(unique.casefold())
        stems.append(unique)
    return stems


def plain_name(text: str, longest: int) -> str:
    """A part of a path for any file system: letters, digits, - and _, at most so many bytes.

    Without dots, no file that gets an ending is ever in the way of another or of a folder.
    """
    text = unicodedata.normalize("NFC", text)
    kept = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in text)
    return kept.encode()[:longest].decode(errors="ignore") or "_"
