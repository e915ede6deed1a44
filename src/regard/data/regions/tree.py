"""Which files are below a folder: each folder in it is listed once, whatever is asked about it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from regard.data.listing import show
from regard.errors import InputError

_NAMED = 3  # of the files that are missing


class Tree:
    """The files and folders below a folder, by their paths from there, with '/' between the names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, dict[str, bool]] = {}

    def files(self, folder: str = "") -> list[str]:
        """Names of the files in a folder, sorted; hidden ones are passed over. None where no such folder is."""
        return sorted(name for name, is_folder in self._list(folder).items() if not is_folder and name[0] != ".")

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, likewise."""
        return sorted(name for name, is_folder in self._list(folder).items() if is_folder and name[0] != ".")

    def below(self, extensions: tuple[str, ...], folder: str = "") -> list[str]:
        """Paths of all files with these extensions in a folder and those in it, sorted; hidden ones are passed over."""
        return sorted(self._below(extensions, folder, ()))

    def _below(self, extensions: tuple[str, ...], folder: str, around: tuple[str, ...]) -> Iterator[str]:
        here = os.path.realpath(self.root / folder)
        if here in around:  # by way of a link
            return
        for name in self.files(folder):
            if name.lower().endswith(extensions):
                yield _join(folder, name)
        for name in self.folders(folder):
            yield from self._below(extensions, _join(folder, name), (*around, here))

    def has(self, path: str) -> bool:
        """Whether the file is there."""
        folder, _, name = path.rpartition("/")
        return self._list(folder).get(name) is False

    def missing(self, paths: Collection[str]) -> list[str]:
        """Those that are not there."""
        return [path for path in paths if not self.has(path)]

    def _list(self, folder: str) -> dict[str, bool]:
        """Name -> whether it is a folder."""
        listed = self._listed.get(folder)
        if listed is None:
            try:
                with os.scandir(self.root / folder) as entries:
                    listed = {entry.name: entry.is_dir() for entry in entries}
            except (FileNotFoundError, NotADirectoryError):
                listed = {}
            except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
                raise InputError(
                    f"cannot list folder {show(self.root / folder)} ({error}); make it readable"
                ) from error
            self._listed[folder] = listed
        return listed


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
        names = ", ".join(map(repr, missing[:_NAMED])) + (", …" if len(missing) > _NAMED else "")
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


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
