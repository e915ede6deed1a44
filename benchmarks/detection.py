"""How fast detection is: against torchvision's own model, loop and transforms, and pycocotools.

    python benchmarks/detection.py                          # everything
    python benchmarks/detection.py --only step,inference    # some parts

Parts, each in turn with what it is compared to, given as the median with the smallest and largest of the repeats:

- step: a training step (forward, backward, SGD) of Faster R-CNN ResNet50-FPN: torchvision's model in the plain loop of
  its reference, ours in the same loop, and ours in the channels last layout, with the same weights and images.
- inference: the same networks in evaluation mode.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from common import arguments, in_turn, publish, seconds, spread, table
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from regard import detection

CLASSES = 80


class Setting:
    """What the options say, and what all parts have in common."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.repeats, self.size = options.repeats, options.size
        self.batch = options.batch_size or (8 if self.device.type == "cuda" else 2)

    def networks(self) -> dict[str, nn.Module]:
        """Name -> network, in training mode, with the same weights."""
        torch.manual_seed(0)
        sizes = {"min_size": self.size, "max_size": self.size}
        ours = detection.create("faster-rcnn", "resnet50", CLASSES, norm="fixed", **sizes)
        body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
        theirs = FasterRCNN(body, CLASSES + 1, **sizes)
        theirs.load_state_dict(ours.state_dict(), strict=False)  # a frozen norm counts no batches
        last = detection.create("faster-rcnn", "resnet50", CLASSES, norm="fixed", **sizes)
        last.load_state_dict(ours.state_dict())
        return {
            "torchvision": theirs.to(self.device),
            "regard": ours.to(self.device),
            "regard, channels last": last.to(self.device, memory_format=torch.channels_last),
        }

    def images(self) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Images of noise with 8 objects each."""
        generator = torch.Generator().manual_seed(0)
        images = [torch.rand(3, self.size, self.size, generator=generator) for _ in range(self.batch)]
        targets = []
        for _ in images:
            corners = torch.rand(8, 2, generator=generator) * self.size / 2
            sides = 16 + torch.rand(8, 2, generator=generator) * self.size / 3
            labels = torch.randint(CLASSES, (8,), generator=generator)
            targets.append({"boxes": torch.cat((corners, corners + sides), 1), "labels": labels})
        place = self.device
        return [image.to(place) for image in images], [{k: v.to(place) for k, v in one.items()} for one in targets]

    def rows(self, works: dict[str, Callable[[], object]]) -> list[list[str]]:
        """Seconds of each work, in turn after one to warm up, and their ratio to the first, pair by pair."""
        timed = [lambda work=work: seconds(work, self.device) for work in works.values()]
        in_turn(timed, 1)
        times = in_turn(timed, self.repeats)
        ratios = [[own / first for own, first in zip(one, times[0], strict=True)] for one in times]
        return [
            [name, spread(one, ".3f"), f"{statistics.median(ratio):.3f}"]
            for name, one, ratio in zip(works, times, ratios, strict=True)
        ]


def step_part(setting: Setting) -> str:
    images, targets = setting.images()

    def step_of(network: nn.Module) -> Callable[[], None]:
        network.train()
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(learning, lr=1e-4, momentum=0.9, weight_decay=1e-4)

        def step() -> None:
            losses = sum(network(images, targets).values())
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()

        return step

    rows = setting.rows({name: step_of(network) for name, network in setting.networks().items()})
    title = f"A training step of {setting.batch} images of {setting.size} pixels"
    return f"{title}\n\n{table(('network', 'seconds', 'ratio'), rows)}"


def inference_part(setting: Setting) -> str:
    images, _ = setting.images()

    def run_of(network: nn.Module) -> Callable[[], object]:
        network.eval()
        return torch.inference_mode()(lambda: network(images))

    rows = setting.rows({name: run_of(network) for name, network in setting.networks().items()})
    title = f"Inference of {setting.batch} images of {setting.size} pixels"
    return f"{title}\n\n{table(('network', 'seconds', 'ratio'), rows)}"


PARTS: dict[str, Callable[[Setting], str]] = {"step": step_part, "inference": inference_part}


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run: {', '.join(PARTS)}")
    parser.add_argument("--size", type=int, default=640, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, help="number of images; 2, or 8 on a GPU, if not given")
    options = parser.parse_args(given)
    setting = Setting(options)
    text = "\n\n".join(PARTS[part](setting) for part in options.only.split(","))
    publish("Detection", text, setting.device, save=not options.dry)


if __name__ == "__main__":
    main()
