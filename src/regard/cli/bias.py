"""`regard bias`: where trained networks look, against the regions of the objects."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from regard import bias, maps, report, training
from regard.bias.shards import remove_shards
from regard.cli.bias_detectors import (
    OF_DETECTORS,
    DetectorEvaluation,
    detections_gallery,
    detector_evaluations,
    focus,
)
from regard.cli.command import Command
from regard.cli.evaluation import ClassifierEvaluation
from regard.cli.inputs import add_networks, cam_method, evaluations, joined, open_networks
from regard.cli.options import add_cam, make_parser
from regard.data import InMemoryDataset
from regard.errors import InputError
from regard.files import check_written, utf8, write_text
from regard.modes import check_image_size
from regard.parser import Parser
from regard.report import bias_records
from regard.report.template import MARK

_PICTURED = 3  # images with their interventions

AnyEvaluation = ClassifierEvaluation | DetectorEvaluation

# Options that say where results go and what is shown of them, not what is measured.
_OUTPUT = ("--out", "--shard", "--examples", "--overwrite", "--json", "--quiet")


def parser() -> Parser:
    parser = make_parser(
        "bias",
        "Measures where networks look, against the regions of the objects: every rate with its interval, and each "
        "network against the first, image by image. The images need regions: those of coco, imagenet, cub, pets, voc, "
        "stl10 and masks have some, and so has clutter. The folder of the report (--out) gets report.html, report.json "
        "and, for each network, a .json and a .parquet with one row per image. Stopped, the same command goes on; "
        "under torchrun or srun several processes share the work.",
    )
    add_cam(parser)
    parser.add_argument(
        "--target", choices=["predicted", "label"], default="predicted", help="class to explain of each image"
    )
    parser.add_argument(
        "--margin", type=int, default=0, help="pixels that the focus may reach beyond the region without range bias"
    )
    parser.add_argument("--tolerance", type=int, default=0, help="tolerance of the pointing game, in pixels")
    parser.add_argument("--out", help="folder to write; bias-SET if not given")
    parser.add_argument("--overwrite", action="store_true", help="measure again what the folder holds already")
    parser.add_argument(
        "--shard", type=int, interval="[1, 2^40]", help="number of images to save at a time; 8 batches if not given"
    )
    parser.add_argument(
        "--keep-maps", action="store_true", help="keep the CAMs themselves in the .parquet files, as bytes"
    )
    parser.add_argument(
        "--interventions",
        action="store_true",
        help="measure accuracy with the object alone, the background alone, and backgrounds exchanged, too",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of backgrounds for --interventions")
    parser.add_argument(
        "--examples", type=int, default=12, interval="[0, 2^24]", help="number of images to show on the page"
    )
    parser.add_argument("--score", type=float, default=0.5, help="least score of a detection to measure, from 0 to 1")
    parser.add_argument(
        "--detections",
        type=int,
        default=20,
        interval="[1, 2^24]",
        help="number of detections per image to measure, at most",
    )
    parser.add_argument(
        "--box-regions",
        action="store_true",
        help="take the own box of each detection for its region, to compare right and wrong ones; the mask of its "
        "object if not given",
    )
    parser.add_argument("--masks", type=int, default=1000, help="number of masks of the method drise")
    add_networks(parser)
    return parser


def main(command: Command) -> None:
    with joined(command) as processes:
        networks = open_networks(command, command.options.models)
        evaluated: Sequence[AnyEvaluation]
        if networks[0].network.detector is not None:
            evaluated = detector_evaluations(command, networks)
        else:
            command.check_not_given(OF_DETECTORS, f"detectors, {networks[0].source} is a classifier")
            evaluated = evaluations(command, networks, masks=True, detectors="measure detectors by themselves")
        _run(command, evaluated, processes)


def _run(command: Command, evaluated: Sequence[AnyEvaluation], processes: training.Processes) -> None:
    options, images = command.options, evaluated[0].dataset
    if any(evaluation.images is not images for evaluation in evaluated):
        raise InputError("the networks were trained on different data; name the images for all (--data)")
    folder = Path(options.out or "-".join(filter(None, ("bias", images.name, images.split))))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; the report goes to a folder, choose another (--out)")
    for evaluation in evaluated:
        processes.first(partial(_check, evaluation))  # first, for its weights may be a download
        if len(evaluated) > 1:  # one model at a time in memory; a single one need not be made twice
            evaluation.release()
    names = _file_names(evaluated)
    paths = [  # of each network
        [*filter(None, (folder / f"{name}.json", _run_file(evaluation)))]
        for name, evaluation in zip(names, evaluated, strict=True)
    ]
    if processes.main:
        check_written(folder / "report.json", '"command": "regard bias')
        check_written(folder / "report.html", MARK)
        for path in chain(*paths):
            bias.Results.check_path(path)
        for name in names if options.overwrite else ():
            remove_shards(folder / "shards" / name)
    processes.of_all(None)  # before anyone writes there
    results = [
        _measured(command, evaluation, folder / "shards" / name)
        for name, evaluation in zip(names, evaluated, strict=True)
    ]
    if not processes.main:
        return
    typed, _ = command.parser.split(command.arguments)
    measuring = [option for option in typed if option.partition("=")[0] not in _OUTPUT]
    results = [replace(one, provenance={**one.provenance, "options": measuring}) for one in results]
    for one, its_paths in zip(results, paths, strict=True):
        for path in its_paths:
            one.save(path)
    comparisons, effects, not_compared = bias.compare_all(results)
    notes = bias_records.notes(results, comparisons, not_compared)
    shared = {
        "comparisons": [record for one in comparisons if one is not None for record in one.to_records()],
        "interventions": [
            record for one, each in zip(results, effects, strict=True) for record in bias.effect_records(one, each)
        ],
        "notes": [note._asdict() for note in notes],
    }
    networks = {name: one.to_dict() for name, one in zip(names, results, strict=True)}
    content = json.dumps({"command": command.line, "networks": networks, **shared}, allow_nan=False, indent=1)
    write_text(folder / "report.json", content)
    page = report.write_bias_html(
        results,
        folder / "report.html",
        title=f"Bias on {' '.join(filter(None, (images.name, images.split)))}",
        gallery=_gallery(evaluated, results, options.examples),
        changed=_changed_images(evaluated[0], results) if options.examples else (),
        command=command.line,
    )
    records = {"results": [record for one in results for record in one.to_records()], **shared}
    command.show(records, *report.bias_tables(results, comparisons, effects))
    for about, note in notes:
        command.note(f"{about}: {note}")
    command.note(f"page: {page.resolve()}")


def _changed_images(evaluation: AnyEvaluation, results: Sequence[bias.Results]) -> list[report.ChangedImage]:
    """A few images with their interventions, as they come to the first network; none without interventions."""
    options = evaluation.options
    if not options.interventions or not isinstance(evaluation, ClassifierEvaluation):
        return []
    changes = bias.Interventions(evaluation.dataset, lambda which: evaluation.batches(which, masks=True), options.seed)
    return list(report.changed_images(changes, evaluation.dataset, results, _PICTURED, evaluation.mean, evaluation.std))


def _gallery(evaluated: Sequence[AnyEvaluation], results: Sequence[bias.Results], count: int) -> report.Gallery:
    """The images that `report.bias_images` chooses, with the CAM of each network; releases the models."""
    if detectors := [one for one in evaluated if isinstance(one, DetectorEvaluation)]:
        return detections_gallery(detectors, results, count)
    classifiers = [one for one in evaluated if isinstance(one, ClassifierEvaluation)]
    chosen = report.bias_images(results, count)
    rows = [row for indices in chosen.values() for row in indices]
    by_key = {utf8(key): index for index, key in enumerate(classifiers[0].dataset.keys)}
    indices = [by_key[results[0].keys[row]] for row in rows]
    size = 256 if len(results) < 4 else 160  # pixels
    gallery = report.Gallery(bias_records.names(results), measures=("energy_inside",), size=size)
    models = [_cells(evaluation, one, rows, indices) for evaluation, one in zip(classifiers, results, strict=True)]
    gallery.add_models(chosen, models)
    return gallery


def _cells(
    evaluation: ClassifierEvaluation, results: bias.Results, rows: Sequence[int], indices: Sequence[int]
) -> list[report.Row]:
    """Rows of these results, whose images have these indices in the data set, with the CAM of the model."""
    options = evaluation.options
    method = maps.create(cam_method(options.method), evaluation.model, evaluation.layers)
    explained = torch.as_tensor(results.rows["explained"][list(rows)], device=evaluation.device)
    drawn: list[report.Row] = []
    for batch in evaluation.batches(indices, masks=True):
        drawn += report.explain_batch(
            method,
            batch._replace(index=torch.tensor(indices)[batch.index.cpu()]),
            evaluation.dataset,
            mean=evaluation.mean,
            std=evaluation.std,
            names=results.outputs,
            classes=explained[batch.index][:, None],
            label_outputs=evaluation.label_outputs,
            **focus(options),
        )
    evaluation.release()
    return drawn


def _run_file(evaluation: AnyEvaluation) -> Path | None:
    """Where results go as well: beside the weights, if the images are those of a run."""
    return evaluation.pretrained.bias_report if isinstance(evaluation.images, InMemoryDataset) else None


def _check(evaluation: AnyEvaluation) -> None:
    """What would fail after hours: the method, its layer, the threshold, that the network runs."""
    if isinstance(evaluation, DetectorEvaluation):
        evaluation.evaluator()
        return
    options, size = evaluation.options, evaluation.loader().image_size
    if size is not None:
        check_image_size(evaluation.model, torch.empty(1, 3, *size, device="meta"))
    method = cam_method(options.method)
    bias.Evaluator(evaluation.model, method, evaluation.layers, options.target, **focus(options))


def _measured(command: Command, evaluation: AnyEvaluation, folder: Path) -> bias.Results:
    if isinstance(evaluation, DetectorEvaluation):
        return evaluation.measured(command, folder)
    options = evaluation.options
    with command.progress(evaluation.name) as progress:
        results = bias.evaluate(
            evaluation.model,
            evaluation.dataset,
            **evaluation.reading,
            **focus(options),
            method=cam_method(options.method),
            layer=evaluation.layers,
            target=options.target,
            outputs=evaluation.pretrained.output_names,
            label_outputs=evaluation.label_outputs,
            folder=folder,
            shard=options.shard,
            keep_maps=options.keep_maps,
            interventions=options.interventions,
            seed=options.seed,
            progress=progress,
            name=evaluation.name,
        )
    evaluation.release()
    return results


def _file_names(evaluated: Sequence[AnyEvaluation]) -> list[str]:
    """The networks as names of files, each once: the last part of a path, or the name of a network."""
    names: list[str] = []
    for evaluation in evaluated:
        path = Path(evaluation.name)
        given = (path.name if path.exists() else evaluation.name).removesuffix(".safetensors")
        plain = re.sub(r"[^\w.+-]+", "-", given).strip("-.") or "network"
        name, number = plain, 2
        while name in (*names, "report", "shards"):
            name, number = f"{plain}-{number}", number + 1
        names.append(name)
    return names
