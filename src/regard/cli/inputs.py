"""Opens the networks and images that are named on the command line, and matches their classes and preprocessing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace

from regard import data, maps, training
from regard.cli.command import Command
from regard.cli.evaluation import ClassifierEvaluation
from regard.cli.options import MODELS, add_weights
from regard.data import ImageDataset, InMemoryDataset, WebDataset
from regard.data.decode import OnUnreadable
from regard.data.registry import SOURCES
from regard.errors import InputError, ReportedElsewhere, first_line
from regard.parser import Parser
from regard.training import Preprocessing, Pretrained, Processes

_OF_FILES = ("split", "images", "region", "boundary", "limit")  # options of data sets of image files
_WEEK = 7 * 24 * 60.0  # minutes: one process may have far more left to do than the others


def add_networks(parser: Parser) -> None:
    """Adds the positional MODEL, one or more, and the options of trained networks and their images."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"networks: {MODELS}")
    add_weights(parser)
    parser.add_argument("--split", help="split to take of a set of files: train, val, test, …")
    parser.add_argument("--images", metavar="FOLDER", help="folder to take the images from, if elsewhere")
    parser.add_argument(
        "--region", help="objects that make up the region: all, or label for those of the image's label alone"
    )
    parser.add_argument("--boundary", help="whether pixels on the border of an object count as inside or outside")
    parser.add_argument(
        "--limit", type=int, interval="[1, 2^40]", help="number of images to take, spread evenly over the set"
    )
    training.add_data(
        parser,
        skip={"unreadable", "workers", "train_images"},
        help="images to take: KIND:FOLDER, with KIND coco, imagenet, cub, pets, voc, stl10, masks or folder; a folder "
        "or COCO file whose kind is plain; or a name as in --data.name. For runs, the images that they were tested on "
        "if not given",
    )


def open_networks(command: Command, sources: Sequence[str]) -> list[Pretrained]:
    """The trained networks of these names, with the weights that the options say.

    Raises:
        InputError: a network is named twice, or cannot be opened.
    """
    options = command.options
    if twice := [source for source, count in Counter(sources).items() if count > 1]:
        raise InputError(f"{twice[0]} is named twice; name each network once")
    ema = options.get("ema", False)
    return [training.load_pretrained(source, options.weights, ema=ema, say=command.note) for source in sources]


def evaluations(
    command: Command,
    networks: Sequence[Pretrained],
    *,
    masks: bool = False,
    labels: bool = False,
    streams: bool = False,
    detectors: str = "give a classifier",
) -> list[ClassifierEvaluation]:
    """Each network with the images it is evaluated on; all checked. Notes say what is assumed.

    Args:
        command: with the options of `add_networks`.
        networks: see `open_networks`.
        masks: whether the images have to have regions.
        labels: whether labels of the images have to be outputs of the network.
        streams: whether images that can be read in their order only will do.
        detectors: what to do with a detector instead.

    Raises:
        InputError: images that are not there or do not fit, or a network that is a detector.
    """
    for network in networks:
        network.check_classifier(detectors)
    given = command.given.get("data", Namespace())
    if "name" in given and not _is_name(given):
        images = data.open_regions(given.name, **{name: command.options[name] for name in _OF_FILES})
        known = {name: value for name, value in vars(given).items() if name in Preprocessing.__dataclass_fields__}
        opened = [_on_files(command, network, images, Preprocessing(**known), labels) for network in networks]
    else:
        sets: dict[str, ImageDataset | WebDataset] = {}  # networks trained on the same data share them
        opened = [_on_a_set(command, network, sets, given.get("name")) for network in networks]
    for one in opened:
        if masks and not one.images.has_masks:
            raise InputError(f"the images of {one.images.name} have no regions; name a set that has (--data)")
        if not streams:
            _ = one.dataset
    return opened


