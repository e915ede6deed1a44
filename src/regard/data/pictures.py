"""Image files and folders of images by path, with optional regions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from regard.data.dataset import Mask
from regard.data.decode import Unreadable
from regard.data.file_dataset import FileDataset
from regard.data.listing import images_below, no_images, show
from regard.data.regions.masks import mask_region, masks_by_name
from regard.errors import InputError

Box = tuple[int, int, int, int]


class Pictures(FileDataset):
    """Image files without labels, in the given order; the files of a folder are sorted by path.

    It adds these attributes to those of `ImageDataset`.

    Attributes:
        relative_paths: path of each image relative to its folder; the file name of a file given directly.
        box: the region of the image, (x0, y0, x1, y1) in its upright pixels, without column x1 and row y1; or None.
        passed_over: number of files in the folders that do not have the extension of an image.
        unmatched: number of masks without an image.
    """

    def __init__(
        self,
        files: Sequence[tuple[Path, Path]],
        masks: Sequence[Path | None],
        box: Box | None,
        passed_over: int,
        unmatched: int,
    ) -> None:
        keys = [str(path) for path, _ in files]
        super().__init__("pictures", "", Path(), keys, [-1] * len(files), (), masks, mask_region, box)
        self.relative_paths = tuple(relative for _, relative in files)
        self.box = box
        self.passed_over, self.unmatched = passed_over, unmatched
        self.has_masks = box is not None or any(masks)

    def mask(self, index: int) -> Mask:
        mask = super().mask(index)
        if mask is not None:
            return mask
        width, height = self.dimensions(index)
        x0, y0, x1, y1 = self.box or (0, 0, 0, 0)
        if x1 > width or y1 > height:
            raise Unreadable(
                f"{show(self.path(index))} has {width} x {height} pixels; the box {x0},{y0},{x1},{y1} is not inside it"
            )
        region = np.zeros((height, width), dtype=bool)
        region[y0:y1, x0:x1] = True
        return region


def open_pictures(
    paths: Iterable[str | os.PathLike[str]],
    *,
    box: Sequence[int] | None = None,
    mask: str | os.PathLike[str] | None = None,
    without: str | os.PathLike[str] | None = None,
) -> Pictures:
    """Opens image files and folders of images.

    A folder stands for all images anywhere below it: files with an extension of `regard.data.EXTENSIONS`, in upper or
    lower case; links are followed. Hidden files, and folders created by devices and archivers, are skipped. A file
    given directly may have any extension. A file given twice is included once.

    Args:
        paths: paths of files and folders, at least one.
        box: the region of a single image: (x0, y0, x1, y1) in its upright pixels; column x1 and row y1 are outside.
        mask: the region of a single image: a mask image of its upright or stored size, where the region is neither
            black nor transparent. Or a folder of mask images, each with the relative path of its image and any
            extension.
        without: folder to skip, such as the output folder.

    Raises:
        InputError: a path does not exist, a folder has no images, a region does not fit its image, or one region is
            given for several images.
    """
    excluded = None if without is None else os.path.abspath(without)
    inputs = [Path(path).expanduser() for path in paths]
    if not inputs:
        raise InputError("no images named; name files, or folders of them")
    images_by_path: dict[str, tuple[Path, Path]] = {}
    passed_over = 0
    for path in inputs:
        if path.is_dir():
            files, other_files = images_below(path, excluded)
            if not files:
                raise no_images(path, other_files)
            passed_over += other_files
            parent = Path() if len(inputs) == 1 else Path(path.name)
            pairs = [(path / file, parent / file) for file in sorted(files, key=Path)]
        elif path.exists():
            pairs = [(path, Path(path.name))]
        else:
            broken = " (it is a broken link)" if path.is_symlink() else ""
            raise InputError(f"there is no image and no folder {show(path)}{broken}")
        for file, relative in pairs:
            images_by_path.setdefault(os.path.abspath(file), (file, relative))
    images = list(images_by_path.values())
    if box is not None and mask is not None:
        raise InputError("a box and a mask are given; the region is one of them")
    region_box = None if box is None else _checked_box(box)
    if len(images) > 1 and (box is not None or (mask is not None and not Path(mask).is_dir())):
        kind = "mask" if box is None else "box"
        raise InputError(f"one {kind} for {len(images)} images; name one image, or give a folder with a mask for each")
    masks, unmatched = ([None] * len(images), 0) if mask is None else _find_masks(Path(mask).expanduser(), images)
    pictures = Pictures(images, masks, region_box, passed_over, unmatched)
    if len(pictures) == 1 and pictures.has_masks:
        try:
            pictures.mask(0)
        except Unreadable as error:
            raise InputError(f"{error}; give another image or region") from error
    return pictures


def _checked_box(box: Sequence[int]) -> Box:
    x0, y0, x1, y1 = box if len(box) == 4 else (0, 0, 0, 0)
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise InputError(
            f"box {','.join(map(str, box))}; expected x0,y0,x1,y1 in pixels of the image, left and top before right "
            "and bottom"
        )
    return x0, y0, x1, y1


def _find_masks(mask: Path, images: Sequence[tuple[Path, Path]]) -> tuple[list[Path | None], int]:
    """The mask file of each image, and the number of masks without an image."""
    if mask.is_file():
        return [mask], 0
    if not mask.is_dir():
        raise InputError(f"there is no mask and no folder of masks {show(mask)}")
    return masks_by_name([relative.with_suffix("").as_posix() for _, relative in images], mask)
