"""`regard import`: converts a published checkpoint to a file that every other command takes."""

from __future__ import annotations

from pathlib import Path

from regard import training
from regard.cli.command import Command
from regard.cli.options import add_attention, attention_fields, make_parser
from regard.data.text_files import read_class_names
from regard.formatting import printable
from regard.parser import Parser

Channels = tuple[float, float, float]


def parser() -> Parser:
    parser = make_parser(
        "import",
        "Reads a checkpoint of one of the published repositories, or a state dict of the same network, and writes it "
        "as a file that every other command takes. Only tensors and plain containers are read.",
    )
    parser.add_argument("checkpoint", help="checkpoint file to read")
    parser.add_argument("--model", required=True, help="network of the checkpoint: a name of regard or timm")
    parser.add_argument("--out", required=True, help="file to write, .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that an earlier import wrote")
    add_attention(parser)
    parser.add_argument("--ema", action="store_true", help="use the moving average of weights, if the file has both")
    parser.add_argument("--num-classes", type=int, help="number of classes; read from the weights if not given")
    parser.add_argument("--class-names", metavar="FILE", help="file with one class name per line")
    parser.add_argument("--mean", type=Channels, help="mean of each channel, in [0, 1], to subtract")
    parser.add_argument("--std", type=Channels, help="value to divide each channel by")
    parser.add_argument("--image-size", type=int, help="side of the images in pixels")
    parser.add_argument("--crop-pct", type=float, help="crop size as a fraction of the resized shorter side")
    parser.add_argument("--interpolation", help="interpolation for resizing: bilinear, bicubic, …")
    return parser


def main(command: Command) -> None:
    options = command.options
    imported = training.import_weights(
        options.checkpoint,
        training.ModelRecipe(options.model, **attention_fields(options)),
        options.out,
        classes=options.num_classes,
        class_names=read_class_names(Path(options.class_names)) if options.class_names else None,
        preprocessing=training.Preprocessing(
            options.mean, options.std, options.image_size, options.crop_pct, None, options.interpolation
        ),
        overwrite=options.overwrite,
        ema=options.ema,
        log=command.note,
    )
    preprocessing = imported.preprocessing
    record = {
        "path": options.out,
        "sha256": training.sha256(Path(options.out)),
        "network": imported.network.name,
        "attention": imported.network.attention or "none",
        "gate": imported.network.gate if imported.network.attention else None,
        "classes": imported.class_count,
        "parameters": sum(p.numel() for p in imported.model().parameters()),
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "image_size": preprocessing.size,
    }
    lines = {name.replace("_", " "): value for name, value in record.items() if value is not None}
    command.show(record, *(f"{name:<11} {_text(value)}" for name, value in lines.items()))


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else printable(value)
