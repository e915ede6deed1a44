"""`regard explain` from the command line, on valid images and on every kind of broken image."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regard import models, training
from regard.cli import main

NAMES = ("cat)", "[bold red]dog[/]", "<b>bee</b>", "cow", "[red]x[/red]")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["explain", *arguments])
    return status, *capsys.readouterr()


def photo(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    torch.save(models.create("wrn-10-0.5", len(NAMES)).state_dict(), folder / "net.pt")
    preprocessing = training.Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 32)
    recipe = training.ModelRecipe("wrn-10-0.5")
    training.import_weights(
        folder / "net.pt", recipe, folder / "net.safetensors", class_names=NAMES, preprocessing=preprocessing
    )
    return folder / "net.safetensors"


@pytest.fixture
def here(tmp_path, monkeypatch, network) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(network, "net.safetensors")
    for seed in range(3):
        photo(seed).save(f"{'abc'[seed]}.png")
    return tmp_path


MODEL = ("--model=net.safetensors", "--device=cpu")


def records(folder: str = "explained") -> list[dict]:
    return json.loads((Path(folder) / "explain.json").read_text())["records"]


def test_an_image_with_a_box_is_explained_and_measured(here, capsys) -> None:
    status, out, err = run(capsys, "a.png", *MODEL, "--box=20,8,44,30", "--top=2", "--out=explanations")
    assert status == 0, err
    lines = [line.split() for line in out.splitlines() if "a.png" in line]
    image_records = records("explanations")
    assert len(lines) == len(image_records) == 2
    for line, record in zip(lines, image_records, strict=True):
        assert f"{100 * record['probability']:.1f}%" in line and record["class"] in " ".join(line)
        assert f"{record['spill']:.3f}" in line and record["result"] in " ".join(line)
    content = json.loads((here / "explanations" / "explain.json").read_text())
    assert content["transform"]["size"] == [32, 32] and content["mean"] == [0.5, 0.4, 0.3]


def test_json_prints_the_records_alone(here, capsys) -> None:
    status, out, err = run(capsys, "--json", "--quiet", "a.png", *MODEL)
    assert (status, err) == (0, "") and json.loads(out) == records()
    assert all(isinstance(value, str | int | float | bool | None) for record in records() for value in record.values())


def test_a_python_function_is_a_method(here, capsys, monkeypatch) -> None:
    (here / "own_method.py").write_text("def red(model, images, classes):\n    return images[:, 0]\n")
    monkeypatch.syspath_prepend(here)
    assert run(capsys, "a.png", *MODEL, "--method=own_method:red", "--out=shown")[0] == 0
    content = json.loads((here / "shown" / "explain.json").read_text())
    assert (content["method"], content["layer"]) == ("own_method:red", "")
    status, _, err = run(capsys, "a.png", *MODEL, "--method=own_method:blue", "--out=other")
    assert status == 2 and "own_method:blue" in err and err.count("regard: ") == 1
    status, _, err = run(capsys, "a.png", *MODEL, "--method=no_method:red", "--out=other")
    assert status == 2 and "No module named 'no_method'" in err and err.count("regard: ") == 1
    status, _, err = run(capsys, "a.png", *MODEL, "--method=own_method:red", "--layer=group1", "--out=other")
    assert status == 2 and "leave it out" in err and err.count("regard: ") == 1


def test_a_run_is_explained_at_several_layers(here, capsys, tmp_path) -> None:
    from regard import data

    options = ["--schedule.epochs=1", "--device=cpu", "--threads=1", "--model.name=wrn-10-0.5"]
    training.train(training.load_recipe(None, options), "run", splits=data.clutter(train=32, test=10))
    status, out, err = run(capsys, "a.png", "--model=run", "--device=cpu", "--top=1", "--layer=group1, group2")
    assert status == 0, err
    content = json.loads((here / "explained" / "explain.json").read_text())
    assert content["layer"] == "group1+group2" and content["network"] == "run"


def test_options_may_stand_before_the_images(here, capsys) -> None:
    """In `regard explain --class tabby photo.jpg`, the option takes one value, and the rest are images."""
    status, out, _ = run(capsys, "--class", "cow", "b.png", "--model=net.safetensors", "a.png", "--top=1")
    assert status == 0 and [record["class"] for record in records() if record["map"]] == ["cow", "cow"]


def test_requested_classes_are_explained(here, capsys) -> None:
    status, out, _ = run(capsys, "--model=net.safetensors", "b.png", "a.png", "--class", "cow,1", "--top=1")
    assert status == 0
    explained = [(record["image"], record["class_index"]) for record in records() if record["map"]]
    assert explained == [("b.png", 3), ("b.png", 1), ("a.png", 3), ("a.png", 1)]
    status, _, err = run(capsys, "a.png", *MODEL, "--class=crow", "--out=b")
    assert status == 2 and "no class 'crow' (did you mean 'cow'?)" in err and not (here / "b").exists()


def test_markup_and_control_characters_in_names_are_escaped(here, capsys) -> None:
    odd = here / "in"
    odd.mkdir()
    names = ("[bold]x[red].png", "<script>.png", "new\nline.png", "-dash.png", "é [link=x].png")
    for seed, name in enumerate((*names, os.fsdecode(b"\xff\xfe.png"))):
        photo(seed).save(odd / name)
    status, out, err = run(capsys, "in", *MODEL, "--top=5")
    assert status == 0
    for name in (
        "in/[bold]x[red].png",
        "in/<script>.png",
        "in/new\\nline.png",
        "in/é [link=x].png",
        "in/\\udcff\\udcfe.png",
    ):
        assert sum(line.strip().startswith(name) for line in out.splitlines()) == 5, name
    assert out.count("[bold red]dog[/]") == 6 and out.count("[red]x[/red]") == 6 and out.count("cat)") == 6
    page = (here / "explained" / "explain.html").read_text()
    assert "&lt;script&gt;.png" in page and "<script" not in page and "&lt;b&gt;bee&lt;/b&gt;" in page
    assert "cat)" in page and "[red]x[/red]" in page
    images = {record["image"] for record in records()}
    assert "in/new\nline.png" in images and os.fsdecode(b"in/\xff\xfe.png") in images


def broken(folder: Path) -> dict[str, str]:
    """Writes files that are not valid images; returns the expected reason for each."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "cut.jpg")
    content = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    Image.fromarray(noise).save(folder / "torn.png")
    content = (folder / "torn.png").read_bytes()
    (folder / "torn.png").write_bytes(content[:60] + bytes(20) + content[80:])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("dear diary")
    (folder / "link.png").symlink_to("nowhere.png")
    Image.fromarray(np.ones((9, 9), dtype=np.float32)).save(folder / "float.png", "TIFF")
    Image.new("1", (9999, 9999)).save(folder / "huge.png")
    os.mkfifo(folder / "pipe.png")
    return {
        "cut.jpg": "is broken",
        "torn.png": "is broken",
        "empty.png": "is empty",
        "text.jpg": "is not an image of a known kind",
        "link.png": "cannot be opened (No such file or directory)",
        "float.png": "32 bits",
        "huge.png": "9999 x 9999 pixels, more than is safe to read",
        "pipe.png": "is not a regular file",
    }


