"""One's own images, each with a picture of its region."""

from __future__ import annotations

from pathlib import Path

from regard.data.dataset import Mask
from regard.data.decode import Frame
from regard.data.file_dataset import FileDataset
from regard.data.listing import EXTENSIONS, SPLITS, Tree, by_stem, existing_folder, first_of, show
from regard.data.regions.drawn import mask_of
from regard.data.registry import pick_split, register
from regard.errors import InputError

_LAYOUT = "expected a folder with images/ and masks/, or with such folders in test/, val/ or train/"


class MaskDataset(FileDataset):
    """Images, and for each a picture that is not black where its region is."""

    has_masks = True

    def _region(self, index: int, frame: Frame) -> Mask:
        return mask_of(self._annotation(index))


@register("masks", layout=_LAYOUT, recognised=lambda path: bool(_splits(path)) or (path / "masks").is_dir())
def open_masks(path: Path, split: str | None = None, images: str | None = None) -> MaskDataset:
    """The images of a split, if there are any; `images` is the folder of the images, if it is not `images/`."""
    splits = [] if (path / "masks").is_dir() else _splits(path)
    if splits or split is not None:
        split = pick_split(split, splits, path, SPLITS)
        path = path / split
    masks = Tree(path / "masks" if (path / "masks").is_dir() else path)
    expected = f"{_LAYOUT}, or say where the images are (images)"
    folder = existing_folder(path / "images" if images is None else images, expected)
    keys = Tree(folder).images()
    if not keys:
        raise InputError(f"no images in {show(folder)}; expected {', '.join(EXTENSIONS)} files")
    found = by_stem(masks.images(), masks.root, "masks")
    wanted = by_stem(keys, folder, "images")
    missing = [key for stem, key in wanted.items() if stem not in found]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(keys)} images in {show(folder)} have no mask in {show(masks.root)} "
            f"({first_of(missing, 3)}); expected a picture of the same path and name, whatever its ending"
        )
    classes = sorted({key.split("/")[0] for key in keys if "/" in key})
    labels = [classes.index(key.split("/")[0]) if "/" in key else -1 for key in keys]
    files = [masks.root / found[stem] for stem in wanted]
    return MaskDataset("masks", split or "", folder, keys, labels, classes, files)


def _splits(path: Path) -> list[str]:
    return [name for name in SPLITS if (path / name / "masks").is_dir()]
