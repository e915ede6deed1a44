"""`regard import`: a checkpoint from elsewhere as a file that every other command takes."""

from __future__ import annotations

from pathlib import Path

from regard import training
from regard.cli.networks import add_attention, to_network
from regard.data.text_files import read_class_names
from regard.errors import InputError
from regard.terminal import say

Channels = tuple[float, float, float]


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard import",
        usage="regard import CHECKPOINT --model NAME --out FILE.safetensors [OPTIONS]",
        description="Reads a checkpoint of one of the published codes, or a state dict of the same network, and writes "
        "it as a file that every other command takes. Nothing but tensors and plain containers is read.",
    )
    parser.add_argument("--model", type=str, required=True, help="the network, by a name of regard or timm")
    add_attention(parser)
    parser.add_argument(
        "--ema", action="store_true", help="take the moving average of the weights, where the file holds both"
    )
    parser.add_argument("--classes", type=int | None, default=None, help="how many; counted if not given")
    parser.add_argument("--class_names", type=str | None, default=None, help="a file with the name of a class a line")
    parser.add_argument("--mean", type=Channels | None, default=None, help="subtracted from the channels, in [0, 1]")
    parser.add_argument("--std", type=Channels | None, default=None, help="the channels are divided by it")
    parser.add_argument("--size", type=int | None, default=None, help="side of the images in pixels")
    parser.add_argument(
        "--crop_pct", type=float | None, default=None, help="share of the resized image's shorter side left by the crop"
    )
    parser.add_argument("--interpolation", type=str | None, default=None, help="of the resizing, as timm calls it")
    parser.add_argument("--out", type=str, required=True, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that an earlier import wrote")
    checkpoint = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if checkpoint is None and not {"-h", "--help"} & set(arguments):
        raise InputError("name the checkpoint right after the command")
    options = parser.parse_args(arguments[1:] if checkpoint else arguments)
    assert checkpoint is not None  # --help ends before
    imported = training.import_weights(
        checkpoint,
        to_network(options.model, options),
        options.out,
        classes=options.classes,
        class_names=read_class_names(Path(options.class_names)) if options.class_names else None,
        preprocessing=training.Preprocessing(
            options.mean, options.std, options.size, options.crop_pct, None, options.interpolation
        ),
        overwrite=options.overwrite,
        ema=options.ema,
        say=print,
    )
    network, about = imported.network, imported.preprocessing
    parameters = sum(p.numel() for p in imported.model().parameters())
    attention = f" with {network.attention} ({network.gate})" if network.attention else ""
    normalised = (
        "the mean and std of the data it meets" if about.mean is None else f"mean {about.mean}, std {about.std}"
    )
    size = "" if about.size is None else f", {about.size} pixels"
    say(f"read {checkpoint}: {network.name}{attention}, {imported.class_count} classes, {parameters:,} parameters")
    say(f"images: {normalised}{size}")
    say(f"written to {options.out}, sha256 {training.sha256(Path(options.out))}")
    return 0
