"""Measures of a detector's maps on a data set, one row per detection."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from regard import models
from regard.bias.evaluate import measure_columns, on_device
from regard.bias.metrics import Measures, check_focus, measure
from regard.bias.results import DETECTION, Results
from regard.bias.rows import Rows, columns_of
from regard.bias.shards import in_shards
from regard.data import Batch, ImageDataset, create_loader
from regard.data.decode import SKIP, OnUnreadable
from regard.errors import InputError, UnfitImage, check_interval, unknown
from regard.maps import DRISE, DetectionCAM, create_for_detections
from regard.maps.detections import Detections
from regard.maps.layers import Layer, unwrapped
from regard.maps.registry import method_options
from regard.terminal import command_line
from regard.version import __version__

Region = Literal["object", "box"]

WRONG, IGNORED = -1, -2
"""Instead of the index of an object: the detection matches none; it is in a crowd."""

_IMAGES_PER_SHARD = 64
_PIXELS = 2**22  # measured at once, which bounds the memory for large images


def evaluate_detector(
    detector: nn.Module,
    dataset: ImageDataset,
    *,
    method: str | DetectionCAM | DRISE = "gradcam",
    layer: Layer | Sequence[Layer] | None = None,
    region: Region = "object",
    score_threshold: float = 0.5,
    limit: int | None = 20,
    threshold: float = 0.5,
    margin: int = 0,
    tolerance: int = 0,
    workers: int = 0,
    unreadable: OnUnreadable = "error",
    outputs: Sequence[str] | None = None,
    label_outputs: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    folder: str | Path | None = None,
    shard: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    name: str | None = None,
) -> Results:
    """Measures the map of every detection against its object.

    As in COCO's evaluation, a detection is right if its IoU with an object of its class is at least 0.5 and no
    detection with a higher score has matched this object. Detections in a crowd of their class, and those of classes
    that the data set does not have, are left out. The region of a right detection is the mask of its object, or the
    object's box if the data set has no masks; the region of a wrong detection is its own box. To compare right and
    wrong detections, use `region="box"`, the detection's own box for all.

    Results are like those of `evaluate`, with detections instead of images: `label`, `predicted` and `explained` are
    the class, `probability` is the score, and `correct` whether the detection is right, so accuracy is precision; sizes
    are COCO's. Right detections are named "IMAGE object N" with the number of their object in the image, so that two
    detectors are compared object by object; wrong detections are named by class and box.

    Args:
        detector: see `maps.DetectionCAM`; its classes are indices from 0.
        dataset: a data set with objects.
        method: a name for `maps.create_for_detections`, or a method of the detector.
        layer: for a CAM method by name; None: the last stage of the body.
        region: "object" or "box".
        score_threshold: lowest score of a detection to measure.
        limit: maximum number of detections per image, those with the highest scores; None: all.
        threshold: threshold of the focus, in (0, 1].
        margin: margin of range bias, in pixels of the image; see `measure`.
        tolerance: tolerance of the pointing game, likewise.
        outputs: names of the detector's classes; None: those of the data set.
        label_outputs: the detector's class for each class of the data set; None: the same.
        shard: images per shard; None: 64. For the other arguments, see `evaluate`.

    Raises:
        InputError: a data set without objects, no detections at all, a number out of range, a folder of another
            evaluation; or an error of the method or of `measure`.
    """
    evaluator = DetectionEvaluator(
        detector, dataset, method, layer, region, score_threshold, limit, threshold, margin, tolerance, label_outputs
    )

    def work(images: range, done: Callable[[int], None]) -> Rows:
        keys: list[str] = []
        columns: list[dict[str, Tensor]] = []
        skipped: list[str] = []
        for batch in evaluator.batches(images, workers, unreadable, used_device):
            skipped += batch.skipped
            for image, target, index in zip(batch.images, batch.targets or (), batch.index.tolist(), strict=True):
                try:
                    measured = evaluator.measured(image.to(dtype), target, dataset.keys[index])
                except UnfitImage as error:
                    reason = f"{dataset.keys[index]}: {error}"
                    if unreadable == "error":
                        raise InputError(f"{reason}; {SKIP}") from error
                    skipped.append(reason)
                    continue
                if measured.keys:
                    columns.append(measured.columns)
                    keys += measured.keys
            done(len(batch.images) + len(batch.skipped))
        return Rows(tuple(keys), columns_of(columns), tuple(skipped), len(outputs or dataset.classes))

    with on_device(detector, device) as (used_device, dtype):
        plan: dict[str, Any] = {
            "regard": __version__,
            "weights": models.fingerprint(detector),
            **evaluator.options,
            "method_options": method_options(evaluator.explain),
            "region": region,
            "score_threshold": score_threshold,
            "limit": limit,
            "label_outputs": label_outputs and list(label_outputs),
            "shard": shard,
            "data": dataset.fingerprint(),
        }
        rows = in_shards(
            len(dataset),
            shard or _IMAGES_PER_SHARD,
            work,
            folder=folder,
            plan=plan,
            progress=progress,
            unreadable=unreadable,
        )
    if not len(rows):
        raise InputError(
            f"the detector detects nothing in {len(dataset) - len(rows.skipped)} images with a score of "
            f"{score_threshold} or more; lower it (--score), or train longer"
        )
    return Results(
        model=name or type(unwrapped(detector)).__name__,
        dataset=dataset.name,
        split=dataset.split,
        **evaluator.options,
        classes=dataset.classes,
        rows=rows.columns,
        outputs=tuple(outputs or dataset.classes),
        keys=rows.keys,
        skipped=rows.skipped,
        provenance={**plan, "torch": torch.__version__, "device": str(used_device), "command": command_line(sys.argv)},
    )


class MeasuredDetections(NamedTuple):
    """The measured detections of an image, n at least 0."""

    keys: list[str]
    """n names; see `evaluate_detector`."""
    detections: Detections
    """Boxes (n, 4), labels (n,) of the data set, scores (n,), …"""
    maps: Tensor
    """(n, H, W)."""
    regions: Tensor
    """bool (n, H, W)."""
    columns: dict[str, Tensor]
    """Name -> (n,), the columns of results; empty if n is 0."""


class DetectionEvaluator:
    """Measures the detections in one image; the arguments are those of `evaluate_detector`.

    Attributes:
        explain: the method.
        options: as of `Evaluator`; the target is "detection".
    """

    def __init__(
        self,
        detector: nn.Module,
        dataset: ImageDataset,
        method: str | DetectionCAM | DRISE = "gradcam",
        layer: Layer | Sequence[Layer] | None = None,
        region: Region = "object",
        score_threshold: float = 0.5,
        limit: int | None = 20,
        threshold: float = 0.5,
        margin: int = 0,
        tolerance: int = 0,
        label_outputs: Sequence[int] | None = None,
    ) -> None:
        if region not in ("object", "box"):
            raise unknown("region of detections", region, ("object", "box"))
        check_interval("score_threshold", score_threshold, "[0, 1]")
        check_focus(threshold, margin, tolerance)
        if isinstance(method, str):
            self.explain = create_for_detections(method, detector, layer)
        else:
            self.explain = method
            if layer is not None or unwrapped(method.detector) is not unwrapped(detector):
                raise InputError("the method is of another detector or has its own layer; give its name instead")
        if not dataset.has_objects:
            raise InputError(f"the images of {dataset.name!r} have no objects; give a data set with boxes and classes")
        self.dataset, self.threshold = dataset, threshold
        self._region, self._score_threshold, self._limit = region, score_threshold, limit
        focus: dict[str, Any] = {"threshold": threshold, "margin": int(margin), "tolerance": int(tolerance)}
        self._measure: Callable[..., Measures] = partial(measure, **focus)
        self.options = {"method": self.explain.method, "layer": self.explain.layer, "target": DETECTION, **focus}
        count = len(dataset.classes)
        self._outputs = torch.tensor(range(count) if label_outputs is None else label_outputs)
        if len(self._outputs) != count or len(self._outputs.unique()) < count:
            raise InputError(
                f"label_outputs is {self._outputs.tolist()} for the {count} classes of {dataset.name}; give a "
                "different class of the detector for each"
            )

    def batches(
        self, images: Sequence[int], workers: int, unreadable: OnUnreadable, device: torch.device
    ) -> Iterator[Batch]:
        """Batches of a single image with its objects; `Batch.index` is the index in the data set."""
        loader = create_loader(
            self.dataset.subset(images),
            1,
            objects=True,
            masks=self.dataset.has_object_masks,
            workers=workers,
            unreadable=unreadable,
            device=device,
        )
        for batch in loader.epoch(0):
            yield batch._replace(index=torch.tensor([images[i] for i in batch.index.tolist()], dtype=torch.int64))

    def measured(self, image: Tensor, objects: Detections, key: str) -> MeasuredDetections:
        """Measures the detections of an image against its objects.

        Args:
            image: (3, H, W), in [0, 1], on the device of the detector.
            objects: the objects, as in `Batch.targets`.
            key: name of the image.
        """
        maps = self.explain(image, score_threshold=self._score_threshold, limit=self._limit)
        assert self.explain.detections is not None
        detections = {**self.explain.detections, "labels": self._labels(self.explain.detections["labels"])}
        matches = match(detections, objects)
        counted = (detections["labels"] >= 0) & (matches != IGNORED)
        detections = {name: values[counted] for name, values in detections.items()}
        maps, matches = maps[counted], matches[counted]
        regions = regions_of(detections, matches, objects, maps.shape[1:], self._region)
        columns: dict[str, Tensor] = {}
        if len(matches):
            outputs = self._outputs.to(matches.device)[detections["labels"]]
            size = max(1, _PIXELS // (maps.shape[1] * maps.shape[2]))
            chunks = zip(maps.split(size), regions.split(size), strict=True)
            parts = [measure_columns(self._measure(*chunk)) for chunk in chunks]
            columns = {
                "label": detections["labels"],
                "predicted": outputs,
                "explained": outputs,
                "probability": detections["scores"].float(),
                "correct": matches >= 0,
                **{name: torch.cat([part[name] for part in parts]) for name in parts[0]},
            }
        keys = keys_of(key, detections, matches, self.dataset.classes)
        return MeasuredDetections(keys, detections, maps, regions, columns)

    def _labels(self, outputs: Tensor) -> Tensor:
        """The data set's classes for classes of the detector, -1 if there is none."""
        same = outputs[:, None] == self._outputs.to(outputs.device)
        return torch.where(same.any(1), same.int().argmax(1), -1)


