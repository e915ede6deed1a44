"""The demo: trains a network that looks at the background, measures this, corrects it and transfers its attention."""

from __future__ import annotations

import time
from pathlib import Path

import rich.console
from rich.text import Text

from regard import bias, report, training
from regard.console import Console
from regard.errors import InputError
from regard.files import check_overwritable
from regard.formatting import printable
from regard.report.template import MARK

# Options of all runs. The images are digits, which must not be mirrored. Small batches and a cosine schedule learn
# fastest.
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
# Enough to run everything within seconds; the results mean nothing.
QUICK_IMAGES = 2
QUICK = ("--data.options={cue: 0.9, region: outline, train: 96, test: 40}", "--schedule.epochs=1")
TEACHER = "--model.name=wrn-10-1"
STUDENT = "--model.name=wrn-10-0.5"
REFERENCE = "biased"

# Name -> options besides COMMON; {biased} and {corrected} stand for the folders of these runs. Without regions,
# networks learn the background, which predicts the class of 91% of the training images. Guidance of attention maps
# confines the evidence for all classes to the region, guidance of class activation maps only that for the label.
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
"""Number of test images on the page."""
MARGIN = 2
"""Pixels by which a focus may extend beyond the region: half a cell of the maps."""


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

    A second call with the same folder resumes the runs.

    Args:
        folder: folder for the runs and the report.
        epochs: number of epochs of every run.
        seed: seed of every run.
        device: 'auto', 'cpu', 'cuda', …
        quick: train one epoch on 96 images, to see within seconds that everything runs; the results mean nothing.
        overwrite: remove the runs of an earlier demo in the folder.
        console: console for progress; standard error if not given.

    Returns:
        The results shown in `report.html`; None if stopped by Ctrl-C or SIGTERM.

    Raises:
        InputError: the folder contains something other than a demo, or a demo with another number of epochs.
    """
    console = console or Console(stderr=True, soft_wrap=True)
    folder = Path(folder)
    start = time.monotonic()
    console.print(f"making the built-in data; {len(NETWORKS)} networks to train")
    check_overwritable(folder / "report.html", MARK)
    recipes = {name: _recipe(folder, name, epochs, seed, device, quick) for name in NETWORKS}
    for name, recipe in recipes.items():
        run_folder = folder / run_name(name)
        if overwrite or not (run_folder / "recipe.yaml").is_file():
            training.Run.check_free(run_folder, overwrite=overwrite)
            continue
        epochs_before = training.Run.open(run_folder).recipe.schedule.epochs
        if epochs_before != recipe.schedule.epochs:  # checked first, because other runs start from this one
            raise InputError(
                f"{run_folder} belongs to a demo with {epochs_before} epochs, not {recipe.schedule.epochs}; replace it "
                "(--overwrite)"
            )
    splits = training.load_data(recipes[REFERENCE].data)
    runs = []
    for name, recipe in recipes.items():
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
            results = bias.evaluate(
                run.model(), splits.test, margin=MARGIN, name=run.name, device=training.pick_device(device)
            )
            results.save(run.folder / "bias.json")
        runs.append(run.folder)
    page = report.report_runs(
        runs,
        title="Networks that look at the background, and one that was corrected",
        names=list(NETWORKS),
        reference=REFERENCE,
        images=QUICK_IMAGES if quick else IMAGES,
    )
    page.save(folder / "report.html")
    console.print(f"\n{time.monotonic() - start:.0f} s")
    return page


def _recipe(folder: Path, name: str, epochs: int, seed: int, device: str, quick: bool) -> training.Recipe:
    options = NETWORKS[name]
    for source in (REFERENCE, "corrected"):
        options = tuple(option.replace(f"{{{source}}}", str(folder / run_name(source))) for option in options)
    common = [f"--schedule.epochs={epochs}", f"--seed={seed}", f"--device={device}", f"--source=the demo's {name!r}"]
    return training.load_recipe(None, [*COMMON, *options, *common, *(QUICK if quick else ())])


def run_name(name: str) -> str:
    """The name of a network's run folder."""
    return name.lower().replace(" ", "-")
