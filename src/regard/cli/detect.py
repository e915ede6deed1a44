"""`regard detect`: evaluates detectors, and draws the objects that they detect in images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from regard import data, detection, training
from regard.cli.command import Command
from regard.cli.inputs import join_processes, limit_images, on_unreadable, open_networks
from regard.cli.options import add_device, add_reading, add_saved_weights, make_parser
from regard.columns import Column
from regard.data import ImageDataset
from regard.errors import InputError, first_few
from regard.parser import Parser
from regard.report import detected, records_table
from regard.report.captions import NOTHING_DETECTED
from regard.training import Pretrained

_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_MODEL_COLUMNS = (Column("model", "model"), Column("kind", "of"))
_COLUMNS = (*_MODEL_COLUMNS, *(Column(name, name, "percent") for name in _NUMBERS))
_CLASS_COLUMNS = (
    *(*_MODEL_COLUMNS, Column("class", "class"), Column("objects", "objects", "count")),
    *(Column(name, name, "percent") for name in _NUMBERS[:6]),
)
_COMPARISON_COLUMNS = (
    *(Column("model", "model"), Column("reference", "minus"), Column("kind", "of"), Column("measure", "number")),
    *(Column("value", "difference", "points"), Column("p", "p", "p"), Column("p_adjusted", "adjusted p", "p")),
    Column("significant", "result", "significant"),
)
_ACTION_OPTIONS = {"evaluate": ("data", "split", "images", "limit", "per_class"), "predict": ("model", "score")}
"""For each action, the options that the other does not have."""


def parser() -> Parser:
    parser = make_parser(
        "detect",
        "Evaluates detectors, or draws the objects that one detects. `regard detect evaluate RUN…` prints COCO's "
        "twelve metrics for boxes and masks, and compares several detectors on the same images. `regard detect predict "
        "PHOTOS… --model RUN` writes a picture of each image with its objects, and detections.json. `regard train` "
        "trains detectors from recipes with a model.detector.",
        epilog="examples: regard detect evaluate runs/a runs/b --data coco:FOLDER; "
        "regard detect predict photos --model runs/a --out detected",
    )
    parser.add_argument("action", choices=["evaluate", "predict"], help="what to do")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="RUN|IMAGE",
        help="for evaluate: runs of detectors; for predict: image files, and folders, which are searched recursively",
    )
    parser.add_argument(
        "--data",
        help="images to evaluate on: KIND:FOLDER, with KIND coco, voc or masks; a run's test images if not given",
    )
    parser.add_argument("--split", help="split of --data to use: train, val, …")
    parser.add_argument("--images", metavar="FOLDER", help="folder of the images, if they are not in that of --data")
    parser.add_argument("--limit", type=int, interval="[1, 2^40]", help="number of images to use, spread evenly")
    parser.add_argument("--per-class", action="store_true", help="also print the AP of every class in the images")
    parser.add_argument("--model", metavar="RUN", help="detector to predict with")
    parser.add_argument("--score", type=float, default=0.5, interval="[0, 1]", help="least score of an object to draw")
    parser.add_argument(
        "--out",
        help="folder to write to: for predict `detected` if not given; for evaluate the detections in COCO's results "
        "format, which are not written if not given",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier call in the folder")
    add_saved_weights(parser)
    add_device(parser)
    add_reading(parser)
    return parser


def main(command: Command) -> None:
    (other,) = _ACTION_OPTIONS.keys() - {command.options.action}
    command.reject_options(_ACTION_OPTIONS[other], f"regard detect {other}")
    if other == "evaluate":
        _predict(command)
    else:
        _evaluate(command)


def _evaluate(command: Command) -> None:
    options = command.options
    with join_processes(command) as processes:
        detectors = open_networks(command, options.inputs)
        for detector in detectors:
            _check_detector(detector)
        if options.out is not None and not options.overwrite:
            _check_absent(Path(options.out), options.inputs)
        sets: dict[str, ImageDataset] = {}  # shared by detectors tested on the same data
        results = [
            _results(command, detector, detector_images(detector, options.data, options, sets), processes)
            for detector in detectors
        ]
        if options.out is not None and processes.main:
            Path(options.out).mkdir(parents=True, exist_ok=True)
            for i, result in enumerate(results):
                for kind in result.kinds:
                    path = result.save_coco(_path(Path(options.out), i, result.model, kind), kind)
                    command.note(f"written: {path}")
        records = [record for result in results for record in result.to_records()]
        tables = [records_table([record for record in records if record["class"] is None], _COLUMNS)]
        if options.per_class:
            class_records = [record for record in records if record["class"] is not None and record["objects"]]
            tables.append(records_table(class_records, _CLASS_COLUMNS))
        compared = detection.compare_all(results) if len(results) > 1 and processes.main else []
        comparisons = [record for comparison in compared for record in comparison.to_records()]
        if comparisons:
            tables.append(records_table(comparisons, _COMPARISON_COLUMNS))
        command.show({"results": records, "comparisons": comparisons}, *tables)


def _results(
    command: Command, detector: Pretrained, images: ImageDataset, processes: training.Processes
) -> detection.Results:
    options = command.options
    model = detector.model().to(training.pick_device(options.device))
    if isinstance(model, detection.MaskRCNN) and not images.has_object_masks:
        command.note(f"note: {images.name} has no masks; only the boxes of {detector.source} are evaluated")
    with command.progress(detector.source, total=len(images)) as progress:
        done = 0

        def after_batch(count: int) -> None:
            nonlocal done
            done += count * processes.count
            progress(min(done, len(images)), len(images))

        results = detection.evaluate(
            model,
            images,
            name=detector.source,
            classes=detector.classes,
            workers=options.workers,
            unreadable=options.unreadable or "error",
            after_batch=after_batch,
        )
    if results.skipped:
        command.note(f"{len(results.skipped)} unreadable images skipped: {first_few(results.skipped)}")
    return results


def detector_images(
    detector: Pretrained, name: str | None, options: Namespace, sets: dict[str, ImageDataset]
) -> ImageDataset:
    """The images to evaluate a detector on: those of --data (`name`), or the test images of its run.

    `sets` caches the data sets, which several detectors may share.
    """
    if name is not None:
        if "" not in sets:
            files = {option: options[option] for option in ("split", "images", "limit")}
            sets[""] = data.open_regions(name, **files)
        return sets[""]
    if unused := [option for option in ("split", "images") if options[option] is not None]:
        raise InputError(f"--{unused[0]} is for --data; name the images (--data coco:FOLDER)")
    if detector.recipe is None:
        raise InputError(f"the data of {detector.source} are not known; name some (--data coco:FOLDER)")
    key = repr(detector.recipe.data)
    if key not in sets:
        images = training.task_of(detector.recipe).load_data(detector.recipe.data).test
        sets[key] = limit_images(images, options.limit)
    return sets[key]


def _path(folder: Path, number: int, model: str, kind: str) -> Path:
    """The file of a detector's boxes or masks in COCO's results format."""
    return folder / f"{number + 1}-{Path(model).name}-{kind}.json"


def _check_absent(folder: Path, models: Sequence[str]) -> None:
    """Raises InputError if a result file already exists, or the folder is a file."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another folder (--out)")
    for i, model in enumerate(models):
        for path in (_path(folder, i, model, kind) for kind in ("boxes", "masks")):
            if path.exists():
                raise InputError(f"{path} exists already; replace it (--overwrite) or choose another folder (--out)")


