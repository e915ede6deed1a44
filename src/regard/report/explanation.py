"""Explains images: the most likely classes, and a class activation map (CAM) with measures for each."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard import figures
from regard.bias import measure, scaled
from regard.bias.metrics import check_focus
from regard.data import Batch, Channels, ImageDataset, Transform, create_loader, denormalised
from regard.data.decode import OnUnreadable
from regard.errors import InputError, check_interval
from regard.formatting import percent, printable
from regard.logits import class_logits
from regard.maps import MapMethod
from regard.notebook import Tabular
from regard.report.overlay import Mask, Pixels, draw
from regard.stats import without_nan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CAMS = 256  # in one batch


@dataclass(frozen=True)
class ClassScore:
    """A class and its probability (softmax), 0 to 1."""

    index: int
    name: str
    probability: float

    def to_record(self) -> dict[str, Any]:
        """JSON-ready; None for NaN."""
        return without_nan({"class": self.name, "class_index": self.index, "probability": self.probability})


@dataclass(frozen=True, eq=False)
class Cell:
    """The CAM of one class over an image.

    Attributes:
        pixels: uint8 (H, W, 3), the model's input before normalisation.
        region: bool (H, W), or None.
        cam: (H, W), scaled to [0, 1]; all 0 if it is constant.
        threshold: threshold of the focus.
        explained: the class of the CAM.
        predicted: the class with the highest score.
        correct: whether the predicted class is the label; None if not known.
        measures: fields of `bias.Measures`; empty without a region.
        box: (left, top, right, bottom) of a detection, in pixels; None for a class.
    """

    pixels: Pixels
    region: Mask | None
    cam: NDArray[np.float64]
    threshold: float
    explained: ClassScore
    predicted: ClassScore
    correct: bool | None
    measures: Mapping[str, float | bool]
    box: tuple[float, float, float, float] | None = None

    @property
    def result(self) -> str:
        """ "position bias", "range bias", "inside" or "constant map"; "" without a region."""
        if not self.cam.any():
            return "constant map"
        if not self.measures:
            return ""
        biases = (name for name in ("position_bias", "range_bias") if self.measures[name])
        return next(biases, "inside").replace("_", " ")

    def draw(self, size: int | None = None) -> Pixels:
        """The image with the map, the edge of the focus and of the region; see `overlay.draw`."""
        return draw(self.pixels, self.cam, self.region, self.threshold, size=size, boxes=[self.box] if self.box else ())

    def to_record(self) -> dict[str, Any]:
        """JSON-ready; None for NaN."""
        return {
            **self.explained.to_record(),
            "predicted": self.predicted.name,
            "correct": self.correct,
            "result": self.result,
            **({"box": list(self.box)} if self.box else {}),
            **without_nan(self.measures),
        }


@dataclass(frozen=True, eq=False)
class Row(Tabular):
    """An image and its CAMs, of several classes or of several models.

    Attributes:
        index: index in the data set.
        key: key in the data set.
        label: name of the class; "" without a label.
        cells: one or more.
        likeliest: classes with the highest scores of the first cell's model, highest first.
        note: why the image has no region in a data set with regions; else "".
    """

    index: int
    key: str
    label: str
    cells: tuple[Cell, ...]
    likeliest: tuple[ClassScore, ...]
    note: str = ""

    def draw(self, size: int | None = None) -> Pixels:
        """The image with the edge of the first cell's region, and the boxes of all cells."""
        boxes = [cell.box for cell in self.cells if cell.box]
        return draw(self.cells[0].pixels, None, self.cells[0].region, size=size, boxes=boxes)

    def plot(self) -> Figure:
        """A matplotlib figure of the image and each CAM, with its class and result."""
        pictures = {self.label or "image": self.draw()}
        for cell in self.cells:
            title = f"{printable(cell.explained.name)} ({percent(cell.explained.probability)}%)"
            pictures["\n".join(filter(None, (title, cell.result)))] = cell.draw()
        return figures.pictures({self.key: pictures})

    def to_records(self) -> list[dict[str, Any]]:
        """One flat dict per cell, then one per likeliest class without a cell; JSON-ready, None for NaN."""
        explained = {cell.explained.index for cell in self.cells}
        records = [cell.to_record() for cell in self.cells]
        records += [score.to_record() for score in self.likeliest if score.index not in explained]
        return [{"image": self.key, "label": self.label or None, **record} for record in records]


