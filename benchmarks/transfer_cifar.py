"""The effect of each kind of transfer on CIFAR-10: WRN-16-1 from WRN-16-2, several seeds of each.

The data are class folders of images (`train/` and `test/` in --data). The schedule is the published one, scaled to the
number of epochs: learning rate 0.1, divided by 5 after 30, 60 and 80 % of the epochs. All students have the same
teacher. Runs of the same seed start from the same weights and see the same images in the same order, so differences
are paired by seed.

The same command resumes an interrupted run. Several processes can share the work: `--only AT KD` trains these and
stops. Without --only the table is printed at the end and appended to RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from common import publish, table

from regard import stats, training
from regard.formatting import difference, p_value, signed

VARIANTS: dict[str, tuple[str, ...]] = {
    "student": (),
    "AT": ("--transfer.beta=1000",),
    "KD": ("--transfer.alpha=0.9",),
    "AT+KD": ("--transfer.beta=1000", "--transfer.alpha=0.9"),
    "AT, decaying": ("--transfer.beta={start: 1000, end: 0}",),
    "AT+KD, decaying": ("--transfer.beta={start: 1000, end: 0}", "--transfer.alpha=0.9"),
    "full activation": ("--transfer.full_activation=1",),
    "gradient AT": ("--transfer.gradient=0.1",),
}
TEACHER = "teacher"


def recipe(options: argparse.Namespace, variant: str, seed: int) -> training.Recipe:
    """The published recipe, shortened."""
    epochs = options.epochs
    milestones = [round(fraction * epochs) for fraction in (0.3, 0.6, 0.8)]
    teacher = () if variant in ("student", TEACHER) else (f"--transfer.teacher={options.folder / TEACHER}",)
    return training.load_recipe(
        None,
        [
            "--data.name=folder",
            f"--data.folder={options.data}",
            *([f"--data.train_images={options.images}"] if options.images else []),
            f"--model.name={'wrn-16-2' if variant == TEACHER else 'wrn-16-1'}",
            f"--schedule.epochs={epochs}",
            f"--schedule.milestones={milestones}",
            "--schedule.reset_momentum=true",
            "--transfer.precision=float32",
            *teacher,
            *VARIANTS.get(variant, ()),
            f"--seed={seed}",
            f"--device={options.device}",
            *([f"--threads={options.threads}"] if options.threads else []),
            f"--source={variant}, WRN-16-1 from WRN-16-2 on CIFAR-10, {epochs} epochs",
        ],
    )


def run_folder(folder: Path, variant: str, seed: int) -> Path:
    name = variant.lower().replace(",", "").replace(" ", "-")
    return folder / (TEACHER if variant == TEACHER else f"{name}-seed{seed}")


def train(options: argparse.Namespace, variant: str, seed: int) -> bool:
    """Trains a run unless it is finished; returns False if stopped."""
    path = run_folder(options.folder, variant, seed)
    if (path / "recipe.yaml").is_file() and len(training.Run.open(path).metrics()) == options.epochs:
        return True
    outcome = training.train(recipe(options, variant, seed), path, resume=True)
    print(path, (outcome.row or {}).get("test_accuracy"), flush=True)
    return outcome.finished


def report(options: argparse.Namespace) -> str:
    """The table of test errors and medians, with the difference of each variant from the student, paired by seed."""

    def error(variant: str, seed: int) -> float:
        return 100 * (1 - training.Run.open(run_folder(options.folder, variant, seed)).metrics()[-1]["test_accuracy"])

    errors = {variant: [error(variant, seed) for seed in options.seeds] for variant in options.variants}
    differences = stats.holm(
        {name: stats.over_seeds(values, errors["student"]) for name, values in errors.items() if name != "student"}
    )
    rows = []
    for variant, values in errors.items():
        cells = [variant, ", ".join(f"{value:.2f}" for value in values), f"{statistics.median(values):.2f}", "", ""]
        if variant in differences:
            test = differences[variant]
            cells[3:] = [difference(test, lambda value: signed(value, 2)), p_value(test.p_adjusted)]
        rows.append(cells)
    images = f"{options.images:,} of the training images, the same for all" if options.images else "all training images"
    return "\n".join(
        (
            f"{options.epochs} epochs on {images}; batch 128, learning rate 0.1 divided by 5 after 30, 60 and 80 % of "
            f"the epochs, momentum reset there. Teacher: WRN-16-2 with the same recipe, seed 0, test error "
            f"{error(TEACHER, 0):.2f} %. Test error in % after the last epoch, seeds "
            f"{', '.join(map(str, options.seeds))}; difference to the student of the same seed with its 95% interval, "
            "and p, by the paired t test, adjusted for all of them (Holm).\n",
            table(["", "every seed", "median", "difference to student", "adjusted p"], rows),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/transfer-cifar"))
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--images", type=int, default=None, help="number of training images; by default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--only", nargs="+", default=None, choices=[TEACHER, *VARIANTS], metavar="VARIANT")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--dry", action="store_true", help="print only, do not append to RESULTS.md")
    options = parser.parse_args()
    variants = options.only or [TEACHER, *options.variants]
    runs = [(TEACHER, 0)] if TEACHER in variants else []
    runs += [(variant, seed) for seed in options.seeds for variant in variants if variant != TEACHER]
    if all(train(options, variant, seed) for variant, seed in runs) and options.only is None:
        device = training.pick_device(options.device)
        publish("Transfer on CIFAR-10", report(options), device, save=not options.dry)


if __name__ == "__main__":
    main()
