"""What the commands that run trained networks on images share: the networks, the images, and how they meet."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch
from jsonargparse import Namespace
from torch import nn

from regard import data, terminal, training
from regard.cli.mismatches import tell_mismatches
from regard.data import Batch, Channels, ImageDataset, InMemoryDataset, Transform, WebDataset
from regard.data.decode import OnUnreadable
from regard.data.registry import SOURCES
from regard.errors import DataWarning, InputError, check_interval
from regard.formatting import counted
from regard.training import Preprocessing, Pretrained, RecipeParser

_OF_FILES = ("split", "images", "region", "boundary", "limit")  # options of data sets of image files


@dataclass(eq=False)
class Evaluation:
    """A trained network and the images that it is evaluated on.

    Attributes:
        pretrained: the network; no two of a command have the same `source`.
        images: the data set.
        mean: of the channels, in [0, 1], subtracted from the images.
        std: the channels are divided by it.
        transform: how images are resized and cropped; not at all where they come in one size of their own.
        unreadable: on an image that cannot be read, "error", or "skip" it.
        label_outputs: for each class of the data set the output that stands for it, -1 where none does.
        device: where the network is.
        options: those of the command, with the data of this network.
    """

    pretrained: Pretrained
    images: ImageDataset | WebDataset
    mean: Channels
    std: Channels
    transform: Transform
    unreadable: OnUnreadable
    label_outputs: tuple[int, ...]
    device: torch.device
    options: Namespace

    @property
    def name(self) -> str:
        """What the person called the network."""
        return self.pretrained.source

    @property
    def dataset(self) -> ImageDataset:
        """The images, if one can go back to each of them.

        Raises:
            InputError: they are read in their order only.
        """
        if isinstance(self.images, ImageDataset):
            return self.images
        raise InputError(
            f"the images of {self.images.name} are read in their order, and this command goes back to some; name a set "
            "of files (--data folder:FOLDER, imagenet:FOLDER, …)"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the data set."""
        return self.images.classes

    @cached_property
    def model(self) -> nn.Module:
        """The network, in evaluation mode, on its device."""
        return self.pretrained.model().to(self.device)

    @property
    def layers(self) -> list[str] | str | None:
        """What --layer says, if the command has it; several have commas between them."""
        given = getattr(self.options, "layer", None)
        return terminal.listed(given) if given is not None and "," in given else given

    def release(self) -> None:
        """Forgets the model; it is made again when asked for."""
        self.__dict__.pop("model", None)

    def loader(self, which: Sequence[int] | None = None, **options: Any) -> data.Loader:
        """The batches of the images, on the device of the network.

        Args:
            which: the indices of some images; None: all.
            options: others of `data.create_loader`.
        """
        return data.create_loader(
            self.images if which is None else self.images.subset(which),
            self.options.batch_size,
            transform=self.transform,
            mean=self.mean,
            std=self.std,
            workers=self.options.workers,
            unreadable=self.unreadable,
            device=self.device,
            **options,
        )

    def batches(self, which: Sequence[int] | None = None, *, masks: bool = False) -> Iterator[Batch]:
        """The batches of `loader` that have images; a warning tells of those that cannot be read.

        Raises:
            InputError: not one of them can be read.
        """
        if which is not None and not len(which):
            return
        unread: list[str] = []
        count = 0
        for batch in self.loader(which, masks=masks).epoch(0):
            unread += batch.skipped
            count += len(batch.images)
            if len(batch.images):
                yield batch
        if unread:
            if not count:
                raise InputError(
                    f"not one of the {len(unread)} images can be read (the first: {unread[0]}); give readable ones"
                )
            warnings.warn(
                f"{counted(len(unread), 'image')} left out, unreadable (the first: {unread[0]})",
                DataWarning,
                stacklevel=2,
            )


def add_evaluation_options(parser: RecipeParser) -> None:
    """Adds the options that say which images, and how they are worked on."""
    training.add_data(parser)
    (whole,) = (action for action in parser._actions if action.dest == "data")
    whole.metavar = "SET"  # see `_files_of`
    whole.help = (
        "the images: coco:FOLDER, imagenet:FOLDER, cub:, pets:, voc:, stl10:, masks: or folder:FOLDER, a folder or "
        "COCO file that shows which it is, or a data set by name; of runs, those they were tested on"
    )
    parser.add_argument("--split", type=str | None, default=None, help="of a set of files: train, val, test, …")
    parser.add_argument("--images", type=str | None, default=None, help="the folder of images, if it is elsewhere")
    parser.add_argument("--region", type=str | None, default=None, help="all objects, or those of the label alone")
    parser.add_argument("--boundary", type=str | None, default=None, help="whether borders count as inside or outside")
    parser.add_argument("--limit", type=int | None, default=None, help="take so many images, evenly spread")
    parser.add_argument("--unreadable", choices=["error", "skip"], default="error", help="files that cannot be read")
    parser.add_argument(
        "--weights", choices=["last", "best"], default="last", help="of a run, after the last epoch or the best test"
    )
    parser.add_argument(
        "--ema", action="store_true", help="of NAME=CHECKPOINT, take the moving average, where the file holds both"
    )
    parser.add_argument("--batch_size", type=int | None, default=None, help="images at a time")
    parser.add_argument("--workers", type=int, default=2, help="DataLoader workers; 0: none")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")


def evaluations(
    parser: RecipeParser,
    arguments: list[str],
    *,
    masks: bool = False,
    labels: bool = False,
    streams: bool = False,
    say: Callable[[str], None] = terminal.say,
) -> list[Evaluation]:
    """The networks that the arguments begin with, each with the images it is evaluated on; all checked.

    Args:
        parser: with `add_evaluation_options`.
        arguments: of the command.
        masks: whether the images have to have regions.
        labels: whether labels of the images have to be outputs of the network.
        streams: whether images that are read in their order only will do.
        say: is told what is assumed, and where images come otherwise than in training.

    Raises:
        InputError: no network, one that cannot be opened, images that are not there or do not fit.
    """
    sources = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    files, overrides = _files_of(arguments[len(sources) :])
    if not sources:
        parser.parse_args(overrides)  # --help ends here
        raise InputError(
            "name the network right after the command: a run folder, a checkpoint in one, an imported file, a timm "
            "name, torchvision/NAME"
        )
    twice = [source for source in sources if sources.count(source) > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice; name each network once")
    options = parser.parse_args(overrides)
    _check(options)
    networks = [training.load_pretrained(source, options.weights, ema=options.ema, say=say) for source in sources]
    if files is not None:
        opened = data.open_regions(files, **{name: getattr(options, name) for name in _OF_FILES})
        given = {name for name in Preprocessing.__dataclass_fields__ if _is_given(f"--data.{name}", overrides)}
        asked = Preprocessing(**{name: getattr(options.data, name) for name in given})
        found = [_on_files(network, opened, asked, options, labels, say) for network in networks]
    else:
        known: dict[str, ImageDataset | WebDataset] = {}  # networks trained on the same data share them
        found = [_on_a_set(network, known, parser, overrides, say) for network in networks]
    for one in found:
        if masks and not one.images.has_masks:
            raise InputError(f"the images of {one.images.name} have no regions; name a set that has (--data)")
        if not streams:
            _ = one.dataset
    return found


def _is_given(option: str, arguments: Sequence[str]) -> bool:
    return any(argument.partition("=")[0] == option for argument in arguments)


def _files_of(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """What --data says, if that is a set of files to be read one by one, and the other arguments."""
    where: str | None = None
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        name, given, value = argument.partition("=")
        if name != "--data":
            others.append(argument)
            continue
        if not given:
            value = next(left, "")
        if not value or value.startswith("-"):
            raise InputError("--data is followed by the set: coco:FOLDER, masks:FOLDER, clutter, …")
        # A folder may be called as a kind of data is.
        if value in SOURCES and (SOURCES[value].load is not None or not os.path.exists(value)):
            others.append(f"--data.name={value}")
        else:
            where = value
    return where, others


def _check(options: Namespace) -> None:
    """Raises InputError where the options make no sense, whatever the images."""
    if options.batch_size is not None:
        check_interval("--batch_size", options.batch_size, "[1, 2^24]")
    check_interval("--workers", options.workers, "[0, 1024]")
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit {options.limit}; expected at least 1")


def _own_data(network: Pretrained, parser: RecipeParser, overrides: list[str]) -> list[str]:
    """The arguments for the data that a network was trained on, as far as it knows them, or what it asks of others."""
    name = parser.parse_args(overrides).data.name if _is_given("--data.name", overrides) else None
    if network.recipe is not None:
        own = network.recipe.data
        if name in (None, own.name):
            fields = training.plain(replace(own, train_images=None))  # of the test images
            return training.field_arguments({f"data.{name}": value for name, value in fields.items()})
    elif name is None:
        raise InputError(f"{network.source} does not know its data; name some (--data)")
    about = network.preprocessing
    asked: dict[str, object] = {}
    if about.mean is not None and about.std is not None:
        asked |= {"mean": list(about.mean), "std": list(about.std)}
    if about.size is not None and SOURCES[name].takes_size:
        asked["size"] = about.size
        if data.is_streamed(name):
            asked |= {"crop_pct": about.crop_pct or 1.0, "interpolation": about.interpolation or "bilinear"}
    return [f"--data.{field}={value}" for field, value in asked.items()]


def _on_a_set(
    network: Pretrained,
    known: dict[str, ImageDataset | WebDataset],
    parser: RecipeParser,
    overrides: list[str],
    say: Callable[[str], None],
) -> Evaluation:
    """On a data set by name: one of those known, or a new one, which is known then."""
    own_data = [*_own_data(network, parser, overrides), f"--data.workers={parser.parse_args(overrides).workers}"]
    options = parser.parse_args([*own_data, *overrides])
    streamed = data.is_streamed(options.data.name)
    for name in _OF_FILES:
        if getattr(options, name) is not None and not (name == "limit" and streamed):
            raise InputError(f"--{name} is for a set of image files; name it (--data coco:FOLDER, …)")
    options.batch_size = options.batch_size or (32 if streamed else 250)
    recipe = training.to_data(parser, options)
    if options.unreadable == "skip":
        recipe = replace(recipe, unreadable="skip")
    if repr(recipe) not in known:
        images = training.load_data(recipe).test
        fewer = options.limit is not None and options.limit < len(images)
        known[repr(recipe)] = images.subset(options.limit) if fewer else images
    images = known[repr(recipe)]
    label_outputs = _label_outputs(network, images, True, say)
    assert images.mean is not None and images.std is not None
    seen = Preprocessing(images.mean, images.std)
    transform = training.make_transform(recipe)
    if isinstance(images, InMemoryDataset):
        height, width = images.images.shape[2:]
        seen = replace(seen, size=height if height == width else None)
        if SOURCES[recipe.name].takes_size and recipe.size is not None:
            seen = replace(seen, crop_pct=1.0, crop_mode="center", interpolation="bilinear")  # see `data.read_folder`
    elif transform.size is not None:
        seen = replace(seen, size=transform.size[0], crop_pct=transform.crop_pct, crop_mode="center")
        seen = replace(seen, interpolation=transform.interpolation)
    own = network.preprocessing
    if own.mean is None or own.std is None:
        say(f"note: {network.source} does not say how its images are normalised; they are as those of {images.name}")
    elif (own.mean, own.std) == (seen.mean, seen.std) and (
        network.recipe is None or network.recipe.data.name != recipe.name
    ):
        say(f"{network.source}: images are normalised with its own mean and standard deviation")
    tell_mismatches(network, seen, images.name, say)
    how = (images.mean, images.std, transform, recipe.unreadable)
    return Evaluation(network, images, *how, label_outputs, training.pick_device(options.device), options)


def _on_files(
    network: Pretrained,
    images: ImageDataset,
    asked: Preprocessing,
    options: Namespace,
    labels: bool,
    say: Callable[[str], None],
) -> Evaluation:
    """On image files, which come as the network knows them, but for what is asked."""
    options.batch_size = options.batch_size or 32
    label_outputs = _label_outputs(network, images, labels, say)
    seen = asked.over(network.preprocessing)
    if seen.mean is None or seen.std is None:
        raise InputError(
            f"{network.source} does not say how its images are normalised; say it (--data.mean, --data.std)"
        )
    tell_mismatches(network, seen, images.name, say)
    how = (seen.mean, seen.std, seen.transform(), options.unreadable)
    return Evaluation(network, images, *how, label_outputs, training.pick_device(options.device), options)


def _label_outputs(
    network: Pretrained, images: ImageDataset | WebDataset, needed: bool, say: Callable[[str], None]
) -> tuple[int, ...]:
    """For each class of the data set the output of the network that stands for it, -1 where none does."""
    classes, outputs = images.classes, network.output_names
    names = outputs
    if names == training.imagenet_classes() and set(classes) <= set(training.imagenet_synsets()):
        names = training.imagenet_synsets()
    if classes == names:
        return tuple(range(len(names)))
    once = {name for name, count in Counter(names).items() if count == 1}  # of two alike nobody knows which it is
    places = {name: i for i, name in enumerate(names) if name in once}
    if classes and all(name in places for name in classes):
        if len(classes) < len(names):
            say(
                f"note: {images.name} has {len(classes)} of the {len(names)} classes of {network.source}, which still "
                f"chooses among all {len(names)}"
            )
        return tuple(places[name] for name in classes)
    if network.classes is None and len(classes) == len(outputs):
        say(f"{network.source}: its {len(outputs)} classes have no names; taken for those of {images.name}, in order")
        return tuple(range(len(outputs)))
    if needed:
        if not classes:
            raise InputError(f"the images of {images.name} have no classes; name a set that has (--data)")
        raise InputError(
            f"{network.source} was trained for {len(outputs)} classes ({', '.join(outputs[:3])}, …), and "
            f"{images.name} has {len(classes)} ({', '.join(classes[:3])}, …)"
        )
    say(
        f"{network.source}: the classes of {images.name} are no outputs of the network, so accuracy is not measured; "
        "maps are those of the predicted class"
    )
    return (-1,) * len(classes)
