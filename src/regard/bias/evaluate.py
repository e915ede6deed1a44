"""Measures of a model's maps on a data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from regard import models
from regard.bias.interventions import Interventions
from regard.bias.metrics import Measures, check_focus, measure, scaled
from regard.bias.results import Results
from regard.bias.rows import CURVES, MAPS, Rows, columns_of
from regard.bias.shards import counter, in_shards
from regard.data import Batch, Channels, ImageDataset, InMemoryDataset, Transform, create_loader
from regard.data.decode import OnUnreadable
from regard.data.loader import default_batch_size
from regard.errors import InputError, unknown
from regard.logits import class_logits, class_scores, predicted_classes
from regard.maps import MapMethod, create
from regard.maps.layers import Layer, unwrapped
from regard.maps.registry import MapFunction, method_name, method_options
from regard.modes import checked_images, eager_evaluation
from regard.terminal import command_line
from regard.version import __version__

Target = Literal["predicted", "label"]

_BATCHES_PER_SHARD = 8


def evaluate(
    model: nn.Module,
    dataset: ImageDataset | Iterable[Sequence[Tensor]],
    *,
    method: str | MapMethod | MapFunction = "gradcam",
    layer: Layer | Sequence[Layer] | None = None,
    target: Target = "predicted",
    threshold: float = 0.5,
    margin: int = 0,
    tolerance: int = 0,
    batch_size: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    transform: Transform | None = None,
    workers: int = 0,
    unreadable: OnUnreadable = "error",
    outputs: Sequence[str] | None = None,
    label_outputs: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    folder: str | Path | None = None,
    shard: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    name: str | None = None,
    keep_maps: bool = False,
    interventions: bool = False,
    seed: int = 0,
) -> Results:
    """Measures the map of every image of a data set against its region, and the accuracy of the model.

    Each batch takes one forward, and one backward down to the layer of the maps; only one row per image leaves the
    device. Images are read as they are needed, so memory does not grow with the data set, except for its list of files
    and 500 bytes per row (900 for images of more than 65,535 pixels). The model is unchanged afterwards.

    With a `folder`, rows are saved there shard by shard: an interrupted evaluation continues from there, and under
    `torch.distributed` (`torchrun`) each process computes its slice of the shards. Batches, and so the results, do not
    depend on the number of processes.

    Args:
        model: maps images to class scores (N, classes).
        dataset: an `ImageDataset` with masks, or batches (images, labels, regions): floating point
            (B, 3, H, W), already normalised; whole numbers (B,), outputs of the model or -1; bool (B, H, W).
        method: a name of `maps.names()`, a `MapMethod` of the model, or a function of the model, images (B, 3, H, W)
            and classes (B,) that returns maps (B, h, w).
        layer: for a method by name; None: the last spatial features.
        target: the class of the maps: "predicted", or "label", which every image then has to have.
        threshold: threshold of the focus, in (0, 1].
        margin: margin of range bias, in pixels of the model's input; see `measure`.
        tolerance: tolerance of the pointing game, likewise.
        batch_size: batch size of a data set; None: 250 for an `InMemoryDataset`, 32 for others.
        mean, std: normalisation of a data set, by channel, for images scaled to [0, 1]; None: that of the
            `InMemoryDataset`.
        transform: how images of a data set and their regions are resized and cropped; None: not at all.
        workers: DataLoader workers that read the images of a data set; 0: in this process.
        unreadable: for an image of a data set that cannot be read: "error", or "skip" it and list it in the results.
        outputs: names of the model's outputs; None: the classes of the data set, if there are as many.
        label_outputs: the model's output for each class of the data set, or -1 for all classes: then results are not
            scored. None: the outputs are the classes, in order; then results of a data set on disk are not scored if it
            has another number of classes than the model has outputs.
        device: device of the evaluation, from which the model is moved back at the end; None: the model's.
        folder: folder of the shards, which the caller removes.
        shard: images per shard; None: 8 batches.
        progress: called after each batch with the number of images done by this process and the total number (None if
            unknown).
        name: name of the model in the results; None: its class.
        keep_maps: whether to keep the maps in the rows, as bytes, with the size of the features or, for several layers,
            of the images (`--keep-maps` of `regard bias`).
        interventions: whether to measure accuracy on the images of `bias.Interventions` too, in six more forwards.
        seed: seed of the backgrounds of interventions.

    Raises:
        InputError: a data set without regions or images, labels outside the model's classes, another number of classes
            than the model has outputs, an unknown method, target or device, a folder of another evaluation; or an error
            of the method or of `measure`.
    """
    evaluator = Evaluator(model, method, layer, target, threshold, margin, tolerance, keep_maps)
    source = dataset if isinstance(dataset, ImageDataset) else _Batches(dataset, mean, std)
    if not source.has_masks:
        raise InputError(f"the {source.split} images of {source.name!r} have no regions; give a data set with regions")
    label_map = _LabelOutputs(source, target, label_outputs)
    if isinstance(source, _Batches) and interventions:
        raise InputError("interventions read images of other classes, and batches are read once; give a data set")
    if isinstance(source, _Batches) and folder is not None:
        raise InputError("an iterable of batches cannot be saved in shards; give a data set, or leave folder out")
    size = batch_size or default_batch_size(source)

    with on_device(model, device) as (used_device, dtype):

        def load(images: Sequence[int] | None) -> Iterator[Batch]:
            if isinstance(source, _Batches):
                return source.epoch()
            return create_loader(
                source if images is None else source.subset(images),
                size,
                transform=transform,
                device=used_device,
                mean=mean,
                std=std,
                workers=workers,
                unreadable=unreadable,
                masks=True,
            ).epoch(0)

        intervened = Interventions(source, load, seed) if interventions and not isinstance(source, _Batches) else None

        def work(images: range | None, done: Callable[[int], None]) -> Rows:
            parts: list[dict[str, Tensor]] = []
            outputs = 0
            keys: list[str] = []
            skipped: list[str] = []
            batches = ((b, ()) for b in load(images)) if intervened is None else intervened.batches(images or ())
            for batch, variants in batches:
                if len(batch.images):
                    labels = batch.labels.to(used_device)
                    assert batch.masks is not None  # checked by has_masks
                    regions = batch.masks.to(used_device)
                    targets = label_map.targets(labels)
                    columns, outputs = evaluator.measured(batch.images.to(used_device, dtype), labels, targets, regions)
                    label_map.check(outputs, batch.labels)
                    if intervened is not None and not label_map.scored(outputs):
                        raise InputError(
                            f"interventions measure accuracy, and the labels of {source.name} are not outputs of the "
                            "model; leave the interventions out"
                        )
                    for variant, pixels, exists in variants:
                        right = evaluator.predicted(pixels.to(dtype)) == targets
                        columns[variant] = torch.where(exists & (targets >= 0), right.float(), torch.nan)
                    parts.append(columns)
                    keys += [str(i) if images is None else source.keys[images[i]] for i in batch.index.tolist()]
                skipped += batch.skipped
                done(len(batch.images) + len(batch.skipped))
            return Rows(tuple(keys), columns_of(parts), tuple(skipped), outputs)

        plan: dict[str, Any] = {}
        if isinstance(source, _Batches):
            rows = work(None, counter(progress, None))
        else:
            if folder is not None:
                plan = {
                    "regard": __version__,
                    "weights": models.fingerprint(model),
                    **evaluator.options,
                    "method_options": method_options(evaluator.cam),
                    "label_outputs": label_outputs and list(label_outputs),
                    "batch_size": size,
                    "shard": shard,
                    "keep_maps": keep_maps,
                    "interventions": seed if interventions else None,
                    "data": source.fingerprint(),
                    "mean": mean or source.mean,
                    "std": std or source.std,
                    "transform": str(transform),
                }
            per_shard = shard or _BATCHES_PER_SHARD * size
            rows = in_shards(
                len(source), per_shard, work, folder=folder, plan=plan, progress=progress, unreadable=unreadable
            )
    if not len(rows):
        unread = f"; {len(rows.skipped)} could not be read (the first: {rows.skipped[0]})" if rows.skipped else ""
        raise InputError(f"the data set has no images{unread}; give a data set with images")
    scored = label_map.scored(rows.outputs)
    numbers = tuple(map(str, range(rows.outputs)))
    classes = numbers if source.classes is None else source.classes
    if outputs is None:
        outputs = classes if len(classes) == rows.outputs else tuple(f"class {i}" for i in numbers)
    if len(outputs) != rows.outputs:
        raise InputError(f"{len(outputs)} names for {rows.outputs} outputs of the model; give one per output")
    return Results(
        model=name or type(unwrapped(model)).__name__,
        dataset=source.name,
        split=source.split,
        **evaluator.options,
        classes=classes,
        rows={**rows.columns, "correct": rows.columns["correct"] & scored},
        outputs=tuple(outputs),
        scored=scored,
        keys=rows.keys,
        skipped=rows.skipped,
        provenance={
            **plan,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "torch": torch.__version__,
            "device": str(used_device),
            "command": command_line(sys.argv),
        },
    )


class Evaluator:
    """Measures batches of images with one model, CAM method and set of options.

    The arguments are those of `evaluate`.

    Attributes:
        cam: the method.
        options: `method`, `layer`, `target`, `threshold`, `margin` and `tolerance`, as in results.

    Raises:
        InputError: an unknown method, layer or target, a number out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | MapMethod | MapFunction = "gradcam",
        layer: Layer | Sequence[Layer] | None = None,
        target: Target = "predicted",
        threshold: float = 0.5,
        margin: int = 0,
        tolerance: int = 0,
        keep_maps: bool = False,
    ) -> None:
        if target not in ("predicted", "label"):
            raise unknown("target", target, ("predicted", "label"))
        check_focus(threshold, margin, tolerance)
        self._model, self._target, self._keep_maps = model, target, keep_maps
        if isinstance(method, MapMethod):
            if layer is not None:
                raise InputError("the method is a MapMethod, which has its own layer; leave layer out")
            if unwrapped(method.model) is not unwrapped(model):
                raise InputError(f"the {type(method).__name__} is of another model; create one for this model")
            self.cam = method
        else:
            self.cam = create(method, model, layer)
        focus: dict[str, Any] = {"threshold": threshold, "margin": int(margin), "tolerance": int(tolerance)}
        self._measure: Callable[..., Measures] = partial(measure, **focus)
        self.options = {"method": method_name(method), "layer": self.cam.layer, "target": target, **focus}

    def measured(
        self, images: Tensor, labels: Tensor, targets: Tensor, regions: Tensor
    ) -> tuple[dict[str, Tensor], int]:
        """The columns of a batch, on the device of the maps, and the number of the model's outputs.

        Args:
            images: (B, 3, H, W), normalised for the model.
            labels: int64 (B,), classes of the data set; -1: none.
            targets: int64 (B,), the model's outputs for these labels; -1: none.
            regions: bool (B, H, W).
        """
        fuses = len(self.cam.layers) > 1  # at the size of the images
        maps = self.cam(images, targets if self._target == "label" else None, upsample=fuses)
        logits, explained = self.cam.logits, self.cam.classes
        assert logits is not None and explained is not None
        predicted, scores = predicted_classes(logits), class_logits(logits)
        columns = {
            "label": labels,
            "predicted": predicted,
            "explained": explained,
            "probability": scores.float().softmax(1).gather(1, explained[:, None])[:, 0],
            "correct": predicted == targets.to(predicted.device),
            **measure_columns(self._measure(maps, regions.to(maps.device))),
        }
        if self._keep_maps:
            columns[MAPS] = (255 * scaled(maps)).round().to(torch.uint8)
        return columns, scores.shape[1]

    def predicted(self, images: Tensor) -> Tensor:
        """The predicted outputs, int64 (B,), for images as in `measured`."""
        with eager_evaluation(self._model):
            images = checked_images(self._model, images)
            return predicted_classes(class_scores(self._model(images), images))