def test_broken_files_are_skipped_in_folders_and_errors_alone(here, capsys) -> None:
    folder = here / "in"
    (folder / "x.png").mkdir(parents=True)
    photo(0).save(folder / "sound.png")
    photo(1).save(folder / "x.png" / "sound.webp")
    (folder / "notes.txt").touch()
    reasons = broken(folder)
    # A long and narrow image would take gigabytes after resizing.
    Image.new("RGB", (1, 5000000)).save(folder / "long.png")
    reasons["long.png"] = "too long and narrow"
    status, out, err = run(capsys, "in", *MODEL, "--batch_size=3")
    assert status == 0
    lines = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == len(reasons)
    for name, reason in reasons.items():
        (line,) = (line for line in lines if f"in/{name}" in line)
        assert reason in line
    assert f"images explained: 2, skipped: {len(reasons)}" in err and len(list(here.glob("explained/**/*.png"))) == 8
    assert "files without the extension of an image: 1" in err
    content = json.loads((here / "explained" / "explain.json").read_text())
    assert {Path(record["image"]).name for record in content["skipped"]} == set(reasons)
    assert "Skipped images" in (here / "explained" / "explain.html").read_text()
    for name, reason in reasons.items():
        if name != "link.png":  # a dangling link is a missing file
            status, _, err = run(capsys, f"in/{name}", *MODEL, "--out=alone")
            assert status == 2 and reason in err and len(err.splitlines()) == 1, err
    assert run(capsys, "in", *MODEL, "--unreadable=error", "--out=alone")[0] == 2
    assert run(capsys, "in/text.jpg", *MODEL, "--unreadable=skip", "--out=alone")[0] == 2
    assert not (here / "alone").exists()


