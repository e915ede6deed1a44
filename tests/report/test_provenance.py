"""A report of runs shows the numbers of its bias reports, and its commands reproduce them."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from regard import bias, training
from regard.cli import main
from regard.report import Gallery, Row, collect
from regard.report.runs_page import runs_gallery
from regard.terminal import command_line

RUN = "runs/it's [red]x[ & $HOME"
TRAIN = [
    *("--model.name=wrn-10-0.5", "--schedule.epochs=1", "--schedule.batch_size=16", "--device=cpu", "--threads=1"),
    *("--data.options={train: 32, test: 40}", "--augmentation.flip=false"),
]
MEASURE = ["--method=layercam", "--layer", "group1,group2", "--target=label", "--threshold=0.33333333", "--margin=16"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TRAIN, f"--run={RUN}"]) == 0
    return tmp_path


def commands(page: Path) -> tuple[str, list[list[str]]]:
    """The recipe on a page, and the commands that repeat its one network."""
    recipe, lines = map(html.unescape, re.findall(r"<pre>(.*?)</pre>", page.read_text(), re.DOTALL)[:2])
    return recipe, [shlex.split(line) for line in lines.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [True, False])
def test_the_commands_on_the_page_reproduce_the_results(
    here: Path, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if recorded:
        assert main(["bias", RUN, *MEASURE, "--data.options={train: 32, test: 30}", "--out", "a", "--examples=0"]) == 0
    else:  # measured through the library, which records no options
        images = training.load_data(training.Run.open(RUN).recipe.data).test
        options = {"method": "layercam", "layer": ["group1", "group2"], "target": "label", "margin": 3, "tolerance": 1}
        results = bias.evaluate(training.Run.open(RUN).model(), images, threshold=1 / 3, **options)
        results.save(f"{RUN}/bias.json")
    before = bias.Results.load(f"{RUN}/bias.json")
    assert before.layers == ("group1", "group2") and before.margin == (16 if recorded else 3)
    assert main(["report", RUN, "--examples=4"]) == 0
    recipe, (train, measure) = commands(here / "report.html")
    assert train[:2] == ["regard", "train"] and measure[:2] == ["regard", "bias"]
    assert not any(option in " ".join(measure) for option in ("--out", "--examples"))
    (here / "again").mkdir()
    monkeypatch.chdir("again")
    Path(train[2]).write_text(recipe)
    assert main(train[1:]) == 0 and main(measure[1:]) == 0
    again = bias.Results.load(f"{RUN}/bias.json")
    for name in ("method", "layer", "target", "threshold", "margin", "tolerance", "keys"):
        assert getattr(again, name) == getattr(before, name)
    for name, values in before.rows.items():
        np.testing.assert_array_equal(again.rows[name], values)


@pytest.mark.parametrize("options", [MEASURE, ["--method=gradient", "--threshold=0.2"]])
def test_gallery_cells_agree_with_the_bias_report(
    here: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gallery uses the method, layers, threshold and margin of the bias report."""
    assert main(["bias", RUN, *options, "--examples=0"]) == 0
    rows = collect([RUN])[0]
    assert rows[0].bias is not None
    measured = rows[0].bias.rows
    added: list[Row] = []
    monkeypatch.setattr(Gallery, "add", lambda _, row, heading="": added.append(row))
    runs_gallery(rows, 0, training.load_data(rows[0].recipe.data).test, images=12)
    assert len(added) == 12
    for row in added:
        (cell,) = row.cells
        for name, value in cell.measures.items():
            assert value == pytest.approx(measured[name][row.index], nan_ok=True, abs=1e-6), name
        assert cell.threshold == rows[0].bias.threshold
        assert cell.predicted.index == measured["predicted"][row.index]


@pytest.mark.slow
def test_bias_results_of_other_weights_are_noted(here: Path) -> None:
    assert main(["bias", RUN, "--examples=0"]) == 0
    assert main(["report", RUN, "--examples=4"]) == 0
    assert "measured with other weights" not in (here / "report.html").read_text()
    run = training.Run.open(RUN)
    model = run.model()
    model.fc.bias.data += 1  # equal for all classes, so predictions stay the same
    run.save_weights(model, "last", 1, 0.1)
    assert main(["report", RUN, "--examples=4"]) == 0
    assert "measured with other weights" in (here / "report.html").read_text()


def test_a_user_method_is_named_and_not_imported(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = here / "own_method.py"
    module.write_text("def red(model, images, classes):\n    return images[:, 0]\n")
    monkeypatch.syspath_prepend(here)
    assert main(["bias", RUN, "--method=own_method:red"]) == 0
    assert json.loads((here / RUN / "bias.json").read_text())["method"] == "own_method:red"
    module.write_text("open('imported', 'w').close()\n")
    monkeypatch.delitem(sys.modules, "own_method")
    assert main(["report", RUN, "--examples=4"]) == 0
    assert "unknown method &#39;own_method:red&#39;" in (here / "report.html").read_text()
    assert not (here / "imported").exists() and "own_method" not in sys.modules


def test_command_lines_are_quoted_for_the_shell() -> None:
    arguments = ["it's [x]", os.fsdecode(b"\xe9t\xe9"), "a\nb'\\ é", "", "\x1b[31m", "$HOME `x`", "\u202ex", "--a=é"]
    line = command_line(arguments)
    assert line.isprintable()
    output = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert [os.fsdecode(part) for part in output.split(b"\0")[:-1]] == arguments
