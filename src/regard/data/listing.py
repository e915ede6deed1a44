"""Which files a folder of class folders holds; what is wrong with it that shows before any image is read."""

from __future__ import annotations

import heapq
import mimetypes
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regard.data.decode import FORMATS
from regard.errors import DataWarning, InputError
from regard.files import MOST_BYTES, read_regular

EXTENSIONS = tuple(extension for extensions in FORMATS.values() for extension in extensions)
# Folders that storage devices, operating systems and archives make beside those of a person, in small letters.
_SYSTEM_FOLDERS = {
    *("@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@tmp"),  # Synology, QNAP
    *("#recycle", "#snapshot", "~snapshot"),
    *("$recycle.bin", "recycler", "system volume information"),  # Windows
    *("__macosx", "network trash folder", "temporary items"),  # macOS
    *("lost+found", "__pycache__"),
}
TEST_NAMES = ("test", "val", "valid", "validation")
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini"}  # Windows
_LAYOUT = "it must hold train/ and test/ (or val/, valid/, validation/), each with a folder for each class"


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a folder of class folders: each file with its label, an index into classes.

    Attributes:
        folder: of the class folders.
        classes: their names.
        files: the images.
        labels: (N,).
        boxes: (N, 4), what to cut out of each image as its file stores it, in whole pixels: left, top, right, bottom;
            None: nothing.
    """

    folder: Path
    classes: tuple[str, ...]
    files: list[Path]
    labels: NDArray[np.int64]
    boxes: NDArray[np.int64] | None = None


class ClassFiles(NamedTuple):
    """The names of class folders, and for each the paths of its images from there, with '/' between the names."""

    folder: Path
    classes: tuple[str, ...]
    files: list[list[str]]


def class_splits(path: str | os.PathLike[str]) -> tuple[ClassFiles, ClassFiles]:
    """The images for training and for testing in a folder. Classes may be without test images; a warning names them.

    Raises:
        InputError: one of the two is not there, class folders for testing that those for training lack, a class without
            training images, or no test images.
    """
    train = _class_files(training_folder(path))
    return train, _class_files(testing_folder(path), train.classes, f"as in {show(train.folder)}", testing=True)


def list_splits(path: str | os.PathLike[str]) -> tuple[Listing, Listing]:
    """The images for training and for testing in a folder; see `class_splits`."""
    train, test = class_splits(path)
    return _listing(train), _listing(test)


def training_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of the training images in a folder. Raises InputError where it is not there."""
    return existing_folder(existing_folder(path, _LAYOUT) / "train", _LAYOUT)


