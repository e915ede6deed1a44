"""The notebooks are stored without outputs, and run when a cell after their parameters shortens them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

from regard import models

ROOT = Path(__file__).parents[1]
LOOK = ROOT / "notebooks" / "where-does-my-model-look.ipynb"
TRANSFER = ROOT / "notebooks" / "attention-transfer-in-fifteen-minutes.ipynb"
SHORT = {
    LOOK: "EPOCHS = 1; TRAINING_IMAGES = 96; TEST_IMAGES = 100",
    TRANSFER: "EPOCHS = 1; TRAINING_IMAGES = 64; TEST_IMAGES = 64",
}
TABLES = {LOOK: 5, TRANSFER: 5}
PICTURES = {LOOK: 14, TRANSFER: 6}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_notebooks_are_stored_clean_with_working_links(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    nbformat.validate(read(path))
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert cell["metadata"] in ({}, {"tags": ["parameters"]})
        assert re.fullmatch(r"cell-\d\d", cell["id"])
    assert sum(cell["metadata"] != {} for cell in notebook["cells"]) == 1
    assert len(text) < 40_000
    for link in re.findall(r"\]\(((?:\.\./|\w)[^)#]*?\.(?:md|ipynb))(?:#[\w-]+)?\)", text):
        assert (path.parent / link).is_file(), link


@pytest.mark.slow
@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.stem)
def test_notebooks_run_and_show_tables_and_figures(path: Path, tmp_path: Path) -> None:
    notebook = read(path)
    index = next(i for i, cell in enumerate(notebook.cells) if cell.metadata.get("tags") == ["parameters"])
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(SHORT[path]))
    options = {"timeout": 300, "startup_timeout": 300, "resources": {"metadata": {"path": str(tmp_path)}}}
    NotebookClient(notebook, kernel_name="python3", **options).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    data = [output.data for output in outputs if output.output_type in ("display_data", "execute_result")]
    assert sum("<table>" in output.get("text/html", "") for output in data) == TABLES[path]
    assert sum("image/png" in output for output in data) == PICTURES[path]
    assert all("text/html" in output or "image/png" in output for output in data), [output.keys() for output in data]


@pytest.mark.slow
def test_notebooks_accept_timm_networks_and_photos_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(models.create("resnet10t", 1000).state_dict(), "weights.pth")
    photos = tmp_path / "my photos"
    photos.mkdir()
    for name, size in (("00-1.png", (90, 60)), ("13-0.png", (48, 64)), ("mine.jpg", (70, 70))):
        Image.effect_noise(size, 80).convert("RGB").save(photos / name)
    (tmp_path / "masks").mkdir()
    Image.new("L", (70, 70), 255).save(tmp_path / "masks" / "mine.png")  # stands for a mask painted by hand
    code = [cell.source for cell in read(LOOK).cells if cell.cell_type == "code"]
    code[0] += "\nMODEL, PHOTOS = 'resnet10t=weights.pth', 'my photos'"
    namespace: dict[str, Any] = {}
    for source in code:
        exec(compile(source, LOOK.name, "exec"), namespace)
    assert len(namespace["pictures"]) == len(namespace["results"]) == 3
    assert (tmp_path / "masks" / "13-0.png").is_file()
    assert namespace["results"].rows["region_area"].min() > 0

    code = [cell.source for cell in read(TRANSFER).cells if cell.cell_type == "code"]
    code[0] += f"\n{SHORT[TRANSFER]}\nNETWORKS, PHOTO = ['resnet10t=weights.pth'], 'my photos/mine.jpg'"
    namespace = {}
    for source in code[: 1 + next(i for i, source in enumerate(code) if "in NETWORKS" in source)]:
        exec(compile(source, TRANSFER.name, "exec"), namespace)
    (row,) = namespace["rows"].values()
    sides = [picture.shape[0] for picture in row.values()]
    assert len(sides) == 5 and sides[0] == namespace["preprocessing"].size and sides == sorted(set(sides), reverse=True)
