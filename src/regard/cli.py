"""The command line. Each command is a thin shell over functions that work without it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from regard.errors import InputError
from regard.version import __version__

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from regard.data import ImageSet
    from regard.training import RecipeParser, Run

USAGE = """usage: regard COMMAND [OPTIONS]

Attention in convolutional networks: train with it, transfer it, measure where it looks.

commands:
  demo      train, transfer and measure on the built-in data; ends in one report.html
  train     train the network of a recipe, with or without attention and a teacher
  evaluate  loss and accuracy of a run on its test images or on others
  bias      where networks look, against the regions of the objects: rates with intervals

`regard COMMAND --help` tells the options of a command. `regard --version` tells the version.
"""

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped when asked to, and can be resumed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; 0 done, 2 wrong input, 75 interrupted and resumable."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments[0] == "--version":
        print(f"regard {__version__}")
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {"demo": demo, "train": train, "evaluate": evaluate, "bias": bias}
    try:
        if arguments[0] not in commands:
            raise InputError(f"unknown command {arguments[0]!r}; known: {', '.join(commands)}")
        return commands[arguments[0]](arguments[1:])
    except InputError as error:
        print(f"regard: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("regard: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


# The imports inside the commands keep `regard --help` from waiting for torch.


def demo(arguments: list[str]) -> int:
    from regard.demo import run_demo
    from regard.training import RecipeParser

    parser = RecipeParser(prog="regard demo", description="Train, transfer and measure on the built-in data.")
    parser.add_argument("--folder", type=str, default="demo", help="where the runs and report.html go")
    parser.add_argument("--epochs", type=int, default=None, help="of every run; fewer are quicker and tell less")
    parser.add_argument("--seed", type=int, default=0, help="of every run")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--overwrite", action="store_true", help="remove what an earlier demo left in the folder")
    options = parser.parse_args(arguments)
    page = run_demo(
        options.folder, epochs=options.epochs, seed=options.seed, device=options.device, overwrite=options.overwrite
    )
    return INTERRUPTED if page is None else 0


def train(arguments: list[str]) -> int:
    from pathlib import Path

    from regard import training

    parser = training.RecipeParser(
        prog="regard train",
        usage="regard train [RECIPE.yaml] [OPTIONS]",
        description="Train the network of a recipe. Every field of it is an option here and overrides the file.",
    )
    parser.add_argument("--run", type=str, default=None, help="the run folder; runs/<recipe>-seed<seed> if not given")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that folder, if there is one")
    parser.add_argument("--overwrite", action="store_true", help="remove a run that is in that folder already")
    training.add_recipe(parser)
    path = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    options = parser.parse_args([*training.file_arguments(parser, path), *arguments])
    if path is None and options.resume and options.run is not None and Path(options.run).exists():
        stored = training.Run.open(options.run).folder / "recipe.yaml"
        options = parser.parse_args([*training.file_arguments(parser, stored), *arguments])
    recipe = training.to_recipe(parser, options)
    folder = options.run or f"runs/{Path(path).stem if path else recipe.model.name}-seed{recipe.seed}"
    outcome = training.train(
        recipe, folder, resume=options.resume, overwrite=options.overwrite, display=training.Lines()
    )
    if not outcome.finished:
        print(f"stopped and saved; `regard train --run {folder} --resume` goes on")
        return INTERRUPTED
    print(f"{folder}: test accuracy {outcome.test_accuracy:.2%} after the last epoch")
    return 0


def evaluate(arguments: list[str]) -> int:
    from regard import bias, data, training

    parser = training.RecipeParser(
        prog="regard evaluate",
        usage="regard evaluate RUN… [OPTIONS]",
        description="Accuracy of runs on the test images of their data, or of others with the same classes.",
    )
    for run, options, images in _runs_on_data(parser, arguments):
        device = training.pick_device(options.device)
        model = run.model(options.weights).to(device)
        score = training.evaluate(model, data.Batches(images, options.batch_size, device=device))
        low, high = bias.wilson(round(score.accuracy * score.images), score.images)
        print(
            f"{run.folder} ({options.weights}) on {images.name} {images.split}: accuracy {score.accuracy:.2%} "
            f"[{low:.2%}, {high:.2%}], loss {score.loss:.4f}, {score.images} images"
        )
    return 0


def bias(arguments: list[str]) -> int:
    from rich.console import Console

    from regard import bias as biases
    from regard import training

    parser = training.RecipeParser(
        prog="regard bias",
        usage="regard bias RUN… [OPTIONS]",
        description="Where networks look (Grad-CAM), against the regions of the objects. The report of each run is "
        "written to RUN/bias.json; several runs are compared with the first, image by image.",
    )
    parser.add_argument(
        "--layer", type=str, default=None, help="the layer whose map is taken; the last stage if not given"
    )
    parser.add_argument(
        "--target", choices=["predicted", "label"], default="predicted", help="the class that is explained"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="the focus is where the map, scaled to [0, 1], is this high"
    )
    reports = []
    for run, options, images in _runs_on_data(parser, arguments):
        report = biases.evaluate(
            run.model(options.weights),
            images,
            name=str(run.folder),
            layer=options.layer,
            target=options.target,
            threshold=options.threshold,
            batch_size=options.batch_size,
            device=training.pick_device(options.device),
        )
        path = run.folder / ("bias.json" if options.weights == "last" else f"bias-{options.weights}.json")
        report.save(path)
        print(f"\n{run.folder}: written to {path}")
        Console().print(report.table())
        reports.append((run, report))
    for run, report in reports[1:]:
        first_run, first = reports[0]
        print(f"\n{run.folder} against {first_run.folder}")
        for comparison in biases.compare(first, report):
            print(f"  {comparison.sentence}")
    return 0


def _runs_on_data(parser: RecipeParser, arguments: list[str]) -> Iterator[tuple[Run, Namespace, ImageSet]]:
    """The runs that the arguments begin with, each with the options and the test images it is to be tried on."""
    from regard import training

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
