"""A short tour on the built-in data: a network that looks at the background, found out, corrected, transferred."""

from __future__ import annotations

import time
from pathlib import Path

import rich.console
from rich.text import Text

from regard import bias, data, report, training
from regard.console import Console
from regard.errors import InputError
from regard.files import check_written
from regard.formatting import printable
from regard.report.template import MARK

# Options of all runs. Digits must not be mirrored; small batches and a learning rate that falls smoothly learn fastest.
COMMON = (
    "--data.name=clutter",
    "--data.options={cue: 0.9, region: outline}",
    "--augmentation.flip=false",
    "--augmentation.padding=2",
    "--schedule.shape=cosine",
    "--schedule.warmup=0.5",
    "--schedule.batch_size=32",
    "--optimizer.nesterov=true",
)
# Enough to run through everything within seconds; what comes out says nothing.
QUICK_IMAGES = 2
QUICK = ("--data.options={cue: 0.9, region: outline, train: 96, test: 40}", "--schedule.epochs=1")
TEACHER = "--model.name=wrn-10-1"
STUDENT = "--model.name=wrn-10-0.5"
REFERENCE = "biased"

# Name -> options besides COMMON; {biased} and {corrected} stand for the folders of these runs. Without regions,
# networks learn the background, which is right for 91% of the training images. Guided attention maps hold the evidence
# for all classes to the region, class activation maps that for the label alone.
GUIDANCE = ("--model.pretrained={biased}", "--guidance.weight=3", "--guidance.maps=attention")
NETWORKS: dict[str, tuple[str, ...]] = {
    REFERENCE: (TEACHER,),
    "corrected": (TEACHER, *GUIDANCE, "--guidance.share=0.1"),
    "student of corrected": (STUDENT, "--transfer.teacher={corrected}", "--transfer.beta=1000"),
    "corrected with all regions": (TEACHER, *GUIDANCE),
    "trained longer": (TEACHER, "--model.pretrained={biased}"),
    "student alone": (STUDENT,),
    # As published: SE in every stage, LSAS in the last stage only.
    "LSAS-SE": (STUDENT, "--model.attention=se", "--model.gate=sub-attention", "--model.attention_stages=[3]"),
    "shuffle attention": (STUDENT, "--model.attention=shuffle", "--model.attention_options={groups: 2}"),
}
EPOCHS = 6
IMAGES = 12
"""Test images that the page shows."""
MARGIN = 2
"""Pixels by which a focus may go beyond the region: half a cell of the maps."""


def run_demo(
    folder: str | Path = "demo",
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    device: str = "auto",
    quick: bool = False,
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
        quick: train one epoch on 96 images, to see within seconds that everything runs; its results say nothing.
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
    recipes = {name: _recipe(folder, name, epochs, seed, device, quick) for name in NETWORKS}
    for name, recipe in recipes.items():
        run_folder = folder / run_name(name)
        if overwrite or not (run_folder / "recipe.yaml").is_file():
            training.Run.check_free(run_folder, overwrite=overwrite)
            continue
        before = training.Run.open(run_folder).recipe.schedule.epochs
        if before != recipe.schedule.epochs:  # found now: later the networks that it starts from would differ
            raise InputError(
                f"{run_folder} belongs to a demo with {before} epochs, not {recipe.schedule.epochs}; replace it "
                "(--overwrite)"
            )
    runs = []
    for name, recipe in recipes.items():
        splits = splits or training.load_data(recipe.data)
        console.print(Text(f"\n{name}", style="bold"))
        outcome = training.train(
            recipe,
            folder / run_name(name),
            resume=not overwrite,
            overwrite=overwrite,
            hooks=[training.Progress(console)],
            splits=splits,
        )
        if not outcome.finished:
            message = f"stopped and saved in {folder}; run the same command without --overwrite to resume"
            console.print(Text(printable(message)))
            return None
        run = outcome.run
        if not (run.folder / "bias.json").exists():
            place = training.pick_device(device)
            measured = bias.evaluate(run.model(), splits.test, margin=MARGIN, name=run.name, device=place)
            measured.save(run.folder / "bias.json")
        runs.append(run.folder)
    result = report.report_runs(
        runs,
        title="Networks that look at the background, and one that was corrected",
        names=list(NETWORKS),
        reference=REFERENCE,
        images=QUICK_IMAGES if quick else IMAGES,
    )
    result.save(folder / "report.html")
    console.print(f"\n{time.monotonic() - began:.0f} s")
    return result


def _recipe(folder: Path, name: str, epochs: int, seed: int, device: str, quick: bool) -> training.Recipe:
    options = NETWORKS[name]
    for other in (REFERENCE, "corrected"):
        options = tuple(option.replace(f"{{{other}}}", str(folder / run_name(other))) for option in options)
    of_all = [f"--schedule.epochs={epochs}", f"--seed={seed}", f"--device={device}", f"--source=the demo's {name!r}"]
    return training.load_recipe(None, [*COMMON, *options, *of_all, *(QUICK if quick else ())])


def run_name(name: str) -> str:
    """The name of the folder of a network's run."""
    return name.lower().replace(" ", "-")
