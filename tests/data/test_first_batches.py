"""Random streams, the order of images, crops, flips and the bytes of clutter equal recorded ones.

The record is `first_batches.json`; `PYTHONPATH=tests python tests/data/test_first_batches.py [CASE…]` records it again,
entirely or for these cases. Earlier runs stay comparable only as long as the record does not change.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import sources
from support.first_batches import Seen, batches, evaluation_batches, mixed, recipe, tensors
from support.loaders import rank_rows

from regard import data

RECORD = Path(__file__).with_name("first_batches.json")
SIZE = 16
PROCESSES = 2
EXACT = 1.5e-5  # numbers are stored with five decimals; the rounding error is half of the last
VERSIONS = {name: version(name) for name in ("pillow", "timm")}


def in_memory(
    name: str, size: int | None = SIZE, augmentation: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """The recipe fields of a data set in memory."""
    return {"data": {"name": name, "size": size, **more}, "augmentation": augmentation or {}}


def streamed(name: str, augmentation: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The recipe fields of a streamed data set."""
    return {"data": {"name": name, "size": SIZE, "workers": 0, **more}, "augmentation": augmentation or {}}


CLUTTER: dict[str, Any] = {"train": 18, "test": 7, "cue": 0.5, "seed": 3}
RESIZED = {"scale": [0.08, 1.0]}

# Folder of the source (empty: none) and recipe fields.
TRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    "clutter": ("", in_memory("clutter", None, options=CLUTTER)),
    "clutter, its last image left out": ("", in_memory("clutter", None, options={**CLUTTER, "train": 17})),
    "clutter, a part of it": ("", in_memory("clutter", None, options=CLUTTER, train_images=10)),
    "clutter, as in its recipes": ("", in_memory("clutter", None, {"flip": False, "padding": 2}, options=CLUTTER)),
    "cifar10": ("published", in_memory("cifar10", None)),
    "cifar10, zero padding": ("published", in_memory("cifar10", None, {"padding_mode": "zero"})),
    "cifar10, flips alone": ("published", in_memory("cifar10", None, {"padding": 0})),
    "cifar100": ("published", in_memory("cifar100", None, mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.3])),
    "cifar100, a part of it": ("published", in_memory("cifar100", None, train_images=8)),
    "stl10": ("published", in_memory("stl10", None)),
    "stl10, crops": ("published", in_memory("stl10", None, {"padding_mode": "zero", "crop": 32})),
    "folder": ("folder", in_memory("folder")),
    "folder, crops": ("folder", in_memory("folder", 20, {"padding": 0, "crop": 16})),
    "folder, resized crops": ("folder", in_memory("folder", 24, {**RESIZED, "crop": 16})),
    "folder, resized crops without flips": ("folder", in_memory("folder", 20, {"scale": [0.5, 0.9], "flip": False})),
    "folder, repeats": ("folder", in_memory("folder", augmentation={"repeats": 3})),
    "folder, a part of it": ("folder", in_memory("folder", train_images=7)),
    "folder, unreadable": ("broken", in_memory("folder", unreadable="skip")),
    "scenes": ("scenes", in_memory("scenes")),
    "scenes, resized crops": ("scenes", in_memory("scenes", augmentation=RESIZED)),
    "cub": ("cub", in_memory("cub")),
    "cub, whole images": ("cub", in_memory("cub", options={"crop": "none"})),
    "files": ("folder", streamed("files")),
    "files, bicubic": ("folder", streamed("files", {"interpolation": "bicubic"}, interpolation="bicubic")),
    "files, random interpolation": ("folder", streamed("files", {"interpolation": "random"}, crop_pct=1.0)),
    "files, scale and ratio": ("folder", streamed("files", {"scale": [0.3, 0.8], "ratio": [0.5, 2.0]})),
    "files, no flips": ("folder", streamed("files", {"flip": False})),
    "files, color jitter": ("folder", streamed("files", {"color_jitter": 0.4})),
    "files, RandAugment": ("folder", streamed("files", {"policy": "rand-m7-mstd0.5-inc1"})),
    "files, AugMix": ("folder", streamed("files", {"policy": "augmix-m3-w3"})),
    "files, 3-Augment": ("folder", streamed("files", {"policy": "3a", "color_jitter": 0.3})),
    "files, erasing": ("folder", streamed("files", {"erasing": 0.7})),
    "files, erasing with a colour": ("folder", streamed("files", {"erasing": 0.7, "erasing_mode": "rand"})),
    "files, erasing with noise": ("folder", streamed("files", {"erasing": 0.7, "erasing_mode": "pixel"})),
    "files, repeats": ("folder", streamed("files", {"repeats": 3})),
    "files, a part of them": ("folder", streamed("files", train_images=8)),
    "files, unreadable": ("broken", streamed("files", unreadable="skip")),
    "hfds": ("hugging face", streamed("hfds")),
    "hfds, a part of it": ("hugging face", streamed("hfds", {"policy": "rand-m9-mstd0.5"}, train_images=9)),
    "wds": ("shards", streamed("wds", options={"buffer": 4})),
    "wds, repeats": ("shards", streamed("wds", {"repeats": 2}, options={"buffer": 4})),
}
ALONE = ("wds", "wds, repeats")  # whose images depend on the number of processes
WORKERS = [("files, RandAugment", 2), ("hfds", 1), ("wds", 1)]

