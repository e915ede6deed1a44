"""Names from outside (of files, classes, runs) on the terminal: printed, never interpreted."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rich.console

from regard import bias, report, training
from regard.bias.rows import COLUMNS
from regard.cli import main
from regard.console import Console
from regard.formatting import printable

NAMES = (
    "cat)",
    "[red]x[/blue]",
    "[/]",
    ":smile:",
    "a\x1b[31mb",
    "a\x9b2Jb",
    "a\nb",
    "c\rd",
    "\udce9t\udce9",
    "a\u202eb",
)


def bias_report(names: tuple[str, ...] = NAMES) -> bias.Results:
    """One image of each class."""
    columns = {name: np.ones(len(names), dtype) for name, dtype in COLUMNS.items()} | {
        "label": np.arange(len(names)),
        "region_area": np.full(len(names), 0.25, np.float32),
        "range_bias": np.zeros(len(names), bool),
        "constant": np.zeros(len(names), bool),
    }
    return bias.Results(names[1], names[0], "", "gradcam", "", "predicted", 0.5, names, columns)


def printed(renderable: object, console: type[rich.console.Console]) -> str:
    text = io.StringIO()
    console(file=text, width=300).print(renderable)
    return text.getvalue()


def test_a_line_cannot_control_a_terminal() -> None:
    lines = [printable(name) for name in NAMES]
    assert lines[:4] == list(NAMES[:4])
    assert lines[4:] == [r"a\x1b[31mb", r"a\x9b2Jb", r"a\nb", r"c\rd", r"\udce9t\udce9", r"a\u202eb"]


@pytest.mark.parametrize("console", [Console, rich.console.Console])
@pytest.mark.parametrize("table", ["bias", "comparison", "runs"])
def test_names_in_tables_are_plain_text(console: type[rich.console.Console], table: str, tmp_path: Path) -> None:
    """On any console of rich, also on one that takes strings for markup."""
    first = bias_report()
    if table == "bias":
        text = "".join(printed(table, console) for table in report.bias_tables([first]))
        assert all(printable(name) in text for name in NAMES)
    elif table == "comparison":
        several = [replace(first, model=name) for name in NAMES]
        text = "".join(printed(table, console) for table in report.bias_tables(several))
    else:
        runs = []
        for number in range(len(NAMES)):
            run = training.Run.create(tmp_path / str(number), training.Recipe(label_smoothing=number / 100), ("a", "b"))
            run.write_metrics([{"epoch": 1, "test_accuracy": 0.5}])
            runs.append(run)
        text = printed(report.report_runs([run.folder for run in runs], names=NAMES, images=0), console)
    assert all(name in text for name in NAMES[:4])
    assert all(character.isprintable() or character == "\n" for character in text)


def test_strings_are_text_to_the_console() -> None:
    text = printed("".join(f"<{name}>" for name in NAMES), Console)
    assert text == "<cat)><[red]x[/blue]><[/]><:smile:><a\\x1b[31mb><a\\x9b2Jb><a\nb><cd><\\udce9t\\udce9><a\\u202eb>\n"


@pytest.mark.parametrize("name", NAMES[4:])
def test_an_error_is_one_line_that_shows_what_it_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error[:-1].isprintable()


@pytest.mark.parametrize("arguments", [["table"], ["table", "builtin"], ["--help"], ["runs"], ["caté—"]])
def test_an_output_that_is_not_utf8(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its encoding lacks is replaced."""
    monkeypatch.chdir(tmp_path)
    run = training.Run.create(tmp_path / "runs" / "café", training.Recipe(), ("a", "b"))
    run.write_metrics([{"epoch": 1, "test_accuracy": 0.5}])
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=how) for how in ("strict", "backslashreplace"))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    status = main(arguments)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("ascii"))
    if arguments == ["caté—"]:
        assert status == 2 and r"cat\xe9\u2014" in texts[1]
    else:
        assert status == 0 and texts[0]
    if arguments == ["runs"]:
        assert "caf?" in texts[0]