def measure_columns(measures: Measures) -> dict[str, Tensor]:
    """The measures and their curves as columns of rows."""
    curves = measures.curves
    return dict(measures.items()) | dict(zip(CURVES, (curves.inside, curves.outside, curves.beyond), strict=True))


class _LabelOutputs:
    """Maps the labels of a data set to outputs of the model."""

    def __init__(self, source: ImageDataset | _Batches, target: Target, label_outputs: Sequence[int] | None) -> None:
        self._classes, self._label_outputs = source.classes, label_outputs
        self._must_match = isinstance(source, InMemoryDataset) or target == "label"
        count = len(source.classes or ())
        if label_outputs is not None:
            if len(label_outputs) != count:
                raise InputError(
                    f"label_outputs has {len(label_outputs)} outputs for the {count} classes of {source.name}; give "
                    "one per class"
                )
            if min(label_outputs, default=0) < 0 <= max(label_outputs, default=0):
                raise InputError(
                    "label_outputs has -1 for some classes; leave their images out, or give -1 for all classes"
                )
        if target == "label" and source.labels is not None:
            unlabelled = int((self.targets(torch.tensor(np.asarray(source.labels))) < 0).sum())
            if unlabelled:
                raise InputError(
                    f"{unlabelled} of {len(source.labels)} images of {source.name} have no label that is an output of "
                    "the model; explain the predicted class instead (target)"
                )

    def targets(self, labels: Tensor) -> Tensor:
        """The outputs for labels (B,); -1: none."""
        if self._label_outputs is None:
            return labels.long()
        return torch.tensor([*self._label_outputs, -1], device=labels.device)[labels.long()]

    def check(self, outputs: int, labels: Tensor) -> None:
        """Raises InputError if the labels do not fit the model's number of outputs."""
        if self._classes is None:  # an iterable of batches
            low, high = int(labels.min()), int(labels.max())
            if low < -1 or high >= outputs:
                raise InputError(
                    f"labels from {low} to {high} for a model with {outputs} outputs; expected 0 to {outputs - 1}, or "
                    "-1 for none"
                )
        elif self._label_outputs is not None:
            if max(self._label_outputs, default=-1) >= outputs:
                raise InputError(
                    f"label_outputs has output {max(self._label_outputs)} for a model with {outputs} outputs; expected "
                    f"at most {outputs - 1}"
                )
        elif len(self._classes) != outputs and self._must_match:
            raise InputError(
                f"the model has {outputs} outputs, the data set {len(self._classes)} classes; expected the same number"
            )

    def scored(self, outputs: int) -> bool:
        """Whether labels are outputs, so that predictions can be right or wrong."""
        if self._label_outputs is not None:
            return any(output >= 0 for output in self._label_outputs)
        return self._classes is None or len(self._classes) == outputs