def match(detections: Detections, objects: Detections, iou: float = 0.5) -> Tensor:
    """Matches detections with objects as COCO's evaluation does: greedily, by class, highest score first.

    Args:
        detections: boxes (n, 4), labels (n,), highest score first.
        objects: boxes (m, 4), labels (m,), crowd bool (m,).
        iou: least IoU of a match; for a crowd, the least share of the detection that lies in it.

    Returns:
        int64 (n,), indices of objects, each at most once; without a match `IGNORED` in a crowd, otherwise `WRONG`.
    """
    from torchvision.ops import box_area, box_iou

    overlaps = box_iou(detections["boxes"], objects["boxes"])
    areas, object_areas = box_area(detections["boxes"])[:, None], box_area(objects["boxes"])
    shared = overlaps * (areas + object_areas) / (1 + overlaps)
    crowd = objects["crowd"]
    same = detections["labels"][:, None] == objects["labels"]
    overlaps = (same & ~crowd) * overlaps
    in_crowd = ((same & crowd) * shared / areas >= iou).any(1)
    matches = torch.where(in_crowd, IGNORED, WRONG)
    for i in range(len(matches) if overlaps.shape[1] else 0):
        best, j = overlaps[i].max(0)
        if best >= iou:
            matches[i] = j
            overlaps[:, j] = 0
    return matches


