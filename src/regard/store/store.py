"""A store of runs: run folders under one address, which many machines may use at a time."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from regard.errors import InputError, first_line, one_line
from regard.store import mirror
from regard.store.claims import LONGEST, Claim, Claims
from regard.store.index import Index
from regard.store.local import LocalPlace
from regard.store.place import Place
from regard.store.remote import RemotePlace
from regard.store.stored import StoredRun

_T = TypeVar("_T")


class Store:
    """The run folders directly below an address, of this machine or not.

    Hidden names, which begin with a dot, and other folders are not runs. The store keeps an index, claims and logs
    below hidden names of its own; all of them may be removed while nobody works.

    Args:
        address: a folder, which need not be there yet, or an address of fsspec: `s3://bucket/runs`, `gs://…`,
            `file:///…`, `memory://…`.

    Attributes:
        address: as given; of a folder without a slash at the end.
        folder: if the store is a folder of this machine; else None.

    Raises:
        InputError: no file system has such addresses, the library for it is missing, or it cannot be reached.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self._place = _place(os.fspath(address))
        self.address = self._place.address
        self.folder = self._place.folder
        self._index = Index(self._place)
        self._claims = Claims(self._place)
        self._linked: dict[Path, Claims] = {}  # of the folders that links to runs lead to

    def __repr__(self) -> str:
        return f"Store({self.address!r})"

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.location,)

    @property
    def location(self) -> str:
        """The address as a process finds it whose working directory is another."""
        return self.address if self.folder is None else os.path.abspath(self.folder)

    def exists(self) -> bool:
        """Whether there is anything at the address.

        Raises:
            InputError: it cannot be reached.
        """
        return self._told(self._place.exists)

    def runs(self) -> list[StoredRun]:
        """All runs, by name, from the index where their files are as they were. Recipes are shared between the runs;
        do not change them.

        Raises:
            InputError: the store cannot be read. Of a single run, that is its `problem`.
        """
        return self._told(self._index.runs)

    def rebuild(self) -> list[StoredRun]:
        """All runs, as `runs` gives them, all read anew.

        Raises:
            InputError: the store cannot be read.
        """
        return self._told(self._index.rebuild)

    def run(self, name: str) -> StoredRun | None:
        """One run, read anew; None if there is none of that name.

        Raises:
            InputError: the store cannot be read, or that is no name of a run.
        """
        _check_name(name)
        return self._told(lambda: self._index.read(name))

    def fetch(self, name: str, into: Path) -> Path:
        """A run folder on this machine.

        Of a store on this machine that is the run's own. Of another it is `into/name`, to which is brought what is not
        there already.

        Raises:
            InputError: there is no such run, or it cannot be brought here.
        """
        _check_name(name)
        if self.folder is None:
            return mirror.fetch(self._place, name, into)
        if not (self.folder / name).is_dir():
            raise InputError(f"there is no run {name} in {self.address}")
        return self.folder / name

    def copy(self, name: str) -> Path:
        """A run folder on this machine to look at, without its checkpoints.

        Of a store on this machine that is the run's own. Of another it is below `$REGARD_CACHE` or the person's cache
        folder, where what did not change stays for the next time.

        Raises:
            InputError: there is no such run, or it cannot be brought here.
        """
        if self.folder is not None:
            return self.fetch(name, self.folder)
        _check_name(name)
        return mirror.fetch(self._place, name, _cache(self.address) / "runs", checkpoints=False)

    def push(self, folder: Path, name: str | None = None) -> None:
        """Sends what changed in a run folder since it was last sent or fetched, and removes what was removed there.

        Nothing is to be done for the folders of a store on this machine itself. Hidden files and those that end in
        `.part` stay. What fails is tried again a few times.

        Args:
            folder: of the run.
            name: in the store; the folder's if not given.

        Raises:
            InputError: there is no such folder, or the store cannot be written.
        """
        name = folder.resolve().name if name is None else name
        _check_name(name)
        if self.folder is None or folder.resolve() != (self.folder / name).resolve():
            mirror.push(self._place, folder, name)

    def claim(
        self, name: str, *, lease: float = 60.0, wait: bool = False, on_loss: Callable[[], None] | None = None
    ) -> Claim | None:
        """The right to work at a run, which one process at a time has, of all that use the store; None: another has it.

        A process that is killed loses it at once for those on the same machine, else when the lease is over: whoever
        calls this of the same store every few seconds, or waits, has it then.

        Args:
            name: of the run, which need not be there yet.
            lease: seconds without a sign of life after which others may take it over.
            wait: if another has it, wait until that one gives a sign of life (a sixth of its lease) or has lost it.
            on_loss: called from a thread if that happens.

        Raises:
            InputError: the store cannot be written, or that is no name of a run.
        """
        _check_name(name)
        if not 0 < lease <= LONGEST:
            raise InputError(f"the lease is {lease:g} seconds; it has to be positive, and at most {LONGEST:g}")
        claims, name = self._claims_of(name)
        return claims.claim(name, lease, on_loss, wait=wait)

    def claimed(self, name: str) -> str | None:
        """Who works at a run, as "pid 123 on HOST"; None: nobody.

        Raises:
            InputError: the store cannot be read, or that is no name of a run.
        """
        _check_name(name)
        claims, name = self._claims_of(name)
        return self._told(lambda: claims.holder(name))

    def claims(self) -> dict[str, str]:
        """Who works at which run, as it seems: run -> "pid 123 on HOST".

        Raises:
            InputError: the store cannot be read.
        """
        found = self._told(self._claims.holders)
        if self.folder is not None:
            linked = [name for name in self._told(lambda: self._place.names("")) if (self.folder / name).is_symlink()]
            found |= {name: holder for name in linked if name[0] != "." and (holder := self.claimed(name))}
        return found

    def _claims_of(self, name: str) -> tuple[Claims, str]:
        """The claims that a run is among, and its name there: a run that a link leads to is claimed where it lies."""
        if self.folder is not None and (self.folder / name).is_symlink():
            place = Path(os.path.realpath(self.folder / name))
            if place.parent != self.folder.resolve() and not place.name.startswith("."):
                return self._linked.setdefault(place.parent, Claims(LocalPlace(place.parent))), place.name
            return self._claims, place.name
        return self._claims, name

    def log(self, name: str) -> Path:
        """The file of this machine for what a run prints; its folder is there.

        It is `.logs/NAME.log` in the store, or below `$REGARD_CACHE` or the person's cache folder for one that is not
        on this machine.

        Raises:
            InputError: that folder cannot be made, or that is no name of a run.
        """
        _check_name(name)
        folder = _cache(self.address) / "logs" if self.folder is None else self.folder / ".logs"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {folder} for logs cannot be made ({first_line(error)})") from error
        return folder / f"{name}.log"

    def _told(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except OSError as error:
            raise InputError(f"the store {self.address} cannot be read ({first_line(error)})") from error


def _place(address: str) -> Place:
    if "::" in address and "://" in address:
        raise InputError(
            f"{address} is a chain of addresses; a store has one address, such as {address.split('::')[-1]}"
        )
    if not re.match(r"[A-Za-z][\w+.-]*://", address):
        return _folder(Path(address))
    try:
        system, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise InputError(f"{address} needs a library that is not installed: {one_line(error)}") from error
    except Exception as error:  # every file system has errors of its own
        raise InputError(f"{address} is no address of a store: {one_line(error)}") from error
    if isinstance(system, LocalFileSystem):
        return _folder(Path(root))
    place = RemotePlace(system, root, address)
    try:
        place.exists()
    except OSError as error:
        raise InputError(f"the store {address} cannot be reached ({first_line(error)})") from error
    return place


def _folder(folder: Path) -> LocalPlace:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a store is a folder of run folders")
    return LocalPlace(folder)


def _check_name(name: str) -> None:
    if not name or name.startswith(".") or "/" in name or os.sep in name:
        raise InputError(f"{name!r} is no name of a run: that is the name of a folder, without a dot at its beginning")


def _cache(address: str) -> Path:
    own = os.environ.get("REGARD_CACHE")
    cache = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regard"
    return cache / "stores" / hashlib.sha256(address.encode()).hexdigest()[:16]