def _is_name(given: Namespace) -> bool:
    """Whether the data are a set by name; a folder may be called as a kind of data is."""
    source = SOURCES.get(given.name)
    return source is not None and (source.load is not None or "folder" in given or not os.path.exists(given.name))


def _on_a_set(
    command: Command, network: Pretrained, sets: dict[str, ImageDataset | WebDataset], name: str | None
) -> ClassifierEvaluation:
    """On a data set by name: one of `sets`, or a new one, which is added."""
    options = command.over(_known_data(network, name))
    for option in _OF_FILES:
        if options[option] is not None and not (option == "limit" and data.is_streamed(options.data.name)):
            raise InputError(f"--{option} is for a set of image files; name it (--data coco:FOLDER, …)")
    recipe = training.to_data(options, workers=options.workers, unreadable=options.unreadable or "error")
    if repr(recipe) not in sets:
        sets[repr(recipe)] = limited(training.load_data(recipe).test, options.limit)
    images = sets[repr(recipe)]
    label_outputs = match_outputs(command, network, images)
    assert images.mean is not None and images.std is not None
    known, transform = network.preprocessing, training.make_transform(recipe)
    actual = Preprocessing(images.mean, images.std)
    if isinstance(images, InMemoryDataset):
        height, width = images.images.shape[2:]
        actual = replace(actual, size=height if height == width else None)
        if SOURCES[recipe.name].takes_size and recipe.size is not None:  # as `data.read_folder` resizes
            actual = replace(actual, crop_pct=1.0, crop_mode="center", interpolation="bilinear")
    elif transform.size is not None:
        actual = replace(actual, size=transform.size[0], crop_pct=transform.crop_pct, crop_mode="center")
        actual = replace(actual, interpolation=transform.interpolation)
    if known.mean is None or known.std is None:
        message = f"{network.source} does not say how its images are normalised; they are as those of {images.name}"
        command.note(f"note: {message}")
    _compare(command, network, actual, images.name)
    return ClassifierEvaluation(network, images, label_outputs, options, images.mean, images.std, transform)


def on_unreadable(option: OnUnreadable | None, paths: Sequence[str]) -> OnUnreadable:
    """What to do with an image that cannot be read: if not said, an error for a single file, else it is skipped."""
    return option or ("error" if len(paths) == 1 and not Path(paths[0]).is_dir() else "skip")


def limited(images: Any, limit: int | None) -> Any:
    """So many of the images, spread evenly over the set; all if they are no more."""
    return images if limit is None or limit >= len(images) else images.subset(limit)


def _known_data(network: Pretrained, name: str | None) -> list[str]:
    """The arguments for the data that a network was trained on, or what it needs of the data set `name`."""
    if network.recipe is not None and name in (None, network.recipe.data.name):
        fields = training.plain(network.recipe.data)
        for unused in ("train_images", "workers", "unreadable"):
            del fields[unused]
        return training.field_arguments({f"data.{field}": value for field, value in fields.items()})
    if name is None:
        raise InputError(f"{network.source} does not know its data; name some (--data)")
    known = network.preprocessing
    fields = {}
    if known.mean is not None and known.std is not None:
        fields |= {"mean": list(known.mean), "std": list(known.std)}
    if known.size is not None and SOURCES[name].takes_size:
        fields["size"] = known.size
        if data.is_streamed(name):
            fields |= {"crop_pct": known.crop_pct or 1.0, "interpolation": known.interpolation or "bilinear"}
    return [f"--data.{field}={value}" for field, value in fields.items()]


def _on_files(
    command: Command, network: Pretrained, images: ImageDataset, given: Preprocessing, labels: bool
) -> ClassifierEvaluation:
    """On image files, which come as the network knows them, unless something else is given."""
    label_outputs = match_outputs(command, network, images, needed=labels)
    actual = given.over(network.preprocessing)
    if actual.mean is None or actual.std is None:
        raise InputError(
            f"{network.source} does not say how its images are normalised; say it (--data.mean, --data.std)"
        )
    _compare(command, network, actual, images.name)
    how = (actual.mean, actual.std, actual.transform())
    return ClassifierEvaluation(network, images, label_outputs, command.options, *how)