def regions_of(
    detections: Detections, matches: Tensor, objects: Detections, size: Sequence[int], region: Region = "object"
) -> Tensor:
    """The region of each detection, bool (n, H, W); see `evaluate_detector`."""
    regions = box_regions(detections["boxes"], size)
    right = torch.nonzero(matches >= 0)[:, 0]
    if region == "box" or not len(right):
        return regions
    if "masks" in objects:
        regions[right] = objects["masks"][matches[right]].to(regions.device)
    else:
        regions[right] = box_regions(objects["boxes"][matches[right]], size)
    return regions


def box_regions(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes (n, 4) as masks, bool (n, H, W), of every pixel that a box touches."""
    x, y = (torch.arange(side, device=boxes.device) for side in (size[1], size[0]))
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)  # (n, 1) each
    columns, rows = ((i + 1 > low) & (i < high) for i, low, high in ((x, x0, x1), (y, y0, y1)))
    return rows[:, :, None] & columns[:, None]


def image_key(results: Results, row: int) -> str:
    """The name of the image of a row's detection."""
    label = results.classes[results.rows["label"][row]]
    return results.keys[row].rpartition(" object " if results.rows["correct"][row] else f" {label} ")[0]


def keys_of(image: str, detections: Detections, matches: Tensor, classes: Sequence[str]) -> list[str]:
    """The names of the detections of an image; see `evaluate_detector`."""
    boxes = detections["boxes"].round().int().tolist()
    return [
        f"{image} object {match}" if match >= 0 else f"{image} {classes[label]} {','.join(map(str, box))}"
        for match, label, box in zip(matches.tolist(), detections["labels"].tolist(), boxes, strict=True)
    ]
