"""Names of files, classes and runs on the terminal: printed as text, never interpreted."""

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


def bias_results(names: tuple[str, ...] = NAMES) -> bias.Results:
    """Results with one image per class."""
    columns = {name: np.ones(len(names), dtype) for name, dtype in COLUMNS.items()} | {
        "label": np.arange(len(names)),
        "region_area": np.full(len(names), 0.25, np.float32),
        "range_bias": np.zeros(len(names), bool),
        "constant": np.zeros(len(names), bool),
    }
    return bias.Results(names[1], names[0], "", "gradcam", "", "predicted", 0.5, names, columns)


def print_text(renderable: object, console: type[rich.console.Console]) -> str:
    text = io.StringIO()
    console(file=text, width=300).print(renderable)
    return text.getvalue()


def test_printable_escapes_control_characters() -> None:
    lines = [printable(name) for name in NAMES]
    assert lines[:4] == list(NAMES[:4])
    assert lines[4:] == [r"a\x1b[31mb", r"a\x9b2Jb", r"a\nb", r"c\rd", r"\udce9t\udce9", r"a\u202eb"]


@pytest.mark.parametrize("console", [Console, rich.console.Console])
@pytest.mark.parametrize("table", ["bias", "comparison", "runs"])
def test_names_in_tables_are_plain_text(console: type[rich.console.Console], table: str, tmp_path: Path) -> None:
    """On any console of rich, including one that interprets markup in strings."""
    results = bias_results()
    if table == "bias":
        text = "".join(print_text(table, console) for table in report.bias_tables([results]))
        assert all(printable(name) in text for name in NAMES)
    elif table == "comparison":
        reports = [replace(results, model=name) for name in NAMES]
        text = "".join(print_text(table, console) for table in report.bias_tables(reports))
    else:
        runs = []
        for number in range(len(NAMES)):
            run = training.Run.create(tmp_path / str(number), training.Recipe(label_smoothing=number / 100), ("a", "b"))
            run.write_metrics([{"epoch": 1, "test_accuracy": 0.5}])
            runs.append(run)
        text = print_text(report.report_runs([run.folder for run in runs], names=NAMES, images=0), console)
    assert all(name in text for name in NAMES[:4])
    assert all(character.isprintable() or character == "\n" for character in text)


def test_the_console_does_not_interpret_strings() -> None:
    text = print_text("".join(f"<{name}>" for name in NAMES), Console)
    assert text == "<cat)><[red]x[/blue]><[/]><:smile:><a\\x1b[31mb><a\\x9b2Jb><a\nb><cd><\\udce9t\\udce9><a\\u202eb>\n"


@pytest.mark.parametrize("name", NAMES[4:])
def test_errors_show_names_escaped_on_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error[:-1].isprintable()


@pytest.mark.parametrize("arguments", [["table"], ["table", "builtin"], ["--help"], ["runs"], ["caté—"]])
def test_output_in_an_encoding_other_than_utf8(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Characters that the encoding lacks are replaced."""
    monkeypatch.chdir(tmp_path)
    run = training.Run.create(tmp_path / "runs" / "café", training.Recipe(), ("a", "b"))
    run.write_metrics([{"epoch": 1, "test_accuracy": 0.5}])
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
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
