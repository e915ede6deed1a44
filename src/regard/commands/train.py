"""`regard train`: the network of a recipe."""

from __future__ import annotations

from pathlib import Path

from regard import training
from regard.commands.status import INTERRUPTED


def main(arguments: list[str]) -> int:
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
