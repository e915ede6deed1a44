"""Folders of explained images: records, pictures, the page, and the protection of existing files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.snapshots import check_snapshot

from regard import bias, data, maps, models, report
from regard.errors import InputError
from regard.report import explained, glossary, overlay

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TRANSFORM = data.Transform((32, 32), crop_pct=0.8, interpolation="bicubic")
NAMES = ("cat", "dog", "<script>alert(1)</script>", "a [bold]bee[/bold]", "cow")


def photo(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.create("wrn-10-0.5", len(NAMES)).eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Five images, and masks for four of them, one of which is empty."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "in" / "deep").mkdir(parents=True)
    (folder / "masks" / "deep").mkdir(parents=True)
    for seed, name in enumerate(("a", "b", "deep/a", "deep/c", "d")):
        photo(seed).save(folder / "in" / f"{name}.png")
    marked = np.zeros((40, 60), dtype=np.uint8)
    marked[8:30, 20:44] = 255
    corner = np.zeros((40, 60), dtype=np.uint8)
    corner[:, :4] = 255
    for name, mask in (("a", marked), ("deep/a", marked), ("b", corner), ("d", 0 * marked)):
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return folder


@pytest.fixture
def explain(model, tmp_path):
    def call(images: data.ImageDataset, out: Path | None = None, **options):
        settings = {"transform": TRANSFORM, "mean": MEAN, "std": STD, "names": NAMES, "source": "net", **options}
        method = maps.create(settings.pop("method", "gradcam"), model, settings.pop("layer", None))
        return report.explain(method, images, out or tmp_path / "out", **settings)

    return call


def records(folder: Path) -> dict:
    return json.loads((folder / "explain.json").read_text())


def network_input(path: Path) -> torch.Tensor:
    pixels = TRANSFORM.image(Image.open(path).convert("RGB"))[None] / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_records_agree_with_network_cams_and_measures(model, images, explain) -> None:
    rows = []
    result = explain(
        data.open_pictures([images / "in"], mask=images / "masks"),
        top=2,
        threshold=0.6,
        batch_size=2,
        on_image=rows.append,
    )
    assert (result.images, result.skipped) == (5, ()) and len(list(result.folder.rglob("*.png"))) == 15
    content = records(result.folder)
    assert content["records"] == result.to_records() and json.dumps(result.to_records(), allow_nan=False)
    assert (content["network"], content["method"], content["threshold"]) == ("net", "gradcam", 0.6)
    assert content["layer"] == maps.create("gradcam", model).layer
    names = [Path(row.key).relative_to(images / "in").as_posix() for row in rows]
    assert names == ["a.png", "b.png", "d.png", "deep/a.png", "deep/c.png"]
    region = torch.from_numpy(TRANSFORM.mask(np.asarray(Image.open(images / "masks" / "a.png")) > 0))[None]
    for row, name in zip(rows, names, strict=True):
        inputs = network_input(Path(row.key))
        with torch.no_grad():
            probabilities = model(inputs).double().softmax(1)[0]
        order = probabilities.argsort(descending=True)[:2].tolist()
        image_records = [record for record in content["records"] if record["image"] == row.key]
        assert [record["class_index"] for record in image_records] == order
        for record, index in zip(image_records, order, strict=True):
            assert record["class"] == NAMES[index] and record["predicted"] == NAMES[order[0]]
            assert record["probability"] == pytest.approx(float(probabilities[index]), abs=1e-5)
            cam = maps.create("gradcam", model)(inputs, index)
            if name.endswith("a.png"):
                expected = bias.measure(cam, region, 0.6)
                for measure, value in expected.items():
                    if name == "a.png":
                        assert record[measure] == pytest.approx(value.item(), abs=2e-3), measure
                assert record["result"] in ("position bias", "range bias", "inside")
            else:
                assert record["result"] == "" and "spill" not in record
    notes = {name: row.note for name, row in zip(names, rows, strict=True)}
    assert notes["a.png"] == notes["deep/a.png"] == ""
    assert "cropped away" in notes["b.png"]
    assert notes["d.png"] == notes["deep/c.png"] == "no region"


def test_pictures_show_image_map_focus_and_region(model, images, explain) -> None:
    result = explain(data.open_pictures([images / "in" / "a.png"], box=(20, 8, 44, 30)), top=1)
    (record,) = records(result.folder)["records"]
    plain, overlaid = (np.asarray(Image.open(result.folder / name)) for name in (record["picture"], record["map"]))
    mask = np.zeros((40, 60), dtype=bool)
    mask[8:30, 20:44] = True
    pixels = TRANSFORM.image(Image.open(images / "in" / "a.png")).permute(1, 2, 0).numpy()
    region = TRANSFORM.mask(mask)
    heatmap = bias.scaled(maps.create("gradcam", model)(network_input(images / "in" / "a.png")))[0].numpy()
    assert np.array_equal(plain, overlay.draw(pixels, None, region))
    assert plain.shape == (128, 128, 3) and overlaid.shape == plain.shape
    assert (overlaid == overlay.FOCUS).all(axis=2).any() and (overlaid == 255).all(axis=2).any()
    assert np.abs(overlaid.astype(int) - overlay.draw(pixels, heatmap, region, 0.5)).mean() < 0.5


def test_every_image_has_its_own_files(tmp_path, explain) -> None:
    names = (
        "a.png",
        "a.bmp",
        "A.png",
        "a/image.png",
        "a.1-cat.png",
        "é 1.png",
        "<b>.png",
        "x\ny.png",
        "z" * 180 + ".png",
    )
    for seed, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        photo(seed).save(tmp_path / "in" / name)
    result = explain(data.open_pictures([tmp_path / "in"]), top=2)
    content = records(result.folder)
    listed = list(dict.fromkeys(record[key] for record in content["records"] for key in ("picture", "map")))
    on_disk = [path.relative_to(result.folder).as_posix() for path in result.folder.rglob("*") if path.is_file()]
    assert len(listed) == 3 * len(names)
    assert len({name.casefold() for name in listed}) == len(listed)
    assert sorted(on_disk) == sorted([*listed, "explain.json", "explain.html"])
    assert all(re.fullmatch(r"[\w/.-]+\.png", name) for name in listed)
    assert {Path(record["image"]).relative_to(tmp_path / "in").as_posix() for record in content["records"]} == set(
        names
    )
    assert explain(data.open_pictures([tmp_path / "in"]), top=2, overwrite=True).records == result.records
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_given_classes_replace_the_most_likely_ones(images, explain) -> None:
    result = explain(data.open_pictures([images / "in" / "a.png"]), classes=(4, 0), top=3)
    content = records(result.folder)
    explained = [record["class"] for record in content["records"] if record["map"]]
    assert explained == ["cow", "cat"] and content["classes"] == ["cow", "cat"]
    probabilities = {record["class"]: record["probability"] for record in content["records"]}
    assert len(probabilities) == len(content["records"]) >= 3  # includes the most likely classes, each once
    assert probabilities[content["records"][0]["predicted"]] == max(probabilities.values())


def test_classes_are_found_by_name_and_number() -> None:
    names = ("cat", "Dog", "3", "bee", "twin", "twin")
    assert report.find_classes(["bee", "dog", "3", "1", "bee"], names) == (3, 1, 2)
    with pytest.raises(InputError, match="classes 4, 5 are all called 'twin'"):
        report.find_classes(["twin"], names)
    for unknown in ("6", "-1", "1.5", "bea"):
        with pytest.raises(InputError, match=f"no class '{unknown}'.*from 0 to 5"):
            report.find_classes([unknown], names)
    with pytest.raises(InputError, match="did you mean 'bee'"):
        report.find_classes(["bea"], names)


def test_the_page_is_escaped_and_self_contained(tmp_path, explain) -> None:
    (tmp_path / "in").mkdir()
    hostile_name = "<img src=x onerror=alert(1)>\n{{ 7 * 7 }}.png"
    photo(0).save(tmp_path / "in" / hostile_name)
    (tmp_path / "in" / "<i>broken.png").write_text("no image")
    result = explain(data.open_pictures([tmp_path / "in"]), top=5, unreadable="skip", source="<b>net</b>")
    text = (result.folder / "explain.html").read_text()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    body = text.split("</style>")[1]
    assert not re.search(r"<(script|b>net|i>broken|img src=x|link|iframe)", body)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in body and "{{ 7 * 7 }}" in body and "\\n" in body
    assert re.findall(r'(?:src|href)="(?!data:image/|#)', body) == []
    assert body.count("<img ") == 6 and body.count('alt="') == 6
    assert "Skipped images" in body and "not an image of a known kind" in body
    assert "url(" not in text and "@import" not in text


def test_the_page_defines_the_focus_as_it_is_computed(images, explain) -> None:
    """A map is clipped at 0 and scaled to [0, 1]; the focus is at least the threshold."""
    page = (explain(data.open_pictures([images / "in" / "a.png"]), threshold=0.3).folder / "explain.html").read_text()
    assert 'id="term-focus"' in page and "</a> 0.3</div>" in page
    definition = " ".join(glossary.plain(glossary.TERMS["focus"].definition).split())
    assert "clipped at 0" in definition and "at least the threshold" in definition
    cam = torch.tensor([[[-2.0, 0.0, 0.2, 0.29], [0.31, 0.5, 0.9, 1.0]]])
    assert torch.equal(bias.focus(cam, 0.3), bias.scaled(cam) >= 0.3)
    assert torch.equal(bias.focus(cam, 0.3), cam.clamp(min=0) >= 0.3)


def test_the_page_matches_its_snapshot(images, explain, parse, monkeypatch) -> None:
    monkeypatch.chdir(images)
    pictures = data.open_pictures(["in/a.png", "in/b.png"], mask="masks")
    page = parse((explain(pictures, classes=(0, 3)).folder / "explain.html").read_text())
    page.check_self_contained()
    check_snapshot("pages/explain", re.sub(r"most likely: .*", "most likely: …", page.outline))


def test_a_page_of_many_images_is_truncated(images, explain, monkeypatch) -> None:
    monkeypatch.setattr(explained, "_PICTURES", 4)
    result = explain(data.open_pictures([images / "in"]), top=1)
    text = (result.folder / "explain.html").read_text()
    assert text.count("<img ") == 4 and "3 more" in text
    assert len(list(result.folder.rglob("*.png"))) == 10 and len(records(result.folder)["records"]) == 5


def test_existing_files_are_not_lost(images, explain, tmp_path, monkeypatch) -> None:
    pictures = data.open_pictures([images / "in" / "a.png"])
    out = tmp_path / "out"
    out.mkdir()
    explain(pictures)  # an empty folder may be replaced
    first = (out / "explain.json").read_bytes()
    with pytest.raises(InputError, match="exists already; replace it"):
        explain(pictures)
    explain(data.open_pictures([images / "in" / "b.png"]), overwrite=True)
    assert (out / "explain.json").read_bytes() != first and not (out / "a.png").exists()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="thesis.txt in it was not written by regard"):
        explain(pictures, overwrite=True)
    for place in (tmp_path / "other", tmp_path / "file"):
        if place.name == "other":
            place.mkdir()
            (place / "a.png").write_text("mine")
        else:
            place.write_text("mine")
        with pytest.raises(InputError, match="not overwritten|is not a folder"):
            explain(pictures, place, overwrite=True)
    (out / "thesis.txt").unlink()
    before = sorted(path.name for path in out.iterdir())

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(explained, "write_page", fail)
    with pytest.raises(InputError, match="No space left on device"):
        explain(pictures, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other", "out"]


def test_files_added_during_the_run_are_not_lost(images, explain, tmp_path) -> None:
    pictures, out = data.open_pictures([images / "in" / "a.png"]), tmp_path / "out"
    explain(pictures)
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(InputError, match="thesis.txt in it was not written by regard"):
        explain(pictures, overwrite=True, on_image=lambda _: (out / "thesis.txt").write_text("years of work"))
    assert sorted(path.name for path in out.iterdir()) == sorted([*before, "thesis.txt"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_unreadable_images_are_an_error_or_skipped_and_named(images, explain, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    photo(0).save(tmp_path / "in" / "b.png")
    for name in ("a.png", "c.jpg"):
        (tmp_path / "in" / name).write_bytes(b"")
    pictures = data.open_pictures([tmp_path / "in"])
    with pytest.raises(InputError, match="a.png' is empty"):
        explain(pictures)
    assert not (tmp_path / "out").exists()
    results = []
    result = explain(pictures, unreadable="skip", on_image=results.append)
    assert [Path(row.key).name for row in result.skipped] == ["a.png", "c.jpg"] and result.images == 1
    assert [Path(row.key).name for row in results] == ["a.png", "b.png", "c.jpg"]
    assert [Path(row["image"]).name for row in records(result.folder)["skipped"]] == ["a.png", "c.jpg"]
    with pytest.raises(InputError, match="none of the 1 images can be read .*c.jpg' is empty"):
        explain(data.open_pictures([tmp_path / "in" / "c.jpg"]), tmp_path / "none", unreadable="skip")
    assert not (tmp_path / "none").exists()


def test_images_of_different_sizes_are_explained_unresized(images, explain, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    photo(0, 40, 32).save(tmp_path / "in" / "a.png")
    photo(1, 32, 48).save(tmp_path / "in" / "b.png")
    result = explain(data.open_pictures([tmp_path / "in"]), transform=data.Transform())
    assert [(record["height"], record["width"]) for record in records(result.folder)["records"][::3]] == [
        (32, 40),
        (48, 32),
    ]


def test_wrong_options_are_errors_before_anything_is_written(images, explain, tmp_path) -> None:
    pictures = data.open_pictures([images / "in" / "a.png"])
    for options, message in (
        ({"top": 0}, "top is 0"),
        ({"top": -1}, "top is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"threshold": 0.0}, "threshold is 0"),
        ({"method": "gradcan"}, "gradcan"),
        ({"layer": "nowhere"}, "nowhere"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
    ):
        with pytest.raises(InputError, match=message):
            explain(pictures, **options)
    assert list(tmp_path.iterdir()) == []
    assert len(explain(pictures, top=99).to_records()) == len(NAMES)


def test_a_network_that_outputs_nan_has_constant_maps(model, images, tmp_path) -> None:
    broken = models.create("wrn-10-0.5", len(NAMES)).eval()
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(float("nan"))
    pictures = data.open_pictures([images / "in" / "a.png"])
    result = report.explain(
        maps.GradCAM(broken), pictures, tmp_path / "out", transform=TRANSFORM, mean=MEAN, std=STD, names=NAMES
    )
    record = records(result.folder)["records"][0]
    assert record["probability"] is None and record["result"] == "constant map"
