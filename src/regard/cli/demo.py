"""`regard demo`: everything at once, on the built-in data."""

from __future__ import annotations

from regard.demo import run_demo
from regard.errors import INTERRUPTED
from regard.training import RecipeParser


def main(arguments: list[str]) -> int:
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
