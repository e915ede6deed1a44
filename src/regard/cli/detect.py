"""`regard detect`: measures detectors, and draws what they detect in images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from regard import data, detection, training
from regard.cli.inputs import add_device, add_reading, add_saved_weights, joined
from regard.cli.options import make_parser
from regard.cli.output import Output
from regard.columns import Column
from regard.data import ImageDataset
from regard.errors import InputError
from regard.parser import Parser
from regard.report import detected, records_table
from regard.report.captions import NOTHING_DETECTED
from regard.training import Pretrained

_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_ABOUT = (Column("model", "model"), Column("kind", "of"))
_COLUMNS = (*_ABOUT, *(Column(name, name, "percent") for name in _NUMBERS))
_CLASS_COLUMNS = (
    *(*_ABOUT, Column("class", "class"), Column("objects", "objects", "count")),
    *(Column(name, name, "percent") for name in _NUMBERS[:6]),
)
_COMPARISON_COLUMNS = (
    *(Column("model", "model"), Column("reference", "minus"), Column("kind", "of"), Column("measure", "number")),
    *(Column("value", "difference", "points"), Column("p", "p", "p"), Column("p_adjusted", "adjusted p", "p")),
    Column("significant", "result", "significant"),
)


_OF_ONE = {"evaluate": ("data", "split", "images", "limit", "per_class"), "predict": ("score",)}
"""Options that one action has and the other does not."""


def parser() -> Parser:
    parser = make_parser(
        "detect",
        "Measures detectors, or draws what one detects. `regard detect evaluate RUN…` prints COCO's twelve numbers of "
        "boxes and masks, and compares several detectors on the same images. `regard detect predict PHOTOS… --model "
        "RUN` writes a picture of each image with its objects, and detections.json. `regard train` trains detectors: "
        "recipes with a model.detector.",
        epilog="examples: regard detect evaluate runs/a runs/b --data coco:FOLDER; "
        "regard detect predict photos --model runs/a --out detected",
    )
    parser.add_argument("action", choices=["evaluate", "predict"], help="what to do")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="RUN|IMAGE",
        help="to evaluate: runs of detectors; to predict: image files, and folders with all images below them",
    )
    parser.add_argument(
        "--data",
        help="images to evaluate on: KIND:FOLDER, with KIND coco, voc or masks; those that the run was tested on if "
        "not given",
    )
    parser.add_argument("--split", help="split to take of --data: train, val, …")
    parser.add_argument("--images", metavar="FOLDER", help="images of --data, elsewhere")
    parser.add_argument("--limit", type=int, interval="[1, 2^40]", help="number of images of --data to take")
    parser.add_argument("--per-class", action="store_true", help="print AP of every class that the images have, too")
    parser.add_argument("--model", metavar="RUN", help="detector to predict with")
    parser.add_argument(
        "--score", type=float, default=0.5, interval="[0, 1]", help="least score of an object to draw, from 0 to 1"
    )
    parser.add_argument(
        "--out",
        help="folder to write: of predict, `detected` if not given; of evaluate, the detections in COCO's results "
        "format, nothing if not given",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote there")
    add_saved_weights(parser)
    add_device(parser)
    add_reading(parser)
    return parser


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    (other,) = _OF_ONE.keys() - {options.action}
    for name in _OF_ONE[other]:
        if options[name] != parser().get_default(name):
            raise InputError(f"--{name.replace('_', '-')} is for regard detect {other}; leave it out")
    return _predict(options) if options.action == "predict" else _evaluate(arguments, options)


def _evaluate(arguments: list[str], options: Namespace) -> int:
    if options.model is not None:
        raise InputError(
            "--model is for regard detect predict; to evaluate, name the runs: regard detect evaluate RUN…"
        )
    if twice := [source for source, count in Counter(options.inputs).items() if count > 1]:
        raise InputError(f"{twice[0]} is named twice; name each run once")
    with joined(arguments) as processes:
        output = Output(options, main=processes.main)
        detectors = [load_detector(source, options.weights) for source in options.inputs]
        if options.out is not None and not options.overwrite:
            _check_absent(Path(options.out), options.inputs)
        sets: dict[str, ImageDataset] = {}  # detectors tested on the same data share them
        results = []
        for one in detectors:
            results.append(
                _measured(one, detector_images(one, options.data, options, sets), options, processes, output)
            )
        if options.out is not None and processes.main:
            Path(options.out).mkdir(parents=True, exist_ok=True)
            for i, result in enumerate(results):
                for kind in result.kinds:
                    path = result.save_coco(_path(Path(options.out), i, result.model, kind), kind)
                    output.note(f"written: {path}")
        records = [record for one in results for record in one.to_records()]
        overall = [record for record in records if record["class"] is None]
        tables = [records_table(overall, _COLUMNS)]
        if options.per_class:
            with_objects = [one for one in records if one["class"] is not None and one["objects"]]
            tables.append(records_table(with_objects, _CLASS_COLUMNS))
        compared = detection.compare_all(results) if len(results) > 1 and processes.main else []
        comparisons = [record for one in compared for record in one.to_records()]
        if comparisons:
            tables.append(records_table(comparisons, _COMPARISON_COLUMNS))
        output.show({"results": records, "comparisons": comparisons}, *tables)
    return 0


def _measured(
    detector: Pretrained, images: ImageDataset, options: Namespace, processes: training.Processes, output: Output
) -> detection.Results:
    model = detector.model().to(training.pick_device(options.device))
    if isinstance(model, detection.MaskRCNN) and not images.has_object_masks:
        output.note(f"note: {images.name} has no masks; only the boxes of {detector.source} are evaluated")
    with output.progress(detector.source, total=len(images)) as progress:
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
        output.note(f"{len(results.skipped)} unreadable images skipped: {results.skipped[0]}, …")
    return results


def detector_images(
    detector: Pretrained, name: str | None, options: Namespace, sets: dict[str, ImageDataset]
) -> ImageDataset:
    """The images to evaluate a detector on: those of --data, or the test images of its run.

    Args:
        detector: of a run or a file.
        name: what --data says.
        options: with split, images and limit.
        sets: those opened already, as detectors share them; a new one is added.

    Raises:
        InputError: the images cannot be opened, or are not known.
    """
    if name is not None:
        if "" not in sets:
            files = {option: options[option] for option in ("split", "images", "limit")}
            sets[""] = data.open_regions(name, **files)
        return sets[""]
    if given := [option for option in ("split", "images") if options[option] is not None]:
        raise InputError(f"--{given[0]} is for --data; name the images (--data coco:FOLDER)")
    if detector.recipe is None:
        raise InputError(f"{detector.source} does not know its data; name some (--data coco:FOLDER)")
    key = repr(detector.recipe.data)
    if key not in sets:
        images = training.task_of(detector.recipe).load_data(detector.recipe.data).test
        assert isinstance(images, ImageDataset)
        fewer = options.limit is not None and options.limit < len(images)
        sets[key] = images.subset(options.limit) if fewer else images
    return sets[key]


def _path(folder: Path, number: int, model: str, kind: str) -> Path:
    """The file of a detector's boxes or masks in COCO's results format."""
    return folder / f"{number + 1}-{Path(model).name}-{kind}.json"


def _check_absent(folder: Path, models: Sequence[str]) -> None:
    """Raises InputError, before hours of evaluation, where a file of results is there already, or no folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose another folder (--out)")
    for i, model in enumerate(models):
        for path in (_path(folder, i, model, kind) for kind in ("boxes", "masks")):
            if path.exists():
                raise InputError(f"{path} exists already; replace it (--overwrite) or choose another folder (--out)")