def testing_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of the test images in a folder. Raises InputError where none is there."""
    root = existing_folder(path, _LAYOUT)
    folder = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    if folder is None:
        raise InputError(f"no {_or(TEST_NAMES)} folder in {show(root)}; {_LAYOUT}")
    return folder


def list_folder(
    path: str | os.PathLike[str], classes: Sequence[str] | None = None, *, testing: bool = False
) -> Listing:
    """The images in a folder of class folders, in order of class and then of path; hidden files are passed over.

    Args:
        path: the folder.
        classes: the names that the class folders must have, in the order of the labels; None for any, sorted.
        testing: classes may be without images; a warning names them.

    Raises:
        InputError: no such folder, no class folders or other ones, one without images, or a name twice.
    """
    return _listing(_class_files(existing_folder(path), classes, testing=testing))


def _class_files(
    folder: Path, classes: Sequence[str] | None = None, wanted_by: str = "as asked for", *, testing: bool = False
) -> ClassFiles:
    there = _class_folders(folder)
    names = tuple(there) if classes is None else unique(classes, "classes")
    unexpected = set(there) - set(names)
    if unexpected or (len(there) < len(names) and not testing):
        raise _difference(folder, names, there, wanted_by)
    files: list[list[str]] = []
    for name in names:
        images, others = _image_files(folder / name) if name in there else ([], 0)
        if not images and not testing:
            raise no_images(folder / name, others)
        files.append(images)
    without = [name for name, images in zip(names, files, strict=True) if not images]
    if len(without) == len(names):
        raise no_images(folder / there[0])
    if without:
        warnings.warn(f"classes without test images in {show(folder)}: {_first_of(without)}", DataWarning, stacklevel=2)
    return ClassFiles(folder, names, files)


def _listing(found: ClassFiles) -> Listing:
    labels = np.repeat(np.arange(len(found.classes), dtype=np.int64), [len(files) for files in found.files])
    pairs = zip(found.classes, found.files, strict=True)
    paths = [found.folder / name / file for name, files in pairs for file in files]
    return Listing(found.folder, found.classes, paths, labels)


def unique(names: Sequence[str], source: str) -> tuple[str, ...]:
    """The names of classes, if each is there once.

    Raises:
        InputError: one is there twice; it says where they come from.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{source}: {_first_of(twice)} named twice; give every class a name of its own")
    return tuple(names)


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of classes in a file with a name a line, without empty lines.

    Raises:
        InputError: as of `read_text`; no names, or one twice.
    """
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise InputError(f"{show(path)} names no classes; expected one a line")
    return unique(names, show(path))


def read_text(path: Path) -> str:
    """A file of text.

    Raises:
        InputError: it is not there, cannot be read, or is no text.
    """
    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{show(path)} cannot be read ({error.strerror}); it should be there") from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 has one beside every letter of English
        raise InputError(f"{show(path)} is no text in UTF-8; save it as such, or get it again")
    return text


def read_bytes(path: Path) -> bytes:
    """All of a file of any size. Raises InputError: it is not there, or cannot be read."""
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device read for ever
        raise InputError(f"{show(path)} is no file; it should be one")
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{show(path)} cannot be read ({reason}); it should be there") from error


def existing_folder(path: str | os.PathLike[str], expected: str = "give a folder that is there") -> Path:
    """The path of a folder.

    Raises:
        InputError: it is not there, or no folder.
    """
    folder = Path(path).expanduser()
    if not os.path.exists(folder):
        raise InputError(f"no folder {show(folder)}; {expected}")
    if not os.path.isdir(folder):
        raise InputError(f"{show(folder)} is a file, not a folder; {expected}")
    return folder


def show(path: Path) -> str:
    """A path for a message: quoted and escaped, so that no name can break the line."""
    return repr(str(path))


def entries_of(folder: Path) -> dict[str, bool]:
    """Name -> whether it is a folder, of what is in a folder.

    Without what is hidden, links to a folder that it is in, and folders that devices and archives make, of which a
    warning tells.

    Raises:
        InputError: it cannot be listed.
    """
    return {name: is_folder for name, is_folder, _ in _listed(folder)}


def _listed(folder: Path) -> list[tuple[str, bool, str]]:
    """What is in a folder, as of `entries_of`: name, whether it is a folder, and of a link to one where that is."""
    visible, system, root = [], [], os.path.realpath(folder)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = leads_to_folder(entry)
                if is_folder and entry.name.lower() in _SYSTEM_FOLDERS:
                    system.append(entry.name)
                elif not entry.name.startswith("."):
                    target = os.path.realpath(entry.path) if is_folder and entry.is_symlink() else ""
                    if not (target and _is_within(root, target)):
                        visible.append((entry.name, is_folder, target))
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot list folder {show(folder)} ({reason}); make it readable") from error
    for name in sorted(system):  # in the same words wherever it is, so that it is shown once
        warnings.warn(
            f"folders named {name!r} are made by devices and archives: passed over", DataWarning, stacklevel=2
        )
    return visible


def is_system_or_hidden(path: str) -> bool:
    """Whether a path, with '/' between the names, leads through what `entries_of` passes over, or to a file that an
    operating system makes in every folder.
    """
    *folders, name = [part for part in path.split("/") if part not in ("", ".", "..")] or [""]
    if name.startswith(".") or name.lower() in _SYSTEM_FILES:
        return True
    return any(part.startswith(".") or part.lower() in _SYSTEM_FOLDERS for part in folders)


def files_below(folder: Path, without: str | None = None) -> list[str]:
    """The paths of the files in a folder and those in it, from there, with '/' between the names, sorted.

    What `entries_of` passes over is not among them. Links to folders are followed, after all folders that are no links,
    the nearest first; every folder is listed once, and none that the folder itself is in: so links in a circle end.

    Args:
        folder: the folder.
        without: the absolute path of a folder that is passed over.

    Raises:
        InputError: a folder cannot be listed.
    """
    root = os.path.realpath(folder)
    seen: set[str] = set()
    files: list[str] = []
    waiting, links = [(0, "", root)], list[tuple[int, str, str]]()  # by depth, path, and where that leads
    while waiting or links:
        depth, here, place = waiting.pop() if waiting else heapq.heappop(links)
        if here and (place in seen or _is_within(root, place) or os.path.abspath(Path(folder, here)) == without):
            continue
        seen.add(place)
        for name, is_folder, target in _listed(Path(place)):
            path = f"{here}/{name}" if here else name
            if not is_folder:
                files.append(path)
            elif target:
                heapq.heappush(links, (depth + 1, path, target))
            else:
                waiting.append((depth + 1, path, os.path.join(place, name)))
    return sorted(files)


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_within(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


def images_below(folder: Path, without: str | None = None) -> tuple[list[str], int]:
    """The paths of the images in a folder and those in it, as of `files_below`, and how many other files there are. A
    warning tells of images that are not read."""
    files = files_below(folder, without)
    images = [file for file in files if is_image(file)]
    if len(images) < len(files):
        endings = {os.path.splitext(file)[1].lower() for file in files}
        unread = [ending for ending in endings if not is_image(ending) and _is_of_images(ending)]
        for ending in sorted(unread):
            warnings.warn(f"{ending} files are passed over: not read as images", DataWarning, stacklevel=2)
    return images, len(files) - len(images)


def is_image(name: str) -> bool:
    """Whether a file has the name of an image."""
    return name.lower().endswith(EXTENSIONS)


def _is_of_images(ending: str) -> bool:
    """Whether files with an ending that is not read are images all the same."""
    Image.init()
    return (
        Image.EXTENSION.get(ending) in Image.OPEN
        or ending in (".heic", ".heif", ".jxl")
        or (mimetypes.guess_type(f"x{ending}")[0] or "").startswith("image/")
    )


def _class_folders(folder: Path) -> list[str]:
    entries = entries_of(folder)
    names = sorted(name for name, is_folder in entries.items() if is_folder)
    if not names:
        loose = sum(map(is_image, entries))
        what = f"{loose} images but no class folders" if loose else "no class folders"
        raise InputError(f"{what} in {show(folder)}; expected a folder for each class with its images in it")
    return names


def _image_files(folder: Path) -> tuple[list[str], int]:
    """The images of a class, name by name in order, and how many other files there are; see `images_below`."""
    images, others = images_below(folder)
    return sorted(images, key=lambda file: file.split("/")), others


def no_images(folder: Path, others: int = 0) -> InputError:
    """The error for a class folder without images, though with so many other files."""
    beside = f" (but {others} other files)" if others else ""
    return InputError(
        f"no images in class folder {show(folder)}{beside}; expected {_or(EXTENSIONS)} files: add some, or remove the "
        "folder"
    )


def _difference(folder: Path, expected: Sequence[str], found: Sequence[str], wanted_by: str) -> InputError:
    parts = [
        f"{what} {_first_of(sorted(names))}"
        for what, names in (("missing", set(expected) - set(found)), ("unexpected", set(found) - set(expected)))
        if names
    ]
    return InputError(
        f"the class folders of {show(folder)} differ: {', '.join(parts)}; expected the {len(expected)} {wanted_by}"
    )


def _first_of(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
