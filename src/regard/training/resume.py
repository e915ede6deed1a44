"""Checks that a run is resumed with the same recipe and the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from regard import data
from regard.errors import InputError, ReportedElsewhere, first_few
from regard.files import UNFINISHED, remove_files, written_files
from regard.training.distributed import Processes
from regard.training.recipe import WHERE, Recipe, flat, plain
from regard.training.run import Run

Record = dict[str, Any]
"""For "train" and "test", the number of images per class (in shards: in total) and the fingerprint; for JSON."""


def make_record(splits: data.Splits, processes: Processes, *, accuracy: bool) -> Record:
    """The record of the images, which depends neither on the process nor on the location of the files.

    Notes unreadable images and, for tasks that measure `accuracy`, images of a single class.

    Raises:
        InputError: the processes have different images.
    """
    for images in splits:
        if images.skipped:
            count, names = len(images.skipped), first_few(images.skipped)
            processes.note(f"{count} unreadable {images.split} images skipped: {names}")
    record = {
        name: {"images": _counts(images), "fingerprint": images.fingerprint()}
        for name, images in zip(("train", "test"), splits, strict=True)
    }
    classes, counts = splits.train.classes, record["train"]["images"]
    (first, *others) = processes.of_all((classes, record))
    for rank, other in enumerate(others, start=1):
        if (differing := _difference(*other, *first)) is not None:
            message = f"process {rank} has other images than process 0: {differing}; give all the same (data.folder)"
            raise InputError(message) if processes.main else ReportedElsewhere(message)
    if accuracy and len(counts) == len(classes) and np.count_nonzero(counts) == 1:
        only = classes[np.argmax(counts)]
        processes.note(f"note: all training images have one class, {only!r}, so accuracy is meaningless (data.folder)")
    return record


def _counts(images: data.ImageDataset | data.WebDataset) -> list[int]:
    """The number of images of each class; in shards, the number of images."""
    if isinstance(images, data.WebDataset):
        return [len(images)]
    labels = images.labels.cpu().numpy()
    return np.bincount(labels[labels >= 0], minlength=len(images.classes)).tolist()


def _difference(classes: tuple[str, ...], record: Record, then: tuple[str, ...], recorded: Any) -> str | None:
    """The first difference between the images now and in a record; None if they are equal.

    Raises:
        KeyError, TypeError, ValueError: the record is malformed.
    """
    names, names_then = set(classes), set(then)
    gone = [f"class {name!r} is gone" for name in then if name not in names]
    new = [f"class {name!r} is new" for name in classes if name not in names_then]
    if gone or new:
        return ", ".join([*gone[:2], *new[:2]])
    if then != classes:
        return "the classes are in another order"
    for name, kind in (("train", "training"), ("test", "test")):
        before, now = recorded[name]["images"], record[name]["images"]
        labels = [f" of class {of_class!r}" for of_class in classes] if len(now) == len(classes) else [""]
        for of_class, earlier, current in zip(labels, before, now, strict=True):
            if earlier != current:
                return f"there are {current} {kind} images{of_class}, before {earlier}"
        if recorded[name]["fingerprint"] != record[name]["fingerprint"]:
            return f"{kind} images were replaced, renamed or moved"
    return None


def check_same_run(recipe: Recipe, run: Run, classes: tuple[str, ...], record: Record) -> None:
    """Raises InputError if a run has another recipe (it may have fewer epochs) or other images."""
    folder, before = run.folder, run.recipe
    remove_files(folder, written_files(folder, [UNFINISHED, f"checkpoints/{UNFINISHED}"]))
    ignored = {*WHERE, "data.unreadable"}  # an image became unreadable; a restored one would be another image
    if _folder_names(recipe) == _folder_names(before):  # the folder of the runs was moved
        ignored.add("transfer.teacher")
    if recipe.schedule.epochs > before.schedule.epochs:
        ignored.add("schedule.epochs")
    now, then = flat(plain(recipe)), flat(plain(before))
    differing = [name for name in now if now[name] != then.get(name) and name not in ignored]
    if set(differing) <= {"data.mean", "data.std"}:  # defaults, computed from the images
        _check_same_images(run, classes, record)
    if differing:
        changes = ", ".join(f"{name} was {then.get(name)!r} and is {now[name]!r}" for name in differing[:3])
        raise InputError(f"{folder} cannot be resumed with another recipe: {changes} (--overwrite starts anew)")


def _folder_names(recipe: Recipe) -> list[str]:
    return [Path(teacher).name for teacher in recipe.transfer.teachers]


def _check_same_images(run: Run, classes: tuple[str, ...], record: Record) -> None:
    """Raises InputError if classes or images differ from the record of a run, or the run has no record."""
    then, recorded = run.classes, run.environment.get("data")
    try:
        differing = _difference(classes, record, then, recorded)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run.folder / 'environment.json'} does not say which images the run was trained on; start anew "
            "(--overwrite)"
        ) from error
    if differing is not None:
        raise InputError(
            f"{run.folder} cannot be resumed with other images: {differing}; restore them, or start anew (--overwrite)"
        )