def load_detector(source: str, weights: training.run.Weights) -> Pretrained:
    """A trained detector. Raises InputError for a classifier."""
    detector = training.load_pretrained(source, weights)
    if detector.network.detector is None:
        raise InputError(
            f"{source} is a classifier ({detector.network.name}), and this takes a detector: the run of a recipe with "
            "a model.detector; `regard evaluate` and `regard explain` take classifiers"
        )
    return detector


def _predict(options: Namespace) -> int:
    output = Output(options)
    if options.model is None:
        raise InputError("the detector is missing: regard detect predict IMAGES… --model RUN")
    out = options.out or "detected"
    pictures = data.open_pictures(options.inputs, without=out)
    detector = load_detector(options.model, options.weights)
    alone = len(options.inputs) == 1 and not Path(options.inputs[0]).is_dir()
    model = detector.model().to(training.pick_device(options.device))
    with output.progress(detector.source) as progress:
        result = detected.detect(
            model,
            pictures,
            out,
            detector.classes or (),
            score=options.score,
            source=detector.source,
            unreadable=options.unreadable or ("error" if alone else "skip"),
            overwrite=options.overwrite,
            on_image=lambda done: progress(done, len(pictures)),
        )
    records = result.to_records()
    output.show(records, records_table(records, detected.COLUMNS))
    output.note(f"objects: {len(records):,} in {len(result.images):,} images, skipped: {len(result.skipped):,}")
    if result.images and not records:
        output.note(NOTHING_DETECTED.format(score=options.score))
    for reason in result.skipped[:3]:
        output.note(f"skipped: {reason}")
    output.note(f"pictures: {result.folder.resolve()}")
    return 0
