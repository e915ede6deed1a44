"""`regard demo`: trains, corrects and measures networks on the built-in data."""

from __future__ import annotations

from pathlib import Path

from regard.cli.command import Command
from regard.cli.options import add_device, make_parser
from regard.demo import EPOCHS, run_demo
from regard.errors import INTERRUPTED
from regard.parser import Parser


def parser() -> Parser:
    parser = make_parser(
        "demo",
        "Trains a small network on the built-in data, whose background is a false cue, corrects it with the regions of "
        "a tenth of the images, transfers its attention to a smaller network, trains others with attention modules for "
        "comparison, measures where each network looks, and writes report.html. Downloads nothing.",
    )
    parser.add_argument("--out", default="demo", help="folder to write the runs and report.html to")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="number of epochs of every run")
    parser.add_argument("--seed", type=int, default=0, help="seed of every run")
    add_device(parser)
    parser.add_argument(
        "--quick", action="store_true", help="train one epoch on few images, to see within seconds that everything runs"
    )
    parser.add_argument("--overwrite", action="store_true", help="remove the runs of an earlier demo in the folder")
    return parser


def main(command: Command) -> int:
    options = command.options
    result = run_demo(
        options.out,
        epochs=options.epochs,
        seed=options.seed,
        device=options.device,
        quick=options.quick,
        overwrite=options.overwrite,
        console=command.console,
    )
    if result is None:
        return INTERRUPTED
    command.show(result.to_records(), result)
    command.note(f"page: {(Path(options.out) / 'report.html').resolve()}")
    return 0
