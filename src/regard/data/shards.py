"""Sets of WebDataset shards, read while training: tar files of images and labels, on a disk or anywhere else."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from regard.data.dataset import Splits
from regard.data.decode import OnUnreadable
from regard.data.listing import TEST_NAMES, existing_folder, is_system_or_hidden, read_class_names, unique
from regard.errors import InputError, one_line, unknown
from regard.files import MOST_BYTES, read_regular

if TYPE_CHECKING:
    from regard.data.fileset import FileSet

MOST_LANES = 16
OF_ENDINGS = "What follows the first dot of a name in a shard is its ending: a name has no other dots"
_INFO = ("_info.json", "info.json")
_PIPES = "REGARD_PIPES"
_PLAIN = re.compile(r"[\w.:/%@+=,~?&#-]+")
_SHOWN = 5
_MOST_CLASSES = 10**6
_MOST_SHARDS = 500_000
_MOST_BRACES = 20


@dataclass(frozen=True, eq=False)
class Shards:
    """Images in shards, which are read from beginning to end.

    Attributes:
        reader: timm's, of all of them.
        names: of the shards, as the reader opens them.
        count: of the images.
        classes: how many there are.
        lanes: in how many lanes to read them in training; None: see `lanes.lanes_of`.
        buffer: images of a lane that are held to be shuffled.
        lengths: images in a shard, by name, of those of which it is known.
    """

    reader: Any
    names: tuple[str, ...]
    count: int
    classes: int
    lanes: int | None
    buffer: int
    lengths: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count


def load_wds(
    path: str | os.PathLike[str] | None,
    *,
    size: int | None = None,
    unreadable: OnUnreadable = "error",
    crop_pct: float = 0.875,
    interpolation: str = "bilinear",
    workers: int = 4,
    train: str = "train",
    test: str | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    classes: list[str] | str | int | None = None,
    lanes: int | None = None,
    buffer: int = 512,
    input_key: str = "jpg;png;webp;jpeg",
    target_key: str | None = None,
) -> Splits[FileSet]:
    """Find the shards of two splits.

    Args:
        path: the folder of the shards, or its address (https://…, hf://…); None where the names of the shards say it
            all.
        size: side of the images as the network sees them; None for 224.
        unreadable: as of `FileSet`, and so are the next three.
        crop_pct: likewise.
        interpolation: likewise.
        workers: likewise.
        train: the shards to train on: a split that `_info.json` or `info.json` beside the shards names, or their names
            with braces, and after a bar the number of images in them: "train-{0000..1023}.tar|1281167".
        test: those to test on; None for the first that the info names of test, val, valid and validation.
        train_images: how many images the training shards hold, if neither info nor name says it; None for as many as
            are counted in them, if they are on this machine.
        test_images: likewise.
        classes: their names, a file with a name a line, or how many there are; None for what the info says.
        lanes: in how many lanes shards are read in training; None for the most there can be, up to 16.
        buffer: images of each lane that are held to be shuffled.
        input_key: the endings of images in the shards.
        target_key: the field of an image's .json that has its label; None for its .cls.

    Raises:
        InputError: the library is not installed, no such split, shards that are not there, a number of images or
            classes that is not known.
    """
    from regard.data.fileset import FileSet, common

    fields = common("wds", size, unreadable=unreadable, crop_pct=crop_pct, interpolation=interpolation, workers=workers)
    numbers = {"lanes": lanes, "buffer": buffer, "train_images": train_images, "test_images": test_images}
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**48):
            raise InputError(f"{name} is {value!r}; give a whole number, 1 or more (--data.options.{name})")
    root = "" if path is None else os.fspath(path)
    if root and not _scheme(root):
        root = os.path.abspath(existing_folder(root))
    keys = {"input_key": input_key, "input_img_mode": "", "target_key": target_key}
    first = _reader(root, train, keys)
    second = _reader(root, _test_split(first) if test is None else test, keys)
    names = _classes(classes, first.info, root)

    def of(reader: Any, option: str, images: int | None) -> Shards:
        found = tuple(os.path.join(reader.root, name) for name in reader.split_info.filenames)
        _check_there(found)
        count = images or reader.num_samples or _counted(found, input_key, option, unreadable)
        reader.num_samples = count
        lengths = dict(zip(found, reader.split_info.shard_lengths, strict=False))
        return Shards(reader, found, count, len(names), lanes, buffer, lengths)

    return Splits(
        FileSet(of(first, "train", train_images), split="train", classes=names, **fields),
        FileSet(of(second, "test", test_images), split="test", classes=names, **fields),
    )


def _reader(root: str, split: str, keys: dict[str, Any]) -> Any:
    from timm.data.readers import create_reader, reader_wds

    if reader_wds.wds is None:
        raise InputError("the library webdataset is not installed; install it (pip install webdataset)")
    # What is an address of its own is not within the folder.
    root = "" if _scheme(split) else root
    _check_address(root)  # timm opens the info there
    _check_braces(split)
    for name in () if _scheme(root) else _INFO:
        _check_info(os.path.join(root, name))
    try:
        with _without_warning():
            reader: Any = create_reader("wds/", root, split=split, **keys)
    except RuntimeError as error:
        known = _splits(root)
        if known:
            raise unknown("split of the shards", split, known) from error
        raise InputError(
            f"no {' or '.join(_INFO)} in {root!r} says which shards split {split!r} has; name them, and how many "
            "images they hold, as in 'train-{0000..0099}.tar|128000' (--data.options.train, --data.options.test)"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:  # as timm fails to parse
        raise InputError(
            f"{split!r} names no shards ({one_line(error)}); give a split of _info.json, or names such as "
            "'train-{0000..0099}.tar|128000', the number after the bar that of the images"
        ) from error
    said = reader.split_info
    if (
        not isinstance(reader.info, dict)
        or not all(isinstance(name, str) for name in said.filenames)
        or not all(type(count) is int and 0 <= count < 2**48 for count in (said.num_samples, *said.shard_lengths))
    ):
        raise InputError(
            f"{split[:200]!r}, or {' or '.join(_INFO)} in {root!r}, is none: expected splits, each with a list of file "
            "names and whole numbers of images"
        )
    return reader


def _check_info(path: str) -> None:
    """Whether timm can read it whole, without waiting for ever."""
    try:
        read_regular(path, MOST_BYTES)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"{path!r} cannot be read ({error.strerror or error}); replace it, or remove it") from error


def _check_braces(split: str) -> None:
    """Has names with braces be no more than so many, before they are all written out."""
    ranges = re.findall(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}", split)
    letters = re.findall(r"\{([A-Za-z])\.\.([A-Za-z])(?:\.\.-?\d+)?\}", split)
    # At most so many, where some are in others: of each range its length, of each other pair of braces its parts.
    count = math.prod(1 + abs(ord(last) - ord(first)) for first, last in letters)
    for first, last, step in ranges:
        digits = max(map(len, (first, last, step)))
        count *= 1 + abs(int(last) - int(first)) // (int(step or 1) or 1) if digits < 20 else _MOST_SHARDS + 1
    parts: list[int] = []
    for character in split:
        if character == "{":
            parts.append(1)
        elif character == "," and parts:
            parts[-1] += 1
        elif character == "}" and parts:
            count *= parts.pop()
        if count > _MOST_SHARDS or len(parts) > _MOST_BRACES:
            raise InputError(
                f"{split[:200]!r} names more than {_MOST_SHARDS:,} shards, or has more than {_MOST_BRACES} braces in "
                "each other; name those that are there (--data.options.train, --data.options.test)"
            )


@contextlib.contextmanager
def _without_warning() -> Iterator[None]:
    """timm warns where there is no info, which is no mistake."""
    logger = logging.getLogger("timm.data.readers.reader_wds")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _splits(root: str) -> list[str]:
    from timm.data.readers.reader_wds import _load_info

    with _without_warning():
        return list(_load_info(root).get("splits", {}))


def _test_split(reader: Any) -> str:
    known = reader.info.get("splits", {})
    for name in TEST_NAMES:
        if name in known:
            return name
    raise InputError("which shards to test on is not known; name them, or the split (--data.options.test)")


def _check_there(names: tuple[str, ...]) -> None:
    for name in names:
        _check_address(name)
    missing = [name for name in names if not _scheme(name) and not os.path.isfile(name)]
    if missing:
        listed = ", ".join(map(repr, missing[:_SHOWN]))
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise InputError(
            f"{len(missing)} of {len(names)} shards are not there: {listed}{more}; add them, or name those that are "
            "(--data.options.train, --data.options.test)"
        )


def _scheme(name: str) -> str:
    """What kind of address webdataset takes a name for: "https", "pipe" (a command), …; empty for a file."""
    try:
        return urlparse(name).scheme
    except ValueError as error:
        raise InputError(f"{name!r} is no address ({one_line(error)}); give another") from error


def _check_address(name: str) -> None:
    """webdataset runs what follows pipe:, and may hand addresses to a shell: a recipe of others must not do that."""
    scheme = _scheme(name)
    if scheme == "pipe":
        if os.environ.get(_PIPES) != "1":
            raise InputError(
                f"{name!r} is a command to run; set {_PIPES}=1 to allow what recipes say, or give an address"
            )
    elif scheme and not _PLAIN.fullmatch(name):
        raise InputError(f"{name!r} is no plain address; give one without spaces, quotes and the like")


def _counted(names: tuple[str, ...], input_key: str, option: str, unreadable: OnUnreadable) -> int:
    """The images in shards, by their headers."""
    elsewhere = [name for name in names if _scheme(name)]
    if elsewhere:
        raise InputError(
            f"how many images {elsewhere[0]!r} and the other shards hold is not known; say it after a bar, as in "
            f"'…-{{0000..0099}}.tar|128000' (--data.options.{option})"
        )
    endings = {key.strip(". ").lower() for key in input_key.split(";")}
    count = 0
    for name in names:
        try:
            with tarfile.open(name) as shard:
                count += _images_in((member.name for member in shard if member.isreg()), endings)
                # The block that ended the reading: of zeros in a whole file, not there or short in one cut off.
                if shard.fileobj and shard.fileobj.tell() < shard.offset + tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("cut off: its end is missing")
        except (OSError, tarfile.TarError) as error:
            if unreadable == "error":
                raise InputError(
                    f"shard {name!r} is broken ({one_line(error)}); replace it, or have such shards skipped "
                    "(--data.unreadable skip)"
                ) from error
    if not count:
        raise InputError(
            f"no images ({', '.join(sorted(endings))}) in {names[0]!r} and the other shards; name others, or give the "
            f"endings of theirs (--data.options.input_key). {OF_ENDINGS}"
        )
    return count


def _images_in(members: Iterable[str], endings: set[str]) -> int:
    """Samples with an image among the members of a shard, which are those of one sample up to the first dot."""
    count, current, has_image = 0, "", False
    for path in members:
        folder, _, name = path.rpartition("/")
        stem, _, ending = name.partition(".")
        if is_system_or_hidden(path):
            continue
        if f"{folder}/{stem}" != current:
            current, has_image = f"{folder}/{stem}", False
        if ending.lower() in endings and not has_image:
            count, has_image = count + 1, True
    return count


def _classes(given: list[str] | str | int | None, info: dict[str, Any], root: str) -> tuple[str, ...]:
    if given is None:
        named = ("classes", "class_names", "labels", "num_classes")
        given = next((info[key] for key in named if isinstance(info.get(key), list | int)), None)
    if given is None:
        raise InputError(
            "the classes of the shards are not known; give their names, a file with a name a line, or how many there "
            "are (--data.options.classes)"
        )
    if isinstance(given, str) and given.isdecimal() and len(given) < 16:
        given = int(given)
    if isinstance(given, str):
        file = os.path.expanduser(given)
        given = list(read_class_names(Path(file if os.path.exists(file) or not root else os.path.join(root, given))))
    if isinstance(given, list) and not all(isinstance(name, str | int) for name in given):
        raise InputError(f"classes: found {given!r:.200}; give names, a file with a name a line, or how many there are")
    if isinstance(given, bool) or not given or (isinstance(given, int) and not 1 <= given <= _MOST_CLASSES):
        raise InputError(f"classes: found {given!r:.200}; give names, a file with a name a line, or how many there are")
    return unique(list(map(str, range(given) if isinstance(given, int) else given)), "classes")


def copied(reader: Any) -> Any:
    """A reader of the same shards with a state of its own."""
    twin = copy.copy(reader)
    twin.ds = None
    return twin
