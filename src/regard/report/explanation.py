"""Images explained: the likeliest classes of a network, and a CAM with measures for each."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from regard.bias.metrics import check_focus
from regard.data import Channels, ImageDataset, Transform, create_loader
from regard.data.decode import OnUnreadable
from regard.errors import InputError, check_interval
from regard.maps import MapMethod
from regard.report.gallery import Row, explain_batch

_CAMS = 256  # at a time


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read.

    Attributes:
        index: in its data set.
        key: its name there.
        reason: why; it names the image.
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
    """Explains images one after the other, in their order; one batch at a time is in memory.

    Args:
        method: of the CAMs, with its model.
        images: to explain.
        transform: how they are resized and cropped; without a size they are taken one by one, as large as they are.
        mean: subtracted from the channels, which are in [0, 1].
        std: the channels are divided by it.
        names: of the network's outputs.
        top: number of likeliest classes.
        classes: to explain in every image; empty: the likeliest ones.
        threshold: of the focus; see `bias.measure`.
        batch_size: images at a time.
        workers: DataLoader workers; 0: none.
        unreadable: on an image that cannot be read, "error", or "skip" it and give an `Unreadable`.

    Raises:
        InputError: an image that cannot be read; a class or a number out of range.
    """
    check_interval("top", top, "[1, 2^24]")
    check_interval("batch_size", batch_size, "[1, 2^24]")
    check_focus(threshold)
    if not len(images):
        raise InputError("no images given; expected at least one")
    parameter = next(method.model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    at_once = max(1, min(batch_size, _CAMS // (len(classes) or min(top, len(names)))))
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
        raise InputError(
            f"not one of the {start} images can be read (the last: {batch.skipped[-1]}); give readable ones"
        )


def find_classes(given: Sequence[str], names: Sequence[str], owner: str = "the network") -> tuple[int, ...]:
    """The indices of classes given by name, in any case, or by number; a name goes before a number.

    Args:
        given: the classes.
        names: of all classes, in order.
        owner: what has them, for the error.

    Raises:
        InputError: there is no such class, or there are several of that name.
    """
    return tuple(dict.fromkeys(_class_index(one, names, owner) for one in given))


def _class_index(given: str, names: Sequence[str], owner: str) -> int:
    same: tuple[Callable[[str], bool], ...]
    same = (lambda name: name == given, lambda name: name.casefold() == given.casefold())
    for alike in same:
        indices = [i for i, name in enumerate(names) if alike(name)]
        if len(indices) > 1:
            numbers = ", ".join(map(str, indices))
            raise InputError(f"classes {numbers} are all called {given!r}; give one of the numbers")
        if indices:
            return indices[0]
    if given.isdecimal() and int(given) < len(names):
        return int(given)
    near = [name for name in names if given.casefold() in name.casefold()][:3] if given else []
    near = near or difflib.get_close_matches(given, names, n=3)
    hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    raise InputError(
        f"{owner} has no class {given!r}{hint}; give the name of one of its {len(names)} classes, or a number from "
        f"0 to {len(names) - 1}"
    )
