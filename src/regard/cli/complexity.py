"""`regard complexity`: what networks cost, with and without attention."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from rich import box
from rich.table import Table

from regard import attention, models, training
from regard.cli.settings import check_place
from regard.console import Console
from regard.errors import InputError, check_interval
from regard.files import write_text
from regard.formatting import printable_lines
from regard.models import Cost
from regard.terminal import listed

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_NONE = "–"
# The figures that are compared with those of the network without attention.
_OVERHEADS = ("parameters", "multiply_adds", "published_flops", "inference_s", "training_step_s")


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard complexity",
        usage="regard complexity MODEL… [OPTIONS]   (a MODEL is a name, a run folder or an imported file)",
        description="What networks cost without attention and with each of the modules named: parameters, operations "
        "of one image, time and peak memory of a batch. Attention is in every stage, unless --stages says otherwise. "
        "A run folder or imported file is compared with its own network without attention.",
    )
    parser.add_argument(
        "--attention", type=str, default="", help="modules, with commas between them, or all (se, cbam, shuffle, …)"
    )
    parser.add_argument("--gate", type=str, default="sigmoid", help="of all modules: sigmoid, sub-attention-1, …")
    parser.add_argument(
        "--attention_options",
        type=dict[str, dict[str, Any]],
        default={},
        help="options of modules by name, such as '{shuffle: {groups: 16}}'",
    )
    parser.add_argument(
        "--model_options", type=dict[str, Any], default={}, help="options of the networks, such as '{block: basic}'"
    )
    parser.add_argument("--stages", type=str, default="", help="that have attention, from 1, with commas; all if empty")
    parser.add_argument(
        "--image_size", type=int, default=None, help="side in pixels; 224, or 32 for networks for small images"
    )
    parser.add_argument(
        "--classes", type=int, default=None, help="length of the logits; 1000, or 10 for networks for small images"
    )
    parser.add_argument("--latency", type=bool, default=True, help="false: count only, and measure nothing")
    parser.add_argument("--batch", type=int, default=8, help="images at a time, where time and memory are measured")
    parser.add_argument("--repeats", type=int, default=5, help="how often each thing is timed")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--dtype", choices=list(_DTYPES), default="float32", help="of parameters and images")
    parser.add_argument("--format", choices=["table", "json", "csv"], default="table", help="of what is printed")
    parser.add_argument("--out", type=str, default=None, help="a file to write to, in place of printing")
    networks = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    options = parser.parse_args(arguments[len(networks) :])
    if not networks:
        raise InputError("name the network, or several, right after the command")
    check_place(options.out)
    check_interval("--batch", options.batch, "[1, 2^24]")
    check_interval("--repeats", options.repeats, "[1, 10000]")
    device = training.pick_device(options.device)
    rows = [row for path in filter(_is_path, networks) for row in _trained(path, options)]
    rows += models.count_costs(
        [name for name in networks if not _is_path(name)],
        attention.names() if options.attention == "all" else [a for a in listed(options.attention) if a != "none"],
        gate=options.gate,
        stages=_numbers(options.stages) or None,
        image_size=options.image_size,
        classes=options.classes,
        options=options.attention_options,
        network_options=options.model_options,
    )
    if options.latency:
        models.measure_costs(
            rows, batch=options.batch, device=device, dtype=_DTYPES[options.dtype], repeats=options.repeats
        )
    conditions = _conditions(options, device)
    if options.format == "table":
        text = _table(rows, conditions)
    else:
        text = _json(rows, conditions) if options.format == "json" else _csv(rows)
    if options.out:
        write_text(options.out, text)
    else:
        print(printable_lines(text), end="")
    return 0


def _is_path(name: str) -> bool:
    return Path(name).exists() or name.endswith(".safetensors")


def _trained(path: str, options: Namespace) -> list[Cost]:
    """The network of a run folder or imported file, without its attention and with it."""
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
    )
    stages = ", ".join(map(str, network.attention_stages)) if network.attention_stages else "all"
    for row in rows[1:]:
        row.placement = "; ".join(filter(None, (f"as in {path}, gate {network.gate}, stages {stages}", row.placement)))
    return rows


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in listed(text.strip("[]()"))]
    except ValueError as error:
        raise InputError(f"--stages are numbers with commas between them, such as 3,4, not {text!r}") from error


def _conditions(options: Namespace, device: torch.device) -> dict[str, Any]:
    """What the figures depend on besides the networks."""
    conditions = {"gate": options.gate, "stages": _numbers(options.stages) or "all"}
    if options.latency:
        conditions |= {
            "batch": options.batch,
            "repeats": options.repeats,
            "dtype": options.dtype,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "kernels": attention.kernels.backend(device),
            "torch": torch.__version__,
        }
    return conditions


def _record(row: Cost) -> dict[str, Any]:
    """A row as plain numbers: overheads in percent of the network without attention, times in s, memory in bytes."""
    record: dict[str, Any] = {
        "network": row.network,
        "attention": row.attention or "none",
        "image_size": row.image_size,
        "classes": row.classes,
    }
    for name, figure in _figures(row).items():
        record[name] = figure
        if name in _OVERHEADS:
            record[f"{name}_overhead"] = _overhead(row, name)
    if row.latency:
        record["inference_s_quartiles"] = list(row.latency.inference.quartiles)
        record["training_step_s_quartiles"] = list(row.latency.training_step.quartiles)
    printed = row.published
    record["uncounted"] = ", ".join(_uncounted(row))
    record["attention_options"] = dict(row.options)
    record["published_parameters_m"] = printed and float(printed.parameters)
    record["published_gflops"] = printed and float(printed.gflops)
    return record | {"note": row.note, "placement": row.placement, "problem": row.problem}


def _figures(row: Cost) -> dict[str, float | None]:
    cost, time, memory = row.complexity, row.latency, row.peak_memory
    return {
        "parameters": cost.parameters if cost else None,
        "multiply_adds": cost.multiply_adds if cost else None,
        "published_flops": cost.published_flops if cost else None,
        "inference_s": time.inference.median if time else None,
        "training_step_s": time.training_step.median if time else None,
        "inference_bytes": memory.inference if memory else None,
        "training_step_bytes": memory.training_step if memory else None,
    }


def _uncounted(row: Cost) -> Mapping[str, int]:
    return row.complexity.uncounted if row.complexity else {}


def _overhead(row: Cost, name: str) -> float | None:
    """In percent of the network without attention."""
    if row.base is None:
        return None
    own, base = _figures(row)[name], _figures(row.base)[name]
    return None if own is None or base is None else 100 * (own / base - 1)


def _json(rows: list[Cost], conditions: dict[str, Any]) -> str:
    records = []
    for row in rows:
        record = _record(row)
        if row.complexity:
            kinds = {kind: row.complexity.operations[kind] for kind in sorted(row.complexity.operations)}
            record |= {"operations": kinds, "uncounted": row.complexity.uncounted}
        records.append(record)
    return json.dumps({**conditions, "rows": records}, indent=2, ensure_ascii=False) + "\n"


def _csv(rows: list[Cost]) -> str:
    records = [_record(row) for row in rows]
    for record in records:
        for name in ("inference_s", "training_step_s"):
            low, high = record.pop(f"{name}_quartiles", (None, None))
            record |= {f"{name}_low": low, f"{name}_high": high}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _table(rows: list[Cost], conditions: dict[str, Any]) -> str:
    measured = any(row.latency for row in rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("network", no_wrap=True)
    table.add_column("attention", no_wrap=True)
    headings = ["image", "parameters\nM", "", "multiply-adds\nG", "", "GFLOPs\nas SA-Net", ""]
    if measured:
        headings += ["inference\nms", "", "training step\nms", "", "memory\ninference MB", "memory\ntraining MB"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    notes: list[str] = []
    for row in rows:
        cells = [row.network, row.attention or "none", str(row.image_size), *_cells(row, measured)]
        uncounted = ", ".join(_uncounted(row))
        too_small = f"the figures are too small, since these operators are not counted: {uncounted}"
        for note in (row.problem, row.note, row.placement, too_small if uncounted else ""):
            if note:
                notes.append(f"{row.network} with {row.attention or 'none'}: {note}")
                cells[1] += f" [{len(notes)}]"
        table.add_row(*cells)
    text = io.StringIO()
    console = Console(file=text, width=max(_width(), 60))
    console.print(table)
    for line in _caption(conditions, measured):
        console.print(line)
    for number, note in enumerate(notes, 1):
        console.print(f"[{number}] {note}")
    return text.getvalue()


def _width() -> int:
    return Console().width if sys.stdout.isatty() else 200


def _cells(row: Cost, measured: bool) -> list[str]:
    figures = _figures(row)
    scales = {"parameters": (1e6, 3), "multiply_adds": (1e9, 3), "published_flops": (1e9, 3)}
    if measured:
        scales |= {"inference_s": (1e-3, 2), "training_step_s": (1e-3, 2)}
        scales |= {"inference_bytes": (1e6, 1), "training_step_bytes": (1e6, 1)}
    cells = []
    for name, (unit, digits) in scales.items():
        figure = figures[name]
        cells.append(_NONE if figure is None else _rounded(figure / unit, digits))
        if name in ("inference_s", "training_step_s") and row.latency:
            low, high = (row.latency.inference if name == "inference_s" else row.latency.training_step).quartiles
            cells[-1] += f" ±{(high - low) / 2 / unit:.{digits}f}"
        if name in _OVERHEADS:
            overhead = _overhead(row, name)
            cells.append("" if overhead is None else f"{overhead:+.2f}%")
    return cells


def _rounded(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value >= 1 else f"{value:#.{digits}g}"


def _caption(conditions: dict[str, Any], measured: bool) -> list[str]:
    stages = conditions["stages"] if conditions["stages"] == "all" else ", ".join(map(str, conditions["stages"]))
    lines = [
        f"One image; attention in stages: {stages}; gate: {conditions['gate']}. In percent: above no attention.",
        "GFLOPs as SA-Net: convolutions, matrix products, batch norms, ReLUs and pooling, as its table counts them.",
    ]
    if measured:
        lines.append(
            f"Time and peak memory of {conditions['batch']} images in {conditions['dtype']} on {conditions['device']}, "
            f"threads: {conditions['threads']}, torch {conditions['torch']}, attention kernels: "
            f"{conditions['kernels']}: median of {conditions['repeats']} ± half the distance of the quartiles; memory "
            "above parameters and images."
        )
    return lines
