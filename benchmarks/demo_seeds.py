"""The demo with several seeds: do its main differences, and the order of its first four networks, hold for each?

    python benchmarks/demo_seeds.py                       # seeds 0 to 4; goes on where it was stopped
    python benchmarks/demo_seeds.py --seeds 3 --train     # one of them, in a process of its own
    python benchmarks/demo_seeds.py --tables              # of what is trained so far

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


Values = dict[str, dict[str, float]]


def measured(folder: Path) -> tuple[Values, dict[str, bool]]:
    """The measures of the networks in the folder of a demo, and whether each differs from the reference in accuracy:
    significantly over the test images, corrected for all networks that are there."""
    files = {name: folder / run_name(name) / "bias.json" for name in NETWORKS}
    results = {name: bias.Results.load(path) for name, path in files.items() if path.is_file()}
    values = {
        name: {
            "accuracy": one.accuracy.value,
            "position_bias": one.position_bias.value,
            "range_bias": one.range_bias.value,
            "energy_inside": one.overall.means["energy_inside"].value,
        }
        for name, one in results.items()
    }
    differences = {
        name: stats.paired_proportions(one.rows["correct"], results[REFERENCE].rows["correct"])
        for name, one in results.items()
        if name != REFERENCE
    }
    return values, {name: one.significant for name, one in stats.holm(differences).items()}


def text(by_seed: dict[int, Values], tests: dict[int, dict[str, bool]]) -> str:
    """The tables: every seed, the order, and the differences over the seeds, corrected together."""
    parts = []
    for measure, title in MEASURES.items():
        rows = []
        for name in NETWORKS:
            values = [100 * of_seed[name][measure] if name in of_seed else None for of_seed in by_seed.values()]
            known = [value for value in values if value is not None]
            cells = ["" if value is None else f"{value:.1f}" for value in (*values, mean(known) if known else None)]
            rows.append([name, *cells])
        parts.append(f"{title}:\n\n{table(['network', *(f'seed {seed}' for seed in by_seed), 'mean'], rows)}")
    lines = [
        f"- seed {seed}: {' > '.join(sorted(FIRST, key=lambda name: -of_seed[name]['accuracy']))}"
        for seed, of_seed in by_seed.items()
        if of_seed.keys() >= set(FIRST)
    ]
    parts.append("Order of the first four by accuracy:\n\n" + "\n".join(lines))
    differences = {}
    for name in list(NETWORKS)[1:]:
        both = [of_seed for of_seed in by_seed.values() if name in of_seed]
        for measure in MEASURES if len(both) >= 3 else ():
            columns = ([of_seed[one][measure] for of_seed in both] for one in (name, REFERENCE))
            differences[name, measure] = stats.over_seeds(*columns)
    corrected = stats.holm(differences)
    rows = []
    for name in dict.fromkeys(name for name, _ in corrected):
        cells = [name]
        for measure in MEASURES:
            one = corrected[name, measure]
            mark = " *" if one.significant else ""
            cells.append(f"{formatting.difference(one)}, p {formatting.p_value(one.p_adjusted)}{mark}")
        of_images = [of_seed[name] for of_seed in tests.values() if name in of_seed]
        rows.append([*cells, f"{sum(of_images)} of {len(of_images)}"])
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
    parser.add_argument("--train", action="store_true", help="train and stop, without tables")
    parser.add_argument("--tables", action="store_true", help="train nothing; tables of what is there")
    parser.add_argument("--dry", action="store_true", help="print only, do not append to RESULTS.md")
    options = parser.parse_args()
    folders = {seed: options.folder / f"seed{seed}" for seed in options.seeds}
    for seed, folder in folders.items() if not options.tables else ():
        began = time.monotonic()
        if run_demo(folder, seed=seed, device="cpu") is None:
            return
        print(f"seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
    if not options.train:
        by_seed, tests = {}, {}
        for seed, folder in folders.items():
            by_seed[seed], tests[seed] = measured(folder)
        publish("Demo, several seeds", text(by_seed, tests), torch.device("cpu"), save=not options.dry)


if __name__ == "__main__":
    main()
