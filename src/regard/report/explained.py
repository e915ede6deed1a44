"""Writes a folder that explains images: pictures with CAMs, records, and a page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from regard import maps
from regard.bias.metrics import check_focus
from regard.columns import Column
from regard.data import ImageDataset, Transform
from regard.data.decode import OnUnreadable
from regard.errors import InputError, check_interval
from regard.maps import DRISE, DetectionCAM, MapMethod
from regard.notebook import Tabular
from regard.report import captions
from regard.report.detections_gallery import detection_cells
from regard.report.explanation import Cell, Row, Unreadable, explanations
from regard.report.gallery import MEASURES, Gallery
from regard.report.glossary import name_of
from regard.report.picture_folder import each_image, plain_name, stems_of, written_folder
from regard.report.records import Note
from regard.report.template import write_page
from regard.training import option_text
from regard.version import __version__

COLUMNS = (
    Column("image", "image"),
    Column("class", "class"),
    Column("probability", "probability", "percent"),
    Column("result", "result"),
    *(Column(key, name_of(key), "number", key) for key in MEASURES if key != "pointing"),
    Column("note", "note"),
)
INDEX = "explain.json"
_PICTURES = 1000  # largest number of pictures on the page
_SIZE = 256  # their longer side in pixels


@dataclass(frozen=True)
class Explained(Tabular):
    """The result of `explain`.

    Attributes:
        folder: the written folder.
        images: number of explained images.
        skipped: images that could not be read.
        records: see `to_records`.
    """

    folder: Path
    images: int
    skipped: tuple[Unreadable, ...]
    records: tuple[Mapping[str, Any], ...]

    def to_records(self) -> list[dict[str, Any]]:
        """One flat dict per image and class, JSON-ready, with None for NaN. The most likely classes are always listed;
        explained classes have a `map` (the name of a PNG file) and, if there is a region, measures."""
        return [dict(record) for record in self.records]


def explain(
    method: MapMethod,
    images: ImageDataset,
    out: str | os.PathLike[str],
    transform: Transform,
    *,
    names: Sequence[str],
    source: str = "",
    classes: Sequence[int] = (),
    threshold: float = 0.5,
    overwrite: bool = False,
    on_image: Callable[[Row | Unreadable], None] = lambda _: None,
    **options: Any,
) -> Explained:
    """Explains images as `explanations` does, and writes a folder.

    The folder has, for each image, a PNG of the network's input and one PNG per class with its CAM (edges: focus cyan,
    region white and black); `explain.json` with settings and records; and `explain.html`, a self-contained page with
    up to 1000 pictures. Everything is written to a temporary folder that is renamed at the end, so that an error
    changes nothing.

    Args:
        method, images, transform, names, classes, threshold: see `explanations`.
        out: folder to write.
        source: name of the network.
        overwrite: whether to replace a folder that an earlier call wrote, if it contains nothing else.
        on_image: called with each image after it is explained or skipped.
        **options: further arguments of `explanations`.

    Raises:
        InputError: `out` exists and may not be replaced, or `explanations` raises it.
    """
    results = explanations(method, images, transform, names=names, classes=classes, threshold=threshold, **options)
    settings = {
        "network": source,
        "method": maps.method_name(method),
        "layer": method.layer,
        "threshold": threshold,
        "classes": [names[index] for index in classes],
        "transform": asdict(transform),
        **options,
    }
    return _write_folder(results, images, Path(out), settings, overwrite=overwrite, on_image=on_image)


def explain_detections(
    method: DetectionCAM | DRISE,
    images: ImageDataset,
    out: str | os.PathLike[str],
    *,
    names: Sequence[str],
    source: str = "",
    top: int = 3,
    score: float = 0.5,
    threshold: float = 0.5,
    unreadable: OnUnreadable = "error",
    overwrite: bool = False,
    on_image: Callable[[Row | Unreadable], None] = lambda _: None,
) -> Explained:
    """Explains detections: writes the folder of `explain`, with one map per detection instead of per class.

    Args:
        method: CAM method, with its detector.
        images, out, source, overwrite, on_image: see `explain`.
        names: class names of the detector.
        top: largest number of detections per image; those with the highest scores are explained.
        score: lowest score of a detection.
        threshold: threshold of the focus; see `bias.measure`.
        unreadable: "error" raises on an image that cannot be read, "skip" leaves it out. Images without detections are
            listed as skipped.

    Raises:
        InputError: `out` exists and may not be replaced, an image (or every image) cannot be read, or a number is out
            of range.
    """
    check_interval("top", top, "[1, 2^24]")
    check_interval("score", score, "[0, 1]")
    check_focus(threshold)
    settings = {
        "network": source,
        "method": method.method,
        "layer": method.layer,
        "threshold": threshold,
        "top": top,
        "score": score,
    }

    device = next(method.detector.parameters()).device

    def cells(image: Image.Image) -> list[Cell]:
        pixels = pil_to_tensor(image).to(device).float() / 255
        cams = method(pixels, score_threshold=score, limit=top)
        assert method.detections is not None
        return detection_cells(pixels, method.detections, cams, names, threshold)

    def results() -> Iterator[Row | Unreadable]:
        reason, read = "", 0
        for index, (key, result) in enumerate(zip(images.keys, each_image(images, cells, unreadable), strict=True)):
            if isinstance(result, Unreadable):
                reason = result.reason
                yield result
                continue
            read += 1
            if result:
                yield Row(index, key, "", tuple(result), ())
            else:
                yield Unreadable(index, key, f"{key}: nothing is detected with a score of {score} or more")
        if not read:
            raise InputError(f"none of the {len(images)} images can be read (last: {reason}); give readable images")

    return _write_folder(results(), images, Path(out), settings, overwrite=overwrite, on_image=on_image)


def _write_folder(
    results: Iterable[Row | Unreadable],
    images: ImageDataset,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    overwrite: bool,
    on_image: Callable[[Row | Unreadable], None],
) -> Explained:
    """Writes the folder of `explain`."""
    settings = {"regard": __version__, **settings}
    source, threshold = settings["network"], settings["threshold"]
    stems = stems_of(images)
    gallery = Gallery(measures=MEASURES, size=_SIZE, limit=_PICTURES)
    skipped: list[Unreadable] = []
    records: list[dict[str, Any]] = []
    explained = 0
    with written_folder(folder, INDEX, overwrite=overwrite) as temporary:
        for result in results:
            on_image(result)
            if isinstance(result, Unreadable):
                skipped.append(result)
                continue
            records += _write_pictures(result, temporary, stems[result.index])
            gallery.add(result)
            explained += 1
        reasons = [{"image": image.key, "reason": image.reason} for image in skipped]
        content = {**settings, "records": records, "skipped": reasons}
        (temporary / INDEX).write_text(json.dumps(content, allow_nan=False, indent=1), encoding="utf-8")
        write_page(
            "explain.html",
            temporary / "explain.html",
            title=f"Class activation maps of {source}" if source else "Class activation maps",
            cams=captions.CAMS,
            gallery=gallery,
            threshold=threshold,
            skipped=[Note(image.key, image.reason) for image in skipped],
            empty="" if explained else captions.NOTHING_DETECTED.format(score=settings["score"]),
            settings=[(name, option_text(value)) for name, value in settings.items() if value not in ("", [])],
        )
    return Explained(folder, explained, tuple(skipped), tuple(records))


def _write_pictures(row: Row, folder: Path, stem: str) -> list[dict[str, Any]]:
    """Writes the PNG files of an image, and returns its records."""
    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(row.draw()).save(folder / f"{stem}.png")
    height, width = row.cells[0].pixels.shape[:2]
    names: list[str | None] = []
    for rank, cell in enumerate(row.cells, 1):
        name = f"{stem}.{rank}-{plain_name(cell.explained.name, 60)}.png"
        Image.fromarray(cell.draw()).save(folder / name)
        names.append(name)
    records = row.to_records()
    names += [None] * (len(records) - len(names))
    image = {"picture": f"{stem}.png", "height": height, "width": width, "note": row.note or None}
    return [{**record, "map": name, **image} for record, name in zip(records, names, strict=True)]
