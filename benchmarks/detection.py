"""How fast detection is: against torchvision's own model, loop and transforms, and pycocotools.

    python benchmarks/detection.py                          # everything
    python benchmarks/detection.py --only step,inference    # some parts

Parts, each in turn with what it is compared to, given as the median with the smallest and largest of the repeats:

- step: a training step (forward, backward, SGD) of Faster R-CNN ResNet50-FPN: torchvision's model in the plain loop of
  its reference, ours in the same loop, and ours in the channels last layout, with the same weights and images.
- inference: the same networks in evaluation mode.
- evaluation: COCO's twelve numbers of made boxes, 100 in an image, and of masks in a tenth of the images, by
  `detection.Results` and by pycocotools, with how far the numbers are apart.
- comparison: two such detectors by 1,000 samples of the images, against as many evaluations.
- reading: an epoch of made photographs with polygons, read, mirrored and resized with boxes and masks, by
  `create_loader` and by torchvision's CocoDetection with transforms.v2, both in this process. Ours resizes masks as it
  does images, between pixels; torchvision's takes the nearest pixel.

The last three are given in seconds of the processor, because they run on the CPU alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, in_turn, publish, seconds, spread, table
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import frPyObjects
from torch import Tensor, nn
from torchvision import datasets
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.transforms import v2

from regard import data, detection
from regard.detection.table import Kind, Table

CLASSES = 80


class Setting:
    """What the options say, and what all parts have in common."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.repeats, self.size = options.repeats, options.size
        self.images_evaluated = options.images
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

    def rows(
        self, works: dict[str, Callable[[], object]], timer: Callable[[Callable[[], object]], float] | None = None
    ) -> list[list[str]]:
        """Seconds of each work, in turn after one to warm up, and their ratio to the first, pair by pair."""
        timer = timer or (lambda work: seconds(work, self.device))
        timed = [lambda work=work: timer(work) for work in works.values()]
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


def processor_seconds(work: Callable[[], object]) -> float:
    """Seconds of the processor that `work` takes, in all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def made_results(images: int, masks: bool = False, seed: int = 0) -> detection.Results:
    """Objects in images of 640 x 480 pixels, and 100 detections in each, half of them near an object."""
    generator = np.random.default_rng(0)
    truth, detections = [], []
    for _ in range(images):
        labels = generator.choice(generator.integers(CLASSES, size=3), generator.integers(1, 15))
        boxes = generator.uniform(0, [500, 380, 100, 100], (len(labels), 4)) + [0, 0, 4, 4]
        truth.append(made_table(labels, boxes, None, masks))
    generator = np.random.default_rng(1 + seed)
    for one in truth:
        near = generator.integers(len(one), size=50)
        boxes = one.box[near] + generator.normal(0, 6, (50, 4))
        boxes = np.concatenate([boxes, generator.uniform(0, [500, 380, 100, 100], (50, 4))])
        labels = np.concatenate([one.label[near], generator.integers(CLASSES, size=50)])
        boxes[:, 2:] = boxes[:, 2:].clip(2)
        detections.append(made_table(labels, boxes, generator.random(100), masks))
    names = tuple(map(str, range(CLASSES)))
    return detection.Results(
        *(f"detector {seed}", "made", "", names, tuple(range(1, CLASSES + 1))),
        *(tuple(map(str, range(images))), tuple(range(images)), np.array([[640, 480]] * images)),
        *(Table.joined(truth), Table.joined(detections)),
    )


def made_table(
    labels: NDArray[np.int64], boxes: NDArray[np.float64], scores: NDArray[np.float64] | None, masks: bool
) -> Table:
    """Objects, or detections, of an image; masks are ellipses of 24 corners."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    made = Table.of_detections(labels, corners, np.ones(len(labels)) if scores is None else scores)
    if masks:
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        circle = 0.5 + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        rings = (boxes[:, None, :2] + circle * boxes[:, None, 2:]).reshape(len(boxes), -1)
        made = replace(made, counts=tuple(code["counts"] for code in frPyObjects(rings.tolist(), 480, 640)))
    return made if scores is not None else replace(made, area=boxes[:, 2:].prod(1))


