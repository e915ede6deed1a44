"""Which files are below a folder: each folder in it is listed once, whatever is asked about it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from regard.data.listing import entries_of, images_below, is_image, leads_to_folder, show
from regard.errors import InputError

_NAMED = 3  # of the files that are missing


class Tree:
    """The files and folders below a folder, by their paths from there, with '/' between the names.

    What is hidden, and folders that devices and archives make, are passed over; see `regard.data.listing`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, frozenset[str]] = {}

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted; none where no such folder is."""
        return sorted(name for name, is_folder in self._entries(folder).items() if not is_folder)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, likewise."""
        return sorted(name for name, is_folder in self._entries(folder).items() if is_folder)

    def images(self, folders: Sequence[str] | None = None) -> list[str]:
        """Paths of the images in these folders and those in them, sorted; None: of all.

        In each of the folders every other counts once, whatever links to it.
        """
        found = [name for name in self.files() if is_image(name)] if folders is None else []
        for folder in self.folders() if folders is None else folders:
            found += [f"{folder}/{path}" for path in images_below(self.root / folder)[0]]
        return sorted(found)

    def has(self, path: str) -> bool:
        """Whether the file is there, hidden or not."""
        folder, _, name = path.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            names = self._names[folder] = frozenset(_files_in(self.root / folder))
        return name in names

    def missing(self, paths: Collection[str]) -> list[str]:
        """Those that are not there."""
        return [path for path in paths if not self.has(path)]

    def _entries(self, folder: str) -> dict[str, bool]:
        place = self.root / folder
        return entries_of(place) if place.is_dir() else {}


def _files_in(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if not leads_to_folder(entry))
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        raise InputError(f"cannot list folder {show(folder)} ({error}); make it readable") from error


def check_all_there(tree: Tree, paths: Sequence[str], what: str, hint: str) -> None:
    """Have all files there before work starts.

    Args:
        tree: where they should be.
        paths: of the files, from there.
        what: they are, and who says so: "images that instances_val2017.json names".
        hint: what to do.

    Raises:
        InputError: some are not; it says how many and names the first.
    """
    missing = tree.missing(paths)
    if missing:
        names = ", ".join(repr(path[-200:]) for path in missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
        raise InputError(
            f"{len(missing)} of the {len(paths)} {what} are missing in {show(tree.root)} ({names}); {hint}"
        )


def check_inside(path: object, source: Path) -> str:
    """The path of a file from a folder, as a file of annotations gives it, if it stays in that folder.

    Raises:
        InputError: it does not, or is no path.
    """
    if isinstance(path, str) and path and "\0" not in path:
        pure = PurePosixPath(path.replace("\\", "/"))
        if not pure.is_absolute() and ".." not in pure.parts and pure.parts:
            return pure.as_posix()
    raise InputError(f"{show(source)} names an image {path!r}; expected a path within the folder of images")
