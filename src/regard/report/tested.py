"""What a network was tested on: only of the same images can accuracies be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from regard.data import all_options
from regard.errors import InputError
from regard.report.summary import Summary, images_tested
from regard.report.wording import few, listed

# What decides on training images, or on how images are read.
_NOT_OF_TESTING = {"train", "train_images", "cue", "memory_limit", "buffer"}
_WHOSE = ("folder", "files", "wds", "hfds")  # sets of whatever lies in their folders
_BY_ADDRESS = ("wds", "hfds")  # whose folder is no place on a machine


def tested_on(row: Summary) -> tuple[Any, ...]:
    """The same for runs that were tested on the same images, as far as their folders tell.

    That is the data set with those of its options that decide on the test images, and how many these are; of a set of
    whatever lies in a folder also the names of the classes. Where the folder lies does not count, nor does the size in
    which a network takes the images.
    """
    data = row.recipe.data
    options = _options(row)
    own: list[Any] = []
    if data.name in _WHOSE:
        own.append(list(row.environment.get("classes", ())))
    if data.name in _BY_ADDRESS:
        own.append(data.folder)
    return data.name, json.dumps(options, sort_keys=True, default=str), images_tested(row), own


def titles(firsts: Sequence[Summary]) -> list[str]:
    """What to call the test sets of these rows, one each: by the name of the data set, and what tells two apart."""
    names = []
    for row in firsts:
        alike = [other for other in firsts if other.recipe.data.name == row.recipe.data.name]
        count = images_tested(row)
        parts = [f"{count:,} test images"] if count else []
        parts += [f"{len(row.environment['classes'])} classes"] if row.environment.get("classes") else []
        options = [_options(other) for other in alike]
        parts += [
            f"{name} {value}"
            for name, value in _options(row).items()
            if name != "test" and any(other.get(name) != value for other in options)
        ]
        names.append(f"{row.recipe.data.name}{f' ({listed(parts)})' if parts else ''}")
    numbered = [f"{name}, set {names[: i + 1].count(name)}" for i, name in enumerate(names)]
    return [numbered[i] if names.count(name) > 1 else name for i, name in enumerate(names)]


def folders(rows: Sequence[Summary]) -> str:
    """What to say where networks were tested on images of whatever lay in several folders."""
    places = list(dict.fromkeys(row.recipe.data.folder or "" for row in rows if row.recipe.data.name in _WHOSE))
    if len(places) < 2:
        return ""
    return (
        f"The images lay in {few(places, 4)}, with classes of the same names and the same number of test images; "
        "whether these are the same images, the runs do not say."
    )


def _options(row: Summary) -> dict[str, Any]:
    options = dict(row.recipe.data.options)
    with suppress(InputError):
        options = all_options(row.recipe.data.name, **options)
    return {name: value for name, value in options.items() if name not in _NOT_OF_TESTING}