MIXING: dict[str, dict[str, Any]] = {
    "mixup": {"mixup": 0.8},
    "CutMix": {"cutmix": 1.0},
    "mixup and CutMix": {"mixup": 0.2, "cutmix": 1.0, "mix_probability": 0.8, "mix_switch": 0.5},
}

CENTER = {"size": (SIZE, SIZE), "crop_pct": 0.875}
WIDE = {"size": (12, 20), "crop_pct": 0.9, "interpolation": "bicubic"}
SQUASH = {"size": (SIZE, SIZE), "crop_pct": 0.95, "crop_mode": "squash", "interpolation": "bicubic"}
BORDER = {"size": (SIZE, SIZE), "crop_mode": "border", "fill": (120, 110, 100)}
LARGE = {"size": (40, 40), "crop_pct": 0.95}

# Folder of the source, options of `open_regions`, and options of the transform.
REGIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "masks": ("masks", {}, CENTER),
    "masks, squashed": ("masks", {}, SQUASH),
    "masks, with a border": ("masks", {}, BORDER),
    "masks, enlarged": ("masks", {"limit": 3}, LARGE),
    "coco": ("coco", {}, CENTER),
    "coco, wide": ("coco", {}, WIDE),
    "coco, the label alone": ("coco", {"region": "label"}, CENTER),
    "voc": ("voc", {}, CENTER),
    "voc, no borders": ("voc", {"boundary": "outside"}, SQUASH),
    "voc, boxes of the label": ("voc boxes", {"region": "label"}, CENTER),
    "pets": ("pets", {}, CENTER),
    "pets, no borders": ("pets", {"boundary": "outside"}, CENTER),
    "cub": ("cub", {}, CENTER),
    "cub, boxes": ("cub", {"region": "box", "split": "train", "limit": 4}, BORDER),
    "imagenet": ("imagenet", {}, CENTER),
    "stl10": ("stl10 marks", {}, CENTER),
    "folder": ("folder/test", {"limit": 4}, CENTER),
}


def numbers(batch: Seen) -> list[list[float]]:
    """Per image the mean of each channel, and the mean weighted by a slope, which detects shifts and flips."""
    images = batch.images.double()
    rows, columns = (torch.linspace(-1, 1, length, dtype=torch.float64) for length in images.shape[2:])
    slope = 2 * rows[:, None] + columns
    return torch.cat([images.mean((2, 3)), (images * slope).mean((1, 2, 3))[:, None]], 1).tolist()


def record_of(recorded: list[Seen], detailed: int) -> dict[str, Any]:
    """The record of some batches; the first `detailed` include the numbers of their images."""
    return {
        "index": [batch.index.tolist() for batch in recorded],
        "labels": [batch.labels.tolist() for batch in recorded],
        "total": [batch.total for batch in recorded],
        "shape": list(recorded[0].images.shape[1:]),
        "numbers": [numbers(batch) for batch in recorded[:detailed]],
    }


def rank_record(recorded: list[Seen], detailed: int = 1) -> list[Any]:
    """The record of one rank's batches: indices, and the numbers of the first `detailed` batches."""
    return [[batch.index.tolist() for batch in recorded], [numbers(batch) for batch in recorded[:detailed]]]


