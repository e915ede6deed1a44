"""A folder that shows what a network makes of images: pictures with maps over them, their numbers, and a page."""

from __future__ import annotations

import json
import math
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from PIL import Image
from torch import nn

from regard import maps
from regard.data import Channels, ImageDataset, Transform
from regard.data.decode import OnUnreadable
from regard.errors import InputError
from regard.files import check_replaceable
from regard.report.explain_page import Page
from regard.report.explanation import Explanation, Refusal, Scored, check_counts, explanations
from regard.report.overlay import draw
from regard.version import __version__


@dataclass(frozen=True)
class Explained:
    """What `explain` wrote.

    Attributes:
        folder: with everything in it.
        images: how many were explained.
        pictures: how many PNG files there are.
        skipped: the images that could not be read.
    """

    folder: Path
    images: int
    pictures: int
    skipped: tuple[Refusal, ...]


def explain(
    model: nn.Module,
    images: ImageDataset,
    out: str | os.PathLike[str],
    *,
    transform: Transform,
    mean: Channels,
    std: Channels,
    names: Sequence[str],
    source: str = "",
    method: str | maps.MapFunction = "gradcam",
    layer: str | Sequence[str] | None = None,
    top: int = 3,
    classes: Sequence[int] = (),
    threshold: float = 0.5,
    batch_size: int = 16,
    workers: int = 0,
    unreadable: OnUnreadable = "error",
    overwrite: bool = False,
    told: Callable[[Explanation | Refusal], None] = lambda _: None,
) -> Explained:
    """Explains images and writes a folder that shows it.

    It holds for each image a PNG of what the network sees and one for each class with its map over it, where the edge
    of the focus is blue and that of the region white and black; `explain.json` with classes, probabilities, measures
    and settings; and `explain.html`, a page that needs nothing else, with up to 200 of the images. Everything is
    written to a folder beside `out`, an image at a time, and renamed at the end: on an error what was there is there
    still.

    Args:
        model: images (N, 3, H, W) -> logits; on the device that the work is to be done on.
        images: to explain, such as `data.open_pictures` gives.
        out: the folder to write.
        transform: how the images are resized and cropped for the network.
        mean: subtracted from the channels, which are in [0, 1].
        std: the channels are divided by it.
        names: of the outputs.
        source: what the network is called.
        method: of the maps; see `maps.names`.
        layer: where they are read; None: what the method takes by itself.
        top: how many of the likeliest classes to name.
        classes: to explain in every image; none: the likeliest ones.
        threshold: of the focus, above 0, at most 1.
        batch_size: images at a time.
        workers: processes that read files; 0: this one.
        unreadable: on an image that cannot be read, "error", or "skip" it and list it.
        overwrite: replace a folder that an earlier call wrote, if nothing else is in it.
        told: called with each image as soon as it is done or skipped.

    Raises:
        InputError: `out` is in the way, a setting does not fit the network, an image cannot be read, or none can.
    """
    folder = Path(out)
    check_folder(folder, overwrite=overwrite)
    if not len(images):
        raise InputError("no images given; expected at least one")
    if not 0 < threshold <= 1:
        raise InputError(f"threshold {threshold}; expected above 0, at most 1")
    check_counts(top, batch_size)
    mapper = maps.create(method, model, layer=layer)
    settings: dict[str, Any] = {
        "regard": __version__,
        "network": source,
        "method": maps.method_name(method),
        "layer": mapper.layer,
        "threshold": threshold,
        "top": top,
        "classes": [{"index": index, "class": names[index]} for index in classes],
        "transform": asdict(transform),
        "mean": mean,
        "std": std,
    }
    found = explanations(
        mapper,
        images,
        transform,
        mean=mean,
        std=std,
        names=names,
        top=top,
        classes=classes,
        threshold=threshold,
        batch_size=batch_size,
        workers=workers,
        unreadable=unreadable,
    )
    stems = _stems(images)
    page = Page(settings, len(names))
    refused: list[Refusal] = []
    done = pictures = 0
    with _written_aside(folder, overwrite) as aside:
        with open(aside / "explain.json", "w", encoding="utf-8") as file:
            file.write(f'{json.dumps(settings, allow_nan=False)[:-1]}, "images": [')
            for each in found:
                told(each)
                if isinstance(each, Refusal):
                    refused.append(each)
                    continue
                record = _write_pictures(each, aside, stems[each.place], threshold)
                file.write(f"{',' if done else ''}\n{json.dumps(record, allow_nan=False)}")
                page.add(each)
                done += 1
                pictures += 1 + len(each.looks)
            skipped = [{"path": one.key, "reason": one.reason} for one in refused]
            file.write(f'\n], "skipped": {json.dumps(skipped)}}}\n')
        page.write(aside / "explain.html", refused)
    return Explained(folder, done, pictures, tuple(refused))


