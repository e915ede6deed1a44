"""`regard explain`: the most likely classes of images, and their class activation maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from regard import data, maps, report, training
from regard.cli.command import Command
from regard.cli.inputs import cam_method, on_unreadable, open_networks
from regard.cli.options import MODELS, add_cam, add_weights, make_parser
from regard.data import ImageDataset
from regard.errors import InputError
from regard.parser import Parser, strings
from regard.report import records_table
from regard.report.captions import NOTHING_DETECTED
from regard.report.explained import COLUMNS, INDEX
from regard.report.picture_folder import check_folder
from regard.training import Pretrained


def parser() -> Parser:
    parser = make_parser(
        "explain",
        "Shows the most likely classes of images, each with the class activation map (CAM) of a network, or the "
        "detections of a detector, each with its map. Writes a folder with pictures, explain.json and explain.html.",
        epilog="examples: regard explain photo.jpg --model resnet50; regard explain --class tabby --box 10,20,90,80 "
        "photo.jpg --model runs/a",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, and folders of image files")
    parser.add_argument("--model", required=True, help=f"network to explain: {MODELS}")
    add_cam(parser)
    parser.add_argument("--top", type=int, default=3, help="number of most likely classes or detections to explain")
    parser.add_argument("--score", type=float, default=0.5, help="least score of a detection to explain, from 0 to 1")
    parser.add_argument(
        "--class", dest="classes", type=strings, default=[], help="names or numbers of classes to explain instead"
    )
    parser.add_argument(
        "--box", type=list[int], default=[], metavar="X0,Y0,X1,Y1", help="region of the image, in pixels"
    )
    parser.add_argument("--mask", help="mask of the region: a file, or a folder of files named like the images")
    parser.add_argument("--out", default="explained", help="folder to write to")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier call in the folder")
    add_weights(parser, batch_size=16, workers=0)
    return parser


def main(command: Command) -> None:
    options = command.options
    pictures = data.open_pictures(options.images, box=options.box or None, mask=options.mask, without=options.out)
    check_folder(Path(options.out), INDEX, overwrite=options.overwrite)
    (network,) = open_networks(command, [options.model])
    with command.progress(network.source) as progress:
        done = 0

        def on_image(row: report.Row | report.Unreadable) -> None:
            nonlocal done
            done += 1
            progress(done, len(pictures))
            if isinstance(row, report.Unreadable):
                command.note(f"skipped: {row.reason}")

        explained = _explain(command, network, pictures, on_image)
    records = explained.to_records()
    command.show(records, records_table(records, COLUMNS))
    command.note(f"images explained: {explained.images:,}, skipped: {len(explained.skipped):,}")
    if not explained.images:
        command.note(NOTHING_DETECTED.format(score=options.score))
    if pictures.passed_over:
        command.note(f"files without the extension of an image: {pictures.passed_over:,}")
    if pictures.unmatched:
        command.note(f"masks without an image: {pictures.unmatched:,}")
    command.note(f"page: {(explained.folder / 'explain.html').resolve()}")


def _explain(
    command: Command,
    network: Pretrained,
    pictures: ImageDataset,
    on_image: Callable[[report.Row | report.Unreadable], None],
) -> report.Explained:
    options = command.options
    shared = {
        "names": network.output_names,
        "source": network.source,
        "unreadable": on_unreadable(options.unreadable, options.images),
        "on_image": on_image,
        **{name: options[name] for name in ("top", "threshold", "overwrite")},
    }
    if network.network.detector is not None:
        command.reject_options(("classes", "box", "mask"), f"classifiers, {network.source} is a detector")
        model = network.model().to(training.pick_device(options.device))
        method = maps.create_for_detections(options.method, model, options.layer or None)
        return report.explain_detections(method, pictures, options.out, score=options.score, **shared)
    command.reject_options(("score",), f"detectors, {network.source} is a classifier")
    mean, std = _normalisation(network)
    model = network.model().to(training.pick_device(options.device))
    return report.explain(
        maps.create(cam_method(options.method), model, options.layer or None),
        pictures,
        options.out,
        network.preprocessing.transform(),
        mean=mean,
        std=std,
        classes=report.find_classes(options.classes, network.output_names),
        batch_size=options.batch_size,
        workers=options.workers,
        **shared,
    )


def _normalisation(network: Pretrained) -> tuple[data.Channels, data.Channels]:
    preprocessing = network.preprocessing
    if preprocessing.mean is None or preprocessing.std is None:
        raise InputError(
            f"the normalisation of {network.source} is not known; import its checkpoint with it (regard import "
            "CHECKPOINT --model NAME --out FILE.safetensors --mean=[R,G,B] --std=[R,G,B]) and explain the file"
        )
    return preprocessing.mean, preprocessing.std
