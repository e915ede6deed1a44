"""Guidance in a custom training loop: multi-label classification of COCO photographs, with few images.

    python examples/efficientnet_lite.py lite0 --out lite0.pth
    python benchmarks/guidance_coco.py --data coco:FOLDER --weights lite0.pth

An EfficientNet-Lite0 with ImageNet weights learns which classes are present in the training images, without guidance,
and with guidance of the class activation map of every present class to its objects, by their masks or their boxes. Rao
et al. 2023 (arXiv 2303.11932) do this on all of COCO. On the validation images the script measures the mean average
precision, and where the maps of the present classes lie. Everything but the last two stages is frozen, so that its
features are computed once. The same command resumes an interrupted run.

The lines marked with # guidance are all that guidance adds to a training loop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from common import publish, seeds_table, table
from torch import Tensor, nn
from torch.nn import functional as F

from regard import bias, data, maps, transfer
from regard.data.random import RandomStream

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
SIDE, FROZEN = 224, 5  # image size in pixels; number of frozen blocks of timm's network
SEEDS, EPOCHS, BATCH, RATE = (0, 1, 2), 8, 20, 5e-4
VARIANTS = {"plain": (0.0, "masks"), "masks": (10.0, "masks"), "boxes": (10.0, "boxes")}  # weight, regions
LEAST = 5  # classes with fewer validation images do not count in the mean average precision
MANY = 12  # classes with fewer validation images have no row of their own
LAYER = "bn2"  # its output is pooled for the classifier


class Images(NamedTuple):
    """A split.

    Attributes:
        features: frozen features of the images and of the mirrored images, (2, N, C, h, w).
        labels: float32 (N, classes), 0 or 1.
        regions: "masks" and "boxes" -> for each image a dict from each present class to its region, bool (H, W).
    """

    features: Tensor
    labels: Tensor
    regions: dict[str, list[dict[int, Tensor]]]


class Top(nn.Module):
    """The trainable stages, with fixed statistics of batch norms."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.blocks = network.blocks[FROZEN:]
        self.conv_head, self.bn2 = network.conv_head, network.bn2
        self.classifier = nn.Linear(1280, classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.constant_(self.classifier.bias, -4.0)  # most classes are absent

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.bn2(self.conv_head(self.blocks(features))).mean((2, 3)))


@torch.no_grad()
def read(images: data.ImageDataset, network: nn.Module) -> Images:
    transform = data.Transform((SIDE, SIDE), crop_mode="squash")
    features: list[Tensor] = []
    labels = torch.zeros(len(images), len(images.classes))
    regions: dict[str, list[dict[int, Tensor]]] = {"masks": [], "boxes": []}
    normalise = data.Normalisation(MEAN, STD)
    for i in range(len(images)):
        pixels = normalise(transform.image(images.image(i))[None])
        pair = torch.cat([pixels, pixels.flip(3)])
        features.append(network.blocks[:FROZEN](network.bn1(network.conv_stem(pair))))
        objects = images.objects(i)
        assert objects is not None and objects.masks is not None
        image_regions: dict[str, dict[int, Tensor]] = {"masks": {}, "boxes": {}}
        for label, box, mask in zip(
            objects.labels.tolist(), objects.boxes.round().int().tolist(), objects.masks, strict=True
        ):
            labels[i, label] = 1
            left, top, right, bottom = box
            filled = torch.zeros_like(mask)
            filled[top:bottom, left:right] = True
            for kind, region in (("masks", mask), ("boxes", filled)):
                by_class = image_regions[kind]
                by_class[label] = by_class[label] | region if label in by_class else region
        for kind, by_class in image_regions.items():
            regions[kind].append(
                {label: torch.from_numpy(transform.mask(region.numpy())) for label, region in by_class.items()}
            )
    return Images(torch.stack(features, 1), labels, regions)


