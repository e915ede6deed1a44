"""The main job on the built-in data: train, transfer, measure, show."""

from __future__ import annotations

import time
from pathlib import Path

import rich.console
from rich.text import Text

from regard import bias, data, report, training
from regard.console import Console
from regard.data import InMemoryDataset
from regard.errors import InputError
from regard.files import check_written
from regard.formatting import printable
from regard.report.template import MARK

# What all runs share. Digits are not mirrored. In so few epochs a network gets past the background only with small
# batches, a weak cue, and a learning rate that falls smoothly.
COMMON = (
    "--data.name=clutter",
    "--data.options={cue: 0.3}",
    "--augmentation.flip=false",
    "--augmentation.padding=2",
    "--schedule.shape=cosine",
    "--schedule.warmup=0.5",
    "--schedule.batch_size=32",
    "--optimizer.nesterov=true",
)
STUDENT = "--model.name=wrn-10-0.5"
TEACHER = "teacher"
REFERENCE = "student alone"

# Name -> what its recipe says beyond COMMON; {teacher} stands for the teacher's run folder.
NETWORKS: dict[str, tuple[str, ...]] = {
    TEACHER: ("--model.name=wrn-10-1",),
    REFERENCE: (STUDENT,),
    "attention transfer": (STUDENT, "--transfer.teacher={teacher}", "--transfer.beta=1000"),
    "distillation": (STUDENT, "--transfer.teacher={teacher}", "--transfer.alpha=0.9"),
    "transfer + distillation": (
        STUDENT,
        "--transfer.teacher={teacher}",
        "--transfer.beta=1000",
        "--transfer.alpha=0.9",
    ),
    "SE": (STUDENT, "--model.attention=se"),
    # As published: SE everywhere, LSAS in the last stage alone.
    "LSAS-SE": (STUDENT, "--model.attention=se", "--model.gate=sub-attention", "--model.attention_stages=[3]"),
    "shuffle attention": (STUDENT, "--model.attention=shuffle", "--model.attention_options={groups: 2}"),
}
EPOCHS = 6


def run_demo(
    folder: str | Path = "demo",
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    console: rich.console.Console | None = None,
) -> report.RunsReport | None:
    """Trains every network of `NETWORKS` on the built-in data, measures where each looks, and writes `report.html`.

    Run again on the same folder, it goes on where it was stopped.

    Args:
        folder: where the run folders and the report go.
        epochs: of every run.
        seed: of every run.
        device: 'auto', 'cpu', 'cuda', …
        overwrite: remove the runs of an earlier demo in the folder.
        console: where the progress is printed; standard error if not given.

    Returns:
        The results, which `report.html` in the folder shows; None if stopped by Ctrl-C or SIGTERM.

    Raises:
        InputError: the folder holds something other than a demo, or one with other settings.
    """
    console = console or Console(stderr=True, soft_wrap=True)
    folder = Path(folder)
    began = time.monotonic()
    console.print(f"making the built-in data; {len(NETWORKS)} networks to train")
    splits: data.Splits | None = None
    check_written(folder / "report.html", MARK)
    for place in [_place(folder, name) for name in NETWORKS]:
        if overwrite or not (place / "recipe.yaml").is_file():
            training.Run.check_free(place, overwrite=overwrite)
        elif (before := training.Run.open(place).recipe.schedule.epochs) != epochs:  # students of other teachers
            raise InputError(f"{place} is of a demo of {before} epochs, not {epochs}; replace it (--overwrite)")
    runs = []
    for name, options in NETWORKS.items():
        recipe = training.load_recipe(
            None,
            [
                *COMMON,
                *(option.replace("{teacher}", str(_place(folder, TEACHER))) for option in options),
                f"--schedule.epochs={epochs}",
                f"--seed={seed}",
                f"--device={device}",
                f"--source=the demo's network {name!r}",
            ],
        )
        splits = splits or training.load_data(recipe.data)
        console.print(Text(f"\n{name}", style="bold"))
        place = _place(folder, name)
        outcome = training.train(
            recipe, place, resume=not overwrite, overwrite=overwrite, hooks=[training.Progress(console)], splits=splits
        )
        if not outcome.finished:
            message = f"stopped and saved in {folder}; the same command without --overwrite goes on"
            console.print(Text(printable(message)))
            return None
        if not (place / "bias.json").exists():
            _measure(outcome.run, splits.test, device)
        runs.append(outcome.run)
    result = report.report_runs(
        [run.folder for run in runs], title="Where small networks look", names=list(NETWORKS), reference=REFERENCE
    )
    result.save(folder / "report.html")
    console.print(f"\n{time.monotonic() - began:.0f} s")
    return result


def _place(folder: Path, name: str) -> Path:
    return folder / name.lower().replace(" + ", "-").replace(" ", "-")


def _measure(run: training.Run, images: InMemoryDataset, device: str) -> None:
    measured = bias.evaluate(run.model(), images, name=run.name, device=training.pick_device(device))
    measured.save(run.folder / "bias.json")
