"""Detectors trained on real images, on a CPU: do they overfit a few images, and do they generalise?

`overfit`: Faster R-CNN and RetinaNet, plain and with shuffle attention, are trained on eight photographs of COCO
(--coco, a folder in COCO's layout); AP50 on the same photographs has to exceed 0.9. `generalise`: Faster R-CNN and Mask
R-CNN, plain and with shuffle attention, with several seeds, are trained on 120 of the 170 street photographs of
Penn-Fudan (--pennfudan, with images/ and instances/) and tested on the other 50.

The backbone is EfficientNet-Lite0 with ImageNet weights; `examples/efficientnet_lite.py` explains where they come from
and how to write the file for --weights. Pyramid and heads are narrower than usual, and images small, so that a CPU
suffices. The same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import publish, table

from regard import stats, training
from regard.formatting import difference, p_value, signed

ATTENTION = {"plain": (), "shuffle": ("--model.attention=shuffle", "--model.attention_options={groups: 4}")}
NARROW = {
    "channels": 64,
    "box_batch_size_per_image": 64,
    "rpn_pre_nms_top_n_train": 500,
    "rpn_post_nms_top_n_train": 200,
    "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_test": 100,
    "box_detections_per_img": 20,
}
NARROW_ONE_STAGE = {"channels": 64, "detections_per_img": 20}
MEASURES = {
    "test_box_ap50": "box AP50",
    "test_mask_ap50": "mask AP50",
    "test_box_ap": "box AP",
    "test_mask_ap": "mask AP",
}
REACHED = 0.9  # AP50 on the training photographs
PHOTOGRAPHS, TEST_PHOTOGRAPHS = 8, 50
OVERFIT = {"faster-rcnn": (16, 5e-4), "retinanet": (120, 5e-4)}  # epochs of two steps, and the learning rate


def recipe(options: argparse.Namespace, detector: str, attention: str, seed: int, *more: str) -> training.Recipe:
    narrow = NARROW_ONE_STAGE if detector == "retinanet" else NARROW
    return training.load_recipe(
        None,
        [
            "--data.workers=0",
            "--model.name=tf_efficientnet_lite0",
            f"--model.pretrained={options.weights}",
            f"--model.detector={detector}",
            f"--model.detector_options={json.dumps(narrow | {'frozen_stages': 2})}",
            *ATTENTION[attention],
            "--optimizer.name=adamw",
            "--optimizer.weight_decay=1e-4",
            "--optimizer.clip=10",
            "--schedule.shape=cosine",
            "--schedule.batch_size=4",
            f"--seed={seed}",
            f"--threads={options.threads}",
            *more,
        ],
    )


def train(options: argparse.Namespace, name: str, recipe: training.Recipe) -> bool:
    """Trains a run unless it is finished; returns False if stopped."""
    folder = options.folder / name
    if rows(folder)[-1:] and rows(folder)[-1]["epoch"] == recipe.schedule.epochs:
        return True
    outcome = training.train(recipe, folder, resume=True)
    row = {MEASURES[field]: round(outcome.row[field], 4) for field in MEASURES if field in (outcome.row or {})}
    print(name, row, flush=True)
    return outcome.finished


def rows(folder: Path) -> list[dict[str, Any]]:
    return training.Run.open(folder).metrics() if (folder / "recipe.yaml").is_file() else []


def eight(coco: Path, folder: Path) -> Path:
    """Eight photographs, with one to four objects of over 40 x 40 pixels, as training and as test images."""
    content = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        annotations.setdefault(annotation["image_id"], []).append(annotation)
    images = [
        image
        for image in content["images"]
        if 1 <= len(objects := annotations.get(image["id"], [])) <= 4
        and all(annotation["area"] > 1600 and not annotation["iscrowd"] for annotation in objects)
    ][:PHOTOGRAPHS]
    content["images"] = images
    content["annotations"] = [annotation for image in images for annotation in annotations[image["id"]]]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train2017", "val2017"):
        link(coco / "train2017", folder / split, [image["file_name"] for image in images])
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def streets(pennfudan: Path, folder: Path) -> Path:
    """The photographs of Penn-Fudan in a fixed random order; the last 50 are test images."""
    names = sorted(path.stem for path in (pennfudan / "images").iterdir())
    order = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    for split, stems in (("train", order[:-TEST_PHOTOGRAPHS]), ("test", order[-TEST_PHOTOGRAPHS:])):
        link(pennfudan / "images", folder / split / "images", [f"{stem}.jpg" for stem in stems])
        link(pennfudan / "instances", folder / split / "instances", [f"{stem}.png" for stem in stems])
    return folder


def link(source: Path, folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / name).is_symlink():
            os.symlink((source / name).resolve(), folder / name)


def overfit(options: argparse.Namespace) -> str | None:
    data = eight(options.coco, options.folder / "data" / "eight")
    more = (
        *("--data.name=coco", f"--data.folder={data}", "--data.size=192", "--augmentation.flip=false"),
        *("--schedule.warmup=2", f"--source=the boxes of {PHOTOGRAPHS} photographs, to overfit"),
    )
    cells = []
    for (detector, (epochs, lr)), attention in product(OVERFIT.items(), ATTENTION):
        name = f"overfit-{detector}-{attention}"
        schedule = (f"--schedule.epochs={epochs}", f"--optimizer.lr={lr}")
        if not train(options, name, recipe(options, detector, attention, 0, *more, *schedule)):
            return None
        curve = [row["test_box_ap50"] for row in rows(options.folder / name)]
        first = next((str(2 * epoch) for epoch, value in enumerate(curve, start=1) if value > REACHED), "never")
        quarters = (f"{curve[epochs * part // 4 - 1]:.3f}" for part in (1, 2, 3, 4))
        cells.append([detector, attention, str(2 * epochs), *quarters, first])
    heads = ["", "", "steps", "after a quarter", "half", "three quarters", "the end", f"above {REACHED} at step"]
    return table(heads, cells)


def generalise(options: argparse.Namespace) -> str | None:
    data = streets(options.pennfudan, options.folder / "data" / "streets")
    more = (
        *("--data.name=masks", f"--data.folder={data}", "--data.size=160", f"--schedule.epochs={options.epochs}"),
        *("--optimizer.lr=4e-4", "--schedule.warmup=0.5", "--source=Penn-Fudan, 120 photographs"),
    )
    detectors = ("faster-rcnn", "mask-rcnn")
    values: dict[tuple[str, str, str], list[float]] = {}
    for seed, detector, attention in product(options.seeds, detectors, ATTENTION):
        name = f"streets-{detector}-{attention}-seed{seed}"
        if not train(options, name, recipe(options, detector, attention, seed, *more)):
            return None
        for field, label in MEASURES.items():
            if field in (row := rows(options.folder / name)[-1]):
                values.setdefault((detector, label, attention), []).append(100 * row[field])
    keys = list(dict.fromkeys((detector, label) for detector, label, _ in values))
    tests = stats.holm({key: stats.over_seeds(values[*key, "shuffle"], values[*key, "plain"]) for key in keys})
    cells = [
        [
            *key,
            *(", ".join(f"{value:.1f}" for value in values[*key, attention]) for attention in ATTENTION),
            difference(tests[key], lambda value: signed(value, 1)),
            p_value(tests[key].p_adjusted),
        ]
        for key in keys
    ]
    return table(["", "", "plain, every seed", "shuffle, every seed", "difference", "adjusted p"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--pennfudan", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="EfficientNet-Lite0 weights, from `regard import`")
    parser.add_argument("--folder", type=Path, default=Path("runs/detection-training"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5, help="epochs of `generalise`")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["overfit", "generalise"], default=None)
    parser.add_argument("--dry", action="store_true", help="print only, do not append to RESULTS.md")
    options = parser.parse_args()
    device = training.pick_device("cpu")
    for part, heading in (
        (overfit, "Detectors that overfit eight photographs"),
        (generalise, "Detectors on Penn-Fudan"),
    ):
        if options.only in (None, part.__name__) and (text := part(options)) is not None:
            publish(heading, text, device, save=not options.dry)


if __name__ == "__main__":
    main()
