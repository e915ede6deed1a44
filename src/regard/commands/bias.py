"""`regard bias`: where trained networks look, against the regions of the objects."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from regard import bias, training
from regard.commands.runs import trained_on_data
from regard.errors import InputError
from regard.training import Trained


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard bias",
        usage="regard bias SOURCE… [OPTIONS]",
        description="Where networks look (Grad-CAM), against the regions of the objects. The sources are run "
        "folders and imported .safetensors files. The report of a run is written to RUN/bias.json, that of a file "
        "beside it; several networks are compared with the first, image by image.",
    )
    parser.add_argument(
        "--layer", type=str, default=None, help="the layer whose map is taken; the last stage if not given"
    )
    parser.add_argument(
        "--target", choices=["predicted", "label"], default="predicted", help="the class that is explained"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="the focus is where the map, scaled to [0, 1], is this high"
    )
    parser.add_argument("--out", type=str, default=None, help="where the report of one network is written instead")
    reports: list[tuple[Trained, bias.Report]] = []
    for network, options, images in trained_on_data(parser, arguments):
        if reports and options.out is not None:
            raise InputError("--out is for the report of one network; leave it out for several")
        report = bias.evaluate(
            network.model(options.weights),
            images,
            name=network.source,
            layer=options.layer,
            target=options.target,
            threshold=options.threshold,
            batch_size=options.batch_size,
            device=training.pick_device(options.device),
        )
        path = network.bias_report(options.weights) if options.out is None else Path(options.out)
        report.save(path)
        print(f"\n{network.source}: written to {path}")
        Console().print(report.table())
        reports.append((network, report))
    for network, report in reports[1:]:
        first_network, first = reports[0]
        print(f"\n{network.source} against {first_network.source}")
        for comparison in bias.compare(first, report):
            print(f"  {comparison.sentence}")
    return 0
