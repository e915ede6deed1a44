"""Where detectors look: the map of each detection against its object, by method, for right and wrong detections.

The runs are those of `benchmarks/detection_training.py`, or any others on the same images; the first is compared with
each of the others. A last table has the share of the map inside the detection's own box, by layer: at a level of the
feature pyramid of a two-stage detector it is always close to 1, whatever the detector looks at.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from common import publish, table

from regard import bias, maps, stats, training
from regard.bias.detections import Region
from regard.data import ImageDataset
from regard.formatting import p_value

MEASURES = ("position_bias", "range_bias", "spill", "miss", "energy_inside", "pointing")
RATES = ("position_bias", "range_bias", "pointing")


def measure(options: argparse.Namespace, run: str, images: ImageDataset, method: str, region: Region) -> bias.Results:
    """Measures a run, or loads its saved results; an interrupted evaluation is resumed."""
    path = options.folder / f"{Path(run).name}-{method}-{region}.json"
    if path.is_file():
        return bias.Results.load(path)
    detector = training.load_pretrained(run).model()
    drise = {"masks": options.masks} if method == "drise" else {}
    results = bias.evaluate_detector(
        detector,
        images,
        method=maps.create_for_detections(method, detector, None, **drise),
        region=region,
        score_threshold=options.score,
        folder=options.folder / path.stem,
        shard=10,
        name=Path(run).name,
    )
    results.save(path)
    return results


def rows(results: bias.Results) -> Iterator[list[str]]:
    for part, summary in (("right", results.right), ("wrong", results.wrong)):
        estimates = summary.estimates()
        cells = [
            f"{100 * estimates[name].value:.0f}%" if name in RATES else f"{estimates[name].value:.2f}"
            for name in MEASURES
        ]
        with_focus = summary.position_bias.n
        yield [
            results.model,
            results.method,
            part,
            f"{with_focus} of {summary.images}",
            *(cells if with_focus else ["–"] * len(cells)),
        ]


def differences(results: Sequence[bias.Results]) -> dict[tuple[str, str, str], stats.Difference]:
    """(detector, method, measure) -> difference from the first detector."""
    comparisons, _, _ = bias.compare_all(results)
    return {
        (comparison.model, results[0].method, name): difference
        for comparison in comparisons
        if comparison is not None
        for name, difference in comparison.differences.items()
        if name in ("position_bias", "spill", "energy_inside")
    }


def spread(difference: stats.Difference) -> str:
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def shares(options: argparse.Namespace, run: str, images: ImageDataset) -> Iterator[list[str]]:
    """The share of the Layer-CAM map inside the box, at the last layer of the backbone and at each pyramid level."""
    detector = training.load_pretrained(run).model()
    levels = [f"backbone.fpn.layer_blocks.{i}" for i in range(len(detector.backbone.levels))]
    for layer in (None, *levels):
        values = []
        evaluator = bias.DetectionEvaluator(
            detector, images, "layercam", layer, "box", options.score, limit=5, label_outputs=None
        )
        for batch in evaluator.batches(range(min(options.share_images, len(images))), 0, "error", torch.device("cpu")):
            detections = evaluator.measured(batch.images[0], batch.targets[0], "")
            if detections.keys:
                values += detections.columns["energy_inside"][~detections.columns["constant"]].tolist()
        mean = f"{np.mean(values):.2f}" if values else "–"
        yield [Path(run).name, evaluator.explain.layer, str(len(values)), mean]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders of detectors; the first is the reference")
    parser.add_argument("--folder", type=Path, default=Path("runs/detection-bias"))
    parser.add_argument("--methods", nargs="+", default=["gradcam", "hirescam", "drise"])
    parser.add_argument("--region", choices=["object", "box"], default="object")
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--limit", type=int, default=None, help="number of images")
    parser.add_argument("--masks", type=int, default=300, help="number of masks of D-RISE")
    parser.add_argument("--share-images", type=int, default=10)
    parser.add_argument("--dry", action="store_true", help="print only, do not append to RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = training.load_pretrained(options.runs[0]).recipe
    assert recipe is not None
    images = training.task_of(recipe).load_data(recipe.data).test
    images = images.subset(range(min(options.limit or len(images), len(images))))
    cells, tests = [], {}
    for method in options.methods:
        results = [measure(options, run, images, method, options.region) for run in options.runs]
        cells += [row for run_results in results for row in rows(run_results)]
        tests |= differences(results)
    text = table(["", "", "detections", "with a focus", *(name.replace("_", " ") for name in MEASURES)], cells)
    if tests:
        comparisons = [
            [model, method, name.replace("_", " "), spread(test), str(test.n), p_value(test.p_adjusted)]
            for (model, method, name), test in stats.holm(tests).items()
        ]
        text += "\n\n" + table(["against the first", "", "", "difference", "objects", "adjusted p"], comparisons)
    if options.share_images:
        inside = [row for run in options.runs for row in shares(options, run, images)]
        text += "\n\n" + table(["", "layer of Layer-CAM", "detections", "share in the box"], inside)
    publish("Where detectors look", text, torch.device("cpu"), save=not options.dry)


if __name__ == "__main__":
    main()
