"""The speed of detection, against torchvision's model, loop and transforms, and against pycocotools.

    python benchmarks/detection.py                          # everything
    python benchmarks/detection.py --only step,inference    # two parts

Each part alternates between regard and its peers, and gives the median with the smallest and largest of the repeats:

- step: a training step (forward, backward, SGD) of Faster R-CNN ResNet50-FPN: torchvision's model in the plain loop of
  its reference, regard's in the same loop, and regard's in channels last, with the same weights and images.
- inference: the same networks in evaluation mode.
- evaluation: COCO's twelve numbers of made-up boxes, 100 per image, and of masks in a tenth of the images, by
  `detection.Results` and by pycocotools, with the largest difference between their numbers.
- comparison: two such detectors by 1,000 samples of the images, against the same number of evaluations.
- reading: an epoch of made-up photographs with polygons, read, mirrored and resized with boxes and masks, by
  `create_loader` and by torchvision's CocoDetection with transforms.v2, both without workers. regard interpolates masks
  as it does images; torchvision takes the nearest pixel.

The last three parts run on the CPU alone and are given in CPU seconds.
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


class Setup:
    """The options, and the networks, images and timing that the parts share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.repeats, self.size = options.repeats, options.size
        self.images_evaluated = options.images
        self.batch = options.batch_size or (8 if self.device.type == "cuda" else 2)

    def networks(self) -> dict[str, nn.Module]:
        """Name -> network, in training mode, all with the same weights."""
        torch.manual_seed(0)
        sizes = {"min_size": self.size, "max_size": self.size}
        contiguous = detection.create("faster-rcnn", "resnet50", CLASSES, norm="fixed", **sizes)
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
        reference = FasterRCNN(backbone, CLASSES + 1, **sizes)
        # Not strict: a frozen norm has no num_batches_tracked.
        reference.load_state_dict(contiguous.state_dict(), strict=False)
        channels_last = detection.create("faster-rcnn", "resnet50", CLASSES, norm="fixed", **sizes)
        channels_last.load_state_dict(contiguous.state_dict())
        return {
            "torchvision": reference.to(self.device),
            "regard": contiguous.to(self.device),
            "regard, channels last": channels_last.to(self.device, memory_format=torch.channels_last),
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
            boxes = torch.cat((corners, corners + sides), 1)
            targets.append({"boxes": boxes.to(self.device), "labels": labels.to(self.device)})
        return [image.to(self.device) for image in images], targets

    def rows(
        self, functions: dict[str, Callable[[], object]], measure: Callable[[Callable[[], object]], float] | None = None
    ) -> list[list[str]]:
        """Times the functions in turn, after one warm-up call each.

        Returns for each its name, its seconds, and the median of their ratios to those of the first function.
        """
        measure = measure or (lambda function: seconds(function, self.device))
        timers = [lambda function=function: measure(function) for function in functions.values()]
        in_turn(timers, 1)
        times = in_turn(timers, self.repeats)
        ratios = [[value / first for value, first in zip(values, times[0], strict=True)] for values in times]
        return [
            [name, spread(values, ".3f"), f"{statistics.median(ratio):.3f}"]
            for name, values, ratio in zip(functions, times, ratios, strict=True)
        ]


def step_part(setup: Setup) -> str:
    images, targets = setup.images()

    def make_step(network: nn.Module) -> Callable[[], None]:
        network.train()
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4)

        def step() -> None:
            losses = sum(network(images, targets).values())
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()

        return step

    rows = setup.rows({name: make_step(network) for name, network in setup.networks().items()})
    title = f"A training step of {setup.batch} images of {setup.size} pixels"
    return f"{title}\n\n{table(('network', 'seconds', 'ratio'), rows)}"


def inference_part(setup: Setup) -> str:
    images, _ = setup.images()

    def make_inference(network: nn.Module) -> Callable[[], object]:
        network.eval()
        return torch.inference_mode()(lambda: network(images))

    rows = setup.rows({name: make_inference(network) for name, network in setup.networks().items()})
    title = f"Inference of {setup.batch} images of {setup.size} pixels"
    return f"{title}\n\n{table(('network', 'seconds', 'ratio'), rows)}"


def cpu_seconds(function: Callable[[], object]) -> float:
    """The CPU time of a call, over all threads."""
    start = time.process_time()
    function()
    return time.process_time() - start


def random_results(images: int, masks: bool = False, seed: int = 0) -> detection.Results:
    """Objects in images of 640 x 480 pixels, and 100 detections per image, half of them near an object."""
    generator = np.random.default_rng(0)
    truth, detections = [], []
    for _ in range(images):
        labels = generator.choice(generator.integers(CLASSES, size=3), generator.integers(1, 15))
        boxes = generator.uniform(0, [500, 380, 100, 100], (len(labels), 4)) + [0, 0, 4, 4]
        truth.append(make_table(labels, boxes, None, masks))
    generator = np.random.default_rng(1 + seed)
    for objects in truth:
        near = generator.integers(len(objects), size=50)
        boxes = objects.box[near] + generator.normal(0, 6, (50, 4))
        boxes = np.concatenate([boxes, generator.uniform(0, [500, 380, 100, 100], (50, 4))])
        labels = np.concatenate([objects.label[near], generator.integers(CLASSES, size=50)])
        boxes[:, 2:] = boxes[:, 2:].clip(2)
        detections.append(make_table(labels, boxes, generator.random(100), masks))
    names = tuple(map(str, range(CLASSES)))
    return detection.Results(
        *(f"detector {seed}", "made", "", names, tuple(range(1, CLASSES + 1))),
        *(tuple(map(str, range(images))), tuple(range(images)), np.array([[640, 480]] * images)),
        *(Table.joined(truth), Table.joined(detections)),
    )


