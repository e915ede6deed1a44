"""A model's maps over a whole data set."""

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
from regard.maps.registry import MapFunction, method_name
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
    """Measures every map of a data set against its region, and whether the class was right.

    One forward pass per batch, and a backward pass down to the layer of the maps; everything stays on the device but
    one row per image. Images are read as they are needed: memory does not grow with the data set, but for its list of
    files and 500 bytes per row (900 for images of more than 65,535 pixels). The model is afterwards as it was.

    With a `folder`, rows are kept there a shard at a time: an evaluation that was stopped goes on where it was, and
    under `torch.distributed` (`torchrun`) each process computes its slice of the shards. Batches are the same for any
    number of processes, so the numbers are.

    Args:
        model: maps images to class scores (N, classes).
        dataset: an `ImageDataset` with masks, or batches (images, labels, regions): floating point
            (B, 3, H, W), already normalised; whole numbers (B,), outputs of the model or -1; bool (B, H, W).
        method: a name of `maps.names()`, a `MapMethod` of the model, or a function of your own: called with the model,
            images (B, 3, H, W) and classes (B,), it gives maps (B, h, w).
        layer: for a method by name; None: the last spatial features.
        target: whose maps: of the "predicted" class, or of the "label", which every image then has to have.
        threshold: of the focus, above 0, at most 1.
        margin: of range bias, in pixels as the model sees them; see `measure`.
        tolerance: of the pointing game, likewise.
        batch_size: of a set; None: 250 for an `InMemoryDataset`, 32 for a `ImageDataset`.
        mean: of a set, by channel, with bytes 0 to 255 scaled to 0 to 1; None: that of the `InMemoryDataset`.
        std: likewise.
        transform: how the images of a set, and their regions with them, are resized and cropped; None: not at all.
        workers: DataLoader workers that read the images of a set; 0: they are read inline.
        unreadable: on an image of a set that cannot be read, "error", or "skip" it and name it in the results.
        outputs: names of the model's outputs; None: the classes of the set, if they are as many.
        label_outputs: for each class of the set the output that stands for it, or -1 for all: the results are then not
            scored. None: the classes are the outputs, in order; a set of files with another number of classes than the
            model has outputs is then not scored.
        device: where to work; the model is moved there and, at the end, back. None: where the model is.
        folder: where the shards are kept; it is the caller's to remove.
        shard: images of a shard; None: 8 batches.
        progress: called after every batch with the images done and the images in all (None where unknown); of several
            processes each counts its own.
        name: of the model in the results; None: that of its class.
        keep_maps: whether the rows hold the maps besides, as bytes, as large as the features, or, of several layers, as
            the images (`--keep-maps` of `regard bias`).
        interventions: whether to measure accuracy on the changed images of `bias.interventions`, too: six further
            forward passes.
        seed: of the backgrounds that images get there.

    Raises:
        InputError: a data set without regions or images, labels outside the model's classes, another number of classes
            than the model has outputs, an unknown method, target or device, a folder of another evaluation; and what
            the method and `measure` raise.
    """
    evaluator = Evaluator(model, method, layer, target, threshold, margin, tolerance, keep_maps)
    source = dataset if isinstance(dataset, ImageDataset) else _Batches(dataset, mean, std)
    if not source.has_masks:
        raise InputError(f"the {source.split} images of {source.name!r} have no regions; give a set that has")
    matching = _Matching(source, target, label_outputs)
    if isinstance(source, _Batches) and interventions:
        raise InputError("interventions go back to images of other classes, and batches come once; give a set")
    if isinstance(source, _Batches) and folder is not None:
        raise InputError("batches as they come cannot be kept in shards; give a set, or leave folder out")
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

        changed = Interventions(source, load, seed) if interventions and not isinstance(source, _Batches) else None

        def work(images: range | None, done: Callable[[int], None]) -> Rows:
            parts: list[dict[str, Tensor]] = []
            outputs = 0
            keys: list[str] = []
            skipped: list[str] = []
            batches = ((batch, ()) for batch in load(images)) if changed is None else changed.batches(images or ())
            for batch, variants in batches:
                if len(batch.images):
                    labels = batch.labels.to(used_device)
                    assert batch.masks is not None  # see has_masks above
                    regions = batch.masks.to(used_device)
                    targets = matching.targets(labels)
                    part, outputs = evaluator.measured(batch.images.to(used_device, dtype), labels, targets, regions)
                    matching.check(outputs, batch.labels)
                    if changed is not None and not matching.scored(outputs):
                        raise InputError(
                            f"interventions change accuracy, and the labels of {source.name} are not outputs of the "
                            "model; leave the interventions out"
                        )
                    for variant, pixels, known in variants:
                        right = evaluator.predicted(pixels.to(dtype)) == targets
                        part[variant] = torch.where(known & (targets >= 0), right.float(), torch.nan)
                    parts.append(part)
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
        raise InputError(f"the data set has no images{unread}; give one with at least one")
    scored = matching.scored(rows.outputs)
    numbers = tuple(map(str, range(rows.outputs)))
    classes = numbers if source.classes is None else source.classes
    if outputs is None:
        outputs = classes if len(classes) == rows.outputs else tuple(f"class {i}" for i in numbers)
    if len(outputs) != rows.outputs:
        raise InputError(f"{len(outputs)} names for {rows.outputs} outputs of the model; give one for each")
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
    """A model with its CAM method, and the options of the measures.

    Args:
        model: maps images to class scores (N, classes).
        method: the name of a method of `regard.maps`, a `MapMethod` of the model, or a function `(model, images,
            classes) -> maps`; see `maps.create`.
        layer: for a method by name; None: the last spatial features.
        target: class to explain: the "predicted" one, or the "label", where an image has one.
        threshold: of the focus, above 0, at most 1.
        margin: of range bias, in pixels; see `measure`.
        tolerance: of the pointing game, likewise.
        keep_maps: whether the columns have the maps besides.

    Attributes:
        method: the name of the method.
        layer: the names of its layers, joined by "+"; "" where the method has none.
        options: these two, `target`, `threshold`, `margin` and `tolerance`, as results record them.

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
                raise InputError("a layer is for a method by name; this one knows its layer: leave it out")
            if unwrapped(method.model) is not unwrapped(model):
                raise InputError(f"the {type(method).__name__} is of another model; make one of the model to evaluate")
            self._cam = method
        else:
            self._cam = create(method, model, layer)
        self.method = method_name(method)
        self.layer = self._cam.layer
        self._measure = partial(measure, threshold=threshold, margin=int(margin), tolerance=int(tolerance))
        self.options: dict[str, Any] = {
            **{"method": self.method, "layer": self.layer, "target": target},
            **{"threshold": threshold, "margin": int(margin), "tolerance": int(tolerance)},
        }

    def measured(
        self, images: Tensor, labels: Tensor, targets: Tensor, regions: Tensor
    ) -> tuple[dict[str, Tensor], int]:
        """The columns of a batch, on the device of the maps, and the number of the model's outputs.

        Args:
            images: (B, 3, H, W), as the model wants them.
            labels: int64 (B,), classes of the data set; -1: none.
            targets: int64 (B,), the outputs of the model that stand for them; -1: none.
            regions: bool (B, H, W).
        """
        several = len(self._cam.layers) > 1  # their maps are fused at the size of the images
        maps = self._cam(images, targets if self._target == "label" else None, upsample=several)
        logits, explained = self._cam.logits, self._cam.classes
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
        """The output with the highest score, int64 (B,), for images like those of `measured`."""
        with eager_evaluation(self._model):
            images = checked_images(self._model, images)
            return predicted_classes(class_scores(self._model(images), images))


def measure_columns(measures: Measures) -> dict[str, Tensor]:
    """The measures and their curves as columns."""
    curves = measures.curves
    return dict(measures.items()) | dict(zip(CURVES, (curves.inside, curves.outside, curves.beyond), strict=True))


class _Matching:
    """Which outputs of the model stand for the labels of a set."""

    def __init__(self, source: ImageDataset | _Batches, target: Target, label_outputs: Sequence[int] | None) -> None:
        self._classes, self._given = source.classes, label_outputs
        self._as_many = isinstance(source, InMemoryDataset) or target == "label"
        count = len(source.classes or ())
        if label_outputs is not None:
            if len(label_outputs) != count:
                raise InputError(
                    f"label_outputs names {len(label_outputs)} outputs for the {count} classes of {source.name}; give "
                    "one for each"
                )
            if min(label_outputs, default=0) < 0 <= max(label_outputs, default=0):
                raise InputError(
                    "label_outputs has -1 for some classes; leave their images out, or give -1 for all classes"
                )
        if target == "label" and source.labels is not None:
            without = int((self.targets(torch.tensor(np.asarray(source.labels))) < 0).sum())
            if without:
                raise InputError(
                    f"{without} of {len(source.labels)} images of {source.name} have no label that is an output of the "
                    "model; explain the predicted class instead (target)"
                )

    def targets(self, labels: Tensor) -> Tensor:
        """(B,), the outputs for these labels; -1: none."""
        if self._given is None:
            return labels.long()
        return torch.tensor([*self._given, -1], device=labels.device)[labels.long()]

    def check(self, outputs: int, labels: Tensor) -> None:
        """Raises InputError if labels and outputs cannot belong together."""
        if self._classes is None:  # batches as they come
            low, high = int(labels.min()), int(labels.max())
            if low < -1 or high >= outputs:
                raise InputError(
                    f"labels from {low} to {high} for a model with {outputs} outputs; expected 0 to {outputs - 1}, or "
                    "-1 for none"
                )
        elif self._given is not None:
            if max(self._given, default=-1) >= outputs:
                raise InputError(f"label_outputs names output {max(self._given)} of a model with {outputs}")
        elif len(self._classes) != outputs and self._as_many:
            raise InputError(
                f"the model has {outputs} outputs, the data set {len(self._classes)} classes; expected as many"
            )

    def scored(self, outputs: int) -> bool:
        """Whether labels are outputs, so that the model can be right or wrong."""
        if self._given is not None:
            return any(output >= 0 for output in self._given)
        return self._classes is None or len(self._classes) == outputs


class _Batches:
    """Batches (images, labels, regions) from anywhere."""

    classes = labels = None
    keys: tuple[str, ...] = ()
    has_masks = True

    def __init__(self, batches: Iterable[Sequence[Tensor]], mean: Channels | None, std: Channels | None) -> None:
        if mean is not None or std is not None:
            raise InputError("mean and std are for a set; batches come normalised: leave them out")
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
        raise InputError("a batch is not three tensors (images, labels, regions); give those, or a set")
    images, labels, regions = batch
    if not 0 < len(images) == len(labels) == len(regions) or labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"a batch has images {tuple(images.shape)}, labels {labels.dtype} {tuple(labels.shape)}, regions "
            f"{tuple(regions.shape)}; expected (B, 3, H, W), whole numbers (B,), (B, H, W), B at least 1"
        )
    return images, labels, regions


@contextmanager
def on_device(model: nn.Module, device: torch.device | str | None) -> Iterator[tuple[torch.device, torch.dtype]]:
    """Device and dtype that the images are to have; the model is on that device inside the block."""
    tensors = [*model.parameters(), *model.buffers()]
    homes = {tensor.device for tensor in tensors}
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())
    home = next(iter(homes), torch.device("cpu"))
    try:
        chosen = home if device is None else torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; give cpu, cuda, cuda:0, mps, …") from None
    if chosen.type == home.type and chosen.index in (None, home.index):
        yield home, dtype
        return
    if len(homes) > 1:
        raise InputError(f"the model is on {len(homes)} devices and cannot be moved to {chosen}; leave device out")
    try:
        model.to(chosen)
        yield chosen, dtype
    finally:
        model.to(home)