def test_every_image_mode_and_format_is_explained(here, capsys) -> None:
    folder = here / "in"
    folder.mkdir()
    image = photo(0)
    image.save(folder / "rgb.jpg")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("L").save(folder / "grey.png")
    image.convert("1").save(folder / "bits.png")
    image.convert("LA").save(folder / "la.png")
    image.convert("RGBA").save(folder / "rgba.png")
    image.quantize(8).save(folder / "palette.png")
    image.quantize(8).save(folder / "clear.png", transparency=3)
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    image.save(folder / "moving.gif", save_all=True, append_images=[photo(1)])
    image.save(folder / "moving.webp", save_all=True, append_images=[photo(1)])
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    Image.new("RGB", (3, 500)).save(folder / "thin.png")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(folder / f"turned{orientation}.jpg", exif=exif)
    status, out, err = run(capsys, "in", *MODEL, "--top=1")
    assert status == 0 and "images explained: 21, skipped: 0" in err and len(records()) == 21
    for path in (here / "explained").glob("*.png"):
        assert Image.open(path).size == (128, 128)


def test_masks_are_matched_to_images_by_name(here, capsys) -> None:
    for name in ("a", "b"):
        Path("in").mkdir(exist_ok=True)
        photo(0).save(f"in/{name}.png")
    Path("masks").mkdir()
    Image.fromarray(np.full((40, 60), 255, dtype=np.uint8)).save("masks/a.png")
    Image.fromarray(np.zeros((40, 60), dtype=np.uint8)).save("masks/z.png")
    status, out, err = run(capsys, "in", *MODEL, "--mask=masks", "--top=1")
    assert status == 0 and [record["note"] for record in records()] == [None, "no region"]
    assert records()[0]["spill"] == 0 and "masks without an image: 1" in err
    page = (here / "explained" / "explain.html").read_text()
    assert page.count('<span class="region"') == 1 and page.count("no region") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "IMAGE"),
        (["a.png"], "--model"),
        ([*MODEL], "IMAGE"),
        (["none.png", *MODEL], "there is no image and no folder 'none.png'"),
        (["empty", *MODEL], "no images in folder 'empty'"),
        (["a.png", "--model=none"], "none"),
        (["a.png", "--model=net.pt"], "net.pt"),
        (["a.png", *MODEL, "--box=1,2,3"], "box"),
        (["a.png", *MODEL, "--box=1,2,3,x"], "box"),
        (["a.png", *MODEL, "--box=0,0,61,40"], "has 60 x 40 pixels; the box 0,0,61,40"),
        (["a.png", "b.png", *MODEL, "--box=0,0,6,4"], "one box for 2 images"),
        (["a.png", *MODEL, "--mask=small.png"], "'small.png' is for 2 x 2"),
        (["a.png", *MODEL, "--mask=none"], "no mask and no folder of masks"),
        (["a.png", *MODEL, "--mask=text.png"], "'text.png' is not an image"),
        (["a.png", *MODEL, "--method=gradcan"], "gradcan"),
        (["a.png", *MODEL, "--layer=group9"], "group9"),
        (["a.png", *MODEL, "--threshold=2"], "threshold is 2"),
        (["a.png", *MODEL, "--top=0"], "top is 0"),
        (["a.png", *MODEL, "--out=taken"], "taken exists already"),
        (["a.png", *MODEL, "--out=taken", "--overwrite"], "taken/thesis.txt in it was not written by regard"),
        (["a.png", *MODEL, "--out=net.safetensors"], "is not a folder"),
        (["a.png", *MODEL, "--out=net.safetensors/x"], "net.safetensors/x"),
        (["a.png", *MODEL, "--classs=cow"], "did you mean --class"),
        (["a.png", *MODEL, "--weights=best"], "one set of weights"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_a_one_line_error_and_writes_nothing(here, capsys, arguments, message) -> None:
    Path("empty").mkdir()
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("years of work")
    Path("text.png").write_text("no mask")
    Path("net.pt").write_text("no network")
    Image.new("L", (2, 2), 255).save("small.png")
    before = sorted(here.rglob("*"))
    status, _, err = run(capsys, *arguments)
    assert status == 2 and len(err.splitlines()) == 1 and err.startswith("regard: ") and message in err, err
    assert sorted(here.rglob("*")) == before


def test_a_network_without_normalisation_needs_it_at_import(here, capsys) -> None:
    torch.save(models.create("wrn-10-0.5", 4).state_dict(), "bare.pt")
    training.import_weights("bare.pt", training.ModelRecipe("wrn-10-0.5"), "bare.safetensors")
    status, _, err = run(capsys, "a.png", "--model=bare.safetensors")
    assert status == 2 and "is not known; import its checkpoint with it" in err
    status, _, err = run(capsys, "a.png", "--model=wrn-10-0.5=bare.pt")
    assert status == 2 and "import CHECKPOINT --model NAME --out FILE.safetensors --mean=" in err
    arguments = ["bare.pt", "--model=wrn-10-0.5", "--out=said.safetensors", "--mean=[0.5,0.5,0.5]", "--std=[1,1,1]"]
    assert main(["import", *arguments]) == 0
    assert run(capsys, "a.png", "--model=said.safetensors", "--device=cpu")[0] == 0


def test_maps_of_one_pixel_are_warned_about_once(here, capsys) -> None:
    torch.save(models.create("test_resnet", 4).state_dict(), "small.pt")
    import_arguments = ["small.pt", "--model=test_resnet", "--out=small.safetensors", "--image-size=32"]
    assert main(["import", *import_arguments, "--mean=[0.5,0.5,0.5]", "--std=[1,1,1]"]) == 0
    capsys.readouterr()
    errors = {}
    for layer in ("layer4", "layer3"):
        arguments = ["a.png", "b.png", "--model=small.safetensors", f"--layer={layer}", "--batch_size=1", "--quiet"]
        status, _, errors[layer] = run(capsys, *arguments, f"--out={layer}", "--device=cpu")
        assert status == 0
    assert errors == {
        "layer4": "regard: the maps of layer layer4 have a single pixel, so they show no position; choose an earlier "
        "layer (--layer layer3) or larger images\n",
        "layer3": "",
    }


def test_output_of_an_earlier_call_is_not_an_input(here, capsys) -> None:
    Path("in").mkdir()
    photo(0).save("in/a.png")
    arguments = ("in", *MODEL, "--top=1", "--out=in/explained")
    assert run(capsys, *arguments)[0] == 0
    assert run(capsys, *arguments)[0] == 2
    status, _, err = run(capsys, *arguments, "--overwrite")
    assert status == 0 and "images explained: 1, skipped: 0" in err


def test_the_working_folder_and_user_links_are_not_overwritten(here, capsys, monkeypatch) -> None:
    assert run(capsys, "a.png", *MODEL, "--out=shown")[0] == 0
    before = {path: path.read_bytes() for path in (here / "shown").rglob("*")}
    (here / "shown" / "mine").symlink_to(here)
    status, _, err = run(capsys, "b.png", *MODEL, "--out=shown", "--overwrite")
    assert status == 2 and "mine" in err and err.count("regard: ") == 1
    (here / "shown" / "mine").unlink()
    monkeypatch.chdir(here / "shown")
    status, _, err = run(capsys, "../b.png", "--model=../net.safetensors", "--device=cpu", "--out=.", "--overwrite")
    assert status == 2 and "working folder" in err and err.count("regard: ") == 1
    assert {path: path.read_bytes() for path in (here / "shown").rglob("*")} == before