def explain_batch(
    method: MapMethod,
    batch: Batch,
    images: ImageDataset,
    *,
    mean: Channels,
    std: Channels,
    names: Sequence[str],
    classes: Tensor | None = None,
    top: int = 1,
    label_outputs: Sequence[int] = (),
    threshold: float = 0.5,
    margin: int = 0,
    tolerance: int = 0,
) -> list[Row]:
    """The images of a batch with their CAMs.

    Args:
        method: CAM method, with its model.
        batch: batch of `images`, with masks if they have any.
        images: the data set of the batch.
        mean, std: what the batch was normalised with.
        names: names of the model's outputs.
        classes: int64 (B, K), the outputs to explain; None: the most likely ones.
        top: number of most likely classes, which are listed and, without `classes`, explained.
        label_outputs: for each class of the data set, the index of its output; -1 for none.
        threshold, margin, tolerance: of focus, range bias and pointing game; see `bias.measure`.
    """
    top = min(top, len(names))
    cams = method(batch.images, top=top) if classes is None else method(batch.images, classes)
    assert method.logits is not None and method.classes is not None
    count, classes_per_image = method.classes.shape
    probabilities = class_logits(method.logits).double().softmax(1).cpu()
    likeliest = probabilities.topk(top, dim=1).indices.tolist()
    flat = cams.flatten(0, 1)  # (B K, H, W)
    measures: dict[str, list[list[float | bool]]] = {}
    if batch.masks is not None:
        regions = batch.masks.to(flat.device).repeat_interleave(classes_per_image, 0)
        columns = measure(flat, regions, threshold, margin=margin, tolerance=tolerance)
        shape = (count, classes_per_image)
        measures = {name: column.cpu().view(shape).tolist() for name, column in columns.items()}
    heatmaps = scaled(flat).double().view(cams.shape).cpu().numpy()
    pixels = denormalised(batch.images, mean, std).permute(0, 2, 3, 1).cpu().numpy()
    masks = None if batch.masks is None else batch.masks.cpu().numpy()
    rows = []
    for i, (index, label) in enumerate(zip(batch.index.tolist(), batch.labels.tolist(), strict=True)):

        def score(output: int, row: Tensor = probabilities[i]) -> ClassScore:
            return ClassScore(output, names[output], float(row[output]))

        region = masks[i] if masks is not None and masks[i].any() else None
        target = label_outputs[label] if label_outputs and label >= 0 else -1
        cells = tuple(
            Cell(
                pixels=pixels[i],
                region=region,
                cam=heatmaps[i, k],
                threshold=threshold,
                explained=score(output),
                predicted=score(likeliest[i][0]),
                correct=likeliest[i][0] == target if target >= 0 else None,
                measures={} if region is None else {name: values[i][k] for name, values in measures.items()},
            )
            for k, output in enumerate(method.classes[i].tolist())
        )
        label_name = images.classes[label] if label >= 0 else ""
        note = _missing_region(images, index) if masks is not None and region is None else ""
        rows.append(Row(index, images.keys[index], label_name, cells, tuple(map(score, likeliest[i])), note))
    return rows