def _compare(command: Command, network: Pretrained, actual: Preprocessing, images: str) -> None:
    """Notes where images come to a network otherwise than in its training, so that a score is not taken for its own."""
    for name in ("size", "mean", "std", "crop_pct", "crop_mode", "interpolation"):
        known, given = getattr(network.preprocessing, name), getattr(actual, name)
        if known is None or given is None:
            continue
        if known != given if isinstance(known, str) else not np.allclose(known, given, rtol=0, atol=1e-6):
            values = [one if isinstance(one, str) else np.round(one, 4).tolist() for one in (known, given)]
            message = f"{network.source} was trained on images with {name} {values[0]}; {images} has {values[1]}"
            command.note(f"note: {message}")


def match_outputs(
    command: Command, network: Pretrained, images: ImageDataset | WebDataset, *, needed: bool = True
) -> tuple[int, ...]:
    """For each class of the data set the output of the network that stands for it, -1 where none does.

    Raises:
        InputError: outputs are `needed`, and none does.
    """
    classes, outputs = images.classes, network.output_names
    names = outputs
    if names == training.imagenet_classes() and set(classes) <= set(training.imagenet_synsets()):
        names = training.imagenet_synsets()
    if classes == names:
        return tuple(range(len(names)))
    once = {name for name, count in Counter(names).items() if count == 1}  # of two alike nobody knows which it is
    index = {name: i for i, name in enumerate(names) if name in once}
    if classes and all(name in index for name in classes):
        if len(classes) < len(names):
            command.note(
                f"note: {images.name} has {len(classes)} of the {len(names)} classes of {network.source}, which still "
                f"chooses among all {len(names)}"
            )
        return tuple(index[name] for name in classes)
    if network.classes is None and len(classes) == len(outputs):
        message = f"the {len(outputs)} classes of {network.source} have no names; taken for those of {images.name}"
        command.note(f"note: {message}")
        return tuple(range(len(outputs)))
    if needed and not classes:
        raise InputError(f"the images of {images.name} have no classes; name a set that has (--data)")
    if needed:
        raise InputError(
            f"{network.source} was trained for {len(outputs)} classes ({', '.join(outputs[:3])}, …), and "
            f"{images.name} has {len(classes)} ({', '.join(classes[:3])}, …)"
        )
    command.note(
        f"note: the classes of {images.name} are no outputs of {network.source}; accuracy is not measured, and CAMs "
        "are those of the predicted class"
    )
    return (-1,) * len(classes)


def cam_method(name: str) -> str | maps.MapFunction:
    """The CAM method of an option: a name, or the function of MODULE:FUNCTION.

    Only what is typed is imported: what a file names, such as a run's bias.json, is a name of `maps.names()`.

    Raises:
        InputError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    if not function:
        return name
    try:
        method = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        known = ", ".join(maps.names())
        raise InputError(f"method {name!r} cannot be imported: {first_line(error)}; known: {known}") from None
    if not callable(method):
        raise InputError(f"method {name!r} is a {type(method).__name__}; expected a function (model, images, classes)")
    return method


@contextmanager
def joined(command: Command) -> Iterator[Processes]:
    """Joins the processes that a launcher started, each with its own GPU if there are any; without one there is one.

    Raises:
        InputError: the processes have other arguments, or one is gone.
    """
    with Processes("cpu", wait_minutes=_WEEK) as processes:  # they talk to one another on processors
        first, *others = processes.of_all(command.arguments)
        if any(other != first for other in others):
            message = f"{processes.count} processes were started together with different arguments; start each alone"
            raise InputError(message) if processes.main else ReportedElsewhere(message)
        yield processes
