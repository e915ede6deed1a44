"""`regard export`: a network as an ONNX file, or in a folder as the Hugging Face Hub has it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from torch import nn

from regard import export, models, training
from regard.cli.networks import add_attention, to_network
from regard.errors import InputError
from regard.terminal import say

_SIDE = 32  # of CIFAR's images, for which regard's own networks are made


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard export",
        usage="regard export SOURCE --out FILE.onnx [OPTIONS]",
        description="Writes a network as an ONNX file and checks it with onnxruntime, or (--format hub) as a folder "
        "for the Hugging Face Hub. The source is a run folder, an imported .safetensors file, or the name of a "
        "network.",
    )
    parser.add_argument("--out", type=str, required=True, help="the file to write; of --format hub, the folder")
    parser.add_argument("--format", type=Literal["onnx", "hub"], default="onnx", help="onnx: a file; hub: a folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that an earlier export wrote")
    parser.add_argument(
        "--weights",
        type=Literal["last", "best"],
        default="last",
        help="of a run, after the last epoch or the best test",
    )
    parser.add_argument("--image_size", type=int | None, default=None, help="side of the images in pixels")
    parser.add_argument("--batch", type=int | None, default=None, help="images at a time; any number if not given")
    parser.add_argument("--opset", type=int | None, default=None, help="version of ONNX's operators")
    parser.add_argument("--check", type=bool, default=True, help="compare onnxruntime's output with torch's")
    parser.add_argument("--classes", type=int | None, default=None, help="of a network by name")
    parser.add_argument("--pretrained", action="store_true", help="of a network by name: with timm's weights")
    add_attention(parser)
    source = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if source is None and not {"-h", "--help"} & set(arguments):
        raise InputError("name the run folder, file or network right after the command")
    options = parser.parse_args(arguments[1:] if source else arguments)
    assert source is not None  # --help ends before
    if Path(source).exists():
        given = [name for name in ("classes", "attention", "attention_stages") if getattr(options, name) is not None]
        if given or options.pretrained:
            raise InputError(f"{source} says itself what network it is; leave --{(given or ['pretrained'])[0]} out")
        trained = training.load_pretrained(source, options.weights)
        model, about, classes = trained.model(), trained.preprocessing, trained.classes
    else:
        network = to_network(source, options, pretrained=options.pretrained)
        model = _by_name(network, options.classes)
        about, classes = training.Preprocessing.of(training.describe(source)), None
    if options.format == "hub":
        folder = _to_hub(model, Path(source), options, about, classes)
        say(f"{folder}: config.json, model.safetensors and a model card; models.from_pretrained loads it")
        return 0
    size = options.image_size or about.size
    if size is None and isinstance(model, models.CifarResNet | models.WideResNet):
        size = _SIDE
    if size is None:
        raise InputError(f"the size of images is not known from {source}; give it (--image_size)")
    known = {"mean": about.mean, "std": about.std, "classes": classes}
    metadata: dict[str, Any] = {"source": source, **{key: value for key, value in known.items() if value is not None}}
    written = export.to_onnx(
        model,
        options.out,
        size,
        batch=options.batch,
        opset=options.opset,
        check=options.check,
        metadata=metadata,
        overwrite=options.overwrite,
    )
    batch = "any number" if options.batch is None else options.batch
    say(f"{written.path}: opset {written.opset}, images (N, 3, {size}, {size}) with N {batch}")
    if written.difference is not None:
        say(f"onnxruntime agrees with torch: largest difference {written.difference:.1e} of the largest value")
    return 0


def _to_hub(
    model: nn.Module, source: Path, options: Namespace, about: training.Preprocessing, classes: tuple[str, ...] | None
) -> Path:
    folder, recipe = Path(options.out), source / "recipe.yaml"
    if folder.exists() and not (options.overwrite and (folder / "config.json").is_file()):
        raise InputError(f"{folder} exists already; replace it (--overwrite) or choose another (--out)")
    rows = (training.Run.open(source).metrics() if (source / "metrics.jsonl").is_file() else []) or [{}]
    row = rows[-1] if options.weights == "last" else max(rows, key=lambda row: row.get("test_accuracy", 0))
    metrics = {name.replace("_", " "): row[name] for name in ("test_accuracy", "test_top5", "epoch") if name in row}
    known = {key: value for key, value in asdict(about).items() if value is not None}
    trained_by = recipe if recipe.is_file() else None
    return models.save_pretrained(
        model, folder, class_names=classes, preprocessing=known, metrics=metrics, recipe=trained_by
    )


def _by_name(network: training.ModelRecipe, classes: int | None) -> nn.Module:
    if classes is None:
        classes = training.describe(network.name).get("num_classes", 10)
    return training.build_network(network, classes).eval()
