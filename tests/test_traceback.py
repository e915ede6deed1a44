"""REGARD_TRACEBACK=1 adds the traceback to an error of one line."""

from __future__ import annotations

import pytest
from PIL import Image

from regard.cli import main


def traceback_lines(capsys, monkeypatch, *arguments: str) -> list[str]:
    """The error output of a command with REGARD_TRACEBACK=1; checks that it is one line without the variable."""
    monkeypatch.delenv("REGARD_TRACEBACK", raising=False)
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    monkeypatch.setenv("REGARD_TRACEBACK", "1")
    assert main(list(arguments)) == 2
    traceback = capsys.readouterr().err.splitlines()
    assert traceback[0].startswith("Traceback") and traceback[-1] == line
    return traceback


def test_traceback_of_a_command(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("model: [")
    assert any("cli/evaluate.py" in line for line in traceback_lines(capsys, monkeypatch, "evaluate", "run"))


@pytest.mark.slow
def test_traceback_of_a_dataloader_worker(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (40, 40), (60 * i, 90, 90)).save(folder / f"{i}.png")
    broken = tmp_path / "images" / "train" / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    data = ["--data.name=files", "--data.folder=images", "--data.size=32", "--data.workers=1"]
    model = ["--model.name=wrn-10-0.5", "--schedule.batch_size=8", "--device=cpu", "--threads=1"]
    traceback = traceback_lines(capsys, monkeypatch, "train", *data, *model)
    assert any("2.png" in line for line in traceback)
    assert any("data/decode.py" in line for line in traceback)  # the frame in the worker
