"""`regard export`: writes a network as an ONNX file, or as a folder for the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import nn

from regard import detection, export, models, training
from regard.cli.command import Command
from regard.cli.options import add_attention, add_saved_weights, attention_fields, make_parser
from regard.errors import InputError
from regard.parser import Parser
from regard.store.runs import measure_of

_DETECTOR_CLASSES = 80  # COCO's
_DETECTOR_SIDE = 640  # pixels, of the noise images that a detector is traced and checked with
_METRICS = ("test_accuracy", "test_top5", "test_box_ap", "test_mask_ap", "epoch")  # shown on the model card
_SIDE = 32  # pixels, of CIFAR's images, which regard's own networks are designed for


def parser() -> Parser:
    parser = make_parser(
        "export",
        "Writes a network as an ONNX file and checks it with onnxruntime, or (--format hub) as a folder for the "
        "Hugging Face Hub.",
    )
    parser.add_argument(
        "source", metavar="MODEL", help="a run folder, an imported .safetensors file, or a network's name"
    )
    parser.add_argument("--out", required=True, help="file to write, or the folder with --format hub")
    parser.add_argument(
        "--format", choices=["onnx", "hub"], default="onnx", help="an ONNX file, or a folder for the hub"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier export")
    add_saved_weights(parser)
    parser.add_argument("--image-size", type=int, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, help="number of images per batch; any number if not given")
    parser.add_argument("--opset", type=int, help="version of the ONNX operator set")
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not compare onnxruntime with torch")
    parser.add_argument("--num-classes", type=int, help="number of classes, if MODEL is a name")
    parser.add_argument("--pretrained", action="store_true", help="use pretrained weights, if MODEL is a name")
    parser.add_argument("--detector", help="detector to export, with MODEL as its backbone")
    add_attention(parser)
    return parser


def main(command: Command) -> None:
    options, source = command.options, command.options.source
    if Path(source).exists():
        network_only = ("num_classes", "attention", "attention_stages", "pretrained", "detector")
        if unused := [name.replace("_", "-") for name in network_only if options[name] not in (None, False)]:
            raise InputError(f"--{unused[0]} is for a network by name, and {source} is a file or run; leave it out")
        trained = training.load_pretrained(source, options.weights)
        model, preprocessing, classes = trained.model(), trained.preprocessing, trained.classes
    else:
        model = _create(options)
        preprocessing, classes = training.Preprocessing.of(training.describe(source)), None
    if options.format == "hub":
        folder = _to_hub(model, Path(source), options, preprocessing, classes)
        files = "config.json, model.safetensors and a model card for the Hugging Face Hub"
        command.show({"path": str(folder)}, f"{folder}: {files}")
        return
    detector = isinstance(model, detection.Detector)
    small = isinstance(model, models.CifarResNet | models.WideResNet)
    size = options.image_size or preprocessing.size or (_DETECTOR_SIDE if detector else _SIDE if small else None)
    if size is None:
        raise InputError(f"the image size of {source} is not known; give it (--image-size)")
    metadata = {"source": source, "mean": preprocessing.mean, "std": preprocessing.std, "classes": classes}
    common: dict[str, Any] = {
        "check": options.check,
        "metadata": {key: value for key, value in metadata.items() if value is not None},
        "overwrite": options.overwrite,
    }
    if detector:
        if options.batch_size not in (None, 1):
            raise InputError("a detector is exported for one image at a time; leave --batch-size out")
        common |= {"opset": options.opset} if options.opset else {}
        written = export.detector_to_onnx(model, options.out, (size, size), **common)
        images = "an image (3, H, W) of any size"
    else:
        written = export.to_onnx(model, options.out, size, batch=options.batch_size, opset=options.opset, **common)
        images = f"images (N, 3, {size}, {size}) with N {options.batch_size or 'any number'}"
    lines = [f"{written.path}: opset {written.opset}, {images}"]
    if written.difference is not None:
        lines.append(f"largest difference between onnxruntime and torch, relative: {written.difference:.1e}")
    elif options.check:
        lines.append("onnxruntime and torch both detected nothing on the noise image of the check")
    record = {"path": str(written.path), "opset": written.opset, "image_size": size, "difference": written.difference}
    command.show(record, *lines)


def _to_hub(
    model: nn.Module,
    source: Path,
    options: Namespace,
    preprocessing: training.Preprocessing,
    classes: tuple[str, ...] | None,
) -> Path:
    folder, recipe = Path(options.out), source / "recipe.yaml"
    if folder.exists() and not (options.overwrite and (folder / "config.json").is_file()):
        raise InputError(f"{folder} exists already; replace it (--overwrite) or choose another (--out)")
    rows = (training.Run.open(source).metrics() if (source / "metrics.jsonl").is_file() else []) or [{}]
    row = rows[-1] if options.weights == "last" else max(rows, key=lambda row: row.get(measure_of(row), 0))
    metrics = {name.replace("_", " "): row[name] for name in _METRICS if name in row}
    return models.save_pretrained(
        model,
        folder,
        class_names=classes,
        preprocessing={key: value for key, value in asdict(preprocessing).items() if value is not None},
        metrics=metrics,
        recipe=recipe if recipe.is_file() else None,
    )


def _create(options: Namespace) -> nn.Module:
    fields = {"pretrained": options.pretrained, "detector": options.detector, **attention_fields(options)}
    network = training.ModelRecipe(options.source, **fields)
    default = _DETECTOR_CLASSES if network.detector else training.describe(network.name).get("num_classes", 10)
    classes = options.num_classes or default
    return training.build_network(network, classes).eval()
