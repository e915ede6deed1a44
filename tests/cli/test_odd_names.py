"""Names that are not UTF-8, contain markup or control a terminal, through every command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regard import training
from regard.bias import Results
from regard.cli import main

pytestmark = pytest.mark.slow

LATIN1 = os.fsdecode(b"\xe9t\xe9")
CLASSES = tuple(sorted((LATIN1, "cat)", "[red]x[", "a\x1b[31m\nb")))
ESCAPED = (r"\udce9t\udce9", "cat)", "[red]x[", r"a\x1b[31m\nb")
MASKS = ("--data=masks:pairs", "--workers=0", "--device=cpu")


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, images with masks, and two runs, all with odd names."""
    folder = tmp_path_factory.mktemp("odd")
    generator = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for part in (f"set-{LATIN1}/train", f"set-{LATIN1}/test", "pairs/images", "pairs/masks"):
            (folder / part / name).mkdir(parents=True)
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            if part == "pairs/masks":
                pixels = np.zeros((32, 32), np.uint8)
                pixels[4 : 12 + label, 6:20] = 255
            with open(folder / part / name / f"{LATIN1}.png", "wb") as file:
                Image.fromarray(pixels).save(file, "PNG")
    recipe = training.load_recipe(
        None,
        [
            *("--model.name=wrn-10-0.5", "--model.attention=se", "--data.name=folder", "--data.size=32"),
            *(f"--data.folder={folder}/set-{LATIN1}", "--data.mean=[0.5,0.5,0.5]", "--data.std=[0.2,0.2,0.2]"),
        ],
    )
    for seed, name in enumerate((LATIN1, "[b]x[/i]\x9b31m")):
        torch.manual_seed(seed)
        run = training.Run.create(folder / "runs" / name, recipe, CLASSES)
        run.write_metrics([{"epoch": recipe.schedule.epochs, "test_accuracy": 0.25, "test_images": 4}])
        run.save_weights(training.make_model(recipe, len(CLASSES)), "last", 1, 0.25)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "{run}", "{other}"],
        ["bias", "{run}", "{other}", *MASKS],
        ["bias", "{run}", *MASKS, f"--out=out-{LATIN1}"],
        ["gates", "{run}", "{other}", "--device=cpu"],
        ["groups", "{run}", "{other}", *MASKS, "--layer=group2", "--groups=2"],
        ["groups", "{run}", "--layer=group2", "--groups=2", "--device=cpu", f"--class={LATIN1}"],
        ["explain", "{data_folder}/pairs/images", "--mask={data_folder}/pairs/masks", "--model={run}", "--device=cpu"],
        ["report", "{data_folder}/runs", "--examples=4"],
        ["runs", "{data_folder}/runs"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_escapes_odd_names(
    command: list[str],
    data_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "pairs").symlink_to(data_folder / "pairs")
    names = {
        "run": data_folder / "runs" / LATIN1,
        "other": data_folder / "runs" / "[b]x[/i]\x9b31m",
        "data_folder": data_folder,
    }
    status = main([argument.format(**names) for argument in command])
    out, err = capsys.readouterr()
    assert status == 0, err
    for line in [*out.split("\n"), *err.split("\n")]:
        assert line.isprintable()
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "pairs" not in path.parts]
    pages = [path.read_bytes().decode() for path in written if path.suffix == ".html"]
    assert len(pages) == (command[0] in ("bias", "gates", "groups", "explain", "report"))
    for page in pages:
        assert all(line.isprintable() for line in page.replace("\xa0", " ").split("\n"))
    for path in written:
        if path.suffix == ".json":
            assert json.loads(path.read_bytes())
    if command[0] == "bias":
        results = Results.load(next(path for path in written if path.name == "t.json"))
        assert sorted(results.keys) == sorted(f"{name}/{ESCAPED[0]}.png" for name in (*CLASSES[:-1], ESCAPED[0]))
        assert all(name in out for name in ESCAPED) or "{other}" in command
        assert all(name in pages[0] for name in ("cat)", "[red]x["))
