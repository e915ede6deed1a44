"""Where detectors look: each detection against its object, by method, for right and wrong ones, and two detectors.

The runs are those of `benchmarks/detection_training.py`, or any others on the same images. A second table has the share
of the map inside the detection's own box, by layer: at a level of the feature pyramid it is next to 1 in a two-stage
detector, whatever the detector looks at.
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


def measured(options: argparse.Namespace, run: str, images: ImageDataset, method: str, region: Region) -> bias.Results:
    """The results, which are kept in the folder; interrupted, the same command goes on."""
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
    parts = {"right": results.right, "wrong": results.wrong}
    for part, summary in parts.items():
        estimates = summary.estimates()
        cells = [
            f"{100 * estimates[name].value:.0f}%" if name in RATES else f"{estimates[name].value:.2f}"
            for name in MEASURES
        ]
        compared = summary.position_bias.n
        yield [
            results.model,
            results.method,
            part,
            f"{compared} of {summary.images}",
            *(cells if compared else ["–"] * len(cells)),
        ]


def differences(results: Sequence[bias.Results]) -> dict[tuple[str, str, str], stats.Difference]:
    """(detector, method, measure) -> its difference from the first detector."""
    comparisons, _, _ = bias.compare_all(results)
    return {
        (one.model, results[0].method, name): difference
        for one in comparisons
        if one is not None
        for name, difference in one.differences.items()
        if name in ("position_bias", "spill", "energy_inside")
    }


def spread(difference: stats.Difference) -> str:
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def shares(options: argparse.Namespace, run: str, images: ImageDataset) -> Iterator[list[str]]:
    """The share of the map of Layer-CAM in the box, at the body and at each level of the pyramid."""
    detector = training.load_pretrained(run).model()
    levels = [f"backbone.fpn.layer_blocks.{i}" for i in range(len(detector.backbone.levels))]
    for layer in (None, *levels):
        values = []
        evaluator = bias.DetectionEvaluator(
            detector, images, "layercam", layer, "box", options.score, limit=5, label_outputs=None
        )
        for batch in evaluator.batches(range(min(options.share_images, len(images))), 0, "error", torch.device("cpu")):
            one = evaluator.measured(batch.images[0], batch.targets[0], "")
            values += one.columns["energy_inside"][~one.columns["constant"]].tolist() if one.keys else []
        mean = f"{np.mean(values):.2f}" if values else "–"
        yield [Path(run).name, evaluator.explain.layer, str(len(values)), mean]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run folders of detectors; the first is the one to compare with")
    parser.add_argument("--folder", type=Path, default=Path("runs/detection-bias"))
    parser.add_argument("--methods", nargs="+", default=["gradcam", "hirescam", "drise"])
    parser.add_argument("--region", choices=["object", "box"], default="object")
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--limit", type=int, default=None, help="images")
    parser.add_argument("--masks", type=int, default=300, help="of drise")
    parser.add_argument("--share-images", type=int, default=10)
    parser.add_argument("--dry", action="store_true", help="print only, do not append to RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = training.load_pretrained(options.runs[0]).recipe
    assert recipe is not None
    images = training.task_of(recipe).load_data(recipe.data).test
    images = images.subset(range(min(options.limit or len(images), len(images))))
    cells, compared = [], {}
    for method in options.methods:
        results = [measured(options, run, images, method, options.region) for run in options.runs]
        cells += [row for one in results for row in rows(one)]
        compared |= differences(results)
    text = table(["", "", "detections", "with a focus", *(name.replace("_", " ") for name in MEASURES)], cells)
    if compared:
        comparisons = [
            [model, method, measure.replace("_", " "), spread(one), str(one.n), p_value(one.p_adjusted)]
            for (model, method, measure), one in stats.holm(compared).items()
        ]
        text += "\n\n" + table(["against the first", "", "", "difference", "objects", "adjusted p"], comparisons)
    if options.share_images:
        inside = [row for run in options.runs for row in shares(options, run, images)]
        text += "\n\n" + table(["", "layer of Layer-CAM", "detections", "share in the box"], inside)
    publish("Where detectors look", text, torch.device("cpu"), save=not options.dry)


if __name__ == "__main__":
    main()
