"""The time that guidance adds to a training step: class activation maps, attention maps, gates and gradients.

    python benchmarks/guidance.py                                   # wrn-16-1 and resnet18-cifar, batch 128
    python benchmarks/guidance.py --networks wrn-10-0.5 --maps cam,attention --repeats 30

A step takes its batch from a loader of images in memory, with crops and flips, and with guidance the regions too; then
follow forward, losses, backward and SGD. The plain step and the guided steps run in turn on copies of one network, and
each guided step is compared with the plain step of the same round; the table has the median of these ratios, with the
quartiles. On a CPU, times are CPU times over all threads, so that other programs disturb less.

On a busy machine the difference of two long steps is uncertain by a few percent. So guidance is also timed alone: the
loss of maps of precomputed features and its gradient with respect to them, without the network, as a share of the
plain step.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import arguments, in_turn, publish, seconds, table
from torch import Tensor, nn

from regard import data, maps, models, training, transfer

OPTIMIZER = training.OptimizerRecipe(lr=0.01)
GATED = "cbam"  # the attention module whose gates are guided


def make_step(model: nn.Module, images: data.InMemoryDataset, batch: int, kind: str | None) -> Callable[[], object]:
    """Returns a function that takes the next training step."""
    augmentation = data.Transform(augmentation=data.Augmentation())
    loader = data.create_loader(
        images, batch, transform=augmentation, shuffle=True, drop_last=True, channels_last=True, masks=kind is not None
    )
    student = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    guidance = {} if kind is None else {"guidance": 1.0, "guidance_maps": kind}
    objective = transfer.Objective(student, None, image_size=loader.image_size, **guidance)
    optimizer = training.make_optimizer(student, OPTIMIZER)
    batches = (batch for epoch in range(1 << 20) for batch in loader.epoch(epoch))

    def step() -> None:
        batch = next(batches)
        objective(batch.images, batch.labels, regions=batch.masks).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def cost(step: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of a step: on a CPU its CPU time."""
    if device.type != "cpu":
        return 1e3 * seconds(step, device)
    start = time.process_time()
    step()
    return 1e3 * (time.process_time() - start)


class Head(nn.Module):
    """The end of a network: precomputed features, pooling and classifier."""

    def __init__(self, features: Tensor, classes: int) -> None:
        super().__init__()
        self.features = nn.Parameter(features)
        self.last = nn.Identity()
        self.fc = nn.Linear(features.shape[1], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.last(self.features).mean((2, 3)))


def alone(
    model: nn.Module, images: data.InMemoryDataset, batch_size: int, kind: str, device: torch.device
) -> float | None:
    """Milliseconds of guidance without the network; None for maps that do not come from the last features."""
    if kind not in ("cam", "attention"):
        return None
    batch = next(data.create_loader(images, batch_size, channels_last=True, masks=True).epoch(0))
    layer = maps.last_features(model)
    with torch.no_grad(), maps.Taps(model, layer) as taps:
        model(batch.images)
        head = Head(taps.features[layer].clone(memory_format=torch.channels_last), 10).to(device)
    guidance = {"guidance": 1.0, "guidance_maps": kind, "guidance_layers": None if kind == "cam" else ["last"]}

    def timer(**options: Any) -> Callable[[], float]:
        objective = transfer.Objective(head, None, image_size=32, **options)
        return lambda: cost(lambda: objective(batch.images, batch.labels, regions=batch.masks).total.backward(), device)

    guided, plain = in_turn([timer(**guidance), timer()], 30)
    return statistics.median(a - b for a, b in zip(guided, plain, strict=True))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", default="wrn-16-1,resnet18-cifar")
    parser.add_argument("--maps", default="cam,attention,gate,gradcam,input_gradient")
    parser.add_argument("--batch", type=int, default=128)
    parser.set_defaults(repeats=15)
    options = parser.parse_args()
    device = torch.device(options.device)
    images = data.load("clutter", train=16 * options.batch, test=20).train.to(device)
    rows = []
    for name in options.networks.split(","):
        torch.manual_seed(0)
        kinds = options.maps.split(",")
        plain = models.create(name).to(device)
        gated = models.create(name, attention=GATED).to(device)
        steps = {"": make_step(plain, images, options.batch, None)}
        steps |= {kind: make_step(plain, images, options.batch, kind) for kind in kinds if kind != "gate"}
        if "gate" in kinds:
            steps |= {GATED: make_step(gated, images, options.batch, None)}
            steps |= {"gate": make_step(gated, images, options.batch, "gate")}
        for step in steps.values():
            step()  # warm-up
        timers = [lambda step=step: cost(step, device) for step in steps.values()]
        times = dict(zip(steps, in_turn(timers, options.repeats), strict=True))
        for kind in kinds:
            base = times[GATED if kind == "gate" else ""]
            ratios = [100 * (guided / before - 1) for guided, before in zip(times[kind], base, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            guidance = alone(plain, images, options.batch, kind, device)
            share = None if guidance is None else 100 * guidance / statistics.median(base)
            rows.append(
                (
                    *(name if kind != "gate" else f"{name} with {GATED}", kind),
                    *(f"{statistics.median(base):.1f}", f"{statistics.median(times[kind]):.1f}"),
                    f"{middle:+.1f}% ({low:+.1f} to {high:+.1f})",
                    "" if share is None else f"{guidance:.1f} ({share:.1f}%)",
                )
            )
    header = ("network", "maps", "plain step, ms", "guided step, ms", "guidance adds", "alone, ms")
    title = f"Guidance: a training step of batch {options.batch}, 32 x 32 pixels"
    publish(title, table(header, rows), device, save=not options.dry)


if __name__ == "__main__":
    main()
