"""What every benchmark shares: repeats, medians, the machine, and the page the tables go to."""

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
    """What the figures were taken on."""
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


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes, the device's part included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def in_turn(works: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """The figures of several works, taken in turn so that a slow moment of the machine falls on all of them."""
    figures: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, times in zip(works, figures, strict=True):
            times.append(work())
    return figures


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Median with the smallest and largest value."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def seeds_table(values: Mapping[str, Sequence[Mapping[str, float]]], measures: Sequence[str]) -> str:
    """Measures by variant, every seed, and the differences of the variants from the first over the seeds.

    Args:
        values: variant -> for each seed measure -> value.
        measures: rows of the table.
    """
    reference, *others = values
    differences = stats.holm(
        {
            (measure, name): stats.over_seeds(
                *([of_seed[measure] for of_seed in values[one]] for one in (name, reference))
            )
            for measure in measures
            for name in others
        }
    )
    rows = []
    for measure in measures:
        cells = [measure, *(", ".join(f"{of_seed[measure]:.1f}" for of_seed in seeds) for seeds in values.values())]
        for one in (differences[measure, name] for name in others):
            significant = ", significant" if one.significant else ""
            cells.append(f"{one.value:+.1f} ({one.low:+.1f} to {one.high:+.1f}){significant}")
        rows.append(cells)
    return table(["", *values, *(f"{name} - {reference}" for name in others)], rows)


def publish(title: str, text: str, device: torch.device, *, save: bool = True) -> None:
    """Prints the result and appends it to RESULTS.md, with the machine and the day."""
    block = f"\n## {title}\n\n{date.today()}, {machine(device)}\n\n{text}\n"
    print(block)
    if save:
        with RESULTS.open("a") as file:
            file.write(block)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print only, do not append to RESULTS.md")
    return parser
