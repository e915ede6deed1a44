"""Lists the files below a folder; each folder is listed only once."""

from __future__ import annotations

import heapq
import mimetypes
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from regard.data.decode import FORMATS
from regard.errors import DataWarning, InputError, first_few

EXTENSIONS = tuple(extension for extensions in FORMATS.values() for extension in extensions)
"""Extensions of image files, in lower case, with the dot."""

# Folders created by storage devices, operating systems and archivers, in lower case.
_SYSTEM_FOLDERS = {
    *("@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@tmp"),  # Synology, QNAP
    *("#recycle", "#snapshot", "~snapshot"),
    *("$recycle.bin", "recycler", "system volume information"),  # Windows
    *("__macosx", "network trash folder", "temporary items"),  # macOS
    *("lost+found", "__pycache__"),
}
TEST_NAMES = ("test", "val", "valid", "validation")
SPLITS = (*TEST_NAMES, "train")
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini"}  # Windows


class Tree:
    """The files and folders below a root folder, by relative path with '/' as separator.

    Hidden files, links to a parent folder, and folders created by devices and archivers are ignored, the last with a
    warning.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, frozenset[str]] = {}  # file names by folder

    def files(self) -> list[str]:
        """Sorted names of the files in the root folder; empty if it does not exist."""
        return sorted(name for name, is_folder, _ in _entries(self.root) if not is_folder)

    def folders(self) -> list[str]:
        """Sorted names of the folders in the root folder; empty if it does not exist."""
        return sorted(name for name, is_folder, _ in _entries(self.root) if is_folder)

    def images(self, folders: Sequence[str] | None = None) -> list[str]:
        """Sorted paths of the images anywhere below the folders; None for the root folder.

        A subfolder that several links lead to is listed once for each of the folders.
        """
        paths = [name for name in self.files() if is_image(name)] if folders is None else []
        for folder in self.folders() if folders is None else folders:
            paths += [f"{folder}/{path}" for path in images_below(self.root / folder)[0]]
        return sorted(paths)

    def has(self, path: str) -> bool:
        """Whether the file exists, hidden or not. Each folder is listed only once."""
        folder, _, name = path.rpartition("/")
        if folder not in self._files:
            entries = _scan(self.root / folder)
            self._files[folder] = frozenset(entry.name for entry in entries if not _is_folder(entry))
        return name in self._files[folder]

    def missing(self, paths: Sequence[str]) -> list[str]:
        """The files that do not exist."""
        return [path for path in paths if not self.has(path)]

    def check(self, paths: Sequence[str], description: str, hint: str) -> None:
        """Raises InputError if files are missing, with their number and the first names.

        `description` says what the files are ("images that instances_val2017.json names"), `hint` what to do.
        """
        missing = self.missing(paths)
        if missing:
            raise InputError(
                f"{len(missing)} of the {len(paths)} {description} are missing in {show(self.root)} "
                f"({quote_names([path[-200:] for path in missing], 3)}); {hint}"
            )


def images_below(folder: Path, excluded: str | None = None) -> tuple[list[str], int]:
    """The images anywhere below a folder, as sorted relative paths with '/' as separator, and the number of other
    files. Warns about images of unsupported formats.

    Links to folders are followed after all real folders, the nearest first. Each folder is listed once and parents of
    `folder` never, so circular links end. Ignores what `Tree` ignores, and the folder with the absolute path
    `excluded`.
    """
    root = os.path.realpath(folder)
    visited: set[str] = set()
    files: list[str] = []
    queue = [(False, 0, "", root)]  # whether it is a link, depth, relative path and real path of each folder
    while queue:
        _, depth, relative, real = heapq.heappop(queue)
        if relative and (
            real in visited or _is_within(root, real) or os.path.abspath(Path(folder, relative)) == excluded
        ):
            continue
        visited.add(real)
        for name, is_folder, target in _entries(Path(real)):
            path = f"{relative}/{name}" if relative else name
            if is_folder:
                heapq.heappush(queue, (bool(target), depth + 1, path, target or os.path.join(real, name)))
            else:
                files.append(path)
    other_files = [file for file in files if not is_image(file)]
    for extension in sorted({os.path.splitext(file)[1].lower() for file in other_files}):
        if _is_image_format(extension):
            warnings.warn(f"{extension} files are skipped: their format is not supported", DataWarning, stacklevel=2)
    return sorted(filter(is_image, files)), len(other_files)


def by_stem(paths: Sequence[str], folder: Path, kind: str) -> dict[str, str]:
    """Maps paths without their extension to paths. Raises InputError if two paths differ only in the extension."""
    path_of: dict[str, str] = {}
    for path in paths:
        stem = path.rpartition(".")[0]
        if stem in path_of:
            raise InputError(f"two {kind} of one name in {show(folder)}: {path_of[stem]!r} and {path!r}; keep one")
        path_of[stem] = path
    return path_of


def is_image(name: str) -> bool:
    """Whether a file name has the extension of an image."""
    return name.lower().endswith(EXTENSIONS)


def is_system_or_hidden(path: str) -> bool:
    """Whether `Tree` ignores a file or one of its folders, or operating systems create it, such as Thumbs.db."""
    *folders, name = [part for part in path.split("/") if part not in ("", ".", "..")] or [""]
    if name.startswith(".") or name.lower() in _SYSTEM_FILES:
        return True
    return any(part.startswith(".") or part.lower() in _SYSTEM_FOLDERS for part in folders)


def existing_folder(path: str | os.PathLike[str], expected: str = "give a folder that exists") -> Path:
    """The path of a folder. Raises InputError if it does not exist or is not a folder."""
    folder = Path(path).expanduser()
    if not os.path.exists(folder):
        raise InputError(f"no folder {show(folder)}; {expected}")
    if not os.path.isdir(folder):
        raise InputError(f"{show(folder)} is a file, not a folder; {expected}")
    return folder


def no_images(folder: Path, other_files: int = 0) -> InputError:
    """The error for a folder without images; `other_files` is the number of other files in it."""
    others = f" (but {other_files} other files)" if other_files else ""
    return InputError(f"no images in folder {show(folder)}{others}; expected {', '.join(EXTENSIONS)} files")


def show(path: Path) -> str:
    """A path for messages, quoted and escaped to stay on one line."""
    return repr(str(path))


def quote_names(names: Sequence[str], count: int = 5) -> str:
    """The first `count` names, quoted, for messages."""
    return first_few([*map(repr, names[: count + 1])], count)


def _entries(folder: Path) -> list[tuple[str, bool, str]]:
    """The visible entries of a folder: name, whether it is a folder, and the target of a link to a folder or ""."""
    visible, root = [], os.path.realpath(folder)
    for entry in _scan(folder):
        is_folder = _is_folder(entry)
        if is_folder and entry.name.lower() in _SYSTEM_FOLDERS:  # the same text for all, so it is displayed once
            text = f"folders named {entry.name!r} are created by devices and archivers: skipped"
            warnings.warn(text, DataWarning, stacklevel=2)
        elif not entry.name.startswith("."):
            target = os.path.realpath(entry.path) if is_folder and entry.is_symlink() else ""
            if not (target and _is_within(root, target)):
                visible.append((entry.name, is_folder, target))
    return visible


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder; none if it does not exist."""
    if not folder.is_dir():
        return
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot list folder {show(folder)} ({reason}); make it readable") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_image_format(extension: str) -> bool:
    """Whether an unsupported extension is that of an image format."""
    Image.init()
    return (
        Image.EXTENSION.get(extension) in Image.OPEN
        or extension in (".heic", ".heif", ".jxl")
        or (mimetypes.guess_type(f"x{extension}")[0] or "").startswith("image/")
    )
