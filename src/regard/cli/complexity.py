"""`regard complexity`: measures the cost of networks with and without attention."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from regard import attention, detection, models, training
from regard.cli.command import Command, render_text
from regard.cli.options import add_attention_stages, add_device, check_parent_folder, make_parser
from regard.columns import Column
from regard.errors import InputError
from regard.files import write_text
from regard.formatting import csv_text, printable
from regard.models import Cost
from regard.parser import Parser, strings
from regard.report import records_table

_DTYPES = ["float32", "bfloat16", "float16", "float64"]
_FORMATS = {".csv": "csv", ".json": "json"}
_NETWORK_COLUMNS = (
    *(Column("detector", "detector"), Column("network", "network"), Column("attention", "attention")),
    *(Column("gate", "gate"), Column("stages", "stages"), Column("image_size", "image", "number", write=str)),
)
# Key -> heading with its unit, the unit, and decimals.
_MEASURES = {
    "parameters": ("parameters M", 1e6, 3),
    "multiply_adds": ("multiply-adds G", 1e9, 3),
    "published_flops": ("GFLOPs as SA-Net", 1e9, 3),
    "inference_s": ("inference ms", 1e-3, 2),
    "training_step_s": ("training step ms", 1e-3, 2),
    "inference_bytes": ("memory inference MB", 1e6, 1),
    "training_step_bytes": ("memory training MB", 1e6, 1),
}
_CAPTION = """\
Operations for one image. Percentages: increase over the network without attention.
GFLOPs as SA-Net: convolutions, matrix products, batch norms, ReLUs and pooling, as its table counts them."""
_CAPTION_DETECTORS = """
Detectors: learned parameters, with the stem and the first stage frozen; box heads on 1,000 proposals, mask heads on 100
detections."""
_CAPTION_MEASURED = """
Time and peak memory of a batch: the median, with the quartiles below; memory in addition to parameters and images."""


def parser() -> Parser:
    parser = make_parser(
        "complexity",
        "Measures the cost of networks without attention and with each named module: parameters, operations for one "
        "image, time and peak memory of a batch. A run folder or imported file is compared with its own network "
        "without attention.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="names of networks, run folders and imported files")
    parser.add_argument("--detector", help="detector to build on the networks: faster-rcnn, retinanet, …")
    parser.add_argument(
        "--attention", type=strings, default=[], help="modules to compare: se, cbam, shuffle, …, or all"
    )
    parser.add_argument("--gate", default="sigmoid", help="gate of all modules: sigmoid, sub-attention-1, …")
    parser.add_argument(
        "--attention-options",
        type=dict[str, dict[str, Any]],
        default={},
        help="options of each module, such as '{shuffle: {groups: 16}}'",
    )
    parser.add_argument(
        "--model-options", type=dict[str, Any], default={}, help="options of the networks: '{block: basic}'"
    )
    add_attention_stages(parser)
    parser.add_argument(
        "--image-size",
        type=int,
        help="side of the images in pixels; if not given 224, 32 for networks for small images, and 800 x 1280 for "
        "detectors",
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        help="number of classes; if not given 1000, 10 for networks for small images, and 80 for detectors",
    )
    parser.add_argument("--no-latency", dest="latency", action="store_false", help="do not measure time and memory")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        interval="[1, 2^24]",
        help="number of images per batch, for time and memory",
    )
    parser.add_argument("--repeats", type=int, default=5, interval="[1, 10000]", help="number of time measurements")
    add_device(parser)
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="data type of parameters and images")
    parser.add_argument("--format", choices=["terminal", "csv"], help="format to write; terminal if not given")
    parser.add_argument("--out", help="file to write; the endings .csv and .json select the format")
    return parser


def main(command: Command) -> None:
    options = command.options
    check_parent_folder(options.out)
    device = training.pick_device(options.device)
    modules = attention.names() if options.attention == ["all"] else [a for a in options.attention if a != "none"]
    if options.detector is not None and any(map(_is_path, options.models)):
        raise InputError("--detector takes only names of networks; leave it out, or the run folders and files")
    rows = [row for path in filter(_is_path, options.models) for row in _trained(path, options)]
    rows += models.count_costs(
        [name for name in options.models if not _is_path(name)],
        modules,
        gate=options.gate,
        stages=options.attention_stages,
        image_size=options.image_size,
        classes=options.num_classes,
        options=options.attention_options,
        network_options=options.model_options,
        kind=_kind(options.detector),
    )
    timed = [row for row in rows if options.latency and not isinstance(row, detection.DetectorCost)]
    if timed:
        dtype = getattr(torch, options.dtype)
        models.measure_costs(timed, batch=options.batch_size, device=device, dtype=dtype, repeats=options.repeats)
    conditions = _conditions(options, device) if timed else {}
    records = [{**row.to_record(), **conditions} for row in rows]
    suffix = Path(options.out).suffix if options.out else ""
    form = "json" if options.json else options.format or _FORMATS.get(suffix, "terminal")
    table = records_table(records, _columns())
    renderables = [_csv(records)] if form == "csv" else [table, *_notes(records, conditions)]
    if options.out:
        text = json.dumps(records, indent=1, allow_nan=False) + "\n" if form == "json" else render_text(*renderables)
        write_text(options.out, text)
        command.show({"path": options.out}, printable(options.out))
    else:
        command.show(records, *renderables)


def _is_path(name: str) -> bool:
    return Path(name).exists() or name.endswith(".safetensors")


def _kind(detector: str | None, options: Mapping[str, Any] | None = None) -> Callable[..., Cost]:
    if detector is None:
        return models.Cost
    return partial(detection.DetectorCost, detector=detector, detector_options=options or {})


def _trained(path: str, options: Namespace) -> list[Cost]:
    """The network of a run folder or imported file, without and with its attention."""
    trained = training.load_pretrained(path, None)
    network = trained.network
    rows = models.count_costs(
        [network.name],
        [network.attention] if network.attention else [],
        gate=network.gate,
        stages=network.attention_stages,
        image_size=options.image_size or trained.preprocessing.size,
        classes=trained.outputs,
        options={network.attention: network.attention_options} if network.attention else None,
        network_options=network.options,
        kind=_kind(network.detector, network.detector_options),
    )
    for row in rows[1:]:
        row.placement = "; ".join(filter(None, (f"as in {path}", row.placement)))
    return rows


def _conditions(options: Namespace, device: torch.device) -> dict[str, Any]:
    """The conditions of the measured times and memory."""
    return {
        "batch_size": options.batch_size,
        "repeats": options.repeats,
        "dtype": options.dtype,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "kernels": attention.kernels.backend(device),
        "torch": torch.__version__,
    }


def _csv(records: Sequence[dict[str, Any]]) -> str:
    rows = [{key: value for key, value in record.items() if key != "operations"} for record in records]
    return csv_text(rows).rstrip()


def _columns() -> list[Column]:
    """The columns of the table: each measure, followed by its increase over the network without attention."""
    columns = list(_NETWORK_COLUMNS)
    for key, (heading, unit, decimals) in _MEASURES.items():
        columns.append(Column(key, heading, "number", write=partial(_in_unit, unit, decimals)))
        columns.append(Column(f"{key}_overhead", "", "number", write="{:+.2f}%".format))
    return columns


def _in_unit(unit: float, decimals: int, value: float) -> str:
    return f"{value / unit:.{decimals}f}" if value >= unit else f"{value / unit:#.{decimals}g}"


def _notes(records: Sequence[dict[str, Any]], conditions: dict[str, Any]) -> list[str]:
    """The caption, the conditions, and notes on single rows."""
    detectors = any(record["detector"] for record in records)
    lines = [_CAPTION + (_CAPTION_DETECTORS if detectors else "") + (_CAPTION_MEASURED if conditions else "")]
    lines += [f"{name.replace('_', ' ')}: {value}" for name, value in conditions.items()]
    for record in records:
        name = printable(f"{record['network']}, {record['attention']}")
        lines += [f"{name}: {printable(record[key])}" for key in ("problem", "note", "placement") if record[key]]
        if record["uncounted"]:
            lines.append(f"{name}: too low, because these operators are not counted: {printable(record['uncounted'])}")
    return lines
