"""The time to list the runs of a store.

The runs are made-up finished runs of 200 recipes with different seeds, with one line of metrics per epoch. Each listing
runs in a new process, like `regard runs`. The files are in the page cache, as after an earlier listing.

    python benchmarks/run_store.py                       # 10,000 runs of 20 epochs
    python benchmarks/run_store.py --runs 1000 --epochs 200
    python benchmarks/run_store.py --folder /mnt/shared  # on another disk
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import arguments, publish, spread, table

from regard.training import ModelRecipe, Recipe, ScheduleRecipe
from regard.training.recipe import write_recipe

RECIPES = 200


def make_runs(store: Path, count: int, epochs: int) -> None:
    """Writes finished runs."""
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


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20, help="lines of metrics per run")
    parser.add_argument(
        "--folder", type=Path, default=None, help="parent of the store; by default the temporary folder"
    )
    options = parser.parse_args()
    device = torch.device("cpu")
    store = Path(tempfile.mkdtemp(prefix="runs-", dir=options.folder))
    try:
        make_runs(store, options.runs, options.epochs)
        times = [listing(store, options.runs) for _ in range(options.repeats)]
    finally:
        shutil.rmtree(store)
    row = [spread(values, ".2f") for values in zip(*times, strict=True)]
    text = (
        f"{options.runs:,} runs of {options.epochs} epochs, {RECIPES} recipes. Medians of {options.repeats}, with "
        f"smallest and largest.\n\n{table(['s', 'processor s'], [row])}"
    )
    publish("Listing the runs of a store", text, device, save=not options.dry)


def listing(store: Path, count: int) -> tuple[float, float]:
    """Wall-clock seconds and CPU seconds of a listing, without the imports."""
    code = (
        "import sys, time; from regard.store import Store\n"
        "clock, processor = time.perf_counter(), time.process_time()\n"
        "runs = Store(sys.argv[1]).runs(); assert all(run.finished for run in runs)\n"
        "print(len(runs), time.perf_counter() - clock, time.process_time() - processor)"
    )
    output = subprocess.run([sys.executable, "-c", code, str(store)], check=True, capture_output=True, text=True).stdout
    listed, clock, processor = output.split()
    assert int(listed) == count
    return float(clock), float(processor)


if __name__ == "__main__":
    main()
