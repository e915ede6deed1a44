"""Does attention, and sub-attention, help against a false cue? The built-in data, with the cue swept from 0 to 1.

Trains four networks (plain, SE, LSAS-SE, shuffle) on `clutter` at each cue, three seeds each, and measures where they
look on test images whose background says nothing. Writes the figure and the numbers of every run to
docs/results/cue.png and docs/results/cue.md.

Interrupted, the same command goes on. Several processes may share the training: --part 0/2 in one, 1/2 in the other.
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
CELL = 4  # pixels of a cell of the maps
PAIRS_SAID = (
    "Median difference in points over the pairs of runs with the same cue and seed; in how many the first is above and "
    "below; p of the sign test:"
)
DOCS = Path(__file__).parent.parent / "docs" / "results"


@dataclass(frozen=True)
class Trained:
    """A run, and what its network makes of the test images; all shares, 0 to 1."""

    network: str
    cue: float
    seed: int
    figures: dict[str, float]


def run_folder(folder: Path, name: str, cue: float, seed: int) -> Path:
    return folder / f"{name.lower()}-cue{cue:g}-seed{seed}"


def train(folder: Path, epochs: int, part: int, parts: int) -> bool:
    """Trains what is not trained yet, every `parts`-th run from `part` on; False if stopped."""
    # Seeds outermost: stopped early, whole seeds are there.
    wanted = [(seed, cue, name) for seed in SEEDS for cue in CUES for name in NETWORKS]
    for seed, cue, name in wanted[part::parts]:
        where = run_folder(folder, name, cue, seed)
        if (where / "recipe.yaml").is_file() and len(training.Run.open(where).metrics()) == epochs:
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
        outcome = training.train(recipe, where, resume=True)
        if not outcome.finished:
            return False
        print(where, f"{outcome.run.metrics()[-1]['test_accuracy']:.3f}", flush=True)
    return True


def measured(folder: Path) -> list[Trained]:
    """Every run, on the same test images, against the outline of the digit."""
    images = data.load("clutter", region="outline").test
    networks = []
    for seed in SEEDS:
        for cue in CUES:
            for name in NETWORKS:
                run = training.Run.open(run_folder(folder, name, cue, seed))
                about = training.load_pretrained(run.folder).preprocessing
                model = run.model()
                how = {"mean": about.mean, "std": about.std, "name": name}
                one = bias.evaluate(model, images, margin=CELL, **how)
                figures = {
                    "accuracy": one.accuracy.value,
                    "position_bias": one.position_bias.value,
                    "range_bias": one.range_bias.value,
                    "spill": one.overall.means["spill"].value,
                    "energy_inside": one.overall.means["energy_inside"].value,
                    "focus_area": one.overall.means["focus_area"].value,
                    "strict": bias.evaluate(model, images, **how).range_bias.value,
                }
                networks.append(Trained(name, cue, seed, figures))
    return networks


def of(networks: Sequence[Trained], measure: str, network: str, cue: float) -> list[float]:
    """By seed."""
    return [one.figures[measure] for one in networks if (one.network, one.cue) == (network, cue)]


def draw(networks: Sequence[Trained], path: Path) -> None:
    """A panel a measure: the median of the seeds as a line, each seed as a dot."""
    figure = Figure(figsize=(10, 7), dpi=110, layout="constrained")
    for axes, measure in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for i, network in enumerate(NETWORKS):
            colour = COLOURS[network]
            values = [of(networks, measure, network, cue) for cue in CUES]
            axes.plot(
                CUES, [100 * statistics.median(each) for each in values], color=colour, label=network, linewidth=2
            )
            for cue, each in zip(CUES, values, strict=True):
                shifted = [cue + 0.006 * (i - 1.5)] * len(each)  # so that dots do not hide one another
                axes.plot(shifted, [100 * value for value in each], "o", color=colour, markersize=4, alpha=0.6)
        axes.set_title(MEASURES[measure], loc="left")
        axes.set_ylim(-3, 103)
        axes.yaxis.set_major_formatter("{x:g}%")
        axes.grid(color="#dcdee2", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel("cue in training: how often the background goes with the class")
    figure.axes[0].legend(frameon=False, loc="lower left")
    figure.savefig(path)


def tables(networks: Sequence[Trained]) -> str:
    """Every run in percent, a seed after the other."""
    parts = []
    for measure, title in MEASURES.items():
        rows = []
        for cue in CUES:
            cells = [", ".join(f"{100 * value:.1f}" for value in of(networks, measure, name, cue)) for name in NETWORKS]
            rows.append([f"{cue:g}", *cells])
        parts.append(f"{title}, in %, seeds {', '.join(map(str, SEEDS))}:\n\n{table(['cue', *NETWORKS], rows)}")
    return "\n\n".join(parts)


def pairs(networks: Sequence[Trained]) -> str:
    """One network against another: pairs of runs with the same cue and seed, and a sign test over them."""
    rows = []
    for first, second in PAIRS:
        cells = [f"{first}, {second}"]
        for measure in (*PANELS, "energy_inside", "focus_area"):
            gaps = [
                a - b
                for cue in CUES
                for a, b in zip(of(networks, measure, first, cue), of(networks, measure, second, cue), strict=True)
            ]
            higher, lower = np.array(gaps) > 0, np.array(gaps) < 0
            p = stats.paired_proportions(higher, lower).p  # the sign test is McNemar's of the two
            cells.append(f"{100 * statistics.median(gaps):+.1f} ({higher.sum()}:{lower.sum()}, p {p:.2g})")
        rows.append(cells)
    header = ["first, second", *(MEASURES[measure] for measure in (*PANELS, "energy_inside", "focus_area"))]
    return table(header, rows)


def write(networks: Sequence[Trained], epochs: int) -> None:
    """The tables between the marks of docs/results/cue.md, whose words are written by hand; and the figure."""
    draw(networks, DOCS / "cue.png")
    path = DOCS / "cue.md"
    begin, end = "<!-- numbers -->", "<!-- end of numbers -->"
    old = path.read_text() if path.is_file() else f"{begin}\n{end}\n"
    how = f"{date.today()}, {machine(torch.device('cpu'))}. {epochs} epochs a run, one thread."
    text = f"{begin}\n{how}\n\n{PAIRS_SAID}\n\n{pairs(networks)}\n\n{tables(networks)}\n{end}"
    path.write_text(old[: old.index(begin)] + text + old[old.index(end) + len(end) :])
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/clutter-cue"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--part", default=None, help="train this share of the runs and stop: 0/2 is the first of two")
    options = parser.parse_args()
    part, parts = map(int, (options.part or "0/1").split("/"))
    if train(options.folder, options.epochs, part, parts) and options.part is None:
        write(measured(options.folder), options.epochs)
