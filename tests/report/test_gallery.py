"""Galleries: which images, their CAMs and measures, and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from regard import bias, data, maps, models, report
from regard.report import Cell, ClassScore, Gallery, Row, explain_batch
from regard.report.gallery import ALL, DIFFERENT, RANDOM, choose, spread
from regard.report.runs_page import choose_images, runs_gallery

ODD = "[red]x[/red]<b>\x1b\u202e"


@pytest.mark.parametrize(("total", "count"), [(1000, 12), (1000, 10), (7, 7), (60, 1)])
def test_random_images_are_spread_over_the_set(total: int, count: int) -> None:
    indices = spread(total, count)
    assert indices == spread(total, count)
    for k, index in enumerate(indices):
        assert k * total // count <= index < (k + 1) * total // count


def test_images_are_chosen_once_by_score_and_at_random() -> None:
    scores = np.random.default_rng(0).random(100)
    scores[:50] = np.nan
    chosen = choose(100, 9, {"high": scores, "low": 1 - scores, "none": np.full(100, np.nan)})
    order = np.argsort(-np.nan_to_num(scores, nan=-1))
    assert chosen["high"] == order[:2].tolist() and chosen["low"] == order[:50][:-3:-1].tolist()
    assert list(chosen) == [RANDOM, "high", "low"] and len(chosen[RANDOM]) == 5
    indices = [index for which in chosen.values() for index in which]
    assert len(set(indices)) == len(indices) == 9
    assert choose(5, 9, {}) == {ALL: [0, 1, 2, 3, 4]} and choose(100, 0, {"high": scores}) == {}
    assert len(choose(100, 3, {"high": scores}, each=3)["high"]) == 3


def test_rows_agree_with_model_cams_and_measures(splits: data.Splits) -> None:
    test = splits.test.subset([3, 5, 8, 13])
    torch.manual_seed(0)
    model = models.create("wrn-10-0.5", 10).eval()
    (batch,) = data.create_loader(test, 4, masks=True, device="cpu").epoch(0)
    options = {"mean": test.mean, "std": test.std, "names": test.classes, "threshold": 0.4, "margin": 1}
    classes = torch.tensor([[1, 7]]).expand(4, -1)
    rows = explain_batch(maps.GradCAM(model), batch, test, classes=classes, top=3, label_outputs=range(10), **options)
    cams = maps.GradCAM(model)(batch.images, classes)
    with torch.no_grad():
        probabilities = model(batch.images).double().softmax(1)
    for i, row in enumerate(rows):
        assert np.array_equal(row.cells[0].pixels, test.images[i].permute(1, 2, 0).numpy())
        assert row.label == test.classes[test.labels[i]]
        assert [score.index for score in row.likeliest] == probabilities[i].topk(3).indices.tolist()
        for k, (cell, record) in enumerate(zip(row.cells, row.to_records(), strict=False)):
            expected = bias.measure(cams[i, k][None], batch.masks[i][None], 0.4, margin=1)
            for name, values in expected.items():
                assert cell.measures[name] == pytest.approx(values.item(), nan_ok=True)
                assert (
                    record[name] == pytest.approx(values.item(), rel=1e-5)
                    if not math.isnan(values)
                    else record[name] is None
                )
            assert cell.explained.index == (1, 7)[k]
            assert cell.explained.probability == pytest.approx(probabilities[i, cell.explained.index].item(), rel=1e-4)
            assert cell.correct == (row.likeliest[0].index == test.labels[i])
            assert cell.result in ("position bias", "range bias", "inside", "constant map")
            assert cell.measures["position_bias"] == (cell.result == "position bias")
    gallery = Gallery(["a", "b"] * 2)
    gallery.add_models({RANDOM: [0, 1], "others": [2, 3]}, [rows, rows])
    assert [len(row["cells"]) for row in gallery.groups["others"]] == [4, 4]


def cell(region: bool = True, cam: float = 1.0, predicted: int = 1) -> Cell:
    pixels, mask = np.zeros((8, 8, 3), dtype=np.uint8), np.eye(8, dtype=bool)
    scores = [ClassScore(i, name, 0.5) for i, name in enumerate(("cat)", ODD))]
    measures = {"position_bias": False, "range_bias": True, "spill": 0.25, "energy_inside": math.nan} if region else {}
    return Cell(pixels, mask if region else None, cam * mask, 0.5, scores[0], scores[predicted], False, measures)


def test_cells_name_their_result() -> None:
    assert [one.result for one in (cell(), cell(region=False), cell(cam=0))] == ["range bias", "", "constant map"]


def test_a_gallery_limits_its_rows_and_escapes_names() -> None:
    gallery = Gallery(["a\nb", ODD], measures=("spill", "energy_inside"), limit=6)
    for i in range(3):
        gallery.add(Row(i, f"{i}{ODD}", ODD, (cell(), cell()), ()), "heading")
    assert len(gallery) == 2 and gallery.omitted == 1 and gallery.regions
    for row in gallery.groups["heading"]:
        for drawn in row["cells"]:
            assert drawn["numbers"] == [("spill", "0.25")] and drawn["class"] == "cat)" and drawn["wrong"]
            assert all(text.isprintable() for text in (drawn["alt"], drawn["predicted"], drawn["model"], row["name"]))


@pytest.mark.slow
def test_cells_of_a_run_agree_with_bias_evaluate(make_run, splits: data.Splits, monkeypatch) -> None:
    run = make_run("student")
    measured = bias.evaluate(run.model(), splits.test)
    measured.save(run.folder / "bias.json")
    rows: list[Row] = []
    monkeypatch.setattr(Gallery, "add", lambda _, row, heading="": rows.append(row))
    _, _, notes = runs_gallery(report.collect([run.folder])[0], 0, splits.test, images=20)
    assert len(rows) == 20 and notes == []
    for row in rows:
        (run_cell,) = row.cells
        expected = {name: values[row.index] for name, values in measured.rows.items()}
        assert run_cell.correct == expected["correct"] and run_cell.explained.index == expected["explained"]
        for name in run_cell.measures:
            assert run_cell.measures[name] == pytest.approx(expected[name], nan_ok=True, abs=1e-5)


def test_different_images_have_the_largest_range_of_energy_inside(make_run, splits) -> None:
    networks = report.collect([make_run(name).folder for name in "abc"])[0]
    energies = np.stack([network.bias.rows["energy_inside"] for network in networks])
    chosen = choose_images(networks, splits.test, 12, 4)
    assert chosen[DIFFERENT] == np.argsort(-np.ptp(energies, axis=0))[:4].tolist() and len(chosen[RANDOM]) == 12
    assert list(choose_images(networks[:1], splits.test, 12, 4)) == [RANDOM]


def test_networks_missing_from_the_gallery_have_notes(make_run, recipe, splits) -> None:
    other = replace(recipe.data, options=recipe.data.options | {"seed": 1})
    fewer = replace(recipe.data, train_images=20, mean=None, std=None)
    runs = [make_run("base"), make_run("unfinished", weights=False), make_run("elsewhere", data=other)]
    runs.append(make_run("fewer", data=fewer))
    results = report.collect([run.folder for run in runs])[0]
    gallery, networks, notes = runs_gallery(results, 0, splits.test, images=2, different=0)
    assert [network.name for network in networks] == ["base", "fewer"] and len(gallery) == 2
    assert [note.about for note in notes] == ["unfinished", "elsewhere"]
    bare, *_ = runs_gallery(results[:1], 0, replace(splits.test, regions=None), images=2)
    assert not bare.regions and bare.groups[RANDOM][0]["cells"][0]["result"] == ""
