"""`regard explain`: the likeliest classes of images, and their class activation maps."""

from __future__ import annotations

from pathlib import Path

from regard import data, maps, report, training
from regard.cli.methods import cam_method
from regard.cli.options import make_parser
from regard.cli.output import Output
from regard.errors import InputError
from regard.report.explained import COLUMNS, check_folder
from regard.report.records_table import records_table
from regard.training import Pretrained


def main(arguments: list[str]) -> int:
    parser = make_parser(
        "explain",
        "Shows the likeliest classes of images, and for each the class activation map (CAM) of a network. Writes a "
        "folder with pictures, explain.json and explain.html.",
        epilog="examples: regard explain photo.jpg --model resnet50; regard explain --class tabby --box 10,20,90,80 "
        "photo.jpg --model runs/a",
    )
    parser.add_argument("images", nargs="+", type=str, metavar="IMAGE", help="files of images, and folders of them")
    parser.add_argument(
        "--model",
        type=str,
        required=True,
        help="a run folder, an imported .safetensors file, a timm name (with pretrained weights), torchvision/NAME, or "
        "NAME=CHECKPOINT",
    )
    parser.add_argument("--method", type=str, default="gradcam", help="CAM method to use: a name, or MODULE:FUNCTION")
    parser.add_argument("--layer", type=list[str], default=[], help="layers to compute the CAM at")
    parser.add_argument("--top", type=int, default=3, help="number of likeliest classes to explain")
    parser.add_argument(
        "--class", dest="classes", type=list[str], default=[], help="classes to explain instead, by name or number"
    )
    parser.add_argument("--box", type=list[int], default=[], help="region of the one image, in pixels: x0,y0,x1,y1")
    parser.add_argument(
        "--mask", type=str | None, default=None, help="region: a file, or a folder of files named as the images"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="the focus is where the CAM, scaled to [0, 1], is this high"
    )
    parser.add_argument("--out", type=str, default="explained", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote there")
    parser.add_argument(
        "--unreadable",
        choices=["error", "skip"],
        default=None,
        help="what to do with files that cannot be read; error for one file, skip for several and for folders",
    )
    parser.add_argument(
        "--weights", choices=["last", "best"], default="last", help="weights of a run: of the last or the best epoch"
    )
    parser.add_argument(
        "--ema", action="store_true", help="take the moving average of NAME=CHECKPOINT, where the file holds both"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="images at a time")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers; 0 reads inline")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    options = parser.parse_args(arguments)
    output = Output(options)
    pictures = data.open_pictures(options.images, box=options.box or None, mask=options.mask, without=options.out)
    check_folder(Path(options.out), overwrite=options.overwrite)
    network = training.load_pretrained(options.model, options.weights, ema=options.ema, say=output.note)
    mean, std = _normalisation(network)
    alone = len(options.images) == 1 and not Path(options.images[0]).is_dir()
    model = network.model().to(training.pick_device(options.device))
    with output.progress(network.source) as progress:
        done = 0

        def on_image(each: report.Row | report.Unreadable) -> None:
            nonlocal done
            done += 1
            progress(done, len(pictures))
            if isinstance(each, report.Unreadable):
                output.note(f"skipped: {each.reason}")

        explained = report.explain(
            maps.create(cam_method(options.method), model, options.layer or None),
            pictures,
            options.out,
            network.preprocessing.transform(),
            mean=mean,
            std=std,
            names=network.output_names,
            source=network.source,
            top=options.top,
            classes=report.find_classes(options.classes, network.output_names),
            threshold=options.threshold,
            batch_size=options.batch_size,
            workers=options.workers,
            unreadable=options.unreadable or ("error" if alone else "skip"),
            overwrite=options.overwrite,
            on_image=on_image,
        )
    records = explained.to_records()
    output.show(records, records_table(records, COLUMNS))
    output.note(f"images explained: {explained.images:,}, skipped: {len(explained.skipped):,}")
    if pictures.passed_over:
        output.note(f"files without the ending of an image: {pictures.passed_over:,}")
    if pictures.unmatched:
        output.note(f"masks without an image: {pictures.unmatched:,}")
    output.note(f"page: {(explained.folder / 'explain.html').resolve()}")
    return 0


def _normalisation(network: Pretrained) -> tuple[data.Channels, data.Channels]:
    preprocessing = network.preprocessing
    if preprocessing.mean is None or preprocessing.std is None:
        raise InputError(
            f"{network.source} does not say how its images are normalised; import its checkpoint with that (regard "
            "import CHECKPOINT --model NAME --out FILE.safetensors --mean=[R,G,B] --std=[R,G,B]) and explain the file"
        )
    return preprocessing.mean, preprocessing.std
