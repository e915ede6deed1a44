"""What a network makes of images: its likeliest classes, where it looks for each, and how that fits the region."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regard.bias import measure, scaled
from regard.data import Batch, Channels, ImageDataset, Transform, create_loader, denormalised
from regard.data.decode import OnUnreadable
from regard.errors import InputError
from regard.logits import class_logits
from regard.maps import MapMethod
from regard.report.sights import verdict

_MAPS = 256  # at a time


@dataclass(frozen=True)
class Scored:
    """An output of the network and its probability (softmax), 0 to 1."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Look:
    """Where the network looks for one class.

    Attributes:
        scored: the class.
        heat: the map, (H, W), 0 to 1.
        flat: whether the map says nothing (see `bias.measure`).
        measures: every measure of `bias.Measures` by name; None without a region.
    """

    scored: Scored
    heat: NDArray[np.float64]
    flat: bool
    measures: Mapping[str, float | bool] | None

    @property
    def verdict(self) -> str:
        """ "inside", "range bias", "position bias" or "no focus"; "" without a region and with a focus."""
        if self.measures is None:
            return verdict(True, False, False) if self.flat else ""
        return verdict(self.flat, bool(self.measures["position_bias"]), bool(self.measures["range_bias"]))


@dataclass(frozen=True)
class Explanation:
    """An image, as the network sees it, with what it makes of it.

    Attributes:
        place: in its set.
        key: what it is called there.
        pixels: uint8 (H, W, 3).
        region: bool (H, W), or None.
        predicted: the likeliest classes, the likeliest first.
        looks: one for each class that is explained.
        note: why there is no region although the set has some; or "".
    """

    place: int
    key: str
    pixels: NDArray[np.uint8]
    region: NDArray[np.bool_] | None
    predicted: tuple[Scored, ...]
    looks: tuple[Look, ...]
    note: str


@dataclass(frozen=True)
class Refusal:
    """An image that could not be read, and why; the reason names it."""

    place: int
    key: str
    reason: str


def check_counts(top: int, batch_size: int) -> None:
    """Raises InputError where these are below 1."""
    if top < 1 or batch_size < 1:
        raise InputError(f"top {top}, batch_size {batch_size}; expected 1 or more of each")


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
) -> Iterator[Explanation | Refusal]:
    """Explains images one after the other, in their order; a batch at a time is in memory.

    Args:
        method: of the maps, with its model.
        images: to explain.
        transform: how they are resized and cropped; without a size they are taken one by one, as large as they are.
        mean: subtracted from the channels, which are in [0, 1].
        std: the channels are divided by it.
        names: of the network's outputs.
        top: how many of the likeliest classes to name.
        classes: to explain in every image; none: the likeliest ones.
        threshold: of the focus; see `bias.measure`.
        batch_size: images at a time.
        workers: processes that read files; 0: this one.
        unreadable: on an image that cannot be read, "error", or "skip" it and give a `Refusal`.

    Raises:
        InputError: an image that cannot be read; a class or a number out of range.
    """
    check_counts(top, batch_size)
    parameter = next(method.model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    at_once = max(1, min(batch_size, _MAPS // (len(classes) or min(top, len(names)))))
    loader = create_loader(
        images,
        at_once if transform.size else 1,  # of unlike sizes
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
        found: dict[int, Explanation | Refusal] = {}
        unread = sorted(set(range(start, start + batch.total)) - set(batch.index.tolist()))
        for place, reason in zip(unread, batch.skipped, strict=True):
            found[place] = Refusal(place, images.keys[place], reason.removeprefix(f"{images.keys[place]}: "))
        start += batch.total
        if len(batch.images):
            if classes:
                maps = method(batch.images, torch.tensor(classes, device=device).expand(len(batch.images), -1))
            else:
                maps = method(batch.images, top=min(top, len(names)))
            assert method.logits is not None and method.classes is not None
            pixels = denormalised(batch.images, mean, std).permute(0, 2, 3, 1).cpu().numpy()
            given = _explained(batch, pixels, maps, method.logits, method.classes, images, names, top, threshold)
            found |= {explanation.place: explanation for explanation in given}
            explained += len(batch.images)
        yield from (found[place] for place in sorted(found))
    if not explained:
        raise InputError(
            f"not one of the {start} images can be read (the last: {batch.skipped[-1]}); give readable ones"
        )


def find_classes(asked: Sequence[str], names: Sequence[str], whose: str = "the network") -> tuple[int, ...]:
    """The places of classes given by name or by number; a name goes before a number, whatever its case.

    Args:
        asked: the classes.
        names: of all classes, in order.
        whose: what has them, for the error.

    Raises:
        InputError: there is no such class, or there are several of that name.
    """
    return tuple(dict.fromkeys(_class_index(one, names, whose) for one in asked))


def _class_index(asked: str, names: Sequence[str], whose: str) -> int:
    for alike in (lambda name: name == asked, lambda name: name.casefold() == asked.casefold()):
        places = [i for i, name in enumerate(names) if alike(name)]
        if len(places) > 1:
            raise InputError(f"classes {', '.join(map(str, places))} are all called {asked!r}; give one of the numbers")
        if places:
            return places[0]
    if asked.isdecimal() and int(asked) < len(names):
        return int(asked)
    near = [name for name in names if asked.casefold() in name.casefold()][:3] if asked else []
    near = near or difflib.get_close_matches(asked, names, n=3)
    hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    raise InputError(
        f"{whose} has no class {asked!r}{hint}; give the name of one of its {len(names)} classes, or a number from "
        f"0 to {len(names) - 1}"
    )


def _explained(
    batch: Batch,
    pixels: NDArray[np.uint8],
    maps: Tensor,
    logits: Tensor,
    classes: Tensor,
    images: ImageDataset,
    names: Sequence[str],
    top: int,
    threshold: float,
) -> Iterator[Explanation]:
    """The images of a batch, with maps (B, K, H, W) of classes (B, K)."""
    count, each = classes.shape
    probabilities = class_logits(logits).double().softmax(1).cpu()
    likeliest = probabilities.topk(min(top, len(names)), dim=1).indices.tolist()
    measures: dict[str, list[list[float | bool]]] = {}
    if batch.masks is not None:
        # Every map beside the region of its image, as if they were so many images.
        found = measure(maps.flatten(0, 1), batch.masks.repeat_interleave(each, 0), threshold)
        measures = {name: values.cpu().view(count, each).tolist() for name, values in found.items()}
    heats = scaled(maps.flatten(0, 1)).double().view(maps.shape).cpu().numpy()
    masks = None if batch.masks is None else batch.masks.cpu().numpy()

    def scored(i: int, index: int) -> Scored:
        return Scored(index, names[index], float(probabilities[i, index]))

    for i, place in enumerate(batch.index.tolist()):
        region = masks[i] if masks is not None and masks[i].any() else None
        looks = [
            Look(
                scored(i, index),
                heats[i, k],
                not heats[i, k].any(),
                None if region is None else {name: values[i][k] for name, values in measures.items()},
            )
            for k, index in enumerate(classes[i].tolist())
        ]
        predicted = tuple(scored(i, index) for index in likeliest[i])
        note = _note(images, place) if masks is not None and region is None else ""
        yield Explanation(place, images.keys[place], pixels[i], region, predicted, tuple(looks), note)


def _note(images: ImageDataset, place: int) -> str:
    region = images.mask(place)
    if region is not None and region.any():
        return "its region is cropped away or too small: no pixel of it is left in what the network sees"
    return "no region is given for it"
