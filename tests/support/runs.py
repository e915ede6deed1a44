"""Made-up run folders, written quickly. This file does not import torch."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from regard.version import __version__

_RECIPE = """source: ''
data:
  name: cifar10
  folder: null
  train_images: null
  mean:
  - 0.49139968
  - 0.48215841
  - 0.44653091
  std:
  - 0.24703223
  - 0.24348513
  - 0.26158784
  options: {{}}
augmentation:
  padding: 4
  padding_mode: reflect
  ratio:
  - 0.75
  - 1.3333333333333333
  repeats: 1
model:
  name: cifar-resnet{depth}
  attention: se
  gate: sub-attention
  attention_stages: null
  attention_options: {{}}
  pretrained: false
  options: {{}}
optimizer:
  name: sgd
  lr: 0.1
  momentum: 0.9
  weight_decay: 0.0005
schedule:
  epochs: {epochs}
  batch_size: 128
  shape: milestones
  milestones:
  - 81
  - 122
  factor: 0.1
transfer:
  teacher: null
  beta: 0.0
  alpha: 0.0
task: cross_entropy
label_smoothing: 0.0
ema: 0.0
seed: {seed}
device: auto
precision: float32
deterministic: true
"""


def recipe(seed: int = 0, epochs: int = 3, depth: int = 164) -> str:
    """The text of a recipe.yaml."""
    return _RECIPE.format(seed=seed, epochs=epochs, depth=depth)


def row(epoch: int, accuracy: float = 0.9) -> dict[str, object]:
    """A line of metrics.jsonl."""
    return {
        "epoch": epoch,
        "lr": 0.1,
        "loss": 1.9136339569091796 / epoch,
        "task": 1.9136339569091796 / epoch,
        "accuracy": accuracy,
        "gradient_norm": 1.053624041219975,
        "skipped_steps": 0,
        "test_loss": 2.017828918457031,
        "test_accuracy": accuracy,
        "test_images": 10000,
        "images_per_second": 1500.0 + epoch,
        "waiting": 0.028511107246313946,
        "peak_memory": 1.27,
        "unreadable": 0,
    }


def write_run(
    store: Path,
    name: str,
    *,
    seed: int = 0,
    epochs: int = 3,
    done: int = 3,
    depth: int = 164,
    accuracy: float = 0.9,
    age: float = 3600.0,
) -> Path:
    """A run folder, renamed into place as training does, whose files were last changed `age` seconds ago."""
    part = store / f".{name}.part"
    os.makedirs(part)
    environment = {"regard": __version__, "torch": "2.15.0", "command": "regard train", "classes": list("0123456789")}
    files = {"recipe.yaml": recipe(seed, epochs, depth), "environment.json": json.dumps(environment, indent=1)}
    if done:
        files["metrics.jsonl"] = "".join(json.dumps(row(epoch, accuracy)) + "\n" for epoch in range(1, done + 1))
        files["last.safetensors"] = f"weights of {name} after {done}"
    for file, content in files.items():
        _write(f"{part}/{file}", content, age)
    os.rename(part, store / name)
    return store / name


def write_runs(store: Path, count: int, *, recipes: int = 200, done: int = 3) -> None:
    """`count` finished runs of `recipes` recipes, with different seeds; equal files are hard links, to write fast."""
    first = write_run(store, "resnet0-seed0", depth=0, epochs=done, done=done)
    for number in range(1, count):
        seed, depth = divmod(number, recipes)
        folder = f"{store}/resnet{depth}-seed{seed}"
        os.mkdir(folder)
        _write(f"{folder}/recipe.yaml", recipe(seed, done, depth), 3600.0)
        for file in ("environment.json", "metrics.jsonl", "last.safetensors"):
            os.link(f"{first}/{file}", f"{folder}/{file}")


def _write(path: str, content: str, age: float) -> None:
    with open(path, "w") as file:
        file.write(content)
    modified = time.time() - age
    os.utime(path, (modified, modified))