def _missing_region(images: ImageDataset, index: int) -> str:
    region = images.mask(index)
    if region is not None and region.any():
        return "the region is cropped away or too small"
    return "no region"


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read.

    Attributes:
        index: index in the data set.
        key: key in the data set.
        reason: a message that names the image.
    """

    index: int
    key: str
    reason: str


def explanations(
    method: MapMethod,
    images: ImageDataset,
    transform: Transform,
    *,
    mean: Channels,
    std: Channels,
    names: Sequence[str],
    top: int = 3,
    classes: Sequence[int] = (),
    threshold: float = 0.5,
    batch_size: int = 16,
    workers: int = 0,
    unreadable: OnUnreadable = "error",
) -> Iterator[Row | Unreadable]:
    """Explains images in their order, with one batch in memory.

    Args:
        method: CAM method, with its model.
        images: images to explain.
        transform: resizing and cropping; without a size, images keep their size and are read one at a time.
        mean, std: normalisation of the channels, which are in [0, 1].
        names: names of the network's outputs.
        top: number of most likely classes.
        classes: classes to explain in every image; empty: the most likely ones.
        threshold: threshold of the focus; see `bias.measure`.
        batch_size: number of images per batch.
        workers: number of DataLoader workers; 0: none.
        unreadable: "error" raises on an image that cannot be read, "skip" yields an `Unreadable`.

    Raises:
        InputError: an image cannot be read, or a class or number is out of range.
    """
    check_interval("top", top, "[1, 2^24]")
    check_interval("batch_size", batch_size, "[1, 2^24]")
    check_focus(threshold)
    if not len(images):
        raise InputError("no images given; expected at least one")
    parameter = next(method.model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    batch_size = max(1, min(batch_size, _MOST_CAMS // (len(classes) or min(top, len(names)))))
    loader = create_loader(
        images,
        batch_size if transform.size else 1,  # images of different sizes
        transform=transform,
        device=device,
        mean=mean,
        std=std,
        workers=workers,
        unreadable=unreadable,
        masks=True,
    )
    start = explained = 0
    for batch in loader.epoch(0):
        results: dict[int, Row | Unreadable] = {}
        missing = sorted(set(range(start, start + batch.total)) - set(batch.index.tolist()))
        for index, reason in zip(missing, batch.skipped, strict=True):
            results[index] = Unreadable(index, images.keys[index], reason.removeprefix(f"{images.keys[index]}: "))
        start += batch.total
        if count := len(batch.images):
            rows = explain_batch(
                method,
                batch,
                images,
                mean=mean,
                std=std,
                names=names,
                classes=torch.tensor(classes, device=device).expand(count, -1) if classes else None,
                top=top,
                threshold=threshold,
            )
            results |= {row.index: row for row in rows}
            explained += count
        yield from (results[index] for index in sorted(results))
    if not explained:
        raise InputError(f"none of the {start} images can be read (last: {batch.skipped[-1]}); give readable images")


def find_classes(given: Sequence[str], names: Sequence[str], owner: str = "the network") -> tuple[int, ...]:
    """The indices of classes given by name, in any case, or by number; names take precedence over numbers.

    Args:
        given: names or numbers of classes.
        names: names of all classes, in order.
        owner: what has the classes, for the message.

    Raises:
        InputError: no class has this name or number, or several have this name.
    """
    return tuple(dict.fromkeys(_class_index(text, names, owner) for text in given))


def _class_index(text: str, names: Sequence[str], owner: str) -> int:
    for normalised in (str, str.casefold):
        indices = [i for i, name in enumerate(names) if normalised(name) == normalised(text)]
        if len(indices) > 1:
            numbers = ", ".join(map(str, indices))
            raise InputError(f"classes {numbers} are all called {text!r}; give one of the numbers")
        if indices:
            return indices[0]
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    similar = [name for name in names if text.casefold() in name.casefold()][:3] if text else []
    similar = similar or difflib.get_close_matches(text, names, n=3)
    hint = f" (did you mean {' or '.join(map(repr, similar))}?)" if similar else ""
    raise InputError(
        f"{owner} has no class {text!r}{hint}; give the name of one of its {len(names)} classes, or a number from "
        f"0 to {len(names) - 1}"
    )
