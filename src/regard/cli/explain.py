"""`regard explain`: what a network makes of images, and where it looks in them."""

from __future__ import annotations

from pathlib import Path

from regard import data, report, training
from regard.cli.methods import cam_method
from regard.errors import InputError
from regard.formatting import percent, printable
from regard.report import Explanation, Refusal
from regard.report.explain_page import measured
from regard.report.explained import check_folder
from regard.report.wording import number
from regard.terminal import listed, say
from regard.training import Pretrained


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard explain",
        usage="regard explain IMAGE… --model MODEL [OPTIONS]",
        description="The likeliest classes of images, and where a network looks for them. An IMAGE is a file or a "
        "folder of them; the MODEL a run folder, an imported .safetensors file, a timm name with pretrained weights, "
        "or NAME=CHECKPOINT. Writes pictures with the maps over them, explain.json and explain.html.",
    )
    parser.add_argument("images", nargs="*", type=str, help="files, and folders of them")
    parser.add_argument("--model", type=str | None, default=None, help="the network")
    parser.add_argument(
        "--method", type=str, default="gradcam", help="CAM method to use: gradcam, layercam, …, or MODULE:FUNCTION"
    )
    parser.add_argument("--layer", type=str | None, default=None, help="where maps are read; several with commas")
    parser.add_argument("--top", type=int, default=3, help="how many of the likeliest classes")
    parser.add_argument(
        "--class", dest="classes", type=list[str], default=[], help="explain these instead, by name or number"
    )
    parser.add_argument("--box", type=str | None, default=None, help="x0,y0,x1,y1: the region of the one image")
    parser.add_argument(
        "--mask", type=str | None, default=None, help="the region: a file, or a folder of files named as the images"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="the focus is where the map, scaled to [0, 1], is this high"
    )
    parser.add_argument("--out", type=str, default="explained", help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call wrote there")
    parser.add_argument(
        "--unreadable",
        choices=["error", "skip"],
        default=None,
        help="files that cannot be read; error for one file, skip for several and for folders, unless said",
    )
    parser.add_argument(
        "--weights", choices=["last", "best"], default="last", help="of a run, after the last epoch or of the best test"
    )
    parser.add_argument(
        "--ema", action="store_true", help="of NAME=CHECKPOINT, take the moving average, where the file holds both"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="images at a time")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers; 0 reads inline")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, …")
    options = parser.parse_args(arguments)
    if not options.images:
        raise InputError("name an image, several, or a folder of them, right after the command")
    if options.model is None:
        raise InputError(
            "name the network (--model): a run folder, an imported file, a timm name, torchvision/NAME, NAME=CHECKPOINT"
        )
    pictures = data.open_pictures(options.images, box=_box(options.box), mask=options.mask, without=options.out)
    check_folder(Path(options.out), overwrite=options.overwrite)
    network = training.load_pretrained(options.model, options.weights, ema=options.ema, say=print)
    mean, std = _normalisation(network)
    alone = len(options.images) == 1 and not Path(options.images[0]).is_dir()
    explained = report.explain(
        network.model().to(training.pick_device(options.device)),
        pictures,
        options.out,
        transform=network.preprocessing.transform(),
        mean=mean,
        std=std,
        names=network.output_names,
        source=network.source,
        method=cam_method(options.method),
        layer=_layers(options.layer),
        top=options.top,
        classes=report.find_classes(options.classes, network.output_names),
        threshold=options.threshold,
        batch_size=options.batch_size,
        workers=options.workers,
        unreadable=options.unreadable or ("error" if alone else "skip"),
        overwrite=options.overwrite,
        told=_tell,
    )
    skipped = f", {len(explained.skipped)} skipped" if explained.skipped else ""
    say(
        f"{number(explained.images, 'image')} explained{skipped}; written to {printable(options.out)}: "
        f"{number(explained.pictures, 'picture')}, explain.json, explain.html"
    )
    if pictures.passed_over:
        say(f"{number(pictures.passed_over, 'file')} passed over, by their names no images")
    if pictures.unmatched:
        say(f"{number(pictures.unmatched, 'mask')} without an image")
    return 0


def _tell(each: Explanation | Refusal) -> None:
    if isinstance(each, Refusal):
        say(f"skipped: {printable(each.reason)}", error=True)
        return
    say(printable(each.key))
    if [look.scored for look in each.looks] != list(each.predicted):
        said = ", ".join(f"{printable(one.name)} {percent(one.probability)}%" for one in each.predicted)
        say(f"  likeliest: {said}")
    names = [printable(look.scored.name) for look in each.looks]
    for look, name in zip(each.looks, names, strict=True):
        said = "  ".join(filter(None, [f"{look.verdict:<13}" if look.verdict else "", *measured(look)]))
        line = f"  {percent(look.scored.probability):>5}%  {name:<{max(map(len, names))}}  {said}"
        say(line.rstrip())
    if each.note:
        say(f"  not measured: {each.note}")


def _normalisation(network: Pretrained) -> tuple[data.Channels, data.Channels]:
    about = network.preprocessing
    if about.mean is None or about.std is None:
        raise InputError(
            f"{network.source} does not say how its images are normalised; import its checkpoint with that (regard "
            "import CHECKPOINT --model NAME --out FILE.safetensors --mean=[R,G,B] --std=[R,G,B]) and explain the file"
        )
    return about.mean, about.std


def _layers(text: str | None) -> str | list[str] | None:
    names = listed(text)
    return names if len(names) > 1 else names[0] if names else None


def _box(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--box {text}; expected x0,y0,x1,y1 in whole pixels of the image") from error
