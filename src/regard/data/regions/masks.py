"""One's own images, each with a picture of its region."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regard.data.dataset import Mask
from regard.data.decode import Frame
from regard.data.file_dataset import FileDataset
from regard.data.listing import EXTENSIONS, show
from regard.data.regions.drawn import mask_of
from regard.data.regions.kind import Choices, Kind, pick_split
from regard.data.regions.tree import Tree
from regard.errors import InputError

SPLITS = ("test", "val", "valid", "validation", "train")


class MaskDataset(FileDataset):
    """Images, and for each a picture that is not black where its region is."""

    def _region(self, index: int, frame: Frame) -> Mask:
        return mask_of(self._annotation(index))


def _recognised(where: Path) -> bool:
    return bool(_splits(where)) or (where / "masks").is_dir()


def _open(where: Path, choices: Choices) -> MaskDataset:
    split = choices.split
    splits = [] if (where / "masks").is_dir() else _splits(where)
    if splits or split is not None:
        split = pick_split(split, splits, where, SPLITS)
        where = where / split
    masks = Tree(where / "masks" if (where / "masks").is_dir() else where)
    folder = choices.images or where / "images"
    if choices.images is None and not folder.is_dir():
        raise InputError(f"no folder {show(folder)}; {KIND.layout}, or say where the images are (images)")
    keys = Tree(folder).images()
    if not keys:
        raise InputError(f"no images in {show(folder)}; expected {', '.join(EXTENSIONS)} files")
    by_stem = _by_stem(masks.images(), masks.root, "masks")
    wanted = _by_stem(keys, folder, "images")
    missing = [key for stem, key in wanted.items() if stem not in by_stem]
    if missing:
        first = ", ".join(map(repr, missing[:3])) + (", …" if len(missing) > 3 else "")
        raise InputError(
            f"{len(missing)} of the {len(keys)} images in {show(folder)} have no mask in {show(masks.root)} ({first}); "
            "expected a picture of the same path and name, whatever its ending"
        )
    classes = sorted({key.split("/")[0] for key in keys if "/" in key})
    labels = [classes.index(key.split("/")[0]) if "/" in key else -1 for key in keys]
    files = [masks.root / by_stem[stem] for stem in wanted]
    return MaskDataset("masks", split or "", folder, keys, labels, classes, files)


def _splits(where: Path) -> list[str]:
    return [name for name in SPLITS if (where / name / "masks").is_dir()]


def _by_stem(paths: Sequence[str], folder: Path, what: str) -> dict[str, str]:
    """The paths by what they are without their endings.

    Raises:
        InputError: two are the same.
    """
    found: dict[str, str] = {}
    for path in paths:
        stem = path.rpartition(".")[0]
        if stem in found:
            raise InputError(f"two {what} of one name in {show(folder)}: {found[stem]!r} and {path!r}; keep one")
        found[stem] = path
    return found


KIND = Kind(
    "masks",
    "expected a folder with images/ and masks/, or with such folders in test/, val/ or train/",
    _recognised,
    _open,
    frozenset({"split", "images"}),
)
