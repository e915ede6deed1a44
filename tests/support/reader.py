"""Small versions of the files that pages expect in the working folder: photos, data sets, checkpoints and runs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import timm
import torch
from torch import nn

from regard import attention, maps, models, training
from regard.data import registry
from support import sources
from support.pages import ROOT
from support.scenes import write_scenes

# Options that tests add to a documented command, so that it takes about a second.
SHORTER = {
    "train": ["--schedule.epochs=1", "--schedule.milestones=[]", "--data.train_images=4", "--data.workers=0"],
    "reproduce": ["--commands"],
    "bias": ["--examples=1"],
    "report": ["--examples=1"],
    "complexity": ["--repeats=1"],
    "demo": ["--quick"],
}

_DETECTOR = ["--data.name=coco", "--data.folder=coco", "--data.size=64", "--model.name=cifar-resnet8"]
_DETECTOR += ["--model.options={block: basic}", "--model.detector=retinanet", "--data.workers=0"]
_DETECTOR += ["--model.detector_options={strides: [2, 4], channels: 16, frozen_stages: 0, detections_per_img: 3}"]
_SMALL = ["--model.name=wrn-10-1"]
_CIFAR = [*_SMALL, "--data.name=cifar10"]
_SHUFFLE = ["--model.attention=shuffle", "--model.attention_options={groups: 4}"]

# Page -> run it expects -> fields of the run's recipe. The weights are random.
RUNS: dict[str, dict[str, list[str]]] = {
    "docs/how-to/bias.md": {"plain": _SMALL, "lsas": [*_SMALL, "--model.attention=se", "--model.gate=sub-attention"]},
    "docs/how-to/detection.md": {
        "coco-faster-rcnn-seed0": _DETECTOR,
        "coco-faster-rcnn-shuffle": [*_DETECTOR, *_SHUFFLE],
    },
    "docs/how-to/explain.md": {"wrn-16-2-seed0": _SMALL},
    "docs/how-to/report.md": {"plain-seed0": _SMALL, "se-seed0": [*_SMALL, "--model.attention=se"]},
    "docs/how-to/studies.md": {
        "plain": _SMALL,
        "se": [*_SMALL, "--model.attention=se"],
        "shuffle": [*_SMALL, *_SHUFFLE],
    },
    "docs/how-to/tables.md": {"wrn-16-2-seed0": _CIFAR},
    "docs/how-to/transfer.md": {"wrn-16-2-seed0": _SMALL, "wrn-40-1-seed0": _SMALL},
    "docs/how-to/weights.md": {"wrn-16-2-seed0": _CIFAR},
    "docs/tutorials/table.md": {"builtin-student-4ep-seed0": _SMALL},
}


def _photos(images: Path, masks: Path, count: int = 2) -> None:
    for number, name in enumerate(("dog/rex", "cat/tom", "cat/kim", "dog/spot", "dog/ace")[:count]):
        width, height = 90 + 8 * number, 72
        sources.write(images / f"{name}.jpg", sources.png(number, (width, height)))
        sources.picture(masks / f"{name}.png", sources.blob(number, width, height))


def _checkpoint(path: Path, model: nn.Module) -> None:
    torch.save({"state_dict": model.state_dict()}, path)


def _lsas() -> nn.Module:
    gate = attention.SubAttention(order=1)
    return models.create("cifar-resnet164", attention="se", gate=gate, attention_stages=(3,))


def _photographs(folder: Path) -> None:
    for number in range(24):
        sources.write(folder / "photographs" / f"{number}.jpg", sources.png(number, (120, 100)))


# Pattern in a page -> function that writes the file or folder it names.
FILES: dict[str, Callable[[Path], object]] = {
    r"photo\.jpg": lambda folder: sources.write(folder / "photo.jpg", sources.png(7, (96, 72))),
    r"\bphotos\b": lambda folder: _photos(folder / "photos", folder / "masks"),
    "photographs": _photographs,
    "folder images": lambda folder: sources.class_folders(folder / "images"),
    "folder cifar": lambda folder: sources.class_folders(folder / "cifar"),
    "masks:pictures": lambda folder: _photos(folder / "pictures" / "images", folder / "pictures" / "masks", 5),
    r"coco:coco\b|folder coco\b": lambda folder: write_scenes(folder / "coco", 4, 2),
    "imagenet:imagenet": lambda folder: sources.imagenet(folder / "imagenet"),
    r"cifar10\.txt": lambda folder: sources.write(folder / "cifar10.txt", "".join(f"kind {i}\n" for i in range(10))),
    r"model_best\.pth\.tar": lambda folder: _checkpoint(folder / "model_best.pth.tar", _lsas()),
    r"mine\.pth": lambda folder: _checkpoint(folder / "mine.pth", timm.create_model("resnet18")),
}


def prepare(page: str, folder: Path) -> None:
    """Writes the files and runs that a page expects into a folder."""
    text = (ROOT / page).read_text()
    for pattern, make in FILES.items():
        if re.search(pattern, text):
            make(folder)
    for name, fields in RUNS.get(page, {}).items():
        write_run(folder / "runs" / name, fields)


def write_run(folder: Path, fields: list[str]) -> None:
    """A finished run with random weights."""
    recipe = training.load_recipe(None, ["--schedule.epochs=1", "--device=cpu", *fields])
    images = training.load_data(recipe.data).test
    assert images.mean is not None and images.std is not None
    options = [f"--data.mean={list(images.mean)}", f"--data.std={list(images.std)}"]
    recipe = training.load_recipe(None, ["--schedule.epochs=1", "--device=cpu", *fields, *options])
    run = training.Run.create(folder, recipe, images.classes)
    measure = "test_box_ap" if recipe.model.detector else "test_accuracy"
    run.write_metrics([{"epoch": 1, "task": 2.3, "loss": 2.3, measure: 0.1}])
    model = training.make_model(recipe, len(images.classes))
    for name, parameter in model.named_parameters():  # a detector that detects
        if name.endswith("cls_logits.weight"):
            nn.init.normal_(parameter, std=0.3)
        if name.endswith("cls_logits.bias"):
            nn.init.zeros_(parameter)
    run.save_weights(model, "last", 1, 0.1)


@contextmanager
def small_world(folder: Path) -> Iterator[None]:
    """Makes built-in and downloaded data small and published weights random, and restores the registries afterwards."""
    cache = os.environ.get("REGARD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "regard")
    create = timm.create_model

    def unweighted(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        return create(name, **options)

    with ExitStack() as patches:
        patches.enter_context(patch.dict(os.environ, REGARD_CACHE=str(cache), XDG_CACHE_HOME=str(folder / ".cache")))
        for name, count in (("clutter", 20), ("composites", 8)):
            patches.enter_context(patch.dict(registry.SOURCES[name].load.__kwdefaults__, train=count, test=count))
        patches.enter_context(patch.object(timm, "create_model", unweighted))
        patches.enter_context(sources.published(folder / ".cache" / "regard"))
        for entries in (registry.SOURCES, attention.registry._MODULES, maps.registry._METHODS):
            patches.enter_context(patch.dict(entries))
        yield
