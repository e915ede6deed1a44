"""What the commands that take trained networks share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from jsonargparse import Namespace

from regard import training
from regard.data import ImageSet
from regard.errors import InputError
from regard.training import Imported, RecipeParser, Trained


def trained_on_data(parser: RecipeParser, arguments: list[str]) -> Iterator[tuple[Trained, Namespace, ImageSet]]:
    """The networks that the arguments begin with, each with the options and the test images it is to be tried on."""
    training.add_data(parser)
    parser.add_argument(
        "--weights", choices=["last", "best"], default="last", help="after the last epoch, or of the best test"
    )
    parser.add_argument("--batch_size", type=int, default=250, help="images at a time")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    sources = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    overrides = arguments[len(sources) :]
    if not sources:
        parser.parse_args(overrides)  # --help ends here
        raise InputError("name the run folder or imported file, or several, right after the command")
    networks = [training.open_trained(source) for source in sources]
    for network in networks:
        network.weights(parser.parse_args(overrides).weights)  # before hours of work
    for network in networks:
        options = parser.parse_args([*_own_data(network, parser, overrides), *overrides])
        images = training.load_data(training.to_data(parser, options)).test
        _check_classes(network, images)
        yield network, options, images


def _own_data(network: Trained, parser: RecipeParser, overrides: list[str]) -> list[str]:
    """The arguments for the data that a network was trained on, as far as it knows them."""
    if not isinstance(network, Imported):
        return training.data_arguments(network.recipe.data)
    if not any(argument.startswith("--data.name") for argument in overrides):
        raise InputError(f"{network.source} does not know its data; name some (--data.name)")
    about = network.preprocessing
    own = []
    if about.mean is not None and about.std is not None:
        print(f"{network.source}: images are normalised with its own mean and standard deviation")
        own += [f"--data.mean={list(about.mean)}", f"--data.std={list(about.std)}"]
    if about.size is not None and parser.parse_args(overrides).data.name == "folder":
        own.append(f"--data.size={about.size}")
    return own


def _check_classes(network: Trained, images: ImageSet) -> None:
    if network.classes == images.classes:
        return
    count, names = network.class_count, network.classes
    if names is None and count == len(images.classes):
        print(f"{network.source}: its {count} classes have no names; taken for those of {images.name}, in order")
        return
    known = "" if names is None else f" ({', '.join(names[:3])}, …)"
    raise InputError(
        f"{network.source} was trained for {count} classes{known}, and "
        f"{images.name} has {len(images.classes)} ({', '.join(images.classes[:3])}, …)"
    )
