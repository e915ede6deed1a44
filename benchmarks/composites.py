"""Guidance on photographs: a pretrained SqueezeNet on composites whose background is a false cue.

    python benchmarks/composites.py --foregrounds coco:FOLDER --backgrounds PHOTOGRAPHS --weights WEIGHTS.safetensors

Trains with and without guidance, three seeds each, and measures on test images whose background is independent of the
label: accuracy where background and label agree, where they differ, and in the worst group; where the network looks;
and the effect of exchanged backgrounds. Each seed has different composites. The first layers are frozen, so that their
features are computed once. The results of every seed are printed and saved in the folder; the same command resumes an
interrupted run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import publish, seeds_table, table
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import squeezenet1_0

from regard import bias, data, stats, transfer
from regard.data.random import RandomStream

CLASSES = [
    "person",
    "animal=bird+cat+dog+horse+sheep+cow+elephant+bear+zebra+giraffe",
    "vehicle=bicycle+car+motorcycle+airplane+bus+train+truck+boat",
    "tableware=bottle+wine glass+cup+bowl",
]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEEDS = (0, 1, 2)
VARIANTS = {"plain": 0.0, "guided": 2.0}  # final weight of the guidance loss
SCALE = 50  # approximate standard deviation of the features with these weights
GUIDED = list(VARIANTS)[1:]
DROP = "drop_mixed_other"
FROZEN = 10  # number of frozen first layers: up to the third fire module from the end
SIDE, CUE, TRAIN, TEST, EPOCHS, BATCH, RATE = 96, 0.9, 800, 240, 5, 32, 3e-4


class Network(nn.Module):
    """SqueezeNet with a linear head: the mean of the class activation maps is the score (Zhou et al. 2016)."""

    def __init__(self, weights: dict[str, Tensor], classes: int) -> None:
        super().__init__()
        published = squeezenet1_0()
        published.load_state_dict({name: value.float() for name, value in weights.items()})
        self.frozen, self.features = published.features[:FROZEN], published.features[FROZEN:]
        self.head = nn.Conv2d(512, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(self.frozen(images)).mean((2, 3))

    def maps(self, features: Tensor) -> Tensor:
        """Class activation maps (N, classes, h, w) from the features of the frozen layers."""
        return self.head(F.dropout(self.features(features) / SCALE, 0.2, self.training))


def batches(images: data.InMemoryDataset, masks: bool = False) -> data.Loader:
    return data.create_loader(images, BATCH, mean=MEAN, std=STD, masks=masks)


def train(images: data.InMemoryDataset, weights: dict[str, Tensor], seed: int, guidance: float) -> Network:
    torch.manual_seed(seed)
    network = Network(weights, len(images.classes)).requires_grad_(False)
    with torch.no_grad():
        frozen = torch.cat([network.frozen(batch.images) for batch in batches(images).epoch(0)])
    assert images.regions is not None
    parameters = [*network.features.requires_grad_().parameters(), *network.head.requires_grad_().parameters()]
    optimizer = torch.optim.AdamW(parameters, RATE)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for step in range(steps):
        epoch, batch = divmod(step, len(images) // BATCH)
        order = RandomStream(seed, epoch).permutation(len(images))
        index = torch.from_numpy(order[batch * BATCH : (batch + 1) * BATCH])
        maps, labels = network.maps(frozen[index]), images.labels[index]
        loss = F.cross_entropy(maps.mean((2, 3)), labels)
        if guidance:
            label_maps = maps[torch.arange(len(index)), labels]
            weight = guidance * min(1.0, 2 * step / steps)  # rises linearly over the first half
            loss = loss + weight * transfer.guidance_loss(label_maps, images.regions[index], "energy")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def measure(network: Network, images: data.InMemoryDataset, name: str, path: Path) -> bias.Results:
    results = bias.evaluate(
        *(network, images), layer="features", mean=MEAN, std=STD, batch_size=60, interventions=True, name=name
    )
    results.save(path)
    return results


def summary(results: bias.Results, groups: tuple[str, ...]) -> dict[str, float]:
    """The measures in percent; a group is named "label on background"."""
    agreement = [
        "agrees" if label == background else "differs"
        for label, _, background in (group.partition(" on ") for group in groups)
    ]
    by_agreement = results.by_group(agreement)
    worst = min(part.accuracy.value for part in results.by_group(groups).values() if part.accuracy.n >= 5)
    effects = bias.effects(results)
    shares = {
        "accuracy": results.accuracy.value,
        "agrees": by_agreement["agrees"].accuracy.value,
        "differs": by_agreement["differs"].accuracy.value,
        "worst group": worst,
        "position bias": results.position_bias.value,
        "energy inside": results.overall.means["energy_inside"].value,
        **{name: rate.value for name, rate in results.overall.interventions.items()},
        "BG-Gap": effects["background_gap"].value,
        "lost, biased - not": effects["lost_mixed_other"].value,
    }
    return {name: 100 * value for name, value in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--foregrounds", required=True, help="data set with masks of objects, such as coco:FOLDER")
    parser.add_argument("--backgrounds", required=True, help="folder of photographs")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of squeezenet1_0, .safetensors")
    parser.add_argument("--folder", type=Path, default=Path("runs/composites"))
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(options.weights)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    tests: list[dict[str, stats.Difference]] = []
    for seed in SEEDS:
        splits = data.load(
            *("composites",), foregrounds=options.foregrounds, backgrounds=options.backgrounds, classes=CLASSES,
            train=TRAIN, test=TEST, side=SIDE, cue=CUE, seed=seed,
        )  # fmt: skip
        seed_results = {}
        for name, guidance in VARIANTS.items():
            path = options.folder / f"{name}-{seed}.json"
            if path.is_file():
                results = bias.Results.load(path)
            else:
                results = measure(train(splits.train, weights, seed, guidance), splits.test, f"{name}-{seed}", path)
            rows[name].append(summary(results, splits.test.groups))
            seed_results[name] = results
            print(f"{name}, seed {seed}:", {key: round(value, 1) for key, value in rows[name][-1].items()}, flush=True)
        plain = seed_results["plain"]
        tests.append({name: bias.compare(seed_results[name], plain).differences[DROP] for name in GUIDED})
    drops = table(
        ["seed", *GUIDED],
        [
            [str(seed), *(f"{100 * test[name].value:+.1f} (p {test[name].p_adjusted:.2g})" for name in GUIDED)]
            for seed, test in zip(SEEDS, tests, strict=True)
        ],
    )
    text = (
        f"squeezenet1_0, {SIDE} pixels, {TRAIN} training images at cue {CUE}, {EPOCHS} epochs; {TEST} test images at "
        f"cue 0. In %, seeds {', '.join(map(str, SEEDS))}; differences from plain over the seeds (paired t, Holm).\n\n"
        + seeds_table(rows, list(rows["plain"][0]))
        + f"\n\nDrop by Mixed-Other minus that of plain, on the same test images, in points:\n\n{drops}"
    )
    publish("Guidance on composites", text, torch.device("cpu"), save=not options.no_save)


if __name__ == "__main__":
    main()
