"""Where a model looks, over a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from regard.bias.measures import Measures, measure
from regard.bias.report import Report
from regard.data import Batches, ImageSet
from regard.errors import InputError, unknown
from regard.maps.cam import ClassActivationMap, GradCAM, check_logits
from regard.maps.layers import Layer, unwrapped
from regard.modes import evaluation_mode

METHODS: dict[str, type[ClassActivationMap]] = {"gradcam": GradCAM}

Mapper = ClassActivationMap | Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor, Tensor]  # images (B, 3, H, W), labels (B,), regions (B, H, W)
Channels = tuple[float, float, float]


def evaluate(
    model: nn.Module,
    dataset: ImageSet | Iterable[Sequence[Tensor]],
    *,
    method: str | Mapper = "gradcam",
    layer: Layer | None = None,
    target: Literal["predicted", "label"] = "predicted",
    threshold: float = 0.5,
    batch_size: int = 250,
    mean: Channels | None = None,
    std: Channels | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    name: str | None = None,
) -> Report:
    """Measures every map of a data set against its region, and whether the class was right.

    One forward and a backward down to the tapped layer a batch; everything stays on the device but one row an image.
    The model is afterwards as it was.

    Args:
        model: maps images to class scores (N, classes).
        dataset: an `ImageSet` with regions, or batches (images, labels, regions): floating point (B, 3, H, W), already
            normalised; whole numbers (B,); bool (B, H, W).
        method: "gradcam", or your own: called with images (B, 3, H, W) and classes (B,), it gives maps (B, h, w).
        layer: for a method by name; None: the last stage.
        target: whose maps: of the "predicted" class, or of the "label".
        threshold: of the focus, above 0, at most 1.
        batch_size: of an `ImageSet`.
        mean: of an `ImageSet`, by channel, with bytes 0 to 255 scaled to 0 to 1; None: its own.
        std: likewise.
        device: where to work; the model is moved there and, at the end, back. None: where the model is.
        progress: called after every batch with the images done and the images in all (None where unknown).
        name: of the model in the report; None: that of its class.

    Raises:
        InputError: a data set without regions or images, labels outside the model's classes, another number of classes
            than the model has outputs, an unknown method, target or device; and what `GradCAM` and `measure` raise.
    """
    if target not in ("predicted", "label"):
        raise unknown("target", target, ("predicted", "label"))
    mapper, method_name, layer_name = _mapper(model, method, layer)
    classes: tuple[str, ...] | None = None
    total: int | None = None
    if isinstance(dataset, ImageSet):
        classes, total = tuple(dataset.classes), len(dataset)

    parts: list[dict[str, np.ndarray]] = []
    done = outputs = 0
    with _working_place(model, device) as (place, dtype):
        for images, labels, regions in _batches(dataset, batch_size, place, mean, std):
            images = images.to(place, dtype)
            maps, logits = _look(model, mapper, images, labels if target == "label" else None)
            outputs = _check_outputs(logits, labels, classes)
            measures = measure(maps, regions.to(maps.device), threshold)
            parts.append(_rows(logits, labels, measures))
            done += len(images)
            if progress is not None:
                progress(done, total)
    if not parts:
        raise InputError("the data set has no images; give one with at least one")
    return Report(
        model=name or type(unwrapped(model)).__name__,
        dataset=str(getattr(dataset, "name", "batches")),
        split=str(getattr(dataset, "split", "")),
        method=method_name,
        layer=layer_name,
        target=target,
        threshold=threshold,
        classes=classes or tuple(str(i) for i in range(outputs)),
        rows={column: np.concatenate([part[column] for part in parts]) for column in parts[0]},
    )


def _mapper(model: nn.Module, method: str | Mapper, layer: Layer | None) -> tuple[Mapper, str, str]:
    """What makes the maps, its name, and that of its layer."""
    if isinstance(method, str):
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        by_name = METHODS[method](model, layer)
        return by_name, method, by_name.layer
    if layer is not None:
        raise InputError("a layer is for a method by name; a method of your own knows its layer: leave it out")
    if isinstance(method, ClassActivationMap):
        if unwrapped(method.model) is not unwrapped(model):
            raise InputError(f"the {type(method).__name__} is of another model; make one of the model to evaluate")
        return method, type(method).__name__.lower(), method.layer
    return method, getattr(method, "__name__", type(method).__name__), ""


@contextmanager
def _working_place(model: nn.Module, device: torch.device | str | None) -> Iterator[tuple[torch.device, torch.dtype]]:
    """Device and dtype that the images are to have; the model is on that device inside the block."""
    tensors = [*model.parameters(), *model.buffers()]
    homes = {tensor.device for tensor in tensors}
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())
    home = next(iter(homes), torch.device("cpu"))
    try:
        place = home if device is None else torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; give cpu, cuda, cuda:0, mps, …") from None
    if place.type == home.type and place.index in (None, home.index):
        yield home, dtype
        return
    if len(homes) > 1:
        raise InputError(f"the model is on {len(homes)} devices and cannot be moved to {place}; leave device out")
    try:
        model.to(place)
        yield place, dtype
    finally:
        model.to(home)


def _batches(
    dataset: ImageSet | Iterable[Sequence[Tensor]],
    batch_size: int,
    device: torch.device,
    mean: Channels | None,
    std: Channels | None,
) -> Iterator[Batch]:
    if isinstance(dataset, ImageSet):
        regions = dataset.regions
        if regions is None:
            raise InputError(f"the {dataset.split} set of {dataset.name!r} has no regions; give one that has")
        for part in Batches(dataset, batch_size, device=device, mean=mean, std=std).epoch(0):
            yield part.images, part.labels, regions[part.index.to(regions.device)]
        return
    if mean is not None or std is not None:
        raise InputError("mean and std are for an ImageSet; batches come normalised: leave them out")
    for batch in dataset:
        yield _checked(batch)


def _checked(batch: Sequence[Tensor]) -> Batch:
    if not isinstance(batch, Sequence) or len(batch) != 3 or not all(isinstance(part, Tensor) for part in batch):
        raise InputError("a batch is not three tensors (images, labels, regions); give those, or an ImageSet")
    images, labels, regions = batch
    if not 0 < len(images) == len(labels) == len(regions) or labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"a batch has images {tuple(images.shape)}, labels {labels.dtype} {tuple(labels.shape)}, regions "
            f"{tuple(regions.shape)}; expected (B, 3, H, W), whole numbers (B,), (B, H, W), B at least 1"
        )
    return images, labels, regions


def _look(model: nn.Module, mapper: Mapper, images: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The maps of the classes, None standing for the predicted ones, and the class scores."""
    if isinstance(mapper, ClassActivationMap):  # gives the scores on its way
        maps = mapper(images, classes)
        assert mapper.logits is not None
        return maps, mapper.logits
    with torch.no_grad(), evaluation_mode(model):
        logits = check_logits(model(images), images)
    return mapper(images, logits.argmax(1) if classes is None else classes), logits


def _check_outputs(logits: Tensor, labels: Tensor, classes: tuple[str, ...] | None) -> int:
    """How many classes the model knows, if the labels are among them."""
    outputs = logits.shape[1]
    if classes is not None and outputs != len(classes):
        raise InputError(f"the model has {outputs} outputs, the data set {len(classes)} classes; expected as many")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= outputs:
        raise InputError(f"labels from {low} to {high} for a model with {outputs} outputs; expected 0 to {outputs - 1}")
    return outputs


def _rows(logits: Tensor, labels: Tensor, measures: Measures) -> dict[str, np.ndarray]:
    """Name -> array (B,): what the report keeps of a batch."""
    predicted, label = logits.argmax(1).cpu(), labels.cpu()
    columns = {"label": label, "predicted": predicted, "correct": predicted == label, **dict(measures.items())}
    return {name: values.cpu().numpy() for name, values in columns.items()}
