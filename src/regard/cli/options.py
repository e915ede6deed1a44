"""The parsers of commands, and the options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from regard.errors import InputError
from regard.parser import Parser, strings

MODELS = (
    "a run folder, a checkpoint of a run, an imported .safetensors file, the timm name of a pretrained network, "
    "torchvision/NAME, or NAME=CHECKPOINT"
)
"""The values of a MODEL argument, for help texts."""


def make_parser(command: str, description: str, *, epilog: str | None = None) -> Parser:
    """Returns the parser of a command, with `--json` and `--quiet`."""
    parser = Parser(prog=f"regard {command}", description=description, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="print the results as JSON to standard output")
    parser.add_argument("--quiet", action="store_true", help="do not print progress and notes")
    return parser


def add_weights(parser: Parser, *, batch_size: int | None = None, workers: int = 2) -> None:
    """Adds the options for the weights of a network, its device and the loading of images, with these defaults."""
    add_saved_weights(parser)
    parser.add_argument("--ema", action="store_true", help="use the moving average of weights in NAME=CHECKPOINT")
    add_device(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=batch_size,
        interval="[1, 2^24]",
        help="number of images per batch"
        + ("" if batch_size else "; 250 for images in memory and 32 for others if not given"),
    )
    add_reading(parser, workers)


def add_saved_weights(parser: Parser) -> None:
    """Adds `--weights`."""
    parser.add_argument("--weights", choices=["last", "best"], default="last", help="weights of a run to use")


def add_reading(parser: Parser, workers: int = 2) -> None:
    """Adds `--workers`, with its default, and `--unreadable`."""
    parser.add_argument(
        "--workers",
        type=int,
        default=workers,
        interval="[0, 1024]",
        help="number of DataLoader workers; with 0 the main process loads the images",
    )
    parser.add_argument(
        "--unreadable",
        choices=["error", "skip"],
        help="what to do if an image file cannot be read: stop with an error, or skip and count it",
    )


def add_device(parser: Parser) -> None:
    """Adds `--device`."""
    parser.add_argument("--device", default="auto", help="device to use: auto (a GPU if any), cpu, cuda, cuda:1, mps")


def add_cam(parser: Parser) -> None:
    """Adds the options for the CAM method, its layer and the threshold of the focus."""
    parser.add_argument("--method", default="gradcam", help="CAM method: gradcam, layercam, …, or MODULE:FUNCTION")
    parser.add_argument(
        "--layer",
        type=strings,
        help="layer to compute the CAM at, or several, whose CAMs are merged; the last before pooling if not given",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="least value of a CAM, scaled to [0, 1], in its focus"
    )


def add_attention(parser: Parser) -> None:
    """Adds the options for the attention of a network named by MODEL, and for the network itself."""
    parser.add_argument("--attention", help="attention module to build into the network")
    parser.add_argument("--gate", default="sigmoid", help="gate to use: sigmoid, sub-attention-1, …")
    add_attention_stages(parser)
    parser.add_argument(
        "--attention-options",
        type=dict[str, Any],
        default={},
        help="options of the attention module, such as '{groups: 16}'",
    )
    parser.add_argument(
        "--attention-start",
        choices=["published", "identity"],
        help="initialisation of attention: published, or identity; identity for pretrained weights if not given",
    )
    parser.add_argument("--model-options", type=dict[str, Any], default={}, help="options of the network itself")


def add_attention_stages(parser: Parser) -> None:
    """Adds `--attention-stages`."""
    parser.add_argument("--attention-stages", type=list[int], help="stages with attention (first: 1); all if not given")


def attention_fields(options: Namespace) -> dict[str, Any]:
    """The options of `add_attention` as fields of `training.ModelRecipe`."""
    names = ("attention", "gate", "attention_stages", "attention_options", "attention_start")
    return {name: options[name] for name in names} | {"options": options.model_options}


def check_parent_folder(out: str | None) -> None:
    """Raises InputError if the folder of an output file does not exist."""
    if out and not Path(out).absolute().parent.is_dir():
        raise InputError(f"there is no folder {str(Path(out).parent)!r} to write {out} to")
