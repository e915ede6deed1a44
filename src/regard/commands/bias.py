"""`regard bias`: where the networks of runs look, against the regions of the objects."""

from __future__ import annotations

from rich.console import Console

from regard import bias, training
from regard.commands.runs import runs_on_data


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard bias",
        usage="regard bias RUN… [OPTIONS]",
        description="Where networks look (Grad-CAM), against the regions of the objects. The report of each run is "
        "written to RUN/bias.json; several runs are compared with the first, image by image.",
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
    reports = []
    for run, options, images in runs_on_data(parser, arguments):
        report = bias.evaluate(
            run.model(options.weights),
            images,
            name=str(run.folder),
            layer=options.layer,
            target=options.target,
            threshold=options.threshold,
            batch_size=options.batch_size,
            device=training.pick_device(options.device),
        )
        path = run.folder / ("bias.json" if options.weights == "last" else f"bias-{options.weights}.json")
        report.save(path)
        print(f"\n{run.folder}: written to {path}")
        Console().print(report.table())
        reports.append((run, report))
    for run, report in reports[1:]:
        first_run, first = reports[0]
        print(f"\n{run.folder} against {first_run.folder}")
        for comparison in bias.compare(first, report):
            print(f"  {comparison.sentence}")
    return 0