def make_table(
    labels: NDArray[np.int64], boxes: NDArray[np.float64], scores: NDArray[np.float64] | None, masks: bool
) -> Table:
    """The objects of an image, or its detections if there are scores; masks are ellipses of 24 corners."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    rows = Table.of_detections(labels, corners, np.ones(len(labels)) if scores is None else scores)
    if masks:
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        circle = 0.5 + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        rings = (boxes[:, None, :2] + circle * boxes[:, None, 2:]).reshape(len(boxes), -1)
        rows = replace(rows, counts=tuple(code["counts"] for code in frPyObjects(rings.tolist(), 480, 640)))
    return rows if scores is not None else replace(rows, area=boxes[:, 2:].prod(1))


def pycocotools_numbers(results: detection.Results, kind: Kind) -> NDArray[np.float64]:
    """pycocotools' twelve numbers of the results."""
    truth = results.truth
    annotations = [
        {"id": i + 1, "image_id": image, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": 0}
        for i, (image, label, box, area) in enumerate(
            zip(*(column.tolist() for column in (truth.image, truth.label, truth.box, truth.area)), strict=True)
        )
    ]
    if kind == "masks":
        annotations = [
            {**record, "segmentation": code}
            for record, code in zip(annotations, truth.codes(results.sizes), strict=True)
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


def evaluation_part(setup: Setup) -> str:
    rows = []
    for kind, count in (("boxes", setup.images_evaluated), ("masks", setup.images_evaluated // 10)):
        results = random_results(count, masks=kind == "masks")
        numbers: dict[str, NDArray[np.float64]] = {}

        def regard(results: detection.Results = results, kind: Kind = kind, out: dict[str, Any] = numbers) -> None:
            copy = replace(results)  # without cached values
            out["regard"] = np.array(list((copy.boxes if kind == "boxes" else copy.masks or {}).values()))

        def pycocotools(results: detection.Results = results, kind: Kind = kind, out: dict[str, Any] = numbers) -> None:
            out["pycocotools"] = pycocotools_numbers(results, kind)

        regard_time, peer_time = cpu_seconds(regard), cpu_seconds(pycocotools)
        deviation = np.nanmax(np.abs(numbers["regard"] - numbers["pycocotools"]))
        rows.append(
            [
                *(kind, str(count), f"{regard_time:.1f}", f"{peer_time:.1f}"),
                *(f"{peer_time / regard_time:.1f}", f"{deviation:.0e}"),
            ]
        )
    head = ("kind", "images", "regard, seconds", "pycocotools, seconds", "ratio", "largest difference")
    return f"Evaluation of 100 detections in each image\n\n{table(head, rows)}"


def comparison_part(setup: Setup) -> str:
    pair = [random_results(setup.images_evaluated, seed=seed) for seed in (0, 1)]
    evaluation = cpu_seconds(lambda: [replace(results).boxes for results in pair])
    comparison = cpu_seconds(lambda: detection.compare(*pair, samples=1000))
    ratio = 1000 * evaluation / comparison
    rows = [[str(setup.images_evaluated), f"{comparison:.1f}", f"{evaluation:.1f}", f"{ratio:.0f}"]]
    head = ("images", "comparison, seconds", "two evaluations, seconds", "a thousand of these, times as long")
    return f"Two detectors compared by 1,000 samples of the images\n\n{table(head, rows)}"


def reading_part(setup: Setup) -> str:
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
        file = make_photographs(Path(folder), 48)
        images = data.open_regions(f"coco:{folder}")
        for masks in (False, True):
            with contextlib.redirect_stdout(io.StringIO()):
                plain = datasets.CocoDetection(file.parents[1] / "val", file, transforms=steps)
            keys = ("boxes", "labels", "masks")[: 2 + masks]
            dataset = datasets.wrap_dataset_for_transforms_v2(plain, target_keys=keys)
            transform = data.DetectionTransform()
            loader = data.create_loader(images, 8, transform=transform, shuffle=True, objects=True, masks=masks)
            epochs = {
                f"torchvision, {keys[-1]}": lambda dataset=dataset: [dataset[i] for i in range(len(dataset))],
                f"regard, {keys[-1]}": lambda loader=loader: list(loader.epoch(0)),
            }
            rows += setup.rows(epochs, cpu_seconds)
    title = "Reading 48 photographs of 640 x 480 pixels with 8 polygons each, short side 800"
    return f"{title}\n\n{table(('pipeline', 'seconds', 'ratio'), rows)}"


def make_photographs(folder: Path, count: int) -> Path:
    """Writes images of smooth noise with 8 polygons each, in COCO's layout; returns the annotation file."""
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


PARTS: dict[str, Callable[[Setup], str]] = {"step": step_part, "inference": inference_part}
PARTS |= {"evaluation": evaluation_part, "comparison": comparison_part, "reading": reading_part}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run: {', '.join(PARTS)}")
    parser.add_argument("--size", type=int, default=640, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, help="number of images; by default 2 on a CPU, 8 on a GPU")
    parser.add_argument("--images", type=int, default=5000, help="number of images to evaluate")
    options = parser.parse_args(argv)
    setup = Setup(options)
    text = "\n\n".join(PARTS[part](setup) for part in options.only.split(","))
    publish("Detection", text, setup.device, save=not options.dry)


if __name__ == "__main__":
    main()
