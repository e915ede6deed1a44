"""The index of a store: what its runs say, read again only where files changed.

`.index.json` is a cache: a line with the SHA-256 of the next, and a line of JSON. It may be missing, cut short,
changed, of another version or written by two processes at once: then runs are read again. A store that cannot be
written to has none.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from types import NoneType
from typing import Any, NamedTuple

from regard.files import MOST_BYTES
from regard.metrics_file import check_row
from regard.store.place import READ, Place, Seen, Stamp
from regard.store.reading import Reader, Reading, check_recipe
from regard.store.stored import StoredRun

_FILE = ".index.json"
_VERSION = 2  # counts up when something else is read from run folders, or written here
_BATCH = 256  # runs whose files are read before they are parsed
_WORTH = 100  # the index is written when a run in so many is new to it


class _Entry(NamedTuple):
    """A run as it was read.

    Attributes:
        seen: how its files looked before they were read.
        settled: whether they look different once they are changed.
        reading: what they said.
    """

    seen: Seen
    settled: bool
    reading: Reading


class Index:
    """Lists the runs of a place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._reader = Reader()
        self._entries: dict[str, _Entry] | None = None
        self._news = 0  # entries that the file does not have, or should no longer have

    def runs(self) -> list[StoredRun]:
        """All runs, by name.

        Raises:
            OSError: the place cannot be read.
        """
        found = self._place.runs()
        known = self._load() if self._entries is None else self._entries
        changed = [name for name, seen in found.items() if not _current(known.get(name), seen)]
        fresh = dict(self._read(changed, found)) if changed else {}
        entries = {name: entry for name in sorted(found) if (entry := fresh.get(name) or known.get(name)) is not None}
        for name in changed:
            if name not in fresh:  # it was removed meanwhile
                entries.pop(name, None)
        self._news += sum(entry.settled for entry in fresh.values()) + len(known.keys() - entries.keys())
        self._entries = entries
        if self._news * _WORTH > len(entries):
            self._save(entries)
        return [entry.reading.run for entry in entries.values()]

    def rebuild(self) -> list[StoredRun]:
        """All runs, all read anew.

        Raises:
            OSError: the place cannot be read.
        """
        self._entries, self._reader = {}, Reader()
        return self.runs()

    def read(self, name: str) -> StoredRun | None:
        """A run, read anew; None if there is none of that name.

        Raises:
            OSError: the place cannot be read.
        """
        files = self._place.files(name)
        if not files:
            return None
        contents = list(self._place.read_each([f"{name}/{file}" for file in READ]))
        if contents[0] is None and contents[1] is None and not any(file.startswith("checkpoints/") for file in files):
            return None
        return self._reader.read(name, *contents, weights="last.safetensors" in files).run

    def _read(self, names: Sequence[str], found: Mapping[str, Seen]) -> Iterator[tuple[str, _Entry]]:
        clock = self._place.clock()
        for begin in range(0, len(names), _BATCH):
            batch = names[begin : begin + _BATCH]
            contents = self._place.read_each(
                [
                    f"{name}/{file}"
                    for name in batch
                    for file, stamp in zip(READ, found[name][:3], strict=True)
                    if not _is_large(stamp)
                ]
            )
            for name in batch:
                seen = found[name]
                files = [_LARGE if _is_large(stamp) else next(contents) for stamp in seen[:3]]
                if any(stamp is not None and file is None for stamp, file in zip(seen, files, strict=False)):
                    continue  # a file that was there is gone, and so will the run be
                reading = self._reader.read(name, *files, weights=seen.weights)
                settled = not any(isinstance(file, OSError) for file in files) and all(
                    stamp is None or self._place.settled(stamp, clock) for stamp in seen[:3]
                )
                yield name, _Entry(seen, settled, reading)

    def _load(self) -> dict[str, _Entry]:
        try:
            digest, _, content = (self._place.read(_FILE) or b"").partition(b"\n")
            if digest.decode() != sha256(content).hexdigest():
                return {}
            return _decoded(json.loads(content))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return {}

    def _save(self, entries: Mapping[str, _Entry]) -> None:
        self._news = 0
        try:
            content = json.dumps(_encoded(entries), separators=(",", ":")).encode()
            self._place.write(_FILE, sha256(content).hexdigest().encode() + b"\n" + content)
        except OSError:  # the store may only be read, or is full
            self._news = -len(entries)  # not tried again soon


_LARGE = OSError(errno.EFBIG, f"it is larger than {MOST_BYTES:,} bytes")


def _is_large(stamp: Stamp | None) -> bool:
    return stamp is not None and stamp[0] > MOST_BYTES


def _current(entry: _Entry | None, seen: Seen) -> bool:
    return entry is not None and entry.settled and entry.seen == seen


def _encoded(entries: Mapping[str, _Entry]) -> dict[str, Any]:
    """As JSON, each distinct recipe and environment once; without entries that would not be believed."""
    recipes, environments = _Numbered(), _Numbered()
    runs = {}
    for name, (seen, settled, reading) in entries.items():
        run, shared = reading.run, reading.recipe
        if not settled:
            continue
        recipe = (None, None) if shared is None else (recipes(shared), run.recipe["seed"])
        about = environments(reading.environment)
        runs[name] = [*seen, *recipe, run.row, run.images_per_second, about, run.classes, run.problem]
    return {"version": _VERSION, "recipes": recipes.values, "environments": environments.values, "runs": runs}


class _Numbered:
    """Numbers for values, equal ones for equal values."""

    def __init__(self) -> None:
        self.values: list[dict[str, Any]] = []
        self._by_text: dict[str, int] = {}
        self._by_identity: dict[int, int] = {}

    def __call__(self, value: dict[str, Any]) -> int:
        number = self._by_identity.get(id(value))
        if number is None:
            number = self._by_text.setdefault(json.dumps(value), len(self.values))
            if number == len(self.values):
                self.values.append(value)
            self._by_identity[id(value)] = number
        return number


def _decoded(content: Any) -> dict[str, _Entry]:
    """The entries of an index.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is none, or of another version.
    """
    if content["version"] != _VERSION:
        raise ValueError("another version")
    recipes, environments = content["recipes"], content["environments"]
    if not all(isinstance(fields, dict) for fields in chain(recipes, environments)):
        raise TypeError("recipes and environments have fields")
    for fields in recipes:
        check_recipe({**fields, "seed": 0})
    entries = {}
    for name, values in content["runs"].items():
        recipe, metrics, environment, weights, number, seed, row, rate, about, classes, problem = values
        if not isinstance(row, dict) or not isinstance(problem, str) or type(seed) not in (int, NoneType):
            raise TypeError("not a run")
        if row:
            check_row(row)
        shared = None if number is None else recipes[number]
        run = StoredRun(
            name=name,
            recipe={} if shared is None else {**shared, "seed": seed},
            row=row,
            images_per_second=rate,
            environment=environments[about],
            classes=classes,
            weights=weights,
            problem=problem,
        )
        seen = Seen(_stamp(recipe), _stamp(metrics), _stamp(environment), weights)
        entries[name] = _Entry(seen, True, Reading(run, shared, environments[about]))
    return entries


def _stamp(value: Any) -> Stamp | None:
    if value is None:
        return None
    size, when = value
    return size, when
