"""Opens the networks and images that the command line names, and matches their classes and preprocessing."""

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

_FILE_SET_OPTIONS = ("split", "images", "region", "boundary", "limit")  # options of data sets of image files
_WEEK = 7 * 24 * 60.0  # minutes; some processes may have far more work left than others


def add_networks(parser: Parser) -> None:
    """Adds the positional MODEL, one or more, and the options for trained networks and their images."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"networks: {MODELS}")
    add_weights(parser)
    parser.add_argument("--split", help="split of the image files to use: train, val, test, …")
    parser.add_argument("--images", metavar="FOLDER", help="folder of the images, if not in that of the data set")
    parser.add_argument("--region", help="objects in the region: all, or label for only those of the image's class")
    parser.add_argument("--boundary", help="whether border pixels of an object count as inside or outside")
    parser.add_argument("--limit", type=int, interval="[1, 2^40]", help="number of images to use, spread evenly")
    training.add_data(
        parser,
        skip={"unreadable", "workers", "train_images"},
        help="images to use: KIND:FOLDER, with KIND coco, imagenet, cub, pets, voc, stl10, masks or folder; a folder "
        "or COCO file, whose kind is recognised; or a name as in --data.name; the test images of a run if not given",
    )


def open_networks(command: Command, sources: Sequence[str]) -> list[Pretrained]:
    """Opens trained networks with the weights that the options select; raises InputError for duplicates."""
    options = command.options
    if duplicates := [source for source, count in Counter(map(os.path.normpath, sources)).items() if count > 1]:
        raise InputError(f"{duplicates[0]} is named twice; name each network once")
    ema = options.get("ema", False)
    return [training.load_pretrained(source, options.weights, ema=ema, log=command.note) for source in sources]


def evaluations(
    command: Command,
    networks: Sequence[Pretrained],
    *,
    masks: bool = False,
    labels: bool = False,
    streams: bool = False,
    detector_hint: str = "give a classifier",
) -> list[ClassifierEvaluation]:
    """Returns each network with the images to evaluate it on, after checking both. Notes state assumptions.

    Args:
        command: a command with the options of `add_networks`.
        networks: the networks, see `open_networks`.
        masks: whether the images must have regions.
        labels: whether the labels of the images must be outputs of the network.
        streams: whether images that can only be read in order are allowed.
        detector_hint: what to do instead if a network is a detector.
    """
    for network in networks:
        network.check_classifier(detector_hint)
    typed = command.typed.get("data", Namespace())
    if "name" in typed and not _names_data_set(typed):
        images = data.open_regions(typed.name, **{name: command.options[name] for name in _FILE_SET_OPTIONS})
        fields = {name: value for name, value in vars(typed).items() if name in Preprocessing.__dataclass_fields__}
        result = [_on_files(command, network, images, Preprocessing(**fields), labels) for network in networks]
    else:
        sets: dict[str, ImageDataset | WebDataset] = {}  # shared by networks trained on the same data
        result = [_on_data_set(command, network, sets, typed.get("name")) for network in networks]
    for evaluation in result:
        if masks and not evaluation.images.has_masks:
            raise InputError(f"the images of {evaluation.images.name} have no regions; name a set that has (--data)")
        if not streams:
            _ = evaluation.dataset
    return result


def _names_data_set(typed: Namespace) -> bool:
    """Whether --data is the name of a data set; a folder with the name of a file format takes precedence."""
    source = SOURCES.get(typed.name)
    return source is not None and (source.load is not None or "folder" in typed or not os.path.exists(typed.name))


def _on_data_set(
    command: Command, network: Pretrained, sets: dict[str, ImageDataset | WebDataset], name: str | None
) -> ClassifierEvaluation:
    """The evaluation on a named data set, which is taken from `sets` or loaded and added to them."""
    options = command.options_over(_default_data(network, name))
    for option in _FILE_SET_OPTIONS:
        if options[option] is not None and not (option == "limit" and data.is_streamed(options.data.name)):
            raise InputError(f"--{option} is for a set of image files; name it (--data coco:FOLDER, …)")
    recipe = training.to_data(options, workers=options.workers, unreadable=options.unreadable or "error")
    if repr(recipe) not in sets:
        sets[repr(recipe)] = limit_images(training.load_data(recipe).test, options.limit)
    images = sets[repr(recipe)]
    label_outputs = match_outputs(command, network, images)
    assert images.mean is not None and images.std is not None
    expected, transform = network.preprocessing, training.make_transform(recipe)
    actual = Preprocessing(images.mean, images.std)
    if isinstance(images, InMemoryDataset):
        height, width = images.images.shape[2:]
        actual = replace(actual, size=height if height == width else None)
        if SOURCES[recipe.name].takes_size and recipe.size is not None:  # resized by `data.read_folder`
            actual = replace(actual, crop_pct=1.0, crop_mode="center", interpolation="bilinear")
    elif transform.size is not None:
        actual = replace(actual, size=transform.size[0], crop_pct=transform.crop_pct, crop_mode="center")
        actual = replace(actual, interpolation=transform.interpolation)
    if expected.mean is None or expected.std is None:
        command.note(f"note: the normalisation of {network.source} is not known; that of {images.name} is used")
    _note_differences(command, network, actual, images.name)
    return ClassifierEvaluation(network, images, label_outputs, options, images.mean, images.std, transform)


def on_unreadable(option: OnUnreadable | None, paths: Sequence[str]) -> OnUnreadable:
    """What to do with an unreadable image. By default it is an error if it is the only file, and otherwise skipped."""
    return option or ("error" if len(paths) == 1 and not Path(paths[0]).is_dir() else "skip")


def limit_images(images: Any, limit: int | None) -> Any:
    """At most `limit` of the images, spread evenly over the data set."""
    return images if limit is None or limit >= len(images) else images.subset(limit)


def _default_data(network: Pretrained, name: str | None) -> list[str]:
    """Arguments for the data that a network was trained on, or for its preprocessing on the data set `name`."""
    if network.recipe is not None and name in (None, network.recipe.data.name):
        fields = training.plain(network.recipe.data)
        for unused in ("train_images", "workers", "unreadable"):
            del fields[unused]
        return training.field_arguments({f"data.{field}": value for field, value in fields.items()})
    if name is None:
        raise InputError(f"the data of {network.source} are not known; name some (--data)")
    expected = network.preprocessing
    fields = {}
    if expected.mean is not None and expected.std is not None:
        fields |= {"mean": list(expected.mean), "std": list(expected.std)}
    if expected.size is not None and SOURCES[name].takes_size:
        fields["size"] = expected.size
        if data.is_streamed(name):
            fields |= {"crop_pct": expected.crop_pct or 1.0, "interpolation": expected.interpolation or "bilinear"}
    return [f"--data.{field}={value}" for field, value in fields.items()]


def _on_files(
    command: Command, network: Pretrained, images: ImageDataset, typed: Preprocessing, labels: bool
) -> ClassifierEvaluation:
    """The evaluation on image files, with the preprocessing of the network's training unless options change it."""
    label_outputs = match_outputs(command, network, images, required=labels)
    actual = typed.over(network.preprocessing)
    if actual.mean is None or actual.std is None:
        raise InputError(f"the normalisation of {network.source} is not known; give it (--data.mean, --data.std)")
    _note_differences(command, network, actual, images.name)
    return ClassifierEvaluation(
        network, images, label_outputs, command.options, actual.mean, actual.std, actual.transform()
    )


