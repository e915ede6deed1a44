"""How long it takes to list the runs of a store: with its index, without, and after a few of the runs went on.

The runs are made up: finished, of 200 recipes that differ in their seeds, with a line of metrics an epoch, as training
writes them. Every listing is by a new `Store`, as a new process has it; within one process the next listing does not
read the index again. The files are in the system's memory of the disk, as they are after a listing before.

    python benchmarks/run_store.py                       # 10,000 runs of 20 epochs
    python benchmarks/run_store.py --runs 1000 --epochs 200
    python benchmarks/run_store.py --folder /mnt/shared  # on another disk
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import arguments, publish, seconds, spread, table

from regard.store import Store
from regard.training import ModelRecipe, Recipe, ScheduleRecipe
from regard.training.recipe import write_recipe

RECIPES = 200
RUNNING = 20  # runs that went on between two listings


def make_runs(store: Path, count: int, epochs: int) -> None:
    """Finished runs whose files were last changed an hour ago."""
    when = time.time() - 3600
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "lr": 0.1 / epoch, "loss": 1.91363 / epoch, "accuracy": 0.9, "gradient_norm": 1.05362404}
        row |= {"test_loss": 2.0178289, "test_accuracy": 0.9 + epoch / 1e4, "test_images": 10_000, "skipped_steps": 0}
        rows.append(
            row | {"images_per_second": 1500.5 + epoch, "waiting": 0.0285, "peak_memory": 1.27, "unreadable": 0}
        )
    environment = {"regard": "0", "torch": torch.__version__, "classes": [str(label) for label in range(10)]}
    for number in range(count):
        seed, width = divmod(number, RECIPES)
        folder = store / f"wrn-16-{width}-seed{seed}"
        folder.mkdir(parents=True)
        if seed == 0:
            schedule = ScheduleRecipe(epochs=epochs, milestones=[1])
            write_recipe(Recipe(model=ModelRecipe(f"wrn-16-{width}"), schedule=schedule), folder / "recipe.yaml")
        else:
            text = (store / f"wrn-16-{width}-seed0" / "recipe.yaml").read_text()
            (folder / "recipe.yaml").write_text(text.replace("\nseed: 0\n", f"\nseed: {seed}\n"))
        (folder / "environment.json").write_text(json.dumps(environment | {"command": f"regard train {number}"}))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "last.safetensors").write_text("")
        for path in os.scandir(folder):
            os.utime(path, (when, when))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20, help="lines of metrics a run")
    parser.add_argument("--folder", type=Path, default=None, help="where the store is made; a temporary one")
    options = parser.parse_args()
    device = torch.device("cpu")
    store = Path(tempfile.mkdtemp(prefix="runs-", dir=options.folder))
    try:
        make_runs(store, options.runs, options.epochs)
        rows = [
            [name, *figures]
            for name, figures in (
                ("cold: every run is read, and the index written", measured(cold(store), options.repeats)),
                ("warm: nothing changed", measured(warm(store), options.repeats)),
                (f"warm: {RUNNING} runs have new metrics", measured(went_on(store), options.repeats)),
                ("again in the same process: nothing changed", measured(again(store), options.repeats)),
            )
        ]
        size = (store / ".index.json").stat().st_size / 2**20
    finally:
        shutil.rmtree(store)
    text = (
        f"{options.runs:,} runs of {options.epochs} epochs, {RECIPES} recipes; the index has {size:.1f} MiB. Medians "
        f"of {options.repeats}, with smallest and largest.\n\n{table(['listing', 's', 'processor s'], rows)}"
    )
    publish("Listing the runs of a store", text, device, save=not options.dry)


def measured(work: Callable[[], object], repeats: int) -> tuple[str, str]:
    """Seconds by the clock, and of the processor."""
    took, used = [], []
    for _ in range(repeats):
        before = time.process_time()
        took.append(seconds(work, torch.device("cpu")))
        used.append(time.process_time() - before)
    return spread(took, ".2f"), spread(used, ".2f")


def cold(store: Path) -> Callable[[], object]:
    return lambda: Store(store).rebuild()


def warm(store: Path) -> Callable[[], object]:
    return lambda: Store(store).runs()


def again(store: Path) -> Callable[[], object]:
    same = Store(store)
    same.runs()
    return same.runs


def went_on(store: Path) -> Callable[[], object]:
    names = sorted(path.name for path in store.iterdir() if not path.name.startswith("."))[:RUNNING]

    def work() -> None:
        for name in names:
            os.utime(store / name / "metrics.jsonl")
        Store(store).runs()

    return work


if __name__ == "__main__":
    main()
