"""Evaluates a detector on a data set, image by image, in one or several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from regard import data
from regard.data.decode import SKIP, OnUnreadable, Unreadable
from regard.data.streamed_loader import with_objects
from regard.detection.results import Results
from regard.detection.table import Table
from regard.errors import InputError, UnfitImage
from regard.modes import evaluation_mode

LabelMap = NDArray[np.int64] | None

_MASK_THRESHOLD = 0.5  # probability, as in torchvision's reference


class _Image(NamedTuple):
    """The objects and detections of one image; `position` is its index in the data set."""

    position: int
    size: tuple[int, int]
    truth: Table
    detections: Table


def evaluate(
    detector: nn.Module,
    images: data.ImageDataset | data.Loader,
    *,
    name: str = "",
    classes: Sequence[str] | None = None,
    workers: int = 0,
    unreadable: OnUnreadable = "error",
    after_batch: Callable[[int], None] | None = None,
) -> Results:
    """Runs a detector on all images of a data set, one image at a time, and matches its detections to the objects.

    Only boxes, scores and run-length encoded masks stay in memory. Under `torch.distributed` each process handles its
    share of the images, and all return the same results. Masks are evaluated if both the detector and the data set have
    them.

    Args:
        detector: a module that in evaluation mode returns one dict of boxes, labels, scores and perhaps masks for each
            image in a list, like the detectors of `create` and torchvision, with labels from 0.
        images: the data set, or a loader of it with `objects=True` and without shuffle.
        name: name of the model in the results.
        classes: names of the detector's classes, which have to include all classes of the data set; detections of other
            classes are ignored. None if they are the data set's classes in the same order.
        workers: number of DataLoader workers that read images.
        unreadable: whether an image that cannot be read, or is too long and narrow for the detector, raises an "error"
            or is skipped ("skip"); a loader keeps its own setting for reading.
        after_batch: called with the number of images of each batch.

    Raises:
        InputError: the data set has no objects, or classes that the detector does not have, or an image cannot be read.
    """
    if isinstance(images, data.Loader):
        loader = images
    else:
        is_distributed = distributed.is_available() and distributed.is_initialized()
        rank, world_size = (distributed.get_rank(), distributed.get_world_size()) if is_distributed else (0, 1)
        loader = data.create_loader(
            images,
            world_size,
            objects=True,
            rank=rank,
            world_size=world_size,
            device=next(detector.parameters()).device,
            workers=workers,
            unreadable=unreadable,
        )
    dataset = with_objects(loader.dataset)
    label_map = _label_map(dataset, classes, getattr(detector, "num_classes", None))
    evaluated: list[_Image] = []
    skipped: list[str] = []
    with evaluation_mode(detector), torch.inference_mode():
        for batch in loader.epoch(0):
            skipped += batch.skipped
            for index, image in zip(batch.index.tolist(), batch.images, strict=True):
                try:
                    (output,) = detector([image])
                    evaluated.append(_evaluated(dataset, index, image, output, label_map))
                except UnfitImage as error:
                    reason = f"{dataset.keys[index]}: {error}"
                    if unreadable == "error":
                        raise InputError(f"{reason}; {SKIP}") from error
                    skipped.append(reason)
                except Unreadable as error:
                    raise InputError(str(error)) from error
            if after_batch is not None:
                after_batch(len(batch.index))
    if loader.world_size > 1:
        gathered: list[Any] = [None] * loader.world_size
        distributed.all_gather_object(gathered, (evaluated, skipped))
        evaluated, skipped = ([entry for lists in gathered for entry in lists[i]] for i in (0, 1))
    if not evaluated:
        raise InputError(f"no image of data set {dataset.name!r} can be read; give readable images")
    return _results(dataset, evaluated, skipped, name or type(detector).__name__)


def _label_map(dataset: data.ImageDataset, classes: Sequence[str] | None, count: int | None) -> LabelMap:
    """The data set's label for each label of the detector, -1 for none; None if labels are the same."""
    if classes is None:
        if count is not None and count != len(dataset.classes):
            raise InputError(
                f"the detector has {count} classes, data set {dataset.name!r} {len(dataset.classes)}; evaluate on a "
                "data set of its classes"
            )
        return None
    missing = [name for name in dataset.classes if name not in classes]
    if missing:
        raise InputError(
            f"data set {dataset.name!r} has {len(missing)} classes that the detector does not have "
            f"({', '.join(missing[:3])}, …); evaluate on a data set with its classes ({', '.join(classes[:3])}, …)"
        )
    labels = {name: label for label, name in enumerate(dataset.classes)}
    return np.array([labels.get(name, -1) for name in classes], dtype=np.int64)


def _evaluated(
    dataset: data.ImageDataset,
    index: int,
    image: Tensor,
    output: Mapping[str, Tensor],
    label_map: LabelMap,
) -> _Image:
    """The objects and detections of an image (3, h, w), from the output of the detector."""
    masks = None
    if "masks" in output and dataset.has_object_masks:
        masks = (output["masks"][:, 0] >= _MASK_THRESHOLD).cpu().numpy()
    truth = dataset.instances(index, masks is not None)
    assert truth is not None
    labels = output["labels"].cpu().numpy()
    boxes, scores = (output[key].double().cpu().numpy() for key in ("boxes", "scores"))
    detections = Table.of_detections(labels if label_map is None else label_map[labels], boxes, scores, masks)
    if len(labels) and not (labels.min() >= 0 and detections.label.max() < len(dataset.classes)):
        raise InputError(
            f"the detector gives labels {labels.min()} to {labels.max()}; expected class indices 0 to "
            f"{len(dataset.classes) - 1}, without a background"
        )
    height, width = image.shape[1:]
    return _Image(index, (width, height), Table.of_objects(truth), detections.where(detections.label >= 0))


def _results(dataset: data.ImageDataset, images: Sequence[_Image], skipped: Sequence[str], name: str) -> Results:
    """Joins the images in the order of their ids, in which COCO's evaluation breaks ties between scores."""
    ids = {image.position: dataset.image_id(image.position) for image in images}
    by_id = all(isinstance(image_id, int) for image_id in ids.values())
    images = sorted(images, key=lambda image: (ids[image.position] if by_id else 0, image.position))
    return Results(
        name,
        dataset.name,
        dataset.split,
        tuple(dataset.classes),
        dataset.category_ids,
        tuple(dataset.keys[image.position] for image in images),
        tuple(ids[image.position] for image in images),
        np.array([image.size for image in images], dtype=np.int64),
        Table.joined([image.truth for image in images]),
        Table.joined([image.detections for image in images]),
        tuple(sorted(skipped)),
    )
