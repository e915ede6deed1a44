"""Every packaged recipe runs: its first batch and two steps, on small files in the layout of its data set."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shlex
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.scenes import write_scenes

from regard import data, models, recipes, training
from regard.training import Recipe, load_recipe
from regard.training.recipe import with_fields

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ALL = {name.rpartition("/")[2]: load_recipe(name) for name in recipes.names()}
DETECTORS = {name: recipe for name, recipe in ALL.items() if recipe.model.detector}
RECIPES = {name: recipe for name, recipe in ALL.items() if name not in DETECTORS}
SIDE = 40  # of the images of streamed data sets; small for speed
LARGEST = max(recipe.schedule.batch_size for recipe in RECIPES.values())


def jpeg(seed: int, size: tuple[int, int] = (20, 16)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_file(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def class_folders(folder: Path) -> None:
    for label in ("cat", "dog"):
        first = write_file(folder / "train" / label / "0.jpg", jpeg(len(label)))
        for number in range(1, LARGEST // 2 + 1):
            os.link(first, first.with_name(f"{number}.jpg"))
        write_file(folder / "val" / label / "0.jpg", jpeg(2))


def shards(folder: Path, count: int = 32) -> None:
    each = LARGEST // count
    with tarfile.open(write_file(folder / "train-0000.tar", b""), "w") as tar:
        for number in range(each):
            for ending, content in (("jpg", jpeg(number)), ("cls", str(number % 2).encode())):
                info = tarfile.TarInfo(f"{number:04}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    names = [f"{split}-{number:04}.tar" for split in ("train", "test") for number in range(count)]
    for name in names[1:]:
        os.link(folder / names[0], folder / name)
    splits = {
        split: {
            "name": split,
            "filenames": [name for name in names if name.startswith(split)],
            "shard_lengths": [each] * count,
            "num_samples": LARGEST,
        }
        for split in ("train", "test")
    }
    write_file(folder / "_info.json", json.dumps({"splits": splits, "classes": ["cat", "dog"]}))


def cub(folder: Path) -> None:
    root = folder / "CUB_200_2011"
    names = [f"00{1 + number % 2}.Bird/{number}.jpg" for number in range(68)]
    tables: dict[str, list[object]] = {
        "images": names,
        "image_class_labels": [1 + number % 2 for number in range(68)],
        "train_test_split": [int(number < 64) for number in range(68)],
        "bounding_boxes": ["2 2 12 10"] * 68,
    }
    for name in names:
        write_file(root / "images" / name, jpeg(0))
    for name, rows in tables.items():
        write_file(root / f"{name}.txt", "".join(f"{number} {row}\n" for number, row in enumerate(rows, start=1)))
    write_file(root / "classes.txt", "1 001.Bird\n2 002.Bird\n")


def scenes(folder: Path) -> None:
    for name, count in (("Train", 64), ("Test", 4)):
        keys = [f"{('bar', 'attic')[number % 2]}/{name}{number}.jpg" for number in range(count)]
        write_file(folder / f"{name}Images.txt", "\n".join(keys))
        for key in keys:
            write_file(folder / "Images" / key, jpeg(1))


def cifar(folder: Path, classes: int) -> None:
    inner, label = (("cifar-10-batches-py", "labels"), ("cifar-100-python", "fine_labels"))[classes == 100]
    names = {"labels": [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], "fine_labels": ["train", "test"]}
    for name in names[label]:
        pixels = np.random.default_rng(0).integers(0, 256, (128, 3072), dtype=np.uint8)
        batch = {"data": pixels, label: [number % classes for number in range(128)]}
        write_file(folder / inner / name, pickle.dumps(batch))
    kind = "label_names" if classes == 10 else "fine_label_names"
    meta = pickle.dumps({kind: [f"kind {number}" for number in range(classes)]})
    write_file(folder / inner / ("batches.meta" if classes == 10 else "meta"), meta)


def stl10(folder: Path) -> None:
    for name, count in (("train", 20), ("test", 4)):
        write_file(folder / "stl10_binary" / f"{name}_X.bin", bytes(count * 3 * 96 * 96))
        write_file(folder / "stl10_binary" / f"{name}_y.bin", bytes(1 + number % 10 for number in range(count)))
    write_file(folder / "stl10_binary" / "class_names.txt", "\n".join(f"kind {number}" for number in range(10)))


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> Path:
    """A folder with a small replacement of each data set, in folders by name."""
    folder = tmp_path_factory.mktemp("data")
    class_folders(folder / "files")
    shards(folder / "wds")
    cub(folder / "cub")
    scenes(folder / "scenes")
    cifar(folder / "cifar10", 10)
    cifar(folder / "cifar100", 100)
    stl10(folder / "stl10")
    return folder


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Disables torchvision's checksums, which the stand-ins do not match."""
    for name in ("cifar", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{name}.check_integrity", lambda *_: True)


def on_stand_ins(recipe: Recipe, folder: Path) -> Recipe:
    data_recipe = recipe.data
    if data_recipe.name == "clutter":
        return with_fields(recipe, {"data.options": {**data_recipe.options, "train": 64, "test": 8}})
    streamed = data_recipe.name in ("files", "wds")
    changes = {"data.folder": str(folder / data_recipe.name)} | ({"data.size": SIDE} if streamed else {})
    return with_fields(recipe, {**changes, "data.workers": 0})


def first_batch(recipe: Recipe, rank: int = 0, world_size: int = 1) -> data.Batch:
    """The first training batch of a rank, after mixing."""
    train = training.load_data(recipe.data).train
    batches = training.make_loader(
        train,
        recipe.data,
        recipe.schedule.batch_size,
        augmentation=recipe.augmentation,
        shuffle=True,
        seed=recipe.seed,
        drop_last=data.is_streamed(recipe.data.name) or recipe.augmentation.mixes,
        rank=rank,
        world_size=world_size,
    )
    batch = next(batches.epoch(0))
    if recipe.augmentation.mixes:
        mixing = data.Mixing(recipe.augmentation, len(train.classes), recipe.seed, recipe.label_smoothing)
        batch = batch._replace(images=(mixed := mixing(batch.images, batch.labels, 0))[0], labels=mixed[1])
    return batch


def batches_of(recipe: Recipe) -> str:
    """The recipe fields that determine the batches, as text."""
    return repr((recipe.data, recipe.augmentation, recipe.schedule.batch_size, recipe.label_smoothing))


DIFFERENT = {batches_of(recipe): name for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("name", sorted(DIFFERENT.values()))
def test_first_batches_have_the_size_and_repeats_of_the_recipe(name, stand_ins, unchecked) -> None:
    recipe = on_stand_ins(RECIPES[name], stand_ins)
    batch = first_batch(recipe)
    side = recipe.augmentation.crop or recipe.data.size or {"stl10": 96}.get(recipe.data.name, 32)
    assert batch.images.shape == (recipe.schedule.batch_size, 3, side, side)
    assert batch.images.isfinite().all() and len(batch.labels) == batch.total == recipe.schedule.batch_size
    repeated = batch.index.reshape(-1)[: recipe.augmentation.repeats]
    assert len(set(repeated.tolist())) == 1
    assert len(set(batch.index.tolist())) == -(-recipe.schedule.batch_size // recipe.augmentation.repeats)


def test_the_documented_cluster_command_splits_the_batch(stand_ins) -> None:
    """The first and the last of 32 ranks get their slices of the first batch."""
    text = (ROOT / "docs/how-to/training.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^srun .*? regard train (.* runs/a2-sa50 .*)$", text, re.MULTILINE)
    nodes, each = 4, 8
    name, *options = [word for word in shlex.split(command) if word != "--resume"]
    at = options.index("--run")
    recipe = on_stand_ins(load_recipe(name, options[:at] + options[at + 2 :]), stand_ins)
    for rank in (0, nodes * each - 1):
        part = first_batch(recipe, rank, nodes * each)
        assert len(part.labels) == 2048 // (nodes * each) and part.total == 2048


def small(recipe: Recipe) -> Recipe:
    """The recipe with a small network and two batches of four images."""
    name = "nin-thin" if "batch_norm" in recipe.model.options else "wrn-10-0.5"
    if recipe.model.name.startswith("torchvision/"):  # the layer names of these recipes do not exist in other networks
        name = "test_resnet"
        recipe = with_fields(recipe, {"data": RECIPES["imagenet-resnet18"].data, "augmentation": data.Augmentation()})
    elif recipe.data.name != "files":
        recipe = with_fields(recipe, {"data": training.DataRecipe(), "augmentation": data.Augmentation()})
    model = replace(recipe.model, name=name, pretrained=False, attention=None, gate="sigmoid", attention_stages=None)
    if name == "wrn-10-0.5":
        model = replace(model, options={})
    schedule = replace(recipe.schedule, batch_size=4, epochs=1, milestones=[], factor=0.1)
    changes = {"model": model, "schedule": schedule, "optimizer.lr": 0.01, "optimizer.weight_decay": 0.01}
    teacher = {"transfer.teacher": f"{name}=teacher.pth"} if recipe.transfer.teachers else {}
    return with_fields(recipe, {**changes, **teacher, "source": "", "device": "cpu", "threads": 1})


SMALL = {repr(small(recipe)): name for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def whole() -> data.Splits:
    train, test = data.load("clutter", train=8, test=4)
    return data.Splits(train, test)


@pytest.mark.parametrize("name", sorted(SMALL.values()))
def test_two_steps_record_the_loss_terms_of_the_recipe(name, stand_ins, whole, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, splits = small(RECIPES[name]), whole
    if recipe.data.name == "files":
        recipe = on_stand_ins(recipe, stand_ins)
        train, test = training.load_data(recipe.data)
        splits = data.Splits(train.subset(8), test)
    if recipe.transfer.teachers:
        torch.save(models.create(recipe.model.name, len(splits.train.classes)).state_dict(), "teacher.pth")
    (row,) = training.train(recipe, "run", splits=splits).run.metrics()
    terms = {"beta": "attention", "alpha": "distillation"}
    for weight in ("beta", "alpha", "full_activation", "gradient", "symmetry", "input_gradient"):
        assert (row.get(terms.get(weight, weight), 0) > 0) == recipe.transfer.uses(weight), weight
    assert row["skipped_steps"] == 0 and np.isfinite(row["loss"])


@pytest.mark.parametrize("name", sorted(set(DETECTORS) - {"coco-faster-rcnn-2x"}))
def test_two_steps_of_a_detector_record_its_metrics(name, tmp_path) -> None:
    changes = {"data.folder": str(write_scenes(tmp_path / "scenes")), "data.size": 64, "data.workers": 0}
    changes |= {"model.name": "resnet10t", "model.pretrained": False, "device": "cpu", "threads": 1}
    changes |= {"schedule.epochs": 1, "schedule.batch_size": 3, "schedule.milestones": []}
    changes |= {"model.detector_options": {"channels": 8}}
    (row,) = training.train(with_fields(DETECTORS[name], changes), tmp_path / "run").run.metrics()
    assert np.isfinite(row["loss"]) and row["skipped_steps"] == 0
    assert ("mask" in row and "test_mask_ap" in row) == ("mask" in name)
