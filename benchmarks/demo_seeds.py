"""The demo with several seeds: do its main differences, and the order of its first four networks, hold for each?

    python benchmarks/demo_seeds.py                       # seeds 0 to 4; goes on where it was stopped
    python benchmarks/demo_seeds.py --seeds 3 --train     # one of them, in a process of its own

Prints every seed, and appends the tables to RESULTS.md unless --dry.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import publish, table

from regard import bias, formatting, report, stats
from regard.demo import NETWORKS, REFERENCE, run_demo

FIRST = list(NETWORKS)[:4]
MEASURES = {
    "accuracy": "accuracy, %",
    "position_bias": "position bias, %",
    "range_bias": "range bias, %",
    "energy_inside": "energy inside, %",
}


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """Measures by network of the demo in a folder."""
    values = {}
    for name in NETWORKS:
        results = bias.Results.load(folder / name.lower().replace(" ", "-") / "bias.json")
        values[name] = {
            "accuracy": results.accuracy.value,
            "position_bias": results.position_bias.value,
            "range_bias": results.range_bias.value,
            "energy_inside": results.overall.means["energy_inside"].value,
        }
    return values


def significant(demo: report.RunsReport) -> dict[str, bool | None]:
    """Whether the accuracy of each network differs significantly from that of the reference, on the test images."""
    records = [record for record in demo.to_records() if record["record"] == "comparison"]
    return {record["network"]: record["significant"] for record in records if record["measure"] == "accuracy"}


def text(by_seed: dict[int, dict[str, dict[str, float]]], tests: dict[int, dict[str, Any]]) -> str:
    """The tables: every seed, the order, and the differences over the seeds, corrected together."""
    parts = []
    for measure, title in MEASURES.items():
        rows = []
        for name in NETWORKS:
            values = [100 * networks[name][measure] for networks in by_seed.values()]
            rows.append([name, *(f"{value:.1f}" for value in values), f"{statistics.mean(values):.1f}"])
        parts.append(f"{title}:\n\n{table(['network', *(f'seed {seed}' for seed in by_seed), 'mean'], rows)}")
    orders = {
        seed: " > ".join(sorted(FIRST, key=lambda name: -networks[name]["accuracy"]))
        for seed, networks in by_seed.items()
    }
    lines = [f"- seed {seed}: {order}" for seed, order in orders.items()]
    parts.append("Order of the first four by accuracy:\n\n" + "\n".join(lines))
    differences = {
        (name, measure): stats.over_seeds(
            [networks[name][measure] for networks in by_seed.values()],
            [networks[REFERENCE][measure] for networks in by_seed.values()],
        )
        for name in NETWORKS
        if name != REFERENCE
        for measure in MEASURES
    }
    corrected = stats.holm(differences)
    rows = []
    for name in list(NETWORKS)[1:]:
        cells = [name]
        for measure in MEASURES:
            one = corrected[name, measure]
            p = f", p {formatting.p_value(one.p_adjusted)}" if one.p_adjusted is not None else ""
            cells.append(f"{formatting.difference(one)}{p}{' *' if one.significant else ''}")
        cells.append(f"{sum(bool(of_seed[name]) for of_seed in tests.values())} of {len(tests)}")
        rows.append(cells)
    header = [f"minus {REFERENCE}", *(title.removesuffix(", %") for title in MEASURES.values()), "significant by seed"]
    parts.append(
        "Differences in points over the seeds: 95% interval and p of the paired t test, adjusted (Holm) for all of "
        "them, * where below 0.05. The last column counts the seeds whose report calls the difference in accuracy "
        f"significant, over its 1,000 test images:\n\n{table(header, rows)}"
    )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo-seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--train", action="store_true", help="train and stop, without tables")
    parser.add_argument("--dry", action="store_true", help="print only, do not append to RESULTS.md")
    options = parser.parse_args()
    by_seed, tests = {}, {}
    for seed in options.seeds:
        folder = options.folder / f"seed{seed}"
        began = time.monotonic()
        demo = run_demo(folder, seed=seed, device="cpu")
        if demo is None:
            return
        print(f"seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
        by_seed[seed], tests[seed] = measured(folder), significant(demo)
    if not options.train:
        publish("Demo, five seeds", text(by_seed, tests), torch.device("cpu"), save=not options.dry)


if __name__ == "__main__":
    main()