def _check_detector(network: Pretrained) -> None:
    if network.network.detector is None:
        raise InputError(
            f"{network.source} is a classifier ({network.network.name}); give a detector, the run of a recipe "
            "with a model.detector, or use `regard evaluate` and `regard explain` for classifiers"
        )


def _predict(command: Command) -> None:
    options = command.options
    if options.model is None:
        raise InputError("the detector is missing: regard detect predict IMAGES… --model RUN")
    out = options.out or "detected"
    pictures = data.open_pictures(options.inputs, without=out)
    (detector,) = open_networks(command, [options.model])
    _check_detector(detector)
    model = detector.model().to(training.pick_device(options.device))
    with command.progress(detector.source) as progress:
        result = detected.detect(
            model,
            pictures,
            out,
            detector.classes or (),
            score=options.score,
            source=detector.source,
            unreadable=on_unreadable(options.unreadable, options.inputs),
            overwrite=options.overwrite,
            on_image=lambda done: progress(done, len(pictures)),
        )
    records = result.to_records()
    command.show(records, records_table(records, detected.COLUMNS))
    command.note(f"objects: {len(records):,} in {len(result.images):,} images, skipped: {len(result.skipped):,}")
    if result.images and not records:
        command.note(NOTHING_DETECTED.format(score=options.score))
    for reason in result.skipped[:3]:
        command.note(f"skipped: {reason}")
    command.note(f"pictures: {result.folder.resolve()}")
