"""A folder that explains images: pictures with CAMs, their records, and a page."""

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
_PICTURES = 1000  # on the page
_SIZE = 256  # pixels of a picture on the page


@dataclass(frozen=True)
class Explained(Tabular):
    """Images that `explain` explained.

    Attributes:
        folder: with everything that was written.
        images: how many were explained.
        skipped: the images that could not be read.
        records: see `to_records`.
    """

    folder: Path
    images: int
    skipped: tuple[Unreadable, ...]
    records: tuple[Mapping[str, Any], ...]

    def to_records(self) -> list[dict[str, Any]]:
        """A flat dict for each image and class, JSON-ready, with None for NaN: classes that are explained have a
        `map`, the name of its PNG file, and measures if there is a region; the likeliest ones are always there."""
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

    It holds for each image a PNG of what the network gets and one for each class with its CAM, where the edge of the
    focus is cyan and that of the region white and black; `explain.json` with settings and records; and `explain.html`,
    a self-contained page with up to 1000 of the pictures. Everything is written to a folder beside `out`, which is
    renamed at the end: on an error what was there is still there.

    Args:
        method: as of `explanations`, with which it shares all arguments that are not listed here.
        out: the folder to write.
        source: name of the network.
        overwrite: replace a folder that an earlier call wrote, if nothing else is in it.
        on_image: called with each image as soon as it is explained or skipped.
        options: others of `explanations`.

    Raises:
        InputError: `out` is in the way, or what `explanations` raises.
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
    return _written(results, images, Path(out), settings, overwrite=overwrite, on_image=on_image)


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
    """Explains detections: the folder of `explain`, with a map of each detection in place of each class.

    Args:
        method: of the maps, with its detector.
        images, out, source, overwrite, on_image: as of `explain`.
        names: of the detector's classes.
        top: detections of an image, at most, those with the highest scores.
        score: least score of a detection.
        threshold: of the focus; see `bias.measure`.
        unreadable: on an image that cannot be read, "error", or "skip" it. Images without detections are listed as
            skipped, with that reason.

    Raises:
        InputError: `out` is in the way, an image cannot be read, or not one can, a number is out of range.
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
        for index, (key, each) in enumerate(zip(images.keys, each_image(images, cells, unreadable), strict=True)):
            if isinstance(each, Unreadable):
                reason = each.reason
                yield each
                continue
            read += 1
            if each:
                yield Row(index, key, "", tuple(each), ())
            else:
                yield Unreadable(index, key, f"{key}: nothing is detected with a score of {score} or more")
        if not read:
            raise InputError(
                f"not one of the {len(images)} images can be read (the last: {reason}); give readable ones"
            )

    return _written(results(), images, Path(out), settings, overwrite=overwrite, on_image=on_image)


def _written(
    results: Iterable[Row | Unreadable],
    images: ImageDataset,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    overwrite: bool,
    on_image: Callable[[Row | Unreadable], None],
) -> Explained:
    """The folder of `explain`."""
    settings = {"regard": __version__, **settings}
    source, threshold = settings["network"], settings["threshold"]
    stems = stems_of(images)
    gallery = Gallery(measures=MEASURES, size=_SIZE, limit=_PICTURES)
    skipped: list[Unreadable] = []
    records: list[dict[str, Any]] = []
    explained = 0
    with written_folder(folder, INDEX, overwrite=overwrite) as aside:
        for each in results:
            on_image(each)
            if isinstance(each, Unreadable):
                skipped.append(each)
                continue
            records += _write_pictures(each, aside, stems[each.index])
            gallery.add(each)
            explained += 1
        unread = [{"image": one.key, "reason": one.reason} for one in skipped]
        values = {**settings, "records": records, "skipped": unread}
        (aside / INDEX).write_text(json.dumps(values, allow_nan=False, indent=1), encoding="utf-8")
        write_page(
            "explain.html",
            aside / "explain.html",
            title=f"Class activation maps of {source}" if source else "Class activation maps",
            cams=captions.CAMS,
            gallery=gallery,
            threshold=threshold,
            skipped=[Note(one.key, one.reason) for one in skipped],
            empty="" if explained else captions.NOTHING_DETECTED.format(score=settings["score"]),
            settings=[(name, option_text(value)) for name, value in settings.items() if value not in ("", [])],
        )
    return Explained(folder, explained, tuple(skipped), tuple(records))


def _write_pictures(row: Row, folder: Path, stem: str) -> list[dict[str, Any]]:
    """Writes the PNG files of an image, and gives its records."""
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
    of_image = {"picture": f"{stem}.png", "height": height, "width": width, "note": row.note or None}
    return [{**record, "map": name, **of_image} for record, name in zip(records, names, strict=True)]
