"""Checks that a run is resumed with the same recipe and the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from regard import data
from regard.errors import InputError, ReportedElsewhere, first_few
from regard.files import UNFINISHED, matching_files, remove_files
from regard.training.distributed import Processes
from regard.training.recipe import WHERE, Recipe, flat, plain
from regard.training.run import Run

Record = dict[str, Any]
"""For "train" and "test", the number of images per class (in shards: in total) and the fingerprint; for JSON."""


def make_record(splits: data.Splits, processes: Processes, *, accuracy: bool) -> Record:
    """Records the images of a run; independent of the process and of the location of the files.

    Notes unreadable images and, with `accuracy`, images of a single class. Raises InputError if the processes have
    different images.
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
    records = processes.of_all((classes, record))
    for rank, rank_record in enumerate(records[1:], start=1):
        if (difference := _difference(*rank_record, *records[0])) is not None:
            message = f"process {rank} has other images than process 0: {difference}; give all the same (data.folder)"
            raise InputError(message) if processes.main else ReportedElsewhere(message)
    if accuracy and len(counts) == len(classes) and np.count_nonzero(counts) == 1:
        name = classes[np.argmax(counts)]
        processes.note(f"note: all training images have one class, {name!r}, so accuracy is meaningless (data.folder)")
    return record


def _counts(images: data.ImageDataset | data.WebDataset) -> list[int]:
    """Number of images of each class; of shards, the total number."""
    if isinstance(images, data.WebDataset):
        return [len(images)]
    labels = images.labels.cpu().numpy()
    return np.bincount(labels[labels >= 0], minlength=len(images.classes)).tolist()


def _difference(classes: tuple[str, ...], record: Record, earlier_classes: tuple[str, ...], earlier: Any) -> str | None:
    """The first difference between two records of images and their class names; None if they are equal.

    Raises KeyError, TypeError or ValueError if the earlier record is malformed.
    """
    names, earlier_names = set(classes), set(earlier_classes)
    removed = [f"class {name!r} is missing" for name in earlier_classes if name not in names]
    added = [f"class {name!r} is new" for name in classes if name not in earlier_names]
    if removed or added:
        return ", ".join([*removed[:2], *added[:2]])
    if earlier_classes != classes:
        return "the classes are in another order"
    for split, kind in (("train", "training"), ("test", "test")):
        counts, earlier_counts = record[split]["images"], earlier[split]["images"]
        suffixes = [f" of class {name!r}" for name in classes] if len(counts) == len(classes) else [""]
        for suffix, count, earlier_count in zip(suffixes, counts, earlier_counts, strict=True):
            if count != earlier_count:
                return f"there are {count} {kind} images{suffix}, before {earlier_count}"
        if record[split]["fingerprint"] != earlier[split]["fingerprint"]:
            return f"{kind} images were replaced, renamed or moved"
    return None


def check_same_run(recipe: Recipe, run: Run, classes: tuple[str, ...], record: Record) -> None:
    """Raises InputError if a run has another recipe (more epochs are allowed) or other images."""
    folder, saved_recipe = run.folder, run.recipe
    remove_files(folder, matching_files(folder, [UNFINISHED, f"checkpoints/{UNFINISHED}"]))
    ignored = {*WHERE, "data.unreadable"}  # an image may have become unreadable since
    if _folder_names(recipe) == _folder_names(saved_recipe):  # the folder of the runs was moved
        ignored.add("transfer.teacher")
    if recipe.schedule.epochs > saved_recipe.schedule.epochs:
        ignored.add("schedule.epochs")
    fields, saved = flat(plain(recipe)), flat(plain(saved_recipe))
    changed = [name for name in fields if fields[name] != saved.get(name) and name not in ignored]
    if set(changed) <= {"data.mean", "data.std"}:  # computed from the images by default
        _check_same_images(run, classes, record)
    if changed:
        changes = ", ".join(f"{name} was {saved.get(name)!r} and is {fields[name]!r}" for name in changed[:3])
        raise InputError(
            f"{folder} cannot be resumed with another recipe: {changes}; undo this, or start again (--overwrite)"
        )


def _folder_names(recipe: Recipe) -> list[str]:
    return [Path(teacher).name for teacher in recipe.transfer.teachers]


def _check_same_images(run: Run, classes: tuple[str, ...], record: Record) -> None:
    """Raises InputError if the classes or images differ from those recorded in the run, or nothing is recorded."""
    saved_classes, saved_record = run.classes, run.environment.get("data")
    try:
        difference = _difference(classes, record, saved_classes, saved_record)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run.folder / 'environment.json'} does not list the images that the run was trained on; start again "
            "(--overwrite)"
        ) from error
    if difference is not None:
        raise InputError(
            f"{run.folder} cannot be resumed with other images: {difference}; restore them, or start again "
            "(--overwrite)"
        )
