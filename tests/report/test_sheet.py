"""Pictures of test images, and what is said below them."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from regard import bias, report
from regard.report.overlay import blended, outlined, picture
from regard.report.sheet import make_sheet, most_apart, spread


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


@pytest.mark.parametrize(("total", "count"), [(1000, 12), (1000, 10), (7, 7), (60, 1)])
def test_images_are_spread_over_the_set_whatever_the_networks_make_of_them(total, count):
    places = spread(total, count)
    assert places == spread(total, count)
    assert [place * count // total for place in places] == pytest.approx(list(range(count)), abs=1)
    assert len(set(places)) == count
    for k, place in enumerate(places):
        assert k * total // count <= place < (k + 1) * total // count


@pytest.mark.slow
def test_verdicts_are_those_of_bias_evaluate(make_run, splits):
    run = make_run("student")
    measured = bias.evaluate(run.model(), splits.test)
    measured.save(run.folder / "bias.json")
    rows = report.summarize([run])
    sheet = make_sheet(rows, 0, splits.test, images=20)
    assert (len(sheet.fair), sheet.apart, sheet.notes) == (20, (), ())
    for strip in sheet.fair:
        (cell,) = strip.cells
        found = {name: values[strip.place] for name, values in measured.rows.items()}
        expected = "position bias" if found["position_bias"] else "range bias" if found["range_bias"] else "inside"
        assert cell.verdict == ("no focus" if found["flat"] else expected)
        assert cell.predicted == splits.test.classes[found["predicted"]]
        assert cell.wrong == (not found["correct"])
        assert strip.label == splits.test.classes[found["label"]]
        assert cell.verdict in cell.alt


def test_images_apart_are_those_of_the_largest_gap_in_spill(make_run, splits):
    rows = report.summarize([make_run("a"), make_run("b"), make_run("c")])
    a, b, c = (row.bias.rows["spill"].astype(np.float64) for row in rows)
    gap = (np.abs(b - a) + np.abs(c - a)) / 2
    places = most_apart(rows, rows[0], splits.test, 4)
    assert places == list(np.argsort(-gap)[:4])
    b[:] = a
    assert most_apart(rows[:1], rows[0], splits.test, 4) == []


def test_who_is_not_on_the_sheet_is_named(make_run, recipe, splits):
    from dataclasses import replace

    other = replace(recipe.data, options=recipe.data.options | {"seed": 1})
    fewer = replace(recipe.data, train_images=20, mean=None, std=None)
    runs = [make_run("base"), make_run("unfinished", weights=False), make_run("elsewhere", data=other)]
    runs.append(make_run("fewer", data=fewer))
    sheet = make_sheet(report.summarize(runs), 0, splits.test, images=2, apart=0)
    assert [row.name for row in sheet.networks] == ["base", "fewer"]
    said = " ".join(sheet.notes)
    assert "unfinished is not on the sheet of test images" in said and "last.safetensors" in said
    assert "elsewhere is not on the sheet of test images: it was tested on other images than base" in said
    assert "base and fewer: other classes are predicted" in said  # their reports are made up


def test_without_regions_there_are_maps_and_no_verdicts(make_run, splits):
    from dataclasses import replace

    sheet = make_sheet(report.summarize([make_run("a")]), 0, replace(splits.test, regions=None), images=2)
    assert not sheet.regions
    assert {cell.verdict for strip in sheet.fair for cell in strip.cells} == {""}


def test_small_images_are_enlarged_pixel_by_pixel():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    shown = decoded(picture(image))
    assert shown.shape == (128, 128, 3)
    assert np.array_equal(shown, image.repeat(4, 0).repeat(4, 1))


def test_large_images_are_reduced():
    image = np.zeros((300, 600, 3), dtype=np.uint8)
    uri = picture(image, np.ones((300, 600)), np.eye(300, 600, dtype=bool), 0.5)
    assert uri.startswith("data:image/jpeg;base64,")
    assert decoded(uri).shape == (80, 160, 3)
    assert decoded(picture(image[:80, :80])).shape == (80, 80, 3)


def test_the_outline_is_light_inside_and_dark_outside():
    mask = np.zeros((12, 12), dtype=bool)
    mask[3:9, 3:9] = True
    for background in (0, 128, 255):
        shown = outlined(np.full((12, 12, 3), background, dtype=np.uint8), mask)
        assert (shown[3, 3:9] == 255).all() and (shown[3:9, 8] == 255).all()
        assert (shown[2, 2:10] == 0).all() and (shown[2:10, 9] == 0).all()
        assert (shown[4:8, 4:8] == background).all() and (shown[0] == background).all()


def test_the_higher_the_map_the_brighter():
    values = np.linspace(0, 1, 20)[None].repeat(2, 0)
    shown = blended(np.full((2, 20, 3), 100, dtype=np.uint8), values)
    assert (np.diff(shown[0].astype(float) @ [0.299, 0.587, 0.114]) > 0).all()
    assert blended(np.zeros((1, 1, 3), dtype=np.uint8), np.array([[np.nan]])).shape == (1, 1, 3)


def test_the_edge_of_the_focus_is_drawn_at_the_threshold():
    heat = np.zeros((32, 32))
    heat[8:16, 8:16] = 1
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    cyan = (decoded(picture(image, heat, None, 0.5)) == (0, 229, 255)).all(2)
    assert cyan.sum() == 4 * 31 and cyan[32, 32] and not cyan[33, 33] and not cyan[31, 31]
    assert not (decoded(picture(image, np.zeros((32, 32)), None, 0.5)) == (0, 229, 255)).all(2).any()


def test_the_models_and_torch_are_left_as_they_were(make_run, splits):
    rows = report.summarize([make_run("a")])
    torch.manual_seed(0)
    make_sheet(rows, 0, splits.test, images=2)
    assert torch.is_grad_enabled()
