"""A folder of detected objects: pictures with their boxes and masks, and a JSON file."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from regard.columns import Column
from regard.data import ImageDataset
from regard.data.codes import encoded
from regard.data.decode import OnUnreadable
from regard.modes import evaluation_mode
from regard.report.explanation import Unreadable
from regard.report.picture_folder import each_image, stems_of, written_folder
from regard.version import __version__

COLUMNS = (
    *(Column("image", "image"), Column("class", "class"), Column("score", "score", "percent")),
    *(Column(name, name, "number") for name in ("left", "top", "right", "bottom")),
)
INDEX = "detections.json"


@dataclass(frozen=True)
class Detected:
    """The result of `detect`.

    Attributes:
        folder: the written folder.
        images: one dict per image: path, picture, width, height and `detections`, one dict each with class, score,
            box (left, top, right, bottom in pixels) and, if the detector has masks, mask (COCO's run-length code).
        skipped: the reasons for images that could not be read.
    """

    folder: Path
    images: tuple[Mapping[str, Any], ...]
    skipped: tuple[str, ...]

    def to_records(self) -> list[dict[str, Any]]:
        """One flat dict per detection."""
        return [
            {
                **{"image": image["image"], "class": detection["class"], "score": detection["score"]},
                **dict(zip(("left", "top", "right", "bottom"), detection["box"], strict=True)),
            }
            for image in self.images
            for detection in image["detections"]
        ]


def detect(
    detector: nn.Module,
    images: ImageDataset,
    out: str | Path,
    classes: Sequence[str],
    *,
    score: float = 0.5,
    source: str = "",
    unreadable: OnUnreadable = "error",
    overwrite: bool = False,
    on_image: Callable[[int], None] = lambda done: None,
) -> Detected:
    """Detects objects of at least this score, and writes `detections.json` and a PNG of each image with its objects.

    The folder `out` is written like that of `report.explain`, with the same meaning of `source`, `unreadable` and
    `overwrite`. `on_image` is called with the number of images so far. The detector has torchvision's interface.

    Raises InputError if `out` exists and may not be replaced, or an image cannot be read.
    """
    folder = Path(out)
    records: list[dict[str, Any]] = []
    skipped: list[str] = []

    def with_objects(image: Image.Image) -> tuple[Image.Image, dict[str, Tensor]]:
        return image, _objects(detector, image, score)

    with written_folder(folder, INDEX, overwrite=overwrite) as temporary:
        results = each_image(images, with_objects, unreadable)
        for done, (key, stem, result) in enumerate(zip(images.keys, stems_of(images), results, strict=True), start=1):
            if isinstance(result, Unreadable):
                skipped.append(result.reason)
                continue
            image, objects = result
            picture = temporary / f"{stem}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            draw_objects(image, objects, classes).save(picture)
            record = {"image": key, "picture": f"{stem}.png", "width": image.width, "height": image.height}
            records.append({**record, "detections": _records(objects, classes)})
            on_image(done)
        settings = {"regard": __version__, "detector": source, "score": score, "classes": list(classes)}
        content = {**settings, "images": records, "skipped": skipped}
        (temporary / INDEX).write_text(json.dumps(content, allow_nan=False, indent=1), encoding="utf-8")
    return Detected(folder, tuple(records), tuple(skipped))


def draw_objects(image: Image.Image, objects: Mapping[str, Tensor], classes: Sequence[str]) -> Image.Image:
    """Draws boxes, class names, scores and masks, if there are any, of a detector's output; one colour per class."""
    pixels = np.asarray(image).copy()
    colours = [_colour(label) for label in objects["labels"].tolist()]
    for soft_mask, colour in zip(objects.get("masks", ()), colours, strict=False):
        mask = soft_mask[0].numpy() >= 0.5
        pixels[mask] = (pixels[mask] * 0.5 + np.array(colour) * 0.5).astype(np.uint8)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    side = min(image.size)
    font, width = ImageFont.load_default(max(12, side // 32)), max(2, side // 160)
    for box, label, score, colour in zip(
        objects["boxes"].tolist(), objects["labels"].tolist(), objects["scores"].tolist(), colours, strict=True
    ):
        draw.rectangle(box, outline=colour, width=width)
        text = f"{classes[label]} {score:.0%}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        x = max(0, min(box[0], image.width - right))
        y = box[1] - bottom if box[1] >= bottom else box[1]
        draw.rectangle((x, y, x + right, y + bottom), fill=colour)
        bright = 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] > 128
        draw.text((x, y), text, font=font, fill="black" if bright else "white")
    return picture


def _colour(label: int) -> tuple[int, int, int]:
    """The colour of a class; the hues of successive classes are the golden ratio of the colour circle apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.6 + 0.618 * label) % 1, 0.85, 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)


@torch.no_grad()
def _objects(detector: nn.Module, image: Image.Image, score: float) -> dict[str, Tensor]:
    """The objects in an image with at least this score, on the CPU, highest score first."""
    device = next(detector.parameters()).device
    with evaluation_mode(detector):
        (objects,) = detector([pil_to_tensor(image).to(device).float() / 255])
    mask = objects["scores"] >= score
    return {name: values[mask].cpu() for name, values in objects.items()}


def _records(objects: Mapping[str, Tensor], classes: Sequence[str]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [
        {"class": classes[label], "score": score, "box": box}
        for label, score, box in zip(
            objects["labels"].tolist(), objects["scores"].tolist(), objects["boxes"].tolist(), strict=True
        )
    ]
    if "masks" in objects:
        codes = encoded(objects["masks"][:, 0].numpy() >= 0.5)
        for record, code in zip(records, codes, strict=True):
            record["mask"] = {"size": code["size"], "counts": code["counts"].decode()}
    return records
