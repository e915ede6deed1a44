"""A short tour on the built-in data: train, transfer attention, measure the bias, write a report."""

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

# Options of all runs. Digits must not be mirrored. Within a few epochs, a network learns more than the background only
# with small batches, a weak cue and a learning rate that falls smoothly.
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

# Name -> options besides COMMON; {teacher} stands for the teacher's run folder.
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
    # As published: SE in every stage, LSAS in the last stage only.
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
    """Trains every network of `NETWORKS` on the built-in data, measures its bias, and writes `report.html`.

    Called again with the same folder, it resumes the runs.

    Args:
        folder: folder for the runs and the report.
        epochs: number of epochs of every run.
        seed: seed of every run.
        device: 'auto', 'cpu', 'cuda', …
        overwrite: remove the runs of an earlier demo in the folder.
        console: console to print progress on; standard error if not given.

    Returns:
        The results shown in `report.html`; None if stopped by Ctrl-C or SIGTERM.

    Raises:
        InputError: the folder has other content than a demo, or a demo with other options.
    """
    console = console or Console(stderr=True, soft_wrap=True)
    folder = Path(folder)
    began = time.monotonic()
    console.print(f"making the built-in data; {len(NETWORKS)} networks to train")
    splits: data.Splits | None = None
    check_written(folder / "report.html", MARK)
    for run_folder in [_run_folder(folder, name) for name in NETWORKS]:
        if overwrite or not (run_folder / "recipe.yaml").is_file():
            training.Run.check_free(run_folder, overwrite=overwrite)
        elif (before := training.Run.open(run_folder).recipe.schedule.epochs) != epochs:  # its teacher differs
            raise InputError(
                f"{run_folder} belongs to a demo with {before} epochs, not {epochs}; replace it (--overwrite)"
            )
    runs = []
    for name, options in NETWORKS.items():
        recipe = training.load_recipe(
            None,
            [
                *COMMON,
                *(option.replace("{teacher}", str(_run_folder(folder, TEACHER))) for option in options),
                f"--schedule.epochs={epochs}",
                f"--seed={seed}",
                f"--device={device}",
                f"--source=the demo's network {name!r}",
            ],
        )
        splits = splits or training.load_data(recipe.data)
        console.print(Text(f"\n{name}", style="bold"))
        run_folder = _run_folder(folder, name)
        outcome = training.train(
            recipe,
            run_folder,
            resume=not overwrite,
            overwrite=overwrite,
            hooks=[training.Progress(console)],
            splits=splits,
        )
        if not outcome.finished:
            message = f"stopped and saved in {folder}; run the same command without --overwrite to resume"
            console.print(Text(printable(message)))
            return None
        if not (run_folder / "bias.json").exists():
            _measure(outcome.run, splits.test, device)
        runs.append(outcome.run)
    result = report.report_runs(
        [run.folder for run in runs], title="Where small networks look", names=list(NETWORKS), reference=REFERENCE
    )
    result.save(folder / "report.html")
    console.print(f"\n{time.monotonic() - began:.0f} s")
    return result


def _run_folder(folder: Path, name: str) -> Path:
    return folder / name.lower().replace(" + ", "-").replace(" ", "-")


def _measure(run: training.Run, images: InMemoryDataset, device: str) -> None:
    measured = bias.evaluate(run.model(), images, name=run.name, device=training.pick_device(device))
    measured.save(run.folder / "bias.json")
