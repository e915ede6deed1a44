"""Shared by all benchmarks: timing in turn, tables, the description of the machine, and the entry in RESULTS.md."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import torch

from regard import stats

RESULTS = Path(__file__).parent / "RESULTS.md"


def machine(device: torch.device) -> str:
    """A description of the processor or GPU and of the versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return (
        f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} processors, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """The time of a call, including its work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def in_turn(timers: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Calls several timers in turn, so that a slow moment of the machine affects all of them; returns their times."""
    times: list[list[float]] = [[] for _ in timers]
    for _ in range(repeats):
        for timer, values in zip(timers, times, strict=True):
            values.append(timer())
    return times


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """The median, with the smallest and largest value."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def seeds_table(values: Mapping[str, Sequence[Mapping[str, float]]], measures: Sequence[str]) -> str:
    """A table of every seed of each variant, and of the differences of the variants from the first over the seeds.

    Args:
        values: variant -> for each seed a dict from measure to value.
        measures: the rows of the table.
    """
    reference, *variants = values
    columns = {(name, measure): [row[measure] for row in rows] for name, rows in values.items() for measure in measures}
    differences = stats.holm(
        {
            (measure, name): stats.over_seeds(columns[name, measure], columns[reference, measure])
            for measure in measures
            for name in variants
        }
    )
    table_rows = []
    for measure in measures:
        cells = [measure, *(", ".join(f"{value:.1f}" for value in columns[name, measure]) for name in values)]
        for difference in (differences[measure, name] for name in variants):
            significant = ", significant" if difference.significant else ""
            cells.append(f"{difference.value:+.1f} ({difference.low:+.1f} to {difference.high:+.1f}){significant}")
        table_rows.append(cells)
    return table(["", *values, *(f"{name} - {reference}" for name in variants)], table_rows)


def publish(title: str, text: str, device: torch.device, *, save: bool = True) -> None:
    """Prints the result with the date and the machine, and appends it to RESULTS.md."""
    block = f"\n## {title}\n\n{date.today()}, {machine(device)}\n\n{text}\n"
    print(block)
    if save:
        with RESULTS.open("a") as file:
            file.write(block)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print only, do not append to RESULTS.md")
    return parser