class _Batches:
    """An iterable of batches (images, labels, regions) with the interface of a data set."""

    classes = labels = None
    keys: tuple[str, ...] = ()
    has_masks = True

    def __init__(self, batches: Iterable[Sequence[Tensor]], mean: Channels | None, std: Channels | None) -> None:
        if mean is not None or std is not None:
            raise InputError("mean and std are for a data set, and batches are already normalised; leave them out")
        self._batches = batches
        self.name, self.split = str(getattr(batches, "name", "batches")), str(getattr(batches, "split", ""))

    def epoch(self) -> Iterator[Batch]:
        start = 0
        for batch in self._batches:
            images, labels, regions = _checked(batch)
            index = torch.arange(start, start + len(images))
            yield Batch(images, labels, index, len(images), regions)
            start += len(images)


def _checked(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(batch, Sequence) or len(batch) != 3 or not all(isinstance(part, Tensor) for part in batch):
        raise InputError("a batch is not three tensors; expected (images, labels, regions), or a data set")
    images, labels, regions = batch
    if not 0 < len(images) == len(labels) == len(regions) or labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"a batch has images {tuple(images.shape)}, labels {labels.dtype} {tuple(labels.shape)}, regions "
            f"{tuple(regions.shape)}; expected (B, 3, H, W), whole numbers (B,), (B, H, W), B at least 1"
        )
    return images, labels, regions


@contextmanager
def on_device(model: nn.Module, device: torch.device | str | None) -> Iterator[tuple[torch.device, torch.dtype]]:
    """Moves the model to a device inside the block; yields the device and dtype for its images."""
    tensors = [*model.parameters(), *model.buffers()]
    devices = {tensor.device for tensor in tensors}
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())
    original = next(iter(devices), torch.device("cpu"))
    try:
        target = original if device is None else torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; give cpu, cuda, cuda:0, mps, …") from None
    if target.type == original.type and target.index in (None, original.index):
        yield original, dtype
        return
    if len(devices) > 1:
        raise InputError(f"the model is on {len(devices)} devices and cannot be moved to {target}; leave device out")
    try:
        model.to(target)
        yield target, dtype
    finally:
        model.to(original)
