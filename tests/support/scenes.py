"""Small COCO folders of coloured boxes and discs on grey noise, which a detector learns within seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("disc", "box")


def write_scenes(folder: Path, train: int = 6, test: int = 3, size: int = 64, *, masks: bool = True) -> Path:
    """Writes images with one or two objects of `CLASSES` each, with category ids 3 and 7; returns the folder."""
    random = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in (("train2017", train), ("val2017", test)):
        (folder / split).mkdir(exist_ok=True)
        images, annotations = [], []
        for number in range(count):
            pixels = random.integers(90, 130, (size, size, 3), dtype=np.uint8)
            for label in range(2)[: 1 + number % 2] if number % 3 else [1]:
                side = int(random.integers(size // 4, size // 2))
                left, top = random.integers(0, size - side, 2).tolist()
                rows, columns = np.ogrid[:size, :size]
                inside = (columns >= left) & (columns < left + side) & (rows >= top) & (rows < top + side)
                if label == 0:
                    middle = (side - 1) / 2
                    inside &= (columns - left - middle) ** 2 + (rows - top - middle) ** 2 <= (side / 2) ** 2
                pixels[inside] = ((230, 40, 40), (40, 60, 230))[label]
                corners = [left, top, left + side, top, left + side, top + side, left, top + side]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": (3, 7)[label],
                        "bbox": [left, top, side, side],
                        "area": int(inside.sum()),
                        "iscrowd": 0,
                        **({"segmentation": [corners]} if masks else {}),
                    }
                )
            name = f"{number:03d}.png"
            Image.fromarray(pixels).save(folder / split / name)
            images.append({"id": number, "file_name": name, "width": size, "height": size})
        categories = [{"id": 3, "name": "disc"}, {"id": 7, "name": "box"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder
