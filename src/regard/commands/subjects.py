"""What the commands that try trained networks on images share: the networks, the images, and how they come together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import torch
from jsonargparse import Namespace
from torch import nn

from regard import data, training
from regard.data import Channels, Fit, ImageSet, Labelled, RegionSet
from regard.errors import InputError
from regard.training import RecipeParser, Run, Trained

_NAMED = ("split", "images", "region", "boundary", "limit")  # options of sets of image files


@dataclass(eq=False)
class Subject:
    """A trained network and the images it is tried on.

    Attributes:
        network: the network.
        name: what the person called it; no two subjects of a command have the same.
        images: the set.
        mean: of the channels, in [0, 1], subtracted from the images.
        std: the channels are divided by it.
        fit: how image files are resized and cropped; None for an `ImageSet`, whose images stay as they are.
        outputs: names of the network's outputs, "class 17" where they are not known.
        label_outputs: for each class of the set the output that stands for it, -1 where none does.
        device: where the network is.
        options: those of the command, with the data of this network.
    """

    network: Trained
    name: str
    images: ImageSet | RegionSet
    mean: Channels
    std: Channels
    fit: Fit | None
    outputs: tuple[str, ...]
    label_outputs: tuple[int, ...]
    device: torch.device
    options: Namespace

    @property
    def labelled(self) -> bool:
        """Whether labels of the images are outputs of the network, so that it can be right or wrong."""
        return any(output >= 0 for output in self.label_outputs)

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the set."""
        return self.images.classes

    @cached_property
    def model(self) -> nn.Module:
        """The network, in evaluation mode, on its device."""
        return self.network.model(self.options.weights).to(self.device)

    @property
    def layers(self) -> list[str] | str | None:
        """What --layer says, if the command has it; several have commas between them."""
        given = getattr(self.options, "layer", None)
        if given is None or "," not in given:
            return given
        return [name.strip() for name in given.split(",") if name.strip()]

    def release(self) -> None:
        """Forgets the model; it is made again when asked for."""
        self.__dict__.pop("model", None)

    def batches(self, places: Sequence[int] | None = None) -> Iterator[Labelled]:
        """The images at these places, None: all, in batches, on the device of the network."""
        options = self.options
        source = data.reading(
            self.images,
            options.batch_size,
            mean=self.mean,
            std=self.std,
            fit=self.fit,
            workers=options.workers,
            unreadable=options.unreadable,
        )
        return (batch for batch in source.read(places, self.device) if len(batch.images))


def add_subject_options(parser: RecipeParser) -> None:
    """Adds the options that say which images, and how they are worked on."""
    training.add_data(parser)
    (whole,) = (action for action in parser._actions if action.dest == "data")
    whole.metavar = "SET"  # see `_set_of_files`
    whole.help = (
        "the images: coco:FOLDER, imagenet:FOLDER, cub:, pets:, voc:, stl10:, masks: or folder:FOLDER, a folder or "
        "COCO file that shows which it is, or a set that is held whole, by name; of runs, those they were tested on"
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
    parser.add_argument("--batch_size", type=int | None, default=None, help="images at a time")
    parser.add_argument("--workers", type=int, default=2, help="processes that read image files; 0: none besides")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")


def subjects(
    parser: RecipeParser,
    arguments: list[str],
    *,
    regions: bool = False,
    labels: bool = False,
    say: Callable[[str], None] = print,
) -> list[Subject]:
    """The networks that the arguments begin with, each with the images it is to be tried on; all checked.

    Args:
        parser: with `add_subject_options`.
        arguments: of the command.
        regions: whether the images have to have regions.
        labels: whether their labels have to be outputs of the network.
        say: is told what is taken for granted.

    Raises:
        InputError: no network, one that cannot be opened, images that are not there or do not fit.
    """
    sources = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    files, overrides = _set_of_files(arguments[len(sources) :])
    if not sources:
        parser.parse_args(overrides)  # --help ends here
        raise InputError(
            "name the network right after the command: a run folder, an imported file, a timm name, torchvision/NAME"
        )
    twice = [source for source in sources if sources.count(source) > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice; name each network once")
    options = parser.parse_args(overrides)
    _check(options, files)
    networks = [training.open_trained(source) for source in sources]
    for network in networks:
        network.weights(options.weights)  # before hours of work
    opened: RegionSet | None = None
    if files is not None:
        given = {name: getattr(options, name) for name in _NAMED}
        opened = data.open_regions(files, **given)
    found = []
    known: dict[str, ImageSet] = {}  # networks trained on the same data share them
    for network in networks:
        if opened is None:
            own = parser.parse_args([*_own_data(network, parser, overrides, say), *overrides])
            _check(own, files)
            recipe = training.to_data(parser, own)
            key = repr(recipe)
            if key not in known:
                known[key] = training.load_data(recipe).test
            found.append(_subject(network, known[key], own, labels, say))
        else:
            found.append(_subject(network, opened, options, labels, say))
        images = found[-1].images
        if regions and (images.regions is None if isinstance(images, ImageSet) else not images.has_regions):
            raise InputError(f"the images of {images.name} have no regions; name a set that has (--data)")
    return found


def _set_of_files(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
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
        if value in data.names():
            others.append(f"--data.name={value}")
        else:
            where = value
    return where, others


def _check(options: Namespace, files: str | None) -> None:
    """Whether the options make sense; says what --batch_size is if it is not given."""
    if options.batch_size is None:
        options.batch_size = 32 if files is not None else 250
    if options.batch_size < 1:
        raise InputError(f"--batch_size {options.batch_size}; expected at least 1")
    if options.workers < 0:
        raise InputError(f"--workers {options.workers}; expected 0 or more")
    if files is None:
        given = [name for name in _NAMED if getattr(options, name) is not None]
        if given:
            raise InputError(f"--{given[0]} is for a set of image files; name it (--data coco:FOLDER, …)")


def _own_data(network: Trained, parser: RecipeParser, overrides: list[str], say: Callable[[str], None]) -> list[str]:
    """The arguments for the data that a network was trained on, as far as it knows them."""
    if isinstance(network, Run):
        return training.data_arguments(network.recipe.data)
    if not any(argument.startswith("--data.name") for argument in overrides):
        raise InputError(f"{network.source} does not know its data; name some (--data)")
    about = network.preprocessing
    own = []
    if about.mean is not None and about.std is not None:
        say(f"{network.source}: images are normalised with its own mean and standard deviation")
        own += [f"--data.mean={list(about.mean)}", f"--data.std={list(about.std)}"]
    if about.size is not None and parser.parse_args(overrides).data.name in ("folder", "cub", "scenes"):
        own.append(f"--data.size={about.size}")
    return own


def _subject(
    network: Trained, images: ImageSet | RegionSet, options: Namespace, labels: bool, say: Callable[[str], None]
) -> Subject:
    outputs = output_names(network)
    found = _label_outputs(network, outputs, images, labels, say)
    about = network.preprocessing
    if isinstance(images, ImageSet):
        fit, mean, std = None, images.mean, images.std
    else:
        given = training.Preprocessing(options.data.mean, options.data.std, options.data.size).over(about)
        fit = training.fit_of(given)
        if given.mean is None or given.std is None:
            raise InputError(
                f"{network.source} does not say how its images are normalised; say it (--data.mean, --data.std)"
            )
        mean, std = given.mean, given.std
    device = training.pick_device(options.device)
    return Subject(network, network.source, images, mean, std, fit, outputs, found, device, options)


def output_names(network: Trained) -> tuple[str, ...]:
    """The names of the network's outputs, "class 17" where they are not known."""
    if network.classes is not None:
        return network.classes
    count = network.class_count
    if count == training.described_classes(network.network.name) == len(training.imagenet_classes()):
        return training.imagenet_classes()
    return tuple(f"class {i}" for i in range(count))


def _label_outputs(
    network: Trained,
    outputs: tuple[str, ...],
    images: ImageSet | RegionSet,
    needed: bool,
    say: Callable[[str], None],
) -> tuple[int, ...]:
    """For each class of the set the output of the network that stands for it, -1 where none does."""
    classes = images.classes
    names = outputs
    if names == training.imagenet_classes() and set(classes) <= set(training.imagenet_synsets()):
        names = training.imagenet_synsets()
    places = {name: i for i, name in enumerate(names)}
    if classes and all(name in places for name in classes):
        return tuple(places[name] for name in classes)
    if network.classes is None and len(classes) == len(outputs):
        say(f"{network.source}: its {len(outputs)} classes have no names; taken for those of {images.name}, in order")
        return tuple(range(len(outputs)))
    if needed or isinstance(images, ImageSet):
        raise InputError(
            f"{network.source} was trained for {len(outputs)} classes ({', '.join(outputs[:3])}, …), and "
            f"{images.name} has {len(classes)} ({', '.join(classes[:3])}, …)"
        )
    say(
        f"{network.source}: the classes of {images.name} are no outputs of the network, so accuracy is not measured; "
        "maps are those of the predicted class"
    )
    return (-1,) * len(classes)
