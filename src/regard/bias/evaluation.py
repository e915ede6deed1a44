"""Where a model looks, over a whole data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regard import models
from regard.bias.looking import Looker, Mapper, Measured, Target
from regard.bias.report import Report
from regard.bias.rows import Rows
from regard.bias.shards import Shard, in_shards
from regard.data import Batch, Channels, ImageDataset, InMemoryDataset, Transform, create_loader
from regard.data.decode import OnUnreadable
from regard.data.loader import default_batch_size
from regard.errors import InputError, unknown
from regard.maps.layers import Layer, unwrapped
from regard.terminal import command_line
from regard.version import __version__

_BATCHES_A_SHARD = 8


def evaluate(
    model: nn.Module,
    dataset: ImageDataset | Iterable[Sequence[Tensor]],
    *,
    method: str | Mapper = "gradcam",
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
) -> Report:
    """Measures every map of a data set against its region, and whether the class was right.

    One forward and a backward down to the tapped layer a batch; everything stays on the device but one row an image.
    Images are read as they are needed: what is held does not grow with the set, but for its list of files and 80 bytes
    a row. The model is afterwards as it was.

    With a `folder`, rows are kept there a shard at a time: an evaluation that was stopped goes on where it was, and
    under `torch.distributed` (`torchrun`) each process takes its share of the shards. Batches are the same for any
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
        unreadable: on an image of a set that cannot be read, "error", or "skip" it and name it in the report.
        outputs: names of the model's outputs; None: the classes of the set, if they are as many.
        label_outputs: for each class of the set the output that stands for it, or -1 for all: the report is then not
            scored. None: the classes are the outputs, in order; a set of files with another number of classes than the
            model has outputs is then not scored.
        device: where to work; the model is moved there and, at the end, back. None: where the model is.
        folder: where the shards are kept; it is the caller's to remove.
        shard: images of a shard; None: 8 batches.
        progress: called after every batch with the images done and the images in all (None where unknown); of several
            processes each counts its own.
        name: of the model in the report; None: that of its class.

    Raises:
        InputError: a data set without regions or images, labels outside the model's classes, another number of classes
            than the model has outputs, an unknown method, target or device, a folder of another evaluation; and what
            the method and `measure` raise.
    """
    if target not in ("predicted", "label"):
        raise unknown("target", target, ("predicted", "label"))
    looker = Looker(model, method, layer, target, threshold, margin, tolerance)
    source = dataset if isinstance(dataset, ImageDataset) else _Given(dataset, mean, std)
    if not source.has_masks:
        raise InputError(f"the {source.split} images of {source.name!r} have no regions; give a set that has")
    as_many = isinstance(dataset, InMemoryDataset)  # it has to have a class for each output
    matching = _Matching(source, target, label_outputs, as_many)
    total = None if isinstance(source, _Given) else len(source)
    size, done = batch_size or default_batch_size(source), 0

    def progressed(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    with _working_place(model, device) as (place, dtype):

        def batches(images: range | None) -> Iterator[Batch]:
            if isinstance(source, _Given):
                return source.epoch()
            return create_loader(
                source if images is None else source.subset(images),
                size,
                transform=transform,
                device=place,
                mean=mean,
                std=std,
                workers=workers,
                unreadable=unreadable,
                masks=True,
            ).epoch(0)

        def key_of(index: int) -> str:
            return str(index) if isinstance(source, _Given) else source.keys[index]

        def work(images: range | None) -> Shard:
            parts: list[Measured] = []
            keys: list[str] = []
            skipped: list[str] = []
            for batch in batches(images):
                if len(batch.images):
                    labels = batch.labels.to(place)
                    assert batch.masks is not None  # as found above
                    regions = batch.masks.to(place)
                    part = looker.measured(batch.images.to(place, dtype), labels, matching.targets(labels), regions)
                    matching.check(part.outputs, batch.labels)
                    parts.append(part)
                    keys += [key_of(i if images is None else images[i]) for i in batch.index.tolist()]
                skipped += batch.skipped
                progressed(len(batch.images) + len(batch.skipped))
            columns = Measured.columns(parts)  # waits for the device
            return Shard(Rows(tuple(keys), columns), tuple(skipped), parts[0].outputs if parts else 0)

        settings: dict[str, Any] = {}
        if folder is not None:
            if isinstance(source, _Given):
                raise InputError("batches as they come cannot be kept in shards; give a set, or leave folder out")
            settings = {
                "regard": __version__,
                "weights": models.fingerprint(model),
                "method": looker.method,
                "layer": looker.layer,
                "target": target,
                "threshold": threshold,
                "margin": margin,
                "tolerance": tolerance,
                "label_outputs": label_outputs and list(label_outputs),
                "batch_size": size,
                "shard": shard,
                "data": source.fingerprint(),
                "mean": mean or source.mean,
                "std": std or source.std,
                "transform": str(transform),
            }
        if total is None:
            found = work(None)
        else:
            found = in_shards(
                total,
                shard or _BATCHES_A_SHARD * size,
                work,
                folder=None if folder is None else Path(folder),
                plan=settings,
                found=lambda places: progressed(len(places)),
            )
        if unreadable == "error" and found.skipped:  # in a shard that was there
            raise InputError(f"{found.skipped[0]}; replace it, or have such images skipped (--unreadable skip)")
    if not len(found.rows):
        unread = f"; {len(found.skipped)} could not be read (the first: {found.skipped[0]})" if found.skipped else ""
        raise InputError(f"the data set has no images{unread}; give one with at least one")
    rows = dict(found.rows.columns)
    scored = matching.scored(found.outputs)
    if not scored:
        rows["correct"] = np.zeros_like(rows["correct"])
    by_number = tuple(map(str, range(found.outputs)))
    classes = by_number if source.classes is None else source.classes
    if outputs is None:
        outputs = classes if len(classes) == found.outputs else tuple(f"class {i}" for i in by_number)
    if len(outputs) != found.outputs:
        raise InputError(f"{len(outputs)} names for {found.outputs} outputs of the model; give one for each")
    return Report(
        model=name or type(unwrapped(model)).__name__,
        dataset=source.name,
        split=source.split,
        method=looker.method,
        layer=looker.layer,
        target=target,
        threshold=threshold,
        margin=margin,
        tolerance=tolerance,
        classes=classes,
        rows=rows,
        outputs=tuple(outputs),
        scored=scored,
        keys=found.rows.keys,
        skipped=found.skipped,
        provenance={**settings, "torch": torch.__version__, "device": str(place), "command": command_line(sys.argv)},
    )


class _Matching:
    """Which outputs of the model stand for the labels of a set."""

    def __init__(
        self, source: ImageDataset | _Given, target: Target, label_outputs: Sequence[int] | None, as_many: bool
    ) -> None:
        self._source = source
        self._as_many = as_many
        self._given = label_outputs
        classes, labels = source.classes, source.labels
        if label_outputs is not None and len(label_outputs) != len(classes or ()):
            raise InputError(
                f"label_outputs names {len(label_outputs)} outputs for the {len(classes or ())} classes of "
                f"{source.name}; give one for each"
            )
        if label_outputs is not None and min(label_outputs, default=0) < 0 <= max(label_outputs, default=0):
            raise InputError(
                "label_outputs has -1 for some classes; leave their images out, or give -1 for all classes"
            )
        self._needed = target == "label"
        if self._needed and labels is not None:
            stand = np.asarray([*label_outputs, -1])[labels] if label_outputs is not None else labels
            if (stand < 0).any():
                raise InputError(
                    f"{int((stand < 0).sum())} of {len(labels)} images of {source.name} have no label that is an "
                    "output of the model; explain the predicted class instead (target)"
                )

    def targets(self, labels: Tensor) -> Tensor:
        """(B,), the outputs for these labels; -1: none."""
        if self._given is None:
            return labels.long()
        return torch.tensor([*self._given, -1], device=labels.device)[labels.long()]

    def check(self, outputs: int, labels: Tensor) -> None:
        """Raises InputError if labels and outputs cannot belong together."""
        classes = self._source.classes
        if classes is None:  # batches as they come
            low, high = int(labels.min()), int(labels.max())
            if low < -1 or high >= outputs:
                raise InputError(
                    f"labels from {low} to {high} for a model with {outputs} outputs; expected 0 to {outputs - 1}, or "
                    "-1 for none"
                )
        elif self._given is not None:
            if max(self._given, default=-1) >= outputs:
                raise InputError(f"label_outputs names output {max(self._given)} of a model with {outputs}")
        elif len(classes) != outputs and (self._as_many or self._needed):
            raise InputError(f"the model has {outputs} outputs, the data set {len(classes)} classes; expected as many")

    def scored(self, outputs: int) -> bool:
        """Whether labels are outputs, so that the model can be right or wrong."""
        if self._given is not None:
            return any(output >= 0 for output in self._given)
        return self._source.classes is None or len(self._source.classes) == outputs


class _Given:
    """Batches (images, labels, regions) from anywhere."""

    classes = labels = None
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
