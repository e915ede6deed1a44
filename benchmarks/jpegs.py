"""Folders of JPEG files similar to ImageNet's, for benchmarks that read images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from regard import data

WIDTH, HEIGHT, QUALITY = 500, 375, 87
CLASSES = 10
TILE = 32  # side of the built-in images, the tiles of the mosaics


def make_jpegs(folder: Path, count: int) -> Path:
    """Writes `count` mosaics of the built-in images into class folders; few bytes repeat between the files."""
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
    """Makes a folder with train/ and test/, where train/ has `count` links to the files in class folders of `source`.

    The links are spread evenly over more files, and repeat fewer files, so that an epoch has the same length and files
    for every loader.
    """
    files = sorted(path for path in source.glob("*/*") if path.is_file())
    if not files:
        raise SystemExit(f"{source} has no class folders with files in them")
    sample = [files[i * len(files) // count] for i in range(count)] if count < len(files) else files
    train = [sample[i % len(sample)] for i in range(count)]
    test = {path.parent.name: path for path in train}  # one per class, because test/ must not be empty
    for split, paths in (("train", train), ("test", test.values())):
        for number, path in enumerate(paths):
            link = folder / split / path.parent.name / f"{number:06}{path.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    return folder