def check_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Whether `explain` may write there.

    Raises:
        InputError: something is there and `overwrite` is not set, or something other than what `explain` writes; or it
            is the working or the home folder.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} exists already and is no folder; choose another place (--out)")
    check_replaceable(folder)
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{folder} exists already; replace it (--overwrite) or choose another (--out)")
    other = _foreign(folder)
    if other is not None:
        raise InputError(
            f"{folder} is not overwritten: {other} in it was not written by regard explain; move it, or choose another "
            "folder (--out)"
        )


def _foreign(folder: Path) -> str | None:
    """The path of a file in the folder that its explain.json does not account for."""
    try:
        records = json.loads((folder / "explain.json").read_text(encoding="utf-8"))["images"]
        known = {record["picture"] for record in records}
        known |= {one["picture"] for record in records for one in record["maps"]}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    known |= {"explain.json", "explain.html"} if known else set()
    for place, folders, names in os.walk(folder):
        for name in (*names, *(name for name in folders if os.path.islink(os.path.join(place, name)))):
            path = Path(place, name)
            if path.relative_to(folder).as_posix() not in known:
                return str(path)
    return None


@contextmanager
def _written_aside(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Gives a new folder beside `folder`, and puts it in its place once it is whole."""
    folder = Path(os.path.realpath(folder))
    aside, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("part", "old"))
    try:
        try:
            aside.mkdir(parents=True)
            yield aside
            check_folder(folder, overwrite=overwrite)  # meanwhile somebody may have put a file there
            if folder.exists():
                os.rename(folder, old)
            os.rename(aside, folder)
        except BrokenPipeError:  # whoever was told of the images has gone
            raise
        except OSError as error:
            raise InputError(
                f"cannot write {folder}: {error.strerror or error}; make room, or give another place"
            ) from error
    finally:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)


def _stems(images: ImageDataset) -> list[str]:
    """For each image the path of its files in the folder, without the ending; like its own, and no two alike."""
    places = getattr(images, "places", None) or [PurePath(key) for key in images.keys]
    taken: set[str] = set()
    found = []
    for place in places:
        parts = place.with_suffix("").parts if place.name else ("_",)
        stem = "/".join(_plain(part, 100) for part in parts if part != place.anchor) or "_"
        unique, count = stem, 1
        while unique.casefold() in taken:
            count += 1
            unique = f"{stem}-{count}"
        taken.add(unique.casefold())
        found.append(unique)
    return found


def _plain(text: str, longest: int) -> str:
    """A part of a path for any file system: letters, digits, - and _, at most so many bytes.

    Without dots, no file that gets an ending is ever in the way of another or of a folder.
    """
    text = unicodedata.normalize("NFC", text)
    kept = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in text)
    return kept.encode()[:longest].decode(errors="ignore") or "_"


def _write_pictures(explanation: Explanation, folder: Path, stem: str, threshold: float) -> dict[str, Any]:
    """Writes the PNG files of an image. Returns what explain.json says of it."""
    pixels, region = explanation.pixels, explanation.region
    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(pixels, None, region)).save(folder / f"{stem}.png")
    shown = []
    for rank, look in enumerate(explanation.looks, 1):
        name = f"{stem}.{rank}-{_plain(look.scored.name, 60)}.png"
        Image.fromarray(draw(pixels, look.heat, region, threshold)).save(folder / name)
        measures = None if look.measures is None else {key: _number(value) for key, value in look.measures.items()}
        shown.append({**_scored(look.scored), "picture": name, "verdict": look.verdict, "measures": measures})
    return {
        "path": explanation.key,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "picture": f"{stem}.png",
        "predicted": [_scored(one) for one in explanation.predicted],
        "maps": shown,
        "note": explanation.note,
    }


def _scored(scored: Scored) -> dict[str, Any]:
    return {"index": scored.index, "class": scored.name, "probability": _number(scored.probability)}


def _number(value: float | bool) -> float | bool | None:
    if isinstance(value, bool):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