def _note_differences(command: Command, network: Pretrained, actual: Preprocessing, images: str) -> None:
    """Prints a note for each difference from the preprocessing in training, which may change the score."""
    for name in ("size", "mean", "std", "crop_pct", "crop_mode", "interpolation"):
        expected, value = getattr(network.preprocessing, name), getattr(actual, name)
        if expected is None or value is None:
            continue
        if expected != value if isinstance(expected, str) else not np.allclose(expected, value, rtol=0, atol=1e-6):
            before, now = (v if isinstance(v, str) else np.round(v, 4).tolist() for v in (expected, value))
            command.note(f"note: {network.source} was trained on images with {name} {before}; {images} has {now}")


def match_outputs(
    command: Command, network: Pretrained, images: ImageDataset | WebDataset, *, required: bool = True
) -> tuple[int, ...]:
    """The network's output for each class of the data set; -1, or an error if `required`, for classes without one."""
    classes, outputs = images.classes, network.output_names
    names = outputs
    if names == training.imagenet_classes() and set(classes) <= set(training.imagenet_synsets()):
        names = training.imagenet_synsets()
    if classes == names:
        return tuple(range(len(names)))
    counts = Counter(names)
    index = {name: i for i, name in enumerate(names) if counts[name] == 1}  # a name of two outputs is ambiguous
    if classes and all(name in index for name in classes):
        if len(classes) < len(names):
            command.note(
                f"note: {images.name} has {len(classes)} of the {len(names)} classes of {network.source}, which still "
                f"predicts among all {len(names)}"
            )
        return tuple(index[name] for name in classes)
    if network.classes is None and len(classes) == len(outputs):
        message = f"the {len(outputs)} classes of {network.source} have no names; assumed to be those of {images.name}"
        command.note(f"note: {message}")
        return tuple(range(len(outputs)))
    if required and not classes:
        raise InputError(f"the images of {images.name} have no classes; name a set that has (--data)")
    if required:
        raise InputError(
            f"{network.source} was trained for {len(outputs)} classes ({', '.join(outputs[:3])}, …), and "
            f"{images.name} has {len(classes)} ({', '.join(classes[:3])}, …)"
        )
    command.note(
        f"note: the classes of {images.name} are not outputs of {network.source}; accuracy is not measured, and CAMs "
        "are for the predicted class"
    )
    return (-1,) * len(classes)


def cam_method(name: str) -> str | maps.MapFunction:
    """The CAM method of `--method`: a name, or the function of MODULE:FUNCTION, which is imported.

    Only typed options are imported, never names read from a file.
    """
    module, _, function = name.partition(":")
    if not function:
        return name
    try:
        method = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        names = ", ".join(maps.names())
        raise InputError(f"method {name!r} cannot be imported: {first_line(error)}; known: {names}") from None
    if not callable(method):
        raise InputError(f"method {name!r} is a {type(method).__name__}; expected a function (model, images, classes)")
    return method


@contextmanager
def join_processes(command: Command) -> Iterator[Processes]:
    """Joins the processes that a launcher started, after checking that they have the same arguments."""
    with Processes("cpu", wait_minutes=_WEEK) as processes:  # communication on the CPU
        first, *others = processes.of_all(command.arguments)
        if any(other != first for other in others):
            message = f"{processes.count} processes were started together with different arguments; start each alone"
            raise InputError(message) if processes.main else ReportedElsewhere(message)
        yield processes
