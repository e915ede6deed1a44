"""Guidance on the built-in data: forms, maps, numbers of regions, and the effect against a false cue.

Trains a small wide ResNet (plain, with LSAS-SE, with shuffle attention) on `clutter`, measures where it looks on test
images whose background is independent of the class, and appends one line per finished run to
docs/results/guidance-clutter.jsonl. Prints every run, and writes the figure and the tables of docs/how-to/guidance.md
from that file.

The same command resumes where it was stopped. The most important runs come first: `--limit 9` trains the next nine
runs, `--seeds 1` the runs of seed 1, `--tables` none. `--lock FILE` holds a lock during each run, so that other jobs
can take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import table
from filelock import FileLock
from matplotlib.figure import Figure

from regard import bias, data, formatting, stats, training, transfer
from regard.demo import COMMON, STUDENT

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "results" / "guidance-clutter.jsonl"
BEGIN, END = "<!-- clutter -->", "<!-- end of clutter -->"
SEEDS = (0, 1, 2)
EPOCHS = 8
MARGIN = 2  # pixels; half a cell of the maps, which have 8 x 8 cells for 32 x 32 pixels
CUES = (0.0, 0.3, 0.5, 0.7, 0.9)
HARD = 0.7
NETWORKS = {
    "plain": (),
    # As published: LSAS in the last stage alone.
    "LSAS-SE": ("--model.attention=se", "--model.gate=sub-attention", "--model.attention_stages=[3]"),
    "shuffle": ("--model.attention=shuffle", "--model.attention_options={groups: 2}"),
}
COMPARED = ("accuracy", "energy_inside")
MEASURES = {
    "accuracy": "accuracy, %",
    "position_bias": "position bias, %",
    "range_bias": "range bias, %",
    "energy_inside": "energy inside, %",
    "spill": "spill, %",
}


def rising(weight: float) -> str:
    """The option for a weight that rises from 0 over the first half of a run."""
    return f"--guidance.weight={{start: 0, end: {weight}, until: 0.5}}"


ATTENTION = "--guidance.maps=attention"
GUIDANCE: dict[str, tuple[str, ...]] = {
    "none": (),
    "attention maps": (ATTENTION, rising(3)),
    "CAM": (rising(3),),
    "CAM, classifier detached": (rising(3), "--guidance.detach=true"),
    "Grad-CAM": (rising(3), "--guidance.maps=gradcam"),
    "CAM, rising to 0.5": (rising(0.5),),
    "CAM, detached, rising to 0.5": (rising(0.5), "--guidance.detach=true"),
    "CAM, constant 2": ("--guidance.weight=2",),
    "rising to 0.5": (ATTENTION, rising(0.5)),
    "constant 3": (ATTENTION, "--guidance.weight=3"),
    # With these weights, the gradient norm at the parameters of a network that learned the background is about that of
    # `energy` with weight 3; `--gradients` prints the norms.
    "l1": (ATTENTION, rising(1.3), "--guidance.form=l1"),
    "ppce": (ATTENTION, rising(0.25), "--guidance.form=ppce"),
    "rrr": (ATTENTION, rising(1.5e-4), "--guidance.form=rrr"),
    "10% of the regions": (ATTENTION, rising(3), "--guidance.share=0.1"),
    "1% of the regions": (ATTENTION, rising(3), "--guidance.share=0.01"),
    "boxes": (ATTENTION, rising(3), "--guidance.box=true"),
    "boxes, 2 pixels wider": (ATTENTION, rising(3), "--guidance.box=true", "--guidance.dilate=2"),
}


class Setup(NamedTuple):
    """A network, the cue of its training data, and its guidance by the name in `GUIDANCE`."""

    network: str
    cue: float
    guidance: str


class Group(NamedTuple):
    """Setups in one table, compared with one another.

    Attributes:
        title: heading of the table.
        setups: its rows; the first is the reference of all others, unless `pairs`.
        pairs: whether every second setup is compared with the one before it instead.
    """

    title: str
    setups: tuple[Setup, ...]
    pairs: bool = False


def _hard(*guidance: str) -> tuple[Setup, ...]:
    return tuple(Setup("plain", HARD, name) for name in guidance)


def _swept(network: str) -> Group:
    setups = (Setup(network, cue, name) for cue in CUES for name in ("none", "attention maps"))
    return Group(f"{network} over the cue", tuple(setups), pairs=True)


GROUPS = (
    Group("Maps", _hard("none", "attention maps", "CAM", "CAM, classifier detached", "Grad-CAM")),
    Group("Number of regions", _hard("attention maps", "10% of the regions", "1% of the regions")),
    Group("Forms", _hard("attention maps", "l1", "ppce", "rrr")),
    _swept("plain"),
    Group("Weight, of attention maps", _hard("attention maps", "constant 3", "rising to 0.5")),
    Group(
        "Weight, of CAMs",
        _hard("CAM", "CAM, constant 2", "CAM, rising to 0.5", "CAM, detached, rising to 0.5"),
    ),
    Group("Masks and boxes", _hard("attention maps", "boxes", "boxes, 2 pixels wider")),
    _swept("LSAS-SE"),
    _swept("shuffle"),
)


def planned() -> list[tuple[Setup, int]]:
    """Every run once: group by group, and within a group seed by seed."""
    return list(dict.fromkeys((setup, seed) for group in GROUPS for seed in SEEDS for setup in group.setups))


def recorded(path: Path, epochs: int) -> dict[tuple[Setup, int], dict[str, Any]]:
    """The results of the finished runs with this number of epochs."""
    lines = path.read_text().splitlines() if path.is_file() else []
    records = [json.loads(line) for line in lines]
    return {
        (Setup(record["network"], record["cue"], record["guidance"]), record["seed"]): record
        for record in records
        if record["epochs"] == epochs
    }


def run_name(setup: Setup, seed: int) -> str:
    name = f"{setup.network}-cue{setup.cue:g}-{setup.guidance}-seed{seed}"
    return name.lower().replace(",", "").replace("%", "").replace(" ", "-")


def run(setup: Setup, seed: int, epochs: int, folder: Path) -> dict[str, Any] | None:
    """Trains and measures a run; None if stopped."""
    recipe = training.load_recipe(
        None,
        [
            *COMMON,
            STUDENT,
            *NETWORKS[setup.network],
            f"--data.options={{cue: {setup.cue}, region: outline}}",
            *GUIDANCE[setup.guidance],
            f"--schedule.epochs={epochs}",
            f"--seed={seed}",
            "--device=cpu",
            "--threads=1",
            f"--source=guidance on clutter: {setup.network}, {setup.guidance}",
        ],
    )
    start = time.monotonic()
    outcome = training.train(recipe, folder / run_name(setup, seed), resume=True)
    if not outcome.finished:
        return None
    seconds = time.monotonic() - start
    test = data.load("clutter", region="outline", cue=setup.cue).test
    results = bias.evaluate(outcome.run.model(), test, margin=MARGIN)
    return {
        **setup._asdict(),
        "seed": seed,
        "epochs": epochs,
        "accuracy": results.accuracy.value,
        "position_bias": results.position_bias.value,
        "range_bias": results.range_bias.value,
        "energy_inside": results.overall.means["energy_inside"].value,
        "spill": results.overall.means["spill"].value,
        "constant": results.rows["constant"].mean().item(),
        "seconds": round(seconds, 1),
    }


def train(options: argparse.Namespace) -> None:
    """Trains the missing runs and appends their results."""
    finished = recorded(options.results, options.epochs)
    missing = [(setup, seed) for setup, seed in planned() if (setup, seed) not in finished and seed in options.seeds]
    print(f"{len(finished)} runs done, {len(missing)} to go", flush=True)
    for setup, seed in missing[: options.limit]:
        with FileLock(options.lock) if options.lock else nullcontext():
            record = run(setup, seed, options.epochs, options.folder)
        if record is None:
            return
        with options.results.open("a") as file:
            rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in record.items()}
            file.write(json.dumps(rounded) + "\n")
        measures = ", ".join(f"{name} {100 * record[key]:.1f}" for key, name in MEASURES.items())
        print(*setup, f"seed {seed}: {measures} ({record['seconds']:.0f} s)", flush=True)


Results = dict[tuple[Setup, int], dict[str, Any]]


def values(results: Results, setup: Setup, measure: str) -> dict[int, float]:
    """Seed -> value of the measure."""
    return {seed: results[setup, seed][measure] for seed in SEEDS if (setup, seed) in results}


def comparisons(results: Results, group: Group) -> list[tuple[Setup, Setup, str, stats.Difference]]:
    """Setups against their references over the common seeds, of which there must be three; not yet corrected."""
    if group.pairs:
        pairs = list(zip(group.setups[1::2], group.setups[::2], strict=True))
    else:
        pairs = [(setup, group.setups[0]) for setup in group.setups[1:]]
    differences = []
    for setup, reference in pairs:
        for measure in COMPARED:
            by_seed, reference_by_seed = values(results, setup, measure), values(results, reference, measure)
            seeds = sorted(by_seed.keys() & reference_by_seed.keys())
            if len(seeds) >= len(SEEDS):
                difference = stats.over_seeds(
                    [by_seed[seed] for seed in seeds], [reference_by_seed[seed] for seed in seeds]
                )
                differences.append((setup, reference, measure, difference))
    return differences


def trained(results: Results, group: Group) -> list[Setup]:
    """The setups with results."""
    return [setup for setup in group.setups if any((setup, seed) in results for seed in SEEDS)]


def label(setup: Setup, group: Group) -> str:
    """The label of a row."""
    return f"cue {setup.cue:g}, {setup.guidance}" if group.pairs else setup.guidance


def group_text(results: Results, group: Group, corrected: dict[tuple[Setup, Setup, str], stats.Difference]) -> str:
    """A table of the setups, with the mean and every seed of each measure, and a table of the differences."""
    rows = []
    for setup in trained(results, group):
        cells = [label(setup, group)]
        for measure in MEASURES:
            by_seed = list(values(results, setup, measure).values())
            seeds = ", ".join(f"{100 * value:.1f}" for value in by_seed)
            cells.append(f"**{100 * statistics.mean(by_seed):.1f}** ({seeds})")
        rows.append(cells)
    parts = [f"### {group.title}", table(["", *MEASURES.values()], rows)]
    rows = []
    keys = dict.fromkeys((setup, reference) for setup, reference, *_ in corrected if setup in group.setups)
    for setup, reference in keys:
        if reference not in group.setups:
            continue
        cells = [f"{label(setup, group)} − {reference.guidance}"]
        for measure in COMPARED:
            difference = corrected[setup, reference, measure]
            mark = " *" if difference.significant else ""
            cells.append(f"{formatting.difference(difference)}, p {formatting.p_value(difference.p_adjusted)}{mark}")
        rows.append(cells)
    if rows:
        parts.append(table(["difference in points", *(MEASURES[name].removesuffix(", %") for name in COMPARED)], rows))
    return "\n\n".join(parts)


def text(results: Results, epochs: int) -> str:
    """All tables, with all comparisons corrected together."""
    corrected = stats.holm(
        {
            (setup, reference, measure): difference
            for group in GROUPS
            for setup, reference, measure, difference in comparisons(results, group)
        }
    )
    minutes = sum(record["seconds"] for record in results.values()) / 60
    head = (
        f"{len(results)} of {len(planned())} runs of {epochs} epochs, one thread each, {minutes:.0f} minutes in "
        f"all. The mean over the seeds in bold, behind it seeds {', '.join(map(str, SEEDS))}. Differences are between "
        "runs of the same seed, with their 95% interval and the p of the paired t test, adjusted (Holm) for all "
        "differences on this page; * marks p < 0.05."
    )
    groups = [group for group in GROUPS if len(trained(results, group)) > 1]
    return "\n\n".join([head, *(group_text(results, group, corrected) for group in groups)])


def draw(results: Results, path: Path) -> None:
    """Draws accuracy and energy inside: for all forms at one cue, and over the cue with and without guidance."""
    figure = Figure(figsize=(10, 6.4), dpi=100, layout="constrained")
    (forms, kinds), (accuracy, energy) = figure.subplots(2, 2)
    for axes, names, title in (
        (
            forms,
            ["none", "attention maps", "CAM", "CAM, classifier detached", "Grad-CAM"],
            "Which maps (energy, cue 0.7)",
        ),
        (
            kinds,
            ["attention maps", "l1", "ppce", "rrr", "10% of the regions", "1% of the regions", "boxes", "constant 3"],
            "Attention maps: form, regions and weight",
        ),
    ):
        rows = [(name, Setup("plain", HARD, name)) for name in names if (Setup("plain", HARD, name), 0) in results]
        for measure, colour, shift in (("accuracy", "#0072b2", 0.12), ("energy_inside", "#d55e00", -0.12)):
            for i, (_, setup) in enumerate(reversed(rows)):
                by_seed = [100 * value for value in values(results, setup, measure).values()]
                axes.plot(by_seed, [i + shift] * len(by_seed), "o", color=colour, markersize=4, alpha=0.6)
                name = MEASURES[measure].removesuffix(", %") if i == 0 else None
                axes.plot(statistics.mean(by_seed), i + shift, "|", color=colour, markersize=13, mew=2, label=name)
        axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
        axes.set_xlim(-3, 103)
        axes.xaxis.set_major_formatter("{x:g}%")
        axes.set_title(title, loc="left", fontsize=10)
    forms.legend(frameon=False, fontsize=9)
    colours = {"plain": "#1b1c1f", "LSAS-SE": "#d55e00", "shuffle": "#009e73"}
    for axes, measure in ((accuracy, "accuracy"), (energy, "energy_inside")):
        for network, guidance in (
            (network, guidance) for network in NETWORKS for guidance in ("none", "attention maps")
        ):
            points = [
                (cue, 100 * value)
                for cue in CUES
                for value in values(results, Setup(network, cue, guidance), measure).values()
            ]
            if not points:
                continue
            cues = sorted({cue for cue, _ in points})
            means = [statistics.mean(value for x, value in points if x == cue) for cue in cues]
            dashed = "--" if guidance == "none" else "-"
            name = network if guidance == "none" else f"{network}, guided"
            axes.plot(cues, means, dashed, color=colours[network], label=name, linewidth=1.8)
            axes.plot(*zip(*points, strict=True), "o", color=colours[network], markersize=3.5, alpha=0.5)
        axes.set_ylim(-3, 103)
        axes.yaxis.set_major_formatter("{x:g}%")
        axes.set_xlim(-0.05, 0.95)
        axes.set_xlabel("cue in training")
        axes.set_title(MEASURES[measure].removesuffix(", %").capitalize() + " over the cue", loc="left", fontsize=10)
    if accuracy.lines:
        energy.legend(*accuracy.get_legend_handles_labels(), frameon=False, fontsize=9, loc="upper right")
    for axes in figure.axes:
        axes.grid(color="#dcdee2", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path)


def write(results: Results, epochs: int) -> None:
    """Writes the figure, and the tables between the marks of the hand-written docs/how-to/guidance.md."""
    draw(results, DOCS / "how-to" / "guidance.png")
    path = DOCS / "how-to" / "guidance.md"
    figure = "![Accuracy and energy inside: maps, forms and regions at one cue; and over the cue](guidance.png)"
    new = f"{BEGIN}\n{figure}\n\n{text(results, epochs)}\n{END}"
    old = path.read_text() if path.is_file() else ""
    if BEGIN in old:
        path.write_text(old[: old.index(BEGIN)] + new + old[old.index(END) + len(END) :])
    print(new)


def print_gradients(folder: Path, images: int = 512) -> None:
    """Prints the gradient norm of each form with weight 1, at the parameters of a run without guidance."""
    model = training.Run.open(folder / run_name(Setup("plain", HARD, "none"), SEEDS[0])).model().train()
    train = data.load("clutter", region="outline", cue=HARD).train.subset(range(images))
    batch = next(iter(data.create_loader(train, images, masks=True).epoch(0)))
    for form in ("energy", "l1", "ppce", "rrr"):
        options: dict[str, Any] = {"guidance_form": form, "guidance_maps": "attention"}
        objective = transfer.Objective(model, None, beta=0, guidance=1.0, **options)
        loss = objective(batch.images, batch.labels, regions=batch.masks).terms["guidance"]
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients if gradient is not None))
        print(f"{form}: loss {loss.item():.3g}, gradient norm {norm:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/guidance-clutter"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="train only the runs of these seeds")
    parser.add_argument("--limit", type=int, default=None, help="largest number of runs to train")
    parser.add_argument("--lock", type=Path, default=None, help="file to lock during each run")
    parser.add_argument("--gradients", action="store_true", help="only print the gradient norm of each form")
    parser.add_argument("--tables", action="store_true", help="only write the figure and the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.gradients:
        return print_gradients(options.folder)
    if not options.tables:
        train(options)
    write(recorded(options.results, options.epochs), options.epochs)


if __name__ == "__main__":
    main()
