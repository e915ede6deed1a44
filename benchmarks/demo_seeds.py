"""The demo with several seeds: do its main differences and the order of its first four networks hold for each seed?

    python benchmarks/demo_seeds.py                       # seeds 0 to 4; resumes where it was stopped
    python benchmarks/demo_seeds.py --seeds 3 --train     # train seed 3 only
    python benchmarks/demo_seeds.py --tables              # tables of the finished runs

Prints every seed, and appends the tables to RESULTS.md unless --dry.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean

import torch
from common import publish, table

from regard import bias, formatting, stats
from regard.demo import NETWORKS, REFERENCE, run_demo, run_name

FIRST = list(NETWORKS)[:4]
MEASURES = {
    "accuracy": "accuracy, %",
    "position_bias": "position bias, %",
    "range_bias": "range bias, %",
    "energy_inside": "energy inside, %",
}


Values = dict[str, dict[str, float]]  # network -> measure -> value


def read(folder: Path) -> tuple[Values, dict[str, bool]]:
    """The measures of a demo's networks, and whether the accuracy of each differs from that of the reference.

    The test is McNemar's over the test images, corrected for all finished networks.
    """
    files = {name: folder / run_name(name) / "bias.json" for name in NETWORKS}
    results = {name: bias.Results.load(path) for name, path in files.items() if path.is_file()}
    values = {
        name: {
            "accuracy": result.accuracy.value,
            "position_bias": result.position_bias.value,
            "range_bias": result.range_bias.value,
            "energy_inside": result.overall.means["energy_inside"].value,
        }
        for name, result in results.items()
    }
    differences = {
        name: stats.paired_proportions(result.rows["correct"], results[REFERENCE].rows["correct"])
        for name, result in results.items()
        if name != REFERENCE
    }
    return values, {name: difference.significant for name, difference in stats.holm(differences).items()}


def text(by_seed: dict[int, Values], tests: dict[int, dict[str, bool]]) -> str:
    """The tables of every seed, the order of the networks, and the differences over the seeds, corrected together."""
    parts = []
    for measure, title in MEASURES.items():
        rows = []
        for name in NETWORKS:
            values = [100 * networks[name][measure] if name in networks else None for networks in by_seed.values()]
            finished = [value for value in values if value is not None]
            cells = [
                "" if value is None else f"{value:.1f}" for value in (*values, mean(finished) if finished else None)
            ]
            rows.append([name, *cells])
        parts.append(f"{title}:\n\n{table(['network', *(f'seed {seed}' for seed in by_seed), 'mean'], rows)}")
    lines = [
        f"- seed {seed}: {' > '.join(sorted(FIRST, key=lambda name: -networks[name]['accuracy']))}"
        for seed, networks in by_seed.items()
        if networks.keys() >= set(FIRST)
    ]
    parts.append("Order of the first four by accuracy:\n\n" + "\n".join(lines))
    differences = {}
    for name in list(NETWORKS)[1:]:
        seeds = [networks for networks in by_seed.values() if name in networks]
        for measure in MEASURES if len(seeds) >= 3 else ():
            values, reference = ([networks[key][measure] for networks in seeds] for key in (name, REFERENCE))
            differences[name, measure] = stats.over_seeds(values, reference)
    corrected = stats.holm(differences)
    rows = []
    for name in dict.fromkeys(name for name, _ in corrected):
        cells = [name]
        for measure in MEASURES:
            difference = corrected[name, measure]
            mark = " *" if difference.significant else ""
            cells.append(f"{formatting.difference(difference)}, p {formatting.p_value(difference.p_adjusted)}{mark}")
        significant = [networks[name] for networks in tests.values() if name in networks]
        rows.append([*cells, f"{sum(significant)} of {len(significant)}"])
    header = [f"minus {REFERENCE}", *(title.removesuffix(", %") for title in MEASURES.values()), "within a seed"]
    parts.append(
        "Differences in points over the seeds: 95% interval and p of the paired t test, adjusted (Holm) for all of "
        "them, * where below 0.05. The last column counts the seeds within which the difference in accuracy is "
        f"significant over the 1,000 test images:\n\n{table(header, rows)}"
    )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo-seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--train", action="store_true", help="only train, without tables")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the finished runs")
    parser.add_argument("--dry", action="store_true", help="print only, do not append to RESULTS.md")
    options = parser.parse_args()
    folders = {seed: options.folder / f"seed{seed}" for seed in options.seeds}
    for seed, folder in folders.items() if not options.tables else ():
        start = time.monotonic()
        if run_demo(folder, seed=seed, device="cpu") is None:
            return
        print(f"seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    if not options.train:
        by_seed, tests = {}, {}
        for seed, folder in folders.items():
            by_seed[seed], tests[seed] = read(folder)
        publish("Demo, several seeds", text(by_seed, tests), torch.device("cpu"), save=not options.dry)


if __name__ == "__main__":
    main()
