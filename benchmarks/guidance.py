"""What guidance adds to a training step: class activation maps, attention maps, gates and gradients.

    python benchmarks/guidance.py                                   # wrn-16-1 and resnet18-cifar, batch 128
    python benchmarks/guidance.py --networks wrn-10-0.5 --maps cam,attention --repeats 30

A step takes its batch from the loader in memory, with crops and flips, and with guidance the regions too; then forward,
losses, backward and SGD. The plain step and the guided ones run in turn on copies of one network, and each guided step
is compared with the plain one of its turn: given is the median of these ratios, with the quartiles. On a processor time
is that of computing, of all threads together, so that other programs disturb less.

On a busy machine that difference of two long steps is uncertain by a few percent. So guidance is also timed alone: the
loss of maps of features that lie ready, and its gradient to them, without the network; as a share of the plain step.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch
from common import arguments, in_turn, publish, seconds, table
from torch import Tensor, nn

from regard import data, maps, models, training, transfer

OPTIMIZER = training.OptimizerRecipe(lr=0.01)
GATED = "cbam"  # attention of the network whose gates are guided


def step_of(model: nn.Module, images: data.InMemoryDataset, batch: int, kind: str | None) -> Callable[[], object]:
    """A function that takes the next training step."""
    augmentation = data.Transform(augmentation=data.Augmentation())
    loader = data.create_loader(
        images, batch, transform=augmentation, shuffle=True, drop_last=True, channels_last=True, masks=kind is not None
    )
    student = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    guidance = {} if kind is None else {"guidance": 1.0, "guidance_maps": kind}
    objective = transfer.Objective(student, None, image_size=loader.image_size, **guidance)
    optimizer = training.make_optimizer(student, OPTIMIZER)
    batches = (one for epoch in range(1 << 20) for one in loader.epoch(epoch))

    def step() -> None:
        one = next(batches)
        objective(one.images, one.labels, regions=one.masks).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def cost(step: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of a step: on a processor those of computing."""
    if device.type != "cpu":
        return 1e3 * seconds(step, device)
    began = time.process_time()
    step()
    return 1e3 * (time.process_time() - began)


class Head(nn.Module):
    """The end of a network: features that lie ready, pooling and classifier."""

    def __init__(self, features: Tensor, classes: int) -> None:
        super().__init__()
        self.features = nn.Parameter(features)
        self.last = nn.Identity()
        self.fc = nn.Linear(features.shape[1], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.last(self.features).mean((2, 3)))


def alone(model: nn.Module, images: data.InMemoryDataset, batch: int, kind: str, device: torch.device) -> float | None:
    """Milliseconds of guidance without the network; None for maps that are not of the last features."""
    if kind not in ("cam", "attention"):
        return None
    one = next(data.create_loader(images, batch, channels_last=True, masks=True).epoch(0))
    layer = maps.last_features(model)
    with torch.no_grad(), maps.Taps(model, layer) as taps:
        model(one.images)
        head = Head(taps.features[layer].clone(memory_format=torch.channels_last), 10).to(device)
    options = {"guidance": 1.0, "guidance_maps": kind, "guidance_layers": None if kind == "cam" else ["last"]}
    guided, plain = (transfer.Objective(head, None, image_size=32, **chosen) for chosen in (options, {}))

    def work(objective: transfer.Objective) -> Callable[[], float]:
        return lambda: cost(lambda: objective(one.images, one.labels, regions=one.masks).total.backward(), device)

    with_it, without = in_turn([work(guided), work(plain)], 30)
    return statistics.median(a - b for a, b in zip(with_it, without, strict=True))


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
        steps = {"": step_of(plain, images, options.batch, None)}
        steps |= {kind: step_of(plain, images, options.batch, kind) for kind in kinds if kind != "gate"}
        if "gate" in kinds:
            steps |= {GATED: step_of(gated, images, options.batch, None)}
            steps |= {"gate": step_of(gated, images, options.batch, "gate")}
        for step in steps.values():
            step()  # not counted: memory is taken, kernels are chosen
        figures = in_turn([lambda step=step: cost(step, device) for step in steps.values()], options.repeats)
        times = dict(zip(steps, figures, strict=True))
        for kind in kinds:
            base = times[GATED if kind == "gate" else ""]
            ratios = [100 * (guided / before - 1) for guided, before in zip(times[kind], base, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            by_itself = alone(plain, images, options.batch, kind, device)
            share = None if by_itself is None else 100 * by_itself / statistics.median(base)
            rows.append(
                (
                    *(name if kind != "gate" else f"{name} with {GATED}", kind),
                    *(f"{statistics.median(base):.1f}", f"{statistics.median(times[kind]):.1f}"),
                    f"{middle:+.1f}% ({low:+.1f} to {high:+.1f})",
                    "" if share is None else f"{by_itself:.1f} ({share:.1f}%)",
                )
            )
    header = ("network", "maps", "plain step, ms", "guided step, ms", "guidance adds", "alone, ms")
    title = f"Guidance: a training step of batch {options.batch}, 32 x 32 pixels"
    publish(title, table(header, rows), device, save=not options.dry)


if __name__ == "__main__":
    main()
