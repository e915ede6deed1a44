"""What the commands that take trained networks share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from jsonargparse import Namespace

from regard import training
from regard.data import ImageSet
from regard.errors import InputError
from regard.training import RecipeParser, Run


def runs_on_data(parser: RecipeParser, arguments: list[str]) -> Iterator[tuple[Run, Namespace, ImageSet]]:
    """The runs that the arguments begin with, each with the options and the test images it is to be tried on."""
    training.add_data(parser)
    parser.add_argument(
        "--weights", choices=["last", "best"], default="last", help="after the last epoch, or of the best test"
    )
    parser.add_argument("--batch_size", type=int, default=250, help="images at a time")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    folders = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    overrides = arguments[len(folders) :]
    if not folders:
        parser.parse_args(overrides)  # --help ends here
        raise InputError("name the run folder, or several, right after the command")
    runs = [training.Run.open(folder) for folder in folders]
    for run in runs:
        run.weights(parser.parse_args(overrides).weights)  # before hours of work
    for run in runs:
        options = parser.parse_args([*training.data_arguments(run.recipe.data), *overrides])
        images = training.load_data(training.to_data(parser, options)).test
        if images.classes != run.classes:
            raise InputError(
                f"{run.folder} was trained for {len(run.classes)} classes ({', '.join(run.classes[:3])}, …), and "
                f"{images.name} has {len(images.classes)} ({', '.join(images.classes[:3])}, …)"
            )
        yield run, options, images
