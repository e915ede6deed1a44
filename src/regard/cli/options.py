"""The parsers of the commands, and the options that several of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from regard.errors import InputError
from regard.parser import Parser, strings

MODELS = (
    "a run folder, a checkpoint in one, an imported .safetensors file, a name of timm or torchvision/NAME with its "
    "pretrained weights, or NAME=CHECKPOINT"
)
"""What a MODEL is, for help."""


def make_parser(command: str, description: str, *, epilog: str | None = None) -> Parser:
    """The parser of a command, with `--json` and `--quiet`.

    Args:
        command: its name.
        description: what it does, in sentences.
        epilog: examples.
    """
    parser = Parser(prog=f"regard {command}", description=description, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="print the results as JSON to standard output")
    parser.add_argument("--quiet", action="store_true", help="print no progress and no notes")
    return parser


def add_weights(parser: Parser, *, batch_size: int | None = None, workers: int = 2) -> None:
    """Adds the options that say which weights a network has, where it runs, and how images are read.

    Args:
        parser: of a command.
        batch_size: by default; None: 250 of images in memory, else 32.
        workers: by default.
    """
    add_saved_weights(parser)
    parser.add_argument(
        "--ema", action="store_true", help="take the moving average of the weights that NAME=CHECKPOINT holds as well"
    )
    add_device(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=batch_size,
        interval="[1, 2^24]",
        help="number of images per batch" + ("" if batch_size else "; 250 of images in memory and 32 of others"),
    )
    add_reading(parser, workers)


def add_saved_weights(parser: Parser) -> None:
    """Adds `--weights`."""
    parser.add_argument(
        "--weights", choices=["last", "best"], default="last", help="weights to take of a run: the last, or the best"
    )


def add_reading(parser: Parser, workers: int = 2) -> None:
    """Adds `--workers`, with this default, and `--unreadable`."""
    parser.add_argument(
        "--workers",
        type=int,
        default=workers,
        interval="[0, 1024]",
        help="number of DataLoader workers; 0 reads inline",
    )
    parser.add_argument(
        "--unreadable",
        choices=["error", "skip"],
        help="what to do with an image file that cannot be read: stop with an error, or skip and count it",
    )


def add_device(parser: Parser) -> None:
    """Adds `--device`."""
    parser.add_argument(
        "--device", default="auto", help="device to use: auto (a GPU if there is one), cpu, cuda, cuda:1, mps"
    )


def add_cam(parser: Parser) -> None:
    """Adds what CAM is taken, and what its focus is."""
    parser.add_argument(
        "--method", default="gradcam", help="CAM method to use: gradcam, layercam, …, or MODULE:FUNCTION"
    )
    parser.add_argument(
        "--layer",
        type=strings,
        help="layer to take the CAM of, or several, whose CAMs are merged; the last before pooling if not given",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="value from which on a CAM, scaled to [0, 1], is its focus"
    )


def add_attention(parser: Parser) -> None:
    """Adds the attention of a network by name, and its options."""
    parser.add_argument("--attention", help="attention module of the network")
    parser.add_argument("--gate", default="sigmoid", help="gate to use: sigmoid, sub-attention-1, …")
    add_attention_stages(parser)
    parser.add_argument(
        "--attention-options", type=dict[str, Any], default={}, help="options of the attention module: '{groups: 16}'"
    )
    parser.add_argument(
        "--attention-start",
        choices=["published", "identity"],
        help="how attention begins: published, or identity (with pretrained weights, if not given)",
    )
    parser.add_argument("--model-options", type=dict[str, Any], default={}, help="options of the network itself")


def add_attention_stages(parser: Parser) -> None:
    """Adds `--attention-stages`."""
    parser.add_argument(
        "--attention-stages", type=list[int], help="stages that have attention, counted from 1; all if not given"
    )


def attention_of(options: Namespace) -> dict[str, Any]:
    """What `add_attention` parsed, as fields of `training.ModelRecipe`."""
    names = ("attention", "gate", "attention_stages", "attention_options", "attention_start")
    return {name: options[name] for name in names} | {"options": options.model_options}


def check_place(out: str | None) -> None:
    """Raises InputError if a file cannot be written where it is to be."""
    if out and not Path(out).absolute().parent.is_dir():
        raise InputError(f"there is no folder {str(Path(out).parent)!r} to write {out} to")