def class_maps(top: Top, features: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """The class activation maps (P, h, w) of P pairs of a row of the batch and a label."""
    return torch.einsum("pchw,pc->phw", features[rows], top.classifier.weight[labels])


def train(images: Images, top: Top, seed: int, weight: float, kind: str) -> Top:
    top.eval()
    optimizer = torch.optim.AdamW([p for p in top.parameters() if p.requires_grad], RATE)
    count = images.labels.shape[0]
    steps = EPOCHS * (count // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        epoch, number = divmod(step, count // BATCH)
        stream = RandomStream(seed, epoch)
        index = stream.permutation(count)[number * BATCH : (number + 1) * BATCH]
        mirrored = stream.bernoulli(0.5, count)[index]
        batch = images.features[torch.from_numpy(mirrored.astype(np.int64)), torch.from_numpy(index)]
        with maps.Taps(top, [LAYER]) as taps:
            logits = top(batch)
        loss = F.binary_cross_entropy_with_logits(logits, images.labels[index], reduction="sum") / len(index)
        if weight:
            rows, labels = images.labels[index].nonzero(as_tuple=True)  # guidance
            regions = select_regions(images.regions[kind], index, rows, labels, mirrored)  # guidance
            cams = class_maps(top, taps.features[LAYER], rows, labels)  # guidance
            loss = loss + weight * transfer.guidance_loss(cams, regions, "energy")  # guidance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return top


def select_regions(
    regions: Sequence[dict[int, Tensor]], index: np.ndarray, rows: Tensor, labels: Tensor, mirrored: np.ndarray
) -> Tensor:
    """The regions (P, H, W) of P pairs of a row of the batch and a label, mirrored like the images."""
    selection = []
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        region = regions[index[row]][label]
        selection.append(region.flip(1) if mirrored[row] else region)
    return torch.stack(selection)


@torch.no_grad()
def measure(images: Images, top: Top, classes: Sequence[str]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The measures in percent, over all classes and for each class with at least `MANY` images."""
    with maps.Taps(top, [LAYER]) as taps:
        scores = top(images.features[0])
    rows, labels = images.labels.nonzero(as_tuple=True)
    cams = class_maps(top, taps.features[LAYER], rows, labels)
    count = len(images.labels)
    regions = select_regions(images.regions["masks"], np.arange(count), rows, labels, np.zeros(count, bool))
    measures = dict(bias.measure(cams, regions).items())
    columns = {"energy inside": "energy_inside", "IoU": "iou", "pointing": "pointing", "position bias": "position_bias"}
    precision = {
        label: average_precision(scores[:, label], images.labels[:, label] > 0)
        for label in range(len(classes))
        if images.labels[:, label].sum() >= LEAST
    }
    means = {"mean AP": float(np.mean(list(precision.values())))}
    means |= {name: float(measures[key].double().nanmean()) for name, key in columns.items()}
    means["region area"] = float(regions.float().mean())
    by_class = {
        classes[label]: {"images": int(images.labels[:, label].sum()) / 100, "AP": precision[label]}
        | {name: float(measures[key][labels == label].double().nanmean()) for name, key in columns.items()}
        for label in precision
        if images.labels[:, label].sum() >= MANY
    }
    return percent(means), {name: percent(values) for name, values in by_class.items()}


def percent(shares: dict[str, float]) -> dict[str, float]:
    return {name: 100 * share for name, share in shares.items()}


def average_precision(scores: Tensor, present: Tensor) -> float:
    """The mean, over the images with the class, of the precision at a threshold equal to the image's score."""
    present = present[scores.argsort(descending=True, stable=True)].double()
    precision = present.cumsum(0) / torch.arange(1, len(present) + 1)
    return float((precision * present).sum() / present.sum())


def load_network(weights: Path) -> nn.Module:
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data set in COCO's format with train and val: coco:FOLDER")
    parser.add_argument("--weights", type=Path, required=True, help="the file from examples/efficientnet_lite.py")
    parser.add_argument("--folder", type=Path, default=Path("runs/guidance-coco"))
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    frozen = load_network(options.weights).requires_grad_(False)
    sets = {split: data.open_regions(options.data, split=split) for split in ("train", "val")}
    training_images, validation_images = (read(images, frozen) for images in sets.values())
    classes = sets["val"].classes
    means: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    by_class: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in VARIANTS}
    for seed in SEEDS:
        for name, (weight, kind) in VARIANTS.items():
            torch.manual_seed(seed)
            path = options.folder / f"{name}-{seed}.pth"
            top = Top(load_network(options.weights), len(classes))
            if path.is_file():
                top.load_state_dict(torch.load(path, weights_only=True))
            else:
                train(training_images, top, seed, weight, kind)
                torch.save(top.state_dict(), path)
            seed_means, seed_classes = measure(validation_images, top.eval(), classes)
            means[name].append(seed_means)
            by_class[name].append(seed_classes)
            print(f"{name}, seed {seed}:", {key: round(value, 1) for key, value in seed_means.items()}, flush=True)
    publish(
        "Guidance on COCO, labels of few images",
        report(means, by_class, sets),
        torch.device("cpu"),
        save=not options.no_save,
    )


def report(
    means: dict[str, list[dict[str, float]]],
    by_class: dict[str, list[dict[str, dict[str, float]]]],
    sets: dict[str, data.ImageDataset],
) -> str:
    keys = ["AP", "energy inside", "pointing"]
    class_rows = [
        [label, f"{by_class['plain'][0][label]['images']:.0f}"]
        + [f"{np.mean([classes[label][key] for classes in by_class[name]]):.0f}" for key in keys for name in VARIANTS]
        for label in by_class["plain"][0]
    ]
    area = means["plain"][0]["region area"]
    return (
        f"tf_efficientnet_lite0, {SIDE} pixels, {len(sets['train'])} training and {len(sets['val'])} validation "
        f"images, {EPOCHS} epochs. In %, seeds {', '.join(map(str, SEEDS))}; mean AP over classes with at least "
        f"{LEAST} images; maps of the labels that are present, whose regions cover {area:.1f}% of the image on "
        "average. Differences from plain over the seeds (paired t, Holm).\n\n"
        + seeds_table(means, list(means["plain"][0])[:-1])
        + f"\n\nClasses with at least {MANY} images, means over the seeds in %:\n\n"
        + table(["class", "images", *(f"{key}, {name}" for key in keys for name in VARIANTS)], class_rows)
    )


if __name__ == "__main__":
    main()
