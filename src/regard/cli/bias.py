"""`regard bias`: measures whether trained networks look at the regions of the objects."""

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
    DETECTOR_OPTIONS,
    DetectorEvaluation,
    detections_gallery,
    detector_evaluations,
    focus,
)
from regard.cli.command import Command
from regard.cli.evaluation import ClassifierEvaluation
from regard.cli.inputs import add_networks, cam_method, evaluations, join_processes, open_networks
from regard.cli.options import add_cam, make_parser
from regard.data import InMemoryDataset
from regard.errors import InputError
from regard.files import check_overwritable, utf8, write_text
from regard.modes import check_image_size
from regard.parser import Parser
from regard.report import bias_records
from regard.report.template import MARK

_CHANGED_IMAGES = 3  # number of images to show with their interventions

AnyEvaluation = ClassifierEvaluation | DetectorEvaluation

# Options that change where results are written and shown, but not the results.
_OUTPUT_OPTIONS = ("--out", "--shard", "--examples", "--overwrite", "--json", "--quiet")


def parser() -> Parser:
    parser = make_parser(
        "bias",
        "Measures whether networks look at the regions of the objects: each rate with its interval, and each network "
        "compared with the first on the same images. The images need regions, which coco, imagenet, cub, pets, voc, "
        "stl10, masks and clutter have. Writes report.html, report.json and, for each network, a .json and a .parquet "
        "with one row per image to a folder (--out). If it is stopped, the same command resumes. Under torchrun or "
        "srun, several processes share the work.",
    )
    add_cam(parser)
    parser.add_argument("--target", choices=["predicted", "label"], default="predicted", help="class to explain")
    parser.add_argument(
        "--margin", type=int, default=0, help="pixels that the focus may extend beyond the region without range bias"
    )
    parser.add_argument("--tolerance", type=int, default=0, help="tolerance of the pointing game, in pixels")
    parser.add_argument("--out", help="folder to write to; bias-SET if not given")
    parser.add_argument("--overwrite", action="store_true", help="measure again, and replace the results in the folder")
    parser.add_argument(
        "--shard", type=int, interval="[1, 2^40]", help="images per saved shard; 8 batches if not given"
    )
    parser.add_argument("--keep-maps", action="store_true", help="save the CAMs in the .parquet files, as bytes")
    parser.add_argument(
        "--interventions",
        action="store_true",
        help="also measure accuracy on the objects alone, the backgrounds alone, and with exchanged backgrounds",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for the choice of backgrounds in --interventions")
    parser.add_argument("--examples", type=int, default=12, interval="[0, 2^24]", help="number of images on the page")
    parser.add_argument("--score", type=float, default=0.5, help="least score of a detection to measure, from 0 to 1")
    parser.add_argument(
        "--detections",
        type=int,
        default=20,
        interval="[1, 2^24]",
        help="largest number of detections per image to measure",
    )
    parser.add_argument(
        "--box-regions",
        action="store_true",
        help="use each detection's own box as its region, to compare right and wrong detections; the mask of its "
        "object if not given",
    )
    parser.add_argument("--masks", type=int, default=1000, help="number of random masks of --method drise")
    add_networks(parser)
    return parser


def main(command: Command) -> None:
    with join_processes(command) as processes:
        networks = open_networks(command, command.options.models)
        evaluated: Sequence[AnyEvaluation]
        if networks[0].network.detector is not None:
            evaluated = detector_evaluations(command, networks)
        else:
            command.reject_options(DETECTOR_OPTIONS, f"detectors, {networks[0].source} is a classifier")
            evaluated = evaluations(command, networks, masks=True, detector_hint="measure detectors separately")
        _run(command, evaluated, processes)


def _run(command: Command, evaluated: Sequence[AnyEvaluation], processes: training.Processes) -> None:
    options, images = command.options, evaluated[0].dataset
    if any(evaluation.images is not images for evaluation in evaluated):
        raise InputError("the networks were trained on different data; name the images for all (--data)")
    folder = Path(options.out or "-".join(filter(None, ("bias", images.name, images.split))))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; the report goes to a folder, choose another (--out)")
    for evaluation in evaluated:
        processes.first(partial(_check, evaluation))  # the first process may download the weights
        if len(evaluated) > 1:  # keeps one model in memory at a time
            evaluation.release()
    names = _file_names(evaluated)
    paths = [  # the result files of each network
        [*filter(None, (folder / f"{name}.json", _run_file(evaluation)))]
        for name, evaluation in zip(names, evaluated, strict=True)
    ]
    if processes.main:
        check_overwritable(folder / "report.json", '"command": "regard bias')
        check_overwritable(folder / "report.html", MARK)
        for path in chain(*paths):
            bias.Results.check_path(path)
        for name in names if options.overwrite else ():
            remove_shards(folder / "shards" / name)
    processes.of_all(None)  # wait for the checks before any process writes
    results = [
        _evaluate(command, evaluation, folder / "shards" / name)
        for name, evaluation in zip(names, evaluated, strict=True)
    ]
    if not processes.main:
        return
    typed, _ = command.parser.split(command.arguments)
    options_used = [option for option in typed if option.partition("=")[0] not in _OUTPUT_OPTIONS]
    results = [replace(result, provenance={**result.provenance, "options": options_used}) for result in results]
    for result, result_paths in zip(results, paths, strict=True):
        for path in result_paths:
            result.save(path)
    comparisons, effects, not_compared = bias.compare_all(results)
    notes = bias_records.notes(results, comparisons, not_compared)
    shared = {
        "comparisons": [record for comparison in filter(None, comparisons) for record in comparison.to_records()],
        "interventions": list(chain.from_iterable(map(bias.effect_records, results, effects))),
        "notes": [note._asdict() for note in notes],
    }
    networks = {name: result.to_dict() for name, result in zip(names, results, strict=True)}
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
    records = {"results": [record for result in results for record in result.to_records()], **shared}
    command.show(records, *report.bias_tables(results, comparisons, effects))
    for subject, note in notes:
        command.note(f"{subject}: {note}")
    command.note(f"page: {page.resolve()}")


def _changed_images(evaluation: AnyEvaluation, results: Sequence[bias.Results]) -> list[report.ChangedImage]:
    """A few images with their interventions, preprocessed for the first network; none without --interventions."""
    options = evaluation.options
    if not options.interventions or not isinstance(evaluation, ClassifierEvaluation):
        return []
    changes = bias.Interventions(evaluation.dataset, lambda which: evaluation.batches(which, masks=True), options.seed)
    mean, std = evaluation.mean, evaluation.std
    return list(report.changed_images(changes, evaluation.dataset, results, _CHANGED_IMAGES, mean, std))


def _gallery(evaluated: Sequence[AnyEvaluation], results: Sequence[bias.Results], count: int) -> report.Gallery:
    """The images that `report.bias_images` chooses, with the CAM of each network. Releases the models."""
    if detectors := [evaluation for evaluation in evaluated if isinstance(evaluation, DetectorEvaluation)]:
        return detections_gallery(detectors, results, count)
    classifiers = [evaluation for evaluation in evaluated if isinstance(evaluation, ClassifierEvaluation)]
    chosen = report.bias_images(results, count)
    rows = [row for indices in chosen.values() for row in indices]
    index_of = {utf8(key): index for index, key in enumerate(classifiers[0].dataset.keys)}
    indices = [index_of[results[0].keys[row]] for row in rows]
    size = 256 if len(results) < 4 else 160  # pixels
    gallery = report.Gallery(bias_records.names(results), measures=("energy_inside",), size=size)
    models = zip(classifiers, results, strict=True)
    gallery.add_models(chosen, [_gallery_rows(model, result, rows, indices) for model, result in models])
    return gallery


def _gallery_rows(
    evaluation: ClassifierEvaluation, results: bias.Results, rows: Sequence[int], indices: Sequence[int]
) -> list[report.Row]:
    """The gallery rows of one model with its CAMs; `rows` are rows of the results, `indices` those of the data set."""
    options = evaluation.options
    method = maps.create(cam_method(options.method), evaluation.model, evaluation.layers)
    classes = torch.as_tensor(results.rows["explained"][list(rows)], device=evaluation.device)
    gallery_rows: list[report.Row] = []
    for batch in evaluation.batches(indices, masks=True):
        gallery_rows += report.explain_batch(
            method,
            batch._replace(index=torch.tensor(indices)[batch.index.cpu()]),
            evaluation.dataset,
            mean=evaluation.mean,
            std=evaluation.std,
            names=results.outputs,
            classes=classes[batch.index][:, None],
            label_outputs=evaluation.label_outputs,
            **focus(options),
        )
    evaluation.release()
    return gallery_rows


def _run_file(evaluation: AnyEvaluation) -> Path | None:
    """A second file for the results, beside the weights, if the images are those of a run."""
    return evaluation.pretrained.bias_report if isinstance(evaluation.images, InMemoryDataset) else None


def _check(evaluation: AnyEvaluation) -> None:
    """Checks the method, its layer, the threshold and the image size, which would otherwise fail after hours."""
    if isinstance(evaluation, DetectorEvaluation):
        evaluation.evaluator()
        return
    options, size = evaluation.options, evaluation.loader().image_size
    if size is not None:
        check_image_size(evaluation.model, torch.empty(1, 3, *size, device="meta"))
    method = cam_method(options.method)
    bias.Evaluator(evaluation.model, method, evaluation.layers, options.target, **focus(options))


def _evaluate(command: Command, evaluation: AnyEvaluation, folder: Path) -> bias.Results:
    if isinstance(evaluation, DetectorEvaluation):
        return evaluation.evaluate(command, folder)
    options = evaluation.options
    with command.progress(evaluation.name) as progress:
        results = bias.evaluate(
            evaluation.model,
            evaluation.dataset,
            **evaluation.loading,
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
    """A unique file name for each network: the last part of its path, or its name."""
    names: list[str] = []
    for evaluation in evaluated:
        path = Path(evaluation.name)
        base = (path.name if path.exists() else evaluation.name).removesuffix(".safetensors")
        base = re.sub(r"[^\w.+-]+", "-", base).strip("-.") or "network"
        name, number = base, 2
        while name in (*names, "report", "shards"):
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names
