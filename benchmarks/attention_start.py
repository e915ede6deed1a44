"""Accuracy of a pretrained network with attention, directly after attaching and after fine-tuning, for both starts.

The network comes from --network and --weights (safetensors, 1000 ImageNet classes). --photographs is a folder with one
photograph per ImageNet class, whose names begin with the class's WordNet id; --data has `train/` and `test/` with one
folder of images per class. Fine-tuning replaces the classifier. For each seed, all networks start with the same
classifier and train on the same images in the same order; seeds differ in both.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from pathlib import Path

import timm
import torch
from common import arguments, publish, table
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from regard import attention, models

GROUPS = {"shuffle": {"groups": 8}, "sge": {"groups": 8}}
STARTS = ("published", "identity")


def network(options: argparse.Namespace, module: str | None, start: str) -> nn.Module:
    model = models.create(options.network, 1000)
    model.load_state_dict({name: value.float() for name, value in load_file(options.weights).items()})
    if module is not None:
        attention.attach(model, module, start=start, **GROUPS.get(module, {}))
    return model.to(options.device)


def as_tensor(name: str) -> v2.Transform:
    """The conversion to tensors with the normalisation of a network."""
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    mean = config.mean if config else (0.485, 0.456, 0.406)
    std = config.std if config else (0.229, 0.224, 0.225)
    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def photographs(options: argparse.Namespace) -> TensorDataset:
    """Every fifth photograph, with its class."""
    paths = sorted(options.photographs.glob("*.jpg"))
    crop = v2.Compose([v2.Resize(256), v2.CenterCrop(224), as_tensor(options.network)])
    classes = range(0, len(paths), 5)
    images = [crop(decode_image(str(paths[i]), ImageReadMode.RGB)) for i in classes]
    return TensorDataset(torch.stack(images), torch.tensor(classes))


@torch.no_grad()
def accuracy(model: nn.Module, batches: DataLoader, device: str) -> float:
    """Top-1 in percent."""
    model.eval()
    correct = [model(images.to(device)).argmax(1).cpu() == labels for images, labels in batches]
    return 100 * torch.cat(correct).float().mean().item()


def replace_classifier(model: nn.Module, classes: int) -> None:
    """Replaces the last layer with 1000 outputs by a new one."""
    for name, layer in reversed(list(model.named_modules())):
        new: nn.Linear | nn.Conv2d
        if isinstance(layer, nn.Linear) and layer.out_features == 1000:
            new = nn.Linear(layer.in_features, classes)
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == 1000:
            new = nn.Conv2d(layer.in_channels, classes, 1)
            nn.init.normal_(new.weight, std=0.01)  # as in SqueezeNet, whose classifier ends with a ReLU
            assert new.bias is not None
            nn.init.zeros_(new.bias)
        else:
            continue
        model.set_submodule(name, new.to(next(model.parameters()).device))
        return


def fine_tune(options: argparse.Namespace, module: str | None, start: str, seed: int) -> list[float]:
    """Fine-tunes a network and returns the test accuracy after each epoch."""
    train, test = folders(options)
    torch.manual_seed(seed)
    model = network(options, module, start)
    torch.manual_seed(seed)
    replace_classifier(model, len(train.dataset.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9, weight_decay=1e-4)
    order = torch.Generator().manual_seed(seed)
    batches = DataLoader(train, options.batch_size, shuffle=True, drop_last=True, generator=order)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * len(batches))
    accuracies = []
    for _ in range(options.epochs):
        model.train()
        for images, labels in batches:
            images = images.to(options.device)
            if torch.rand((), generator=order) < 0.5:
                images = images.flip(3)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels.to(options.device)).backward()
            optimizer.step()
            schedule.step()
        accuracies.append(accuracy(model, DataLoader(test, 50), options.device))
    return accuracies


def folders(options: argparse.Namespace) -> list[Subset]:
    """Training and test images, balanced over the classes."""
    size = v2.Compose([v2.Resize((options.size, options.size)), as_tensor(options.network)])
    parts = []
    for split, images in (("train", options.images), ("test", options.test_images)):
        dataset = ImageFolder(options.data / split, size)
        step = max(len(dataset) // images, 1)
        parts.append(Subset(dataset, range(0, len(dataset), step)))
    return parts


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--network", required=True, help="a name of models.create")
    parser.add_argument("--weights", type=Path, required=True, help="its ImageNet weights, safetensors")
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--modules", nargs="+", default=["se", "shuffle"], choices=attention.names())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=500, help="for training")
    parser.add_argument("--test_images", type=int, default=500)
    parser.add_argument("--size", type=int, default=112, help="side of the images for fine-tuning")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.01)
    options = parser.parse_args()
    warnings.simplefilter("ignore", attention.PlacementWarning)
    pictures = DataLoader(photographs(options), 50)
    rows = []
    for module, start in [(None, "published"), *((module, start) for module in options.modules for start in STARTS)]:
        attached = accuracy(network(options, module, start), pictures, options.device)
        seeds = [fine_tune(options, module, start, seed) for seed in range(options.seeds)]
        first, last = ([run[epoch] for run in seeds] for epoch in (0, -1))
        rows.append(
            [
                module or "no attention",
                start if module else "",
                f"{attached:.1f}",
                *(
                    f"{statistics.fmean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})"
                    for values in (first, last)
                ),
            ]
        )
        print(*rows[-1], sep=" | ", flush=True)
    text = (
        f"{options.network}; fine-tuned on {options.images} images of {options.size} pixels, {options.epochs} epochs, "
        f"SGD with a learning rate of {options.lr} and cosine decay, batches of {options.batch_size}, seeds 0 to "
        f"{options.seeds - 1}. Top-1 in percent: mean (each seed).\n\n"
    )
    header = ["attention", "start", "attached, ImageNet", "after epoch 1", f"after epoch {options.epochs}"]
    publish(
        "How attention starts in a pretrained network",
        text + table(header, rows),
        torch.device(options.device),
        save=not options.dry,
    )


if __name__ == "__main__":
    main()
