"""Does attention, or sub-attention, help against a false cue? The built-in data, with the cue swept from 0 to 1.

Trains four networks (plain, SE, LSAS-SE, shuffle) on `clutter` at each cue, with three seeds each, and measures where
they look on test images whose background is independent of the class. Writes the figure and the numbers of every run
to docs/results/cue.png and docs/results/cue.md.

The same command resumes an interrupted sweep. Several processes can share the training: --part 0/2 in one, 1/2 in
another.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from common import machine, table
from matplotlib.figure import Figure

from regard import bias, data, stats, training
from regard.demo import COMMON, STUDENT

CUES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
SEEDS = (0, 1, 2)
NETWORKS = {
    "plain": (),
    "SE": ("--model.attention=se",),
    # As published: SE everywhere, LSAS in the last stage alone.
    "LSAS-SE": ("--model.attention=se", "--model.gate=sub-attention", "--model.attention_stages=[3]"),
    "shuffle": ("--model.attention=shuffle", "--model.attention_options={groups: 2}"),
}
COLOURS = {"plain": "#1b1c1f", "SE": "#0072b2", "LSAS-SE": "#d55e00", "shuffle": "#009e73"}
MEASURES = {
    "accuracy": "Accuracy",
    "position_bias": "Position bias",
    "range_bias": "Range bias beyond one cell",
    "spill": "Spill",
    # in the tables only
    "strict": "Range bias without margin",
    "energy_inside": "Energy inside",
    "focus_area": "Area of the focus",
}
PANELS = list(MEASURES)[:4]
PAIRS = (("SE", "plain"), ("LSAS-SE", "plain"), ("shuffle", "plain"), ("LSAS-SE", "SE"))
CELL = 4  # side of a cell of the maps, in pixels
PAIRS_CAPTION = (
    "Median difference in points over the pairs of runs with the same cue and seed; in how many the first is above and "
    "below; p of the sign test:"
)
DOCS = Path(__file__).parent.parent / "docs" / "results"


@dataclass(frozen=True)
class Measured:
    """A run and its measures on the test images, all from 0 to 1."""

    network: str
    cue: float
    seed: int
    measures: dict[str, float]


def run_folder(folder: Path, name: str, cue: float, seed: int) -> Path:
    return folder / f"{name.lower()}-cue{cue:g}-seed{seed}"


def train(folder: Path, epochs: int, part: int, parts: int) -> bool:
    """Trains every `parts`-th run from `part` on, unless it is finished; returns False if stopped."""
    # Seeds are the outer loop: a sweep that stops early has complete seeds.
    runs = [(seed, cue, name) for seed in SEEDS for cue in CUES for name in NETWORKS]
    for seed, cue, name in runs[part::parts]:
        path = run_folder(folder, name, cue, seed)
        if (path / "recipe.yaml").is_file() and len(training.Run.open(path).metrics()) == epochs:
            continue
        recipe = training.load_recipe(
            None,
            [
                *COMMON,
                STUDENT,
                *NETWORKS[name],
                f"--data.options={{cue: {cue}}}",
                f"--schedule.epochs={epochs}",
                f"--seed={seed}",
                "--threads=1",
                f"--source={name} network of the sweep of clutter's cue",
            ],
        )
        outcome = training.train(recipe, path, resume=True)
        if not outcome.finished:
            return False
        print(path, f"{outcome.run.metrics()[-1]['test_accuracy']:.3f}", flush=True)
    return True


def measure(folder: Path) -> list[Measured]:
    """Measures every run on the same test images; the regions are the outlines of the digits."""
    images = data.load("clutter", region="outline").test
    runs = []
    for seed in SEEDS:
        for cue in CUES:
            for name in NETWORKS:
                run = training.Run.open(run_folder(folder, name, cue, seed))
                preprocessing = training.load_pretrained(run.folder).preprocessing
                model = run.model()
                options = {"mean": preprocessing.mean, "std": preprocessing.std, "name": name}
                results = bias.evaluate(model, images, margin=CELL, **options)
                measures = {
                    "accuracy": results.accuracy.value,
                    "position_bias": results.position_bias.value,
                    "range_bias": results.range_bias.value,
                    "spill": results.overall.means["spill"].value,
                    "energy_inside": results.overall.means["energy_inside"].value,
                    "focus_area": results.overall.means["focus_area"].value,
                    "strict": bias.evaluate(model, images, **options).range_bias.value,
                }
                runs.append(Measured(name, cue, seed, measures))
    return runs


def by_seed(runs: Sequence[Measured], measure: str, network: str, cue: float) -> list[float]:
    """The values of a measure, one per seed."""
    return [run.measures[measure] for run in runs if (run.network, run.cue) == (network, cue)]


def draw(runs: Sequence[Measured], path: Path) -> None:
    """Draws one panel per measure: a line for the median over the seeds, a dot for each seed."""
    figure = Figure(figsize=(10, 7), dpi=110, layout="constrained")
    for axes, measure in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for i, network in enumerate(NETWORKS):
            colour = COLOURS[network]
            values = [by_seed(runs, measure, network, cue) for cue in CUES]
            medians = [100 * statistics.median(seeds) for seeds in values]
            axes.plot(CUES, medians, color=colour, label=network, linewidth=2)
            for cue, seeds in zip(CUES, values, strict=True):
                shifted = [cue + 0.006 * (i - 1.5)] * len(seeds)  # so that dots do not hide one another
                axes.plot(shifted, [100 * value for value in seeds], "o", color=colour, markersize=4, alpha=0.6)
        axes.set_title(MEASURES[measure], loc="left")
        axes.set_ylim(-3, 103)
        axes.yaxis.set_major_formatter("{x:g}%")
        axes.grid(color="#dcdee2", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel("cue in training: how often the background goes with the class")
    figure.axes[0].legend(frameon=False, loc="lower left")
    figure.savefig(path)


def tables(runs: Sequence[Measured]) -> str:
    """One table per measure with every seed, in percent."""
    parts = []
    for measure, title in MEASURES.items():
        rows = []
        for cue in CUES:
            cells = [
                ", ".join(f"{100 * value:.1f}" for value in by_seed(runs, measure, name, cue)) for name in NETWORKS
            ]
            rows.append([f"{cue:g}", *cells])
        parts.append(f"{title}, in %, seeds {', '.join(map(str, SEEDS))}:\n\n{table(['cue', *NETWORKS], rows)}")
    return "\n\n".join(parts)


def pairs(runs: Sequence[Measured]) -> str:
    """Compares networks by a sign test over the pairs of runs with the same cue and seed."""
    rows = []
    for first, second in PAIRS:
        cells = [f"{first}, {second}"]
        for measure in (*PANELS, "energy_inside", "focus_area"):
            gaps = [
                a - b
                for cue in CUES
                for a, b in zip(by_seed(runs, measure, first, cue), by_seed(runs, measure, second, cue), strict=True)
            ]
            higher, lower = np.array(gaps) > 0, np.array(gaps) < 0
            p = stats.paired_proportions(higher, lower).p  # McNemar's test of these two is the sign test
            cells.append(f"{100 * statistics.median(gaps):+.1f} ({higher.sum()}:{lower.sum()}, p {p:.2g})")
        rows.append(cells)
    header = ["first, second", *(MEASURES[measure] for measure in (*PANELS, "energy_inside", "focus_area"))]
    return table(header, rows)


def write(runs: Sequence[Measured], epochs: int) -> None:
    """Writes the figure, and the tables between the marks of docs/results/cue.md, whose other text is hand-written."""
    draw(runs, DOCS / "cue.png")
    path = DOCS / "cue.md"
    begin, end = "<!-- numbers -->", "<!-- end of numbers -->"
    old = path.read_text() if path.is_file() else f"{begin}\n{end}\n"
    setup = f"{date.today()}, {machine(torch.device('cpu'))}. {epochs} epochs a run, one thread."
    text = f"{begin}\n{setup}\n\n{PAIRS_CAPTION}\n\n{pairs(runs)}\n\n{tables(runs)}\n{end}"
    path.write_text(old[: old.index(begin)] + text + old[old.index(end) + len(end) :])
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/clutter-cue"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--part", default=None, help="train only this part of the runs: 0/2 is the first of two")
    options = parser.parse_args()
    part, parts = map(int, (options.part or "0/1").split("/"))
    if train(options.folder, options.epochs, part, parts) and options.part is None:
        write(measure(options.folder), options.epochs)