def training_record(folder: Path, case: str, workers: int = 0) -> dict[str, Any]:
    """The record of the batches of a training run."""
    source, fields = TRAINING[case]
    fields = {**fields, "data": {**fields["data"]}, "schedule": {"batch_size": 4}, "seed": 11}
    if source:
        fields["data"]["folder"] = str(folder / source)
    if workers:
        fields["data"]["workers"] = workers
    config = recipe(**fields)
    first, later, test = batches(config), batches(config, 3), batches(config, split="test")
    assert all(batch.images.dtype == torch.float32 and batch.labels.dtype == torch.int64 for batch in (*first, *test))
    rest = batches(config, 3, 1)
    assert len(rest) == len(later) - 1
    for batch, other in zip(rest, later[1:], strict=True):
        assert torch.equal(batch.images, other.images) and torch.equal(batch.index, other.index)
    ranks = () if case in ALONE else range(PROCESSES)
    rank_batches = [batches(config, rank=rank, world_size=PROCESSES) for rank in ranks]
    for rank, slices in enumerate(rank_batches):
        assert len(first) - len(slices) in (0, 1)  # a last batch that cannot be shared is dropped
        for batch, part in zip(first, slices, strict=False):
            rows = rank_rows(len(batch.labels), rank, PROCESSES)
            assert part.total == batch.total == len(batch.labels)
            assert all(torch.equal(values, other[rows]) for values, other in zip(part[:3], batch[:3], strict=True))
    tests = [batches(config, split="test", rank=rank, world_size=PROCESSES) for rank in ranks]
    return {
        "epoch 0": record_of(first, 2),
        "epoch 3": rank_record(later),
        "test": record_of(test, 1),
        "ranks": [rank_record(slices) for slices in rank_batches],
        "test of ranks": [rank_record(slices, 0) for slices in tests],
        "skipped": [len(run[-1].skipped) for run in (first, later, test)],
    }


def mixing_record(case: str) -> dict[str, Any]:
    """The record of the first batch of a run, mixed as at several steps."""
    fields = in_memory("clutter", None, MIXING[case], options=CLUTTER)
    config = recipe(**fields, schedule={"batch_size": 4}, seed=11, label_smoothing=0.1)
    (batch, *others) = batches(config)
    assert all(len(other.labels) == 4 for other in others)  # mixing needs full batches
    mixed_batches = [mixed(config, batch, 10, step) for step in (0, 1, 50)]
    halves = [batches(config, rank=rank, world_size=PROCESSES)[0] for rank in range(PROCESSES)]
    return {
        "numbers": [numbers(mixed_batch) for mixed_batch in mixed_batches],
        "labels": [mixed_batch.labels[:, batch.labels.unique()].tolist() for mixed_batch in mixed_batches],
        "numbers of ranks": [numbers(mixed(config, half, 10, 1)) for half in halves],
    }


def evaluation_record(folder: Path, case: str, workers: int = 0) -> dict[str, Any]:
    """The record of an evaluation: for each mask its pixel count and the sums of row and column indices."""
    if case == "clutter":
        images = data.load("clutter", **CLUTTER).test
        run_batches = evaluation_batches(images, 4)
    elif case.startswith("drawn"):
        inner = folder / "masks"
        named = {"mask": inner / "masks"} if case == "drawn masks" else {"box": (3, 4, 17, 15)}
        images = data.open_pictures([inner / "images" if case == "drawn masks" else inner / "images/a/0.png"], **named)
        run_batches = evaluation_batches(images, 4, workers=workers, fit=CENTER)
    else:
        source, choices, fit = REGIONS[case]
        kind = ":" if source == "folder/test" else ""
        images = data.open_regions(f"folder:{folder / source}" if kind else folder / source, **choices)
        run_batches = evaluation_batches(images, 4, workers=workers, fit=fit)
    masks = []
    for batch in run_batches:
        assert batch.images.dtype == torch.float32
        if batch.masks is not None:
            assert batch.masks.dtype == torch.bool and batch.masks.shape == batch.images[:, 0].shape
            rows, columns = (torch.arange(length) for length in batch.masks.shape[1:])
            sums = (batch.masks.sum((1, 2)), (batch.masks.sum(2) * rows).sum(1), (batch.masks.sum(1) * columns).sum(1))
            masks.append(torch.stack(sums, 1).tolist())
    return {**record_of(run_batches, 2), "masks": masks}


def clutter_digests() -> dict[str, str]:
    """SHA-256 of clutter's images, labels and regions."""
    digests = {}
    for name, options in {"strokes": {}, "outline": {"region": "outline"}}.items():
        for split, images in data.load("clutter", **{**CLUTTER, "train": 60, "test": 30, **options})._asdict().items():
            digest = hashlib.sha256()
            for values, kind in zip(tensors(images), (np.uint8, "<i8", np.uint8), strict=True):
                digest.update(values.numpy().astype(kind).tobytes())
            digests[f"{split}, {name}"] = digest.hexdigest()
    return digests


