"""WebDataset: images in shards, local or remote tar files."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

import torch
from PIL import Image

from regard.data.dataset import Channels, Splits
from regard.data.decode import OnUnreadable, Unreadable, read_image
from regard.data.file_dataset import files_digest, open_regular
from regard.data.listing import TEST_NAMES, existing_folder, is_system_or_hidden, quote_names
from regard.data.registry import register_splits
from regard.data.text_files import read_class_names, unique
from regard.errors import InputError, check_number, first_few, one_line, unknown
from regard.files import MAX_BYTES, read_regular
from regard.optional import require

Sample = dict[str, Any]  # the files of an image as bytes by extension, with __key__ and __url__
DOTS_HINT = "In a shard, the extension of a file begins at the first dot of its name"
_INFO_FILES = ("_info.json", "info.json")
_ALLOW_PIPES = "REGARD_PIPES"
_PLAIN_ADDRESS = re.compile(r"[\w.:/%@+=,~?&#-]+")
_MAX_CLASSES = 10**6
_MAX_SHARDS = 500_000
_MAX_BRACES = 10  # with more, names take seconds to expand
_LONG_RANGE = re.compile(r"{-?\d*[1-9]\d{6,}\.\.|\.\.-?\d*[1-9]\d{6,}")  # to a million or more


@dataclass(eq=False)
class WebDataset:
    """Labelled images in shards, which are read sequentially: images cannot be accessed by index.

    Attributes:
        shards: path or address of each shard.
        count: number of images.
        split: "train" or "test".
        classes: class names.
        lengths: number of images in each shard, if known.
        buffer: number of encoded images in the shuffle buffer.
        input_key: file extensions of images, separated by semicolons.
        target_key: field of the .json file with the label; "" for the .cls file.
        mean, std, name: as in `ImageDataset`.
        cut_off: shards that were found to be truncated or corrupt when images were counted.
        skipped: always empty, because unreadable images are found only during iteration; see `Batch`.
    """

    shards: tuple[str, ...]
    count: int
    split: str
    classes: tuple[str, ...]
    lengths: dict[str, int] = field(default_factory=dict)
    buffer: int = 512
    input_key: str = "jpg;png;webp;jpeg"
    target_key: str = ""
    mean: Channels | None = None
    std: Channels | None = None
    name: str = "wds"
    cut_off: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    has_masks = False

    def __len__(self) -> int:
        return self.count

    def fingerprint(self) -> str:
        """A digest of the number of images, and of the name, size and first bytes of up to 8,192 evenly spaced shards.

        Remote shards contribute only their names.
        """
        lengths = torch.tensor([self.lengths.get(shard, -1) for shard in self.shards])
        names = self.shards
        digest = files_digest(lengths, lambda i: os.path.basename(names[i]), lambda i: open_regular(Path(names[i])))
        digest.update(f"{self.count}".encode())
        return digest.hexdigest()

    def subset(self, which: object) -> NoReturn:
        """Raises InputError: shards have no subsets."""
        raise InputError(
            f"the {self.split} set of {self.name!r} is in shards, which have no subsets; name fewer shards "
            f"(--data.options.{self.split}), and leave out train_images and --limit"
        )

    def decode(self, sample: Sample) -> tuple[Image.Image, int] | None:
        """Decodes a sample to its upright RGB image and label; None if the label in the .json file is negative, which
        means that the image is unlabelled.

        Raises:
            Unreadable: the image or the label is missing or corrupt.
            InputError: the label is out of range.
        """
        name = sample_name(sample)
        files = [extension for extension in sample if not extension.startswith("__")]
        images = [extension for extension in _extensions(self.input_key) if extension in sample]
        target = "json" if self.target_key else "cls"
        if not images or target not in sample:
            missing = " and ".join(["no image"] * (not images) + [f"no label (.{target})"] * (target not in sample))
            extensions = first_few([f".{extension}" for extension in files])
            hint = f". {DOTS_HINT}" if any("." in extension for extension in files) else ""
            raise Unreadable(f"{name!r} has {missing}, but {extensions}{hint}")
        try:
            label = int(json.loads(sample["json"])[self.target_key] if self.target_key else sample["cls"])
        except Exception as error:  # the file may contain anything
            raise Unreadable(f"{name!r} is broken (its .{target} has no label: {one_line(error)})") from error
        if self.target_key and label < 0:
            return None
        if not 0 <= label < len(self.classes):
            raise InputError(
                f"{name!r} has label {label}, and there are {len(self.classes)} classes, from 0; give the right number "
                "(--data.options.classes)"
            )
        return read_image(Path(name), io.BytesIO(sample[images[0]]))[0], label


def sample_name(sample: Sample) -> str:
    """The name of a sample in messages: its shard and its key in the shard."""
    return f"{sample['__url__']}/{sample['__key__']}"


@register_splits("wds", streamed=True)
def load_wds(
    path: str | os.PathLike[str] | None,
    *,
    unreadable: OnUnreadable = "error",
    train: str = "train",
    test: str | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    classes: list[str] | str | int | None = None,
    buffer: int = 512,
    input_key: str = "jpg;png;webp;jpeg",
    target_key: str | None = None,
) -> Splits[WebDataset]:
    """Opens the shards of a training and a test split.

    Args:
        path: the folder of the shards, or its address (https://…, hf://…); None if the shards are given by full paths
            or addresses.
        unreadable: on a corrupt shard while images are counted, raise an "error" or "skip" the shard.
        train: the training shards: a split in `_info.json` or `info.json` beside the shards; or file names with braces,
            followed by a bar and the number of images: "train-{0000..1023}.tar|1281167".
        test: the test shards; None for the first split in the info file of test, val, valid and validation.
        train_images: number of training images; None for the number in the info file or after the bar; without these,
            the images in local shards are counted.
        test_images: number of test images, likewise.
        classes: class names, a file with one name per line, or the number of classes; None for those in the info file.
        buffer: number of encoded images in the shuffle buffer of each DataLoader worker.
        input_key: file extensions of images, separated by semicolons.
        target_key: field of the .json file with the label; None for the field in the info file, or else the .cls file.
    """
    for name, value in {"buffer": buffer, "train_images": train_images, "test_images": test_images}.items():
        if value is not None:
            check_number(f"data.options.{name}", value, "[1, 2^48)", whole=True)
    require("the data set wds", "webdataset")
    root = "" if path is None else os.fspath(path)
    if root and not _scheme(root):
        root = os.path.abspath(existing_folder(root))
    info = _read_info(root)
    splits = info.get("splits", {})
    train_set = _open_split(train, "train", splits, root)
    test = test or next((name for name in TEST_NAMES if name in splits), None)
    if test is None:
        raise InputError("the test shards are not known; name them, or their split (--data.options.test)")
    datasets = train_set, _open_split(test, "test", splits, root)
    names = _classes(classes, info, root)
    for dataset, images in zip(datasets, (train_images, test_images), strict=True):
        _check_shards(dataset.shards)
        dataset.classes, dataset.buffer, dataset.input_key = names, buffer, input_key
        dataset.target_key = target_key or dataset.target_key
        dataset.count = images or dataset.count or _count_images(dataset, unreadable)
    return Splits(*datasets)


def _read_info(root: str) -> dict[str, Any]:
    """The content of `_info.json` or `info.json` beside the shards; {} without such a file."""
    import webdataset as wds

    _check_address(root)
    for name in _INFO_FILES:
        path = os.path.join(root, name)
        try:
            with wds.gopen(path) if _scheme(root) else io.BytesIO(read_regular(path, MAX_BYTES)) as file:
                info = json.loads(file.read(MAX_BYTES))
        except FileNotFoundError:
            continue
        except Exception as error:  # a failed connection or invalid content
            if _scheme(root):  # servers report missing files in different ways
                continue
            reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
            raise InputError(f"{path!r} cannot be read ({reason}); replace it, or remove it") from error
        if isinstance(info, dict) and isinstance(info.get("splits", {}), dict):
            return info
        raise InputError(f"{path!r} is invalid; expected splits, each with filenames, shard_lengths and num_samples")
    return {}


def _open_split(source: str, split: str, splits: dict[str, Any], root: str) -> WebDataset:
    """The shards of a split, from an info file or from names with braces. It has no classes yet, and count 0 if the
    number of images is not given."""
    import webdataset as wds
    from braceexpand import braceexpand  # webdataset expands names with it

    if source in splits and isinstance(splits[source], dict):
        entry = splits[source]
    elif "tar" in source or ".." in source:  # file names
        pattern, _, images = source.partition("|")
        try:
            long = pattern.count("{") > _MAX_BRACES or _LONG_RANGE.search(pattern)
            if long or next(islice(braceexpand(pattern), _MAX_SHARDS, None), None) is not None:
                raise ValueError(f"at most {_MAX_SHARDS:,} shards and {_MAX_BRACES} braces are allowed")
            entry = {"filenames": wds.SimpleShardList(pattern).urls, "num_samples": int(images or 0)}
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{source[:200]!r} names no shards ({one_line(error)}); give a split of _info.json, or names such as "
                "'train-{0000..0099}.tar|128000' with the number of images after the bar"
            ) from error
    elif splits:
        raise unknown("split of the shards", source, list(splits))
    else:
        raise InputError(
            f"no {' or '.join(_INFO_FILES)} in {root!r} lists the shards of split {source!r}; name them with their "
            "number of images, as in 'train-{0000..0099}.tar|128000' (--data.options.train, --data.options.test)"
        )
    names, lengths = entry.get("filenames"), entry.get("shard_lengths", [])
    count, target_key = entry.get("num_samples", 0), entry.get("alt_label", "")
    if (
        not (isinstance(names, list) and names and all(isinstance(name, str) for name in names))
        or not (isinstance(lengths, list) and isinstance(target_key, str))
        or not all(type(number) is int and 0 <= number < 2**48 for number in (count, *lengths))
    ):
        raise InputError(
            f"{source[:200]!r}, or {' or '.join(_INFO_FILES)} in {root!r}, is invalid; expected a list of file names "
            "and whole numbers of images"
        )
    shards = tuple(name if _scheme(name) else os.path.join(root, name) for name in names)
    return WebDataset(shards, count, split, (), dict(zip(shards, lengths, strict=False)), target_key=target_key)


def _check_shards(shards: Sequence[str]) -> None:
    for shard in shards:
        _check_address(shard)
    missing = [shard for shard in shards if not _scheme(shard) and not os.path.isfile(shard)]
    if missing:
        braces = "; for several, use braces, 'train-{0000..0003}.tar'" if "*" in missing[0] else ""
        raise InputError(
            f"{len(missing)} of {len(shards)} shards do not exist: {quote_names(missing)}; add them, or name existing "
            f"shards (--data.options.train, --data.options.test){braces}"
        )


def _scheme(name: str) -> str:
    """The URL scheme of a name for webdataset: "https", "pipe" (a command), …; empty for a file."""
    try:
        return urlparse(name).scheme
    except ValueError as error:
        raise InputError(f"{name!r} is not a valid address ({one_line(error)}); give another") from error


def _check_address(name: str) -> None:
    """Raises InputError for an address that could run commands, which a recipe from someone else should not.

    webdataset executes pipe: addresses, and may pass other addresses to a shell.
    """
    scheme = _scheme(name)
    if scheme == "pipe":
        if os.environ.get(_ALLOW_PIPES) != "1":
            raise InputError(
                f"{name!r} is a command to run; set {_ALLOW_PIPES}=1 to allow commands in recipes, or give an address"
            )
    elif scheme and not _PLAIN_ADDRESS.fullmatch(name):
        raise InputError(f"{name!r} is not a plain address; give one without spaces, quotes and special characters")


def _extensions(input_key: str) -> list[str]:
    return [extension.strip(". ").lower() for extension in input_key.split(";")]


def _count_images(dataset: WebDataset, unreadable: OnUnreadable) -> int:
    """Counts the images in local shards by their tar headers. Raises InputError if a shard is remote or corrupt."""
    remote = next((shard for shard in dataset.shards if _scheme(shard)), None)
    if remote is not None:
        raise InputError(
            f"the number of images in {remote!r} and the other shards is not known; give it after a bar, as in "
            f"'…-{{0000..0099}}.tar|128000' (--data.options.{dataset.split})"
        )
    extensions = _extensions(dataset.input_key)
    count = 0
    for shard in dataset.shards:
        try:
            if not tarfile.is_tarfile(shard):
                raise tarfile.ReadError("it is not a tar file")
            with tarfile.open(shard) as file:
                count += _count_samples((member.name for member in file if member.isreg()), extensions)
                # A complete tar file ends with a block of zeros; in a truncated file it is missing or short.
                if file.fileobj and file.fileobj.tell() < file.offset + tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("cut off: its end is missing")
        except (OSError, tarfile.TarError) as error:
            if unreadable == "error":
                raise InputError(
                    f"shard {shard!r} is broken ({one_line(error)}); replace it, or have such shards skipped "
                    "(--data.unreadable skip)"
                ) from error
            dataset.cut_off += (shard,)
    if not count:
        raise InputError(
            f"no images ({', '.join(sorted(extensions))}) in {dataset.shards[0]!r} and the other shards; name other "
            f"shards, or give the extensions of the images (--data.options.input_key). {DOTS_HINT}"
        )
    return count


def _count_samples(members: Iterable[str], extensions: list[str]) -> int:
    """The number of samples with an image. The files of a sample have the same path up to the first dot."""
    paths = (os.path.split(path) for path in members if not is_system_or_hidden(path))
    names = ((folder, *name.partition(".")) for folder, name in paths)
    samples = groupby(names, key=lambda name: name[:2])
    return sum(any(extension.lower() in extensions for *_, extension in files) for _, files in samples)


def _classes(classes: list[str] | str | int | None, info: dict[str, Any], root: str) -> tuple[str, ...]:
    if classes is None:
        fields = ("classes", "class_names", "labels", "num_classes")
        classes = next((info[key] for key in fields if isinstance(info.get(key), list | int)), None)
    if classes is None:
        raise InputError(
            "the classes of the shards are not known; give their names, a file with one name per line, or their number "
            "(--data.options.classes)"
        )
    if isinstance(classes, str) and classes.isdecimal() and len(classes) < 16:
        classes = int(classes)
    if isinstance(classes, str):
        file = os.path.expanduser(classes)
        classes = list(read_class_names(Path(file if os.path.exists(file) else os.path.join(root, classes))))
    if type(classes) is int and 1 <= classes <= _MAX_CLASSES:
        return tuple(map(str, range(classes)))
    if isinstance(classes, list) and classes and all(isinstance(name, str | int) for name in classes):
        return unique(list(map(str, classes)), "classes")
    raise InputError(f"classes: found {classes!r:.200}; give names, a file with one name per line, or their number")
