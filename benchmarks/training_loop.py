"""What the training loop costs besides the network, and what batches on the device save over a DataLoader.

Three epochs over the same images with the same network, in turn:

- bare: a hand-written forward, backward and optimizer step on one batch that is there already, the floor;
- regard: the loop of `regard.training` with augmented batches, losses and accuracy kept;
- DataLoader: the bare step behind torchvision's per-image transforms (pad-crop, flip, normalise) in worker processes.

The share of a step outside forward, backward and optimizer step is taken inside regard's own loop, by a clock around
those three; on a GPU, where work is queued, it is the difference to the bare epoch.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import arguments, in_turn, publish, seconds, spread, table
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from regard import data, models, training
from regard.training import loop as loops
from regard.training.display import Display
from regard.training.interrupt import Interrupt
from regard.transfer import Objective


class Images(Dataset):
    """The images one by one, as torchvision's own data sets give them."""

    def __init__(self, images: data.ImageSet, transform: transforms.Compose) -> None:
        self.pictures = [transforms.functional.to_pil_image(image) for image in images.images]
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[i]), self.labels[i]


class Clock:
    """Adds up the time spent in a callable."""

    def __init__(self) -> None:
        self.total = 0.0

    def around(self, work):
        def timed(*args, **kwargs):
            began = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.total += time.perf_counter() - began

        return timed


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--network", default="cifar-resnet20")
    parser.add_argument("--block", default="basic")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    options = parser.parse_args()
    device = torch.device(options.device)
    train, test = data.load("clutter", train=options.images, test=10)
    recipe = training.load_recipe(
        None,
        [
            f"--model.name={options.network}",
            f"--model.options={{block: {options.block}}}",
            "--augmentation.flip=true",
            f"--schedule.batch_size={options.batch_size}",
            f"--device={device}",
        ],
    )

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        model = models.create(options.network, 10, block=options.block)
        return model.to(device, memory_format=torch.channels_last).train()

    # regard
    with tempfile.TemporaryDirectory() as folder:
        run = training.Run.create(Path(folder) / "run", recipe, train.classes)
        model = network()
        batches = data.Batches(
            train, options.batch_size, augmentation=recipe.augmentation, shuffle=True, device=device, channels_last=True
        )
        ours = loops._Loop(recipe, run, model, Objective(model, None), batches, batches, Display())
    clock = Clock()
    if device.type == "cpu":
        ours.objective = clock.around(ours.objective)
        torch.Tensor.backward = clock.around(torch.Tensor.backward)
        ours.optimizer.step = clock.around(ours.optimizer.step)
    shares: list[float] = []

    def regard_epoch() -> float:
        ours.step, clock.total = 0, 0.0
        took = seconds(lambda: ours.train_epoch(Interrupt()), device)
        ours.epoch += 1
        shares.append(100 * (1 - clock.total / took))
        return took

    # bare
    bare = network()
    optimizer = training.make_optimizer(bare, recipe.optimizer)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(bare(images), labels).backward()
        optimizer.step()

    batch = next(iter(batches.epoch(0)))
    steps = len(batches)

    def bare_epoch() -> float:
        return seconds(lambda: [step(batch.images, batch.labels) for _ in range(steps)], device)

    # DataLoader
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(train.mean, train.std),
        ]
    )
    loader = DataLoader(
        Images(train, transform),
        options.batch_size,
        shuffle=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=device.type == "cuda",
    )

    def loader_epoch() -> float:
        def epoch() -> None:
            for images, labels in loader:
                step(
                    images.to(device, memory_format=torch.channels_last, non_blocking=True),
                    labels.to(device, non_blocking=True),
                )

        return seconds(epoch, device)

    works = (bare_epoch, regard_epoch, loader_epoch)
    in_turn(works, 1)  # warm-up: caches, worker processes
    shares.clear()
    bare_times, our_times, loader_times = in_turn(works, options.repeats)
    ratios = [ours / floor for ours, floor in zip(our_times, bare_times, strict=True)]
    gains = [theirs / ours for theirs, ours in zip(loader_times, our_times, strict=True)]
    if device.type != "cpu":
        shares = [100 * (1 - 1 / ratio) for ratio in ratios]
    rows = [
        [name, spread([1000 * t / steps for t in times]), f"{options.images / statistics.median(times):,.0f}"]
        for name, times in (("bare step", bare_times), ("regard", our_times), ("DataLoader", loader_times))
    ]
    text = "\n".join(
        (
            f"{options.network} ({options.block} blocks), batch {options.batch_size}, {options.images} images of "
            f"clutter an epoch, float32, {options.repeats} epochs each in turn; DataLoader with {options.workers} "
            "workers. Median (smallest to largest).\n",
            table(["epoch of", "ms a step", "images/s"], rows),
            "",
            f"- Outside forward, backward and optimizer step: {spread(shares, '.2f')} % of regard's step.",
            f"- regard / bare step, pair by pair: {spread(ratios, '.3f')}.",
            f"- DataLoader / regard, pair by pair: {spread(gains, '.2f')}.",
        )
    )
    publish("Training loop", text, device, save=not options.dry)


if __name__ == "__main__":
    main()
