"""`regard bias`: where trained networks look, against the regions of the objects."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import dropwhile
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from regard import bias, report, training
from regard.bias.shards import remove_shards
from regard.cli.evaluations import Evaluation, add_evaluation_options, evaluations
from regard.cli.methods import cam_method
from regard.cli.processes import joined
from regard.cli.sights import sights
from regard.console import Console
from regard.data import InMemoryDataset
from regard.errors import InputError
from regard.files import check_written, written_aside
from regard.formatting import printable
from regard.modes import check_image_size
from regard.report.template import MARK
from regard.terminal import command_line, say


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard bias",
        usage="regard bias MODEL… [--data SET] [OPTIONS]",
        description="Where networks look, against the regions of the objects: every rate with its interval, and each "
        "network against the first, image by image. A MODEL is a run folder, an imported .safetensors file, a name of "
        "timm (with its pretrained weights), or NAME=CHECKPOINT. A SET is KIND:FOLDER, with KIND coco, imagenet, cub, "
        "pets, voc, stl10 or masks, or a set in memory with regions (clutter); runs know their own. The "
        "folder of the report (--out) has report.html, report.json, and for each network a .json and a .parquet with "
        "a row an image. Stopped, the same command goes on; under torchrun or srun several processes share the work.",
    )
    parser.add_argument("--method", type=str, default="gradcam", help="CAM method to use: a name, or MODULE:FUNCTION")
    parser.add_argument(
        "--layer", type=str, default=None, help="the layer whose map is taken, or several with commas between them"
    )
    parser.add_argument(
        "--target", choices=["predicted", "label"], default="predicted", help="the class that is explained"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="the focus is where the map, scaled to [0, 1], is this high"
    )
    parser.add_argument(
        "--margin", type=int, default=0, help="pixels that the focus may go beyond the region without range bias"
    )
    parser.add_argument("--tolerance", type=int, default=0, help="of the pointing game, in pixels")
    parser.add_argument("--out", type=str, default=None, help="the folder of the report; bias-SET if not given")
    parser.add_argument("--overwrite", action="store_true", help="measure again what is in that folder")
    parser.add_argument("--shard", type=int | None, default=None, help="images kept at a time; 8 batches if not given")
    parser.add_argument("--pictures", type=int, default=12, help="images shown on the page")
    add_evaluation_options(parser)
    with joined(arguments) as processes:
        told: Callable[[str], None] = say if processes.main else lambda _: None
        found = evaluations(parser, arguments, masks=True, say=told)
        _run(found, Console(quiet=not processes.main), processes, arguments)
    return 0


def _run(
    found: Sequence[Evaluation], console: Console, processes: training.Processes, arguments: Sequence[str]
) -> None:
    command = command_line(["regard", "bias", *arguments])
    options = found[0].options
    images = found[0].dataset
    if any(evaluation.images is not images for evaluation in found):
        raise InputError("the networks were trained on different data; name the images for all (--data)")
    folder = Path(options.out or "-".join(filter(None, ("bias", images.name, images.split))))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; the report goes to a folder, choose another (--out)")
    for evaluation in found:
        processes.first(partial(_check, evaluation))  # first, for its weights may be a download
        if len(found) > 1:  # one model at a time in memory; a single one need not be made twice
            evaluation.release()
    names = _file_names(found)
    if processes.main:
        check_written(folder / "report.json", '"command": "regard bias')
        check_written(folder / "report.html", MARK)
        for name in names:
            bias.Results.check_path(folder / f"{name}.json")
        for place in filter(None, map(_own_place, found)):
            bias.Results.check_path(place)
        for name in names if options.overwrite else ():
            remove_shards(folder / "shards" / name)
    processes.of_all(None)  # before anyone writes there
    by_name = list(zip(names, found, strict=True))
    reports = [_measured(evaluation, folder / "shards" / name, console) for name, evaluation in by_name]
    if not processes.main:
        return
    said = _settings(arguments)
    reports = [replace(one, provenance={**one.provenance, "options": said}) for one in reports]
    for (name, evaluation), one in zip(by_name, reports, strict=True):
        one.save(folder / f"{name}.json")
        own = _own_place(evaluation)
        if own is not None:
            one.save(own)
    comparisons, notes = bias.compare_all(reports)
    with written_aside(folder / "report.json") as aside:
        whole = {
            "command": command,
            "networks": {name: one.to_dict() for name, one in zip(names, reports, strict=True)},
            "comparisons": [comparison and comparison.to_records() for comparison in comparisons],
            "notes": notes,
        }
        aside.write_text(json.dumps(whole, allow_nan=False, indent=1), encoding="utf-8")
    page = report.write_bias_html(
        reports,
        comparisons,
        folder / "report.html",
        title=f"Where {'networks look' if len(reports) > 1 else f'{reports[0].model} looks'}: {images.name}",
        sights=sights(found, reports, options.pictures),
        notes=notes,
        command=command,
    )
    _show(console, reports, comparisons, notes)
    console.print(printable(f"the report is {page.resolve()}"), soft_wrap=True)


def _own_place(evaluation: Evaluation) -> Path | None:
    """Where the report goes besides: beside the weights, if the images are those of a run."""
    return evaluation.pretrained.bias_report if isinstance(evaluation.images, InMemoryDataset) else None


def _settings(arguments: Sequence[str]) -> list[str]:
    """The options, without those that say where the report goes and what it shows."""
    found = []
    options = iter(dropwhile(lambda argument: not argument.startswith("-"), arguments))
    for option in options:
        name, given, _ = option.partition("=")
        if name in ("--out", "--shard", "--pictures"):
            if not given:
                next(options, None)
        elif name != "--overwrite":
            found.append(option)
    return found


def _check(evaluation: Evaluation) -> None:
    """What would fail after hours: the method, its layer, the threshold, that the network runs."""
    options = evaluation.options
    distances = (options.margin, options.tolerance)
    size = evaluation.loader().image_size
    if size is not None:
        check_image_size(evaluation.model, torch.empty(1, 3, *size, device="meta"))
    bias.Evaluator(
        evaluation.model, cam_method(options.method), evaluation.layers, options.target, options.threshold, *distances
    )
    if options.shard is not None and options.shard < 1:
        raise InputError(f"--shard {options.shard}; expected at least 1")
    if options.pictures < 0:
        raise InputError(f"--pictures {options.pictures}; expected 0 or more")


def _measured(evaluation: Evaluation, folder: Path, console: Console) -> bias.Results:
    options = evaluation.options
    with _progress(console, evaluation.name) as progress:
        one = bias.evaluate(
            evaluation.model,
            evaluation.dataset,
            method=cam_method(options.method),
            layer=evaluation.layers,
            target=options.target,
            threshold=options.threshold,
            margin=options.margin,
            tolerance=options.tolerance,
            batch_size=options.batch_size,
            mean=evaluation.mean,
            std=evaluation.std,
            transform=evaluation.transform,
            workers=options.workers,
            unreadable=evaluation.unreadable,
            outputs=evaluation.pretrained.output_names,
            label_outputs=evaluation.label_outputs,
            device=evaluation.device,
            folder=folder,
            shard=options.shard,
            progress=progress,
            name=evaluation.name,
        )
    evaluation.release()
    return one


@contextmanager
def _progress(console: Console, name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A line with images done and images a second, whether or not the output is a terminal."""
    began = time.monotonic()
    last = 0

    def rate(done: int) -> str:
        return f"{done / max(time.monotonic() - began, 1e-9):,.0f} images/s"

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(printable(name), total=None, rate="")

        def update(done: int, total: int | None) -> None:
            nonlocal last
            last = done
            progress.update(task, completed=done, total=total, rate=rate(done))

        yield update
    if not console.is_terminal:
        console.print(f"{printable(name)}: {last:,} images, {rate(last)}", soft_wrap=True)


def _show(
    console: Console,
    reports: Sequence[bias.Results],
    comparisons: Sequence[bias.Comparison | None],
    notes: Sequence[str],
) -> None:
    console.print()
    if len(reports) == 1:
        console.print(report.results_table(reports[0], classes=len(reports[0].classes) <= 30))
    else:
        console.print(report.bias_table(reports))
    for note in notes:
        console.print(f"\n{printable(note)}", soft_wrap=True)
    compared = [comparison for comparison in comparisons if comparison is not None]
    for table in map(report.comparison_table, compared):
        console.print(table)
    for note in (note for comparison in compared for note in comparison.notes):
        console.print(printable(note), soft_wrap=True)


def _file_names(found: Sequence[Evaluation]) -> list[str]:
    """The networks as names of files, each once: the last part of a path, or the name of a network."""
    names: list[str] = []
    for evaluation in found:
        source = Path(evaluation.name)
        said = source.name if source.exists() else evaluation.name
        plain = re.sub(r"[^\w.+-]+", "-", said.removesuffix(".safetensors")).strip("-.") or "network"
        name, number = plain, 2
        while name in (*names, "report", "shards"):
            name, number = f"{plain}-{number}", number + 1
        names.append(name)
    return names
