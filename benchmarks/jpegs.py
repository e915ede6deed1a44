"""A folder of JPEG files of ImageNet's kind, for measurements that read images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from regard import data

WIDTH, HEIGHT, QUALITY = 500, 375, 87
CLASSES = 10
TILE = 32  # side of the built-in images, of which each picture is a mosaic


def make_jpegs(folder: Path, count: int) -> Path:
    """`count` files in class folders: mosaics of the built-in images, which share few bytes with one another."""
    tiles = data.load("clutter", train=500, test=10).train.images.permute(0, 2, 3, 1).numpy()
    rows, columns = -(-HEIGHT // TILE), -(-WIDTH // TILE)
    random = np.random.default_rng(0)
    for number in range(count):
        mosaic = tiles[random.integers(0, len(tiles), (rows, columns))]  # (rows, columns, 32, 32, 3)
        pixels = mosaic.swapaxes(1, 2).reshape(rows * TILE, columns * TILE, 3)[:HEIGHT, :WIDTH]
        path = folder / f"class{number % CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=QUALITY)
    return folder


def link_epoch(source: Path, folder: Path, count: int) -> Path:
    """A folder with train/ and test/, whose training set are `count` links to the files in class folders of `source`.

    They are taken evenly over all of them if there are more, each several times if there are fewer. So every reader of
    the folder has an epoch of the same length over the same files.
    """
    files = sorted(path for path in source.glob("*/*") if path.is_file())
    if not files:
        raise SystemExit(f"{source} has no class folders with files in them")
    spread = [files[i * len(files) // count] for i in range(count)] if count < len(files) else files
    chosen = [spread[i % len(spread)] for i in range(count)]
    one_a_class = {path.parent.name: path for path in chosen}  # nothing is tested, but there has to be something
    for split, paths in (("train", chosen), ("test", one_a_class.values())):
        for number, path in enumerate(paths):
            link = folder / split / path.parent.name / f"{number:06}{path.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return folder