def tolerance(source: str, augmentation: dict[str, Any], versions: dict[str, str]) -> float:
    """The tolerance for differences from the recorded numbers.

    Pillow and timm resize images and apply policies, and their releases differ: resized bytes by 1,
    policies and CutMix by more. The random numbers that regard draws are always the same.
    """
    if versions == VERSIONS or (source in ("", "published") and not augmentation.get("cutmix")):
        return EXACT
    return np.inf if augmentation.get("policy") or augmentation.get("cutmix") else 0.02


def close(actual: Any, expected: Any, atol: float = EXACT, location: str = "") -> None:
    """Asserts that floats equal the recorded ones to `atol`, and everything else exactly."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected), location
        for key, value in expected.items():
            close(actual[key], value, atol, f"{location} {key}")
    elif isinstance(expected, list) and any(isinstance(item, list | dict) for item in expected):
        assert len(actual) == len(expected), location
        for index, value in enumerate(expected):
            close(actual[index], value, atol, f"{location} [{index}]")
    elif isinstance(expected, list) and any(isinstance(item, float) for item in expected):
        assert np.allclose(actual, expected, rtol=0, atol=atol), (location, actual, expected)
    else:
        assert actual == expected, location


def rounded(actual: Any) -> Any:
    if isinstance(actual, dict):
        return {key: rounded(value) for key, value in actual.items()}
    if isinstance(actual, list):
        return [rounded(value) for value in actual]
    return round(actual, 5) if isinstance(actual, float) else actual


EVALUATED = [*REGIONS, "drawn masks", "drawn box", "clutter"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("datasets")
    pytest.importorskip("webdataset")
    with sources.made(tmp_path_factory.mktemp("sources")) as root:
        yield root


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(RECORD.read_text())


@pytest.mark.parametrize("case", TRAINING)
def test_training_batches_equal_the_recorded_ones(folder, record, case):
    source, fields = TRAINING[case]
    atol = tolerance(source, fields["augmentation"], record["versions"])
    close(training_record(folder, case), record["training"][case], atol)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "workers"), WORKERS)
def test_training_batches_with_workers_equal_the_recorded_ones(folder, record, case, workers):
    source, fields = TRAINING[case]
    atol = tolerance(source, fields["augmentation"], record["versions"])
    close(training_record(folder, case, workers), record["training"][case], atol)


@pytest.mark.parametrize("case", MIXING)
def test_mixed_images_equal_the_recorded_ones(record, case):
    close(mixing_record(case), record["mixing"][case], tolerance("", MIXING[case], record["versions"]))


@pytest.mark.parametrize("case", EVALUATED)
def test_evaluation_batches_equal_the_recorded_ones(folder, record, case):
    source = "" if case == "clutter" else "files"
    close(evaluation_record(folder, case), record["evaluation"][case], tolerance(source, {}, record["versions"]))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["coco", "masks"])
def test_evaluation_batches_with_workers_equal_the_recorded_ones(folder, record, case):
    atol = tolerance("files", {}, record["versions"])
    close(evaluation_record(folder, case, workers=2), record["evaluation"][case], atol)


def test_clutter_bytes_equal_the_recorded_ones(record):
    close(clutter_digests(), record["clutter"])


def test_unreadable_files_are_named(folder):
    for case in ("folder, unreadable", "files, unreadable"):
        source, fields = TRAINING[case]
        config = recipe(data={**fields["data"], "folder": str(folder / source)}, schedule={"batch_size": 1})
        for split in ("train", "test"):
            last = batches(config, split=split)[-1:]
            assert all("1b.png" in "".join(batch.skipped) for batch in last)


def _record(cases: list[str]) -> None:
    """Writes the current batches into the record, one case per line."""
    previous = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    with tempfile.TemporaryDirectory() as temporary, sources.made(Path(temporary)) as root:
        sections = {
            "versions": {name: lambda entry=entry: entry for name, entry in VERSIONS.items()},
            "training": {case: lambda case=case: training_record(root, case) for case in TRAINING},
            "mixing": {case: lambda case=case: mixing_record(case) for case in MIXING},
            "evaluation": {case: lambda case=case: evaluation_record(root, case) for case in EVALUATED},
            "clutter": {name: lambda digest=digest: digest for name, digest in clutter_digests().items()},
        }
        parts = []
        for part, by_case in sections.items():
            lines = []
            for case, call in by_case.items():
                old = previous.get(part, {}).get(case)
                entry = rounded(call()) if old is None or not cases or case in cases or part == "versions" else old
                lines.append(f"  {json.dumps(case)}: {json.dumps(entry, separators=(',', ':'))}")
            parts.append(f" {json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n }")
        RECORD.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    _record(sys.argv[1:])