def pycocotools_numbers(results: detection.Results, kind: Kind) -> NDArray[np.float64]:
    """The twelve numbers of some results by pycocotools."""
    truth = results.truth
    annotations = [
        {"id": i + 1, "image_id": image, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": 0}
        for i, (image, label, box, area) in enumerate(
            zip(*(column.tolist() for column in (truth.image, truth.label, truth.box, truth.area)), strict=True)
        )
    ]
    if kind == "masks":
        annotations = [
            {**one, "segmentation": code} for one, code in zip(annotations, truth.codes(results.sizes), strict=True)
        ]
    content = {
        "images": [{"id": i, "width": 640, "height": 480} for i in results.image_ids],
        "categories": [{"id": i, "name": str(i)} for i in results.category_ids],
        "annotations": annotations,
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        scoring = COCOeval(coco, coco.loadRes(results.coco_results(kind)), "bbox" if kind == "boxes" else "segm")
        for step in (scoring.evaluate, scoring.accumulate, scoring.summarize):
            step()
    return np.where(scoring.stats < 0, np.nan, scoring.stats)


def evaluation_part(setting: Setting) -> str:
    rows = []
    for kind, count in (("boxes", setting.images_evaluated), ("masks", setting.images_evaluated // 10)):
        results = made_results(count, masks=kind == "masks")
        numbers: dict[str, NDArray[np.float64]] = {}

        def ours(results: detection.Results = results, kind: Kind = kind, into: dict[str, Any] = numbers) -> None:
            again = replace(results)  # nothing is kept
            into["regard"] = np.array(list((again.boxes if kind == "boxes" else again.masks or {}).values()))

        def theirs(results: detection.Results = results, kind: Kind = kind, into: dict[str, Any] = numbers) -> None:
            into["pycocotools"] = pycocotools_numbers(results, kind)

        own, other = processor_seconds(ours), processor_seconds(theirs)
        apart = np.nanmax(np.abs(numbers["regard"] - numbers["pycocotools"]))
        rows.append([kind, str(count), f"{own:.1f}", f"{other:.1f}", f"{other / own:.1f}", f"{apart:.0e}"])
    head = ("kind", "images", "regard, seconds", "pycocotools, seconds", "ratio", "largest difference")
    return f"Evaluation of 100 detections in each image\n\n{table(head, rows)}"


def comparison_part(setting: Setting) -> str:
    pair = [made_results(setting.images_evaluated, seed=seed) for seed in (0, 1)]
    once = processor_seconds(lambda: [replace(one).boxes for one in pair])
    whole = processor_seconds(lambda: detection.compare(*pair, samples=1000))
    rows = [[str(setting.images_evaluated), f"{whole:.1f}", f"{once:.1f}", f"{1000 * once / whole:.0f}"]]
    head = ("images", "comparison, seconds", "two evaluations, seconds", "a thousand of these, times as long")
    return f"Two detectors compared by 1,000 samples of the images\n\n{table(head, rows)}"


def reading_part(setting: Setting) -> str:
    steps = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            v2.RandomShortestSize(800, 1333),
            v2.SanitizeBoundingBoxes(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = made_photographs(Path(folder), 48)
        images = data.open_regions(f"coco:{folder}")
        for masks in (False, True):
            with contextlib.redirect_stdout(io.StringIO()):
                plain = datasets.CocoDetection(file.parents[1] / "val", file, transforms=steps)
            keys = ("boxes", "labels", "masks")[: 2 + masks]
            theirs = datasets.wrap_dataset_for_transforms_v2(plain, target_keys=keys)
            transform = data.DetectionTransform()
            ours = data.create_loader(images, 8, transform=transform, shuffle=True, objects=True, masks=masks)
            works = {
                f"torchvision, {keys[-1]}": lambda theirs=theirs: [theirs[i] for i in range(len(theirs))],
                f"regard, {keys[-1]}": lambda ours=ours: list(ours.epoch(0)),
            }
            rows += setting.rows(works, processor_seconds)
    title = "Reading 48 photographs of 640 x 480 pixels with 8 polygons each, short side 800"
    return f"{title}\n\n{table(('pipeline', 'seconds', 'ratio'), rows)}"


def made_photographs(folder: Path, count: int) -> Path:
    """A folder in COCO's layout, of smooth noise with 8 polygons of 24 corners in each image; its annotation file."""
    generator = np.random.default_rng(0)
    (folder / "val").mkdir()
    (folder / "annotations").mkdir()
    images, annotations = [], []
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for i in range(count):
        pixels = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(folder / "val" / f"{i}.jpg")
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480})
        for _ in range(8):
            x, y, radius = generator.uniform([60, 60, 10], [580, 420, 60])
            ring = np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1).ravel().tolist()
            box = [x - radius, y - radius, 2 * radius, 2 * radius]
            annotation = {"id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0}
            annotations.append({**annotation, "segmentation": [ring], "bbox": box, "area": np.pi * radius**2})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "circle"}]}
    file = folder / "annotations" / "instances_val.json"
    file.write_text(json.dumps(content))
    return file


PARTS: dict[str, Callable[[Setting], str]] = {"step": step_part, "inference": inference_part}
PARTS |= {"evaluation": evaluation_part, "comparison": comparison_part, "reading": reading_part}


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run: {', '.join(PARTS)}")
    parser.add_argument("--size", type=int, default=640, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, help="number of images; 2, or 8 on a GPU, if not given")
    parser.add_argument("--images", type=int, default=5000, help="number of images to evaluate")
    options = parser.parse_args(given)
    setting = Setting(options)
    text = "\n\n".join(PARTS[part](setting) for part in options.only.split(","))
    publish("Detection", text, setting.device, save=not options.dry)


if __name__ == "__main__":
    main()
