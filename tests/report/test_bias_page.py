"""The page and tables of bias results show correct numbers for any results."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from support.snapshots import check_snapshot

from regard import bias, report
from regard.bias.rows import COLUMNS, CURVES
from regard.bias.summary import comparable
from regard.errors import InputError
from regard.report import Cell, ClassScore, Gallery, Row, bias_images, bias_page, bias_records
from regard.report.gallery import ALL, DIFFERENT, RANDOM
from regard.report.records import records_table
from regard.stats import Difference

CLASSES = ("cat", "dog", "cow")
ODD = ("cat)", "[red]x[/red]", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a\x1b[31m\u202eb")


def make_results(
    model: str = "net",
    *,
    seed: int = 0,
    images: int = 90,
    classes: Sequence[str] = CLASSES,
    position: float = 0.3,
    constant: float = 0.0,
    empty: float = 0.0,
    scored: bool = True,
    **fields: object,
) -> bias.Results:
    """Results with rows drawn at random; labels and regions are the same for all models."""
    shared, generator = np.random.default_rng(99), np.random.default_rng(seed)
    area = shared.uniform(0.01, 0.6, images)
    area[shared.random(images) < empty] = 0
    labels = shared.integers(0, len(classes), images)
    right = (generator.random(images) < 0.7) & scored
    flat = generator.random(images) < constant
    biased = (generator.random(images) < position) | flat | (area == 0)
    energy = np.where(area > 0, generator.random(images), 0)
    rows = {name: generator.random(images) for name, dtype in COLUMNS.items() if dtype is np.float32}
    predicted = np.where(right, labels, (labels + 1) % len(classes))
    rows |= {
        "label": labels,
        "predicted": predicted,
        "explained": predicted,
        "correct": right,
        "position_bias": biased,
        "range_bias": ~biased & (generator.random(images) < 0.5),
        "spill": np.where(flat, np.nan, rows["spill"]),
        "auc": np.where(area > 0, rows["auc"], np.nan),
        "energy_inside": np.where(flat, np.nan, energy),
        "pointing": ~biased,
        "region_area": area,
        "constant": flat,
    }
    options = {"keys": tuple(f"{i}.jpg" for i in range(images)), "provenance": {"fit": {"size": [8, 8]}}, **fields}
    options = {"threshold": 0.5, **options}
    return bias.Results(
        model,
        "farm",
        "val",
        "gradcam",
        "layer4",
        "predicted",
        classes=tuple(classes),
        rows=rows,
        scored=scored,
        **options,
    )


def gallery(results: Sequence[bias.Results], count: int = 12) -> Gallery:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    result = Gallery([network_results.model for network_results in results], measures=("energy_inside",))
    for heading, indices in bias_images(results, count).items():
        for index in indices:
            score = ClassScore(0, results[0].classes[0], 0.5)
            cell = Cell(pixels, np.eye(8, dtype=bool), np.eye(8), 0.5, score, score, True, {})
            result.add(Row(index, results[0].keys[index], "", (cell,) * len(results), ()), heading)
    return result


@pytest.fixture
def write_page(tmp_path, parse, monkeypatch):
    """write_page(results, **options) -> the page."""
    monkeypatch.setattr(bias_page, "environment", lambda _: {"python": "3"})

    def write(results, **options):
        page = report.write_bias_html(results, tmp_path / "page.html", **{"title": "Made up", **options})
        return parse(page.read_text(encoding="utf-8"))

    return write


def text(estimate) -> str:
    return f"{100 * estimate.value:.1f}% {100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def test_the_page_of_one_network_shows_its_results(write_page, tmp_path):
    results = make_results(constant=0.1, empty=0.1, skipped=("bad.jpg: cut short",))
    options = {"notes": [report.Note("net", "A note.")], "command": "regard bias net --data farm"}
    page = write_page([results], gallery=gallery([results]), **options)
    page.check_self_contained()
    assert os.listdir(tmp_path) == ["page.html"]
    summary = results.overall
    for rate in (summary.accuracy, summary.position_bias, summary.range_bias, summary.pointing):
        assert text(rate) in page.text
    for mean in summary.means.values():
        assert f"{mean.value:.3f} {mean.low:.3f} to {mean.high:.3f}" in page.text
    for part in (results.right, results.wrong, *results.by_size.values(), *results.by_class.values()):
        assert text(part.position_bias) in page.text
    (record,) = bias_records.overview([results])
    assert record["inside"] == pytest.approx(1 - summary.position_bias.value - summary.range_bias.value)
    left_out = {row["reason"]: row for row in bias_records.left_out([results])}
    assert left_out["constant map"]["images"] == summary.constant_maps
    assert left_out["no region"]["images"] == summary.empty_regions
    assert left_out["not readable"]["examples"] == "bad.jpg: cut short" and "bad.jpg: cut short" in page.text
    assert "A note." in page.text and options["command"] in page.text and 'fit {"size": [8, 8]}' in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 12 * 2
    again = write_page([results], gallery=gallery([results]), **options)
    assert again.source == page.source
    check_snapshot("pages/bias", page.outline)


def test_several_networks_are_compared_with_the_first_and_corrected_together(write_page):
    results = [
        make_results("a", seed=1, position=0.6),
        make_results("b", seed=2, position=0.2),
        make_results("c", seed=3, position=0.6),
    ]
    page = write_page(results, gallery=gallery(results))
    page.check_self_contained()
    comparisons, *_ = bias.compare_all(results)
    rates, means = bias_records.differences(results, comparisons)
    differences = [difference for comparison in comparisons for difference in comparison.differences.values()]
    assert len(rates) + len(means) == len(differences) and 0 < sum(
        difference.significant for difference in differences
    ) < len(differences)
    for record in (*rates, *means):
        assert record["significant"] is (record["p_adjusted"] < 0.05)
    for comparison in comparisons:
        position_bias, energy = comparison.differences["position_bias"], comparison.differences["energy_inside"]
        assert f"{100 * position_bias.low:+.1f} to {100 * position_bias.high:+.1f}".replace("-", "−") in page.text
        assert f"{energy.low:+.3f} to {energy.high:+.3f}".replace("-", "−") in page.text
    check_snapshot("pages/bias_of_several", page.outline)


def test_significance_uses_the_adjusted_p(write_page, monkeypatch):
    results = [make_results("a"), make_results("b", seed=1)]
    for p_adjusted, label in ((0.049, "significant"), (0.06, "not significant")):
        difference = Difference(0.1, 0.01, 0.2, 0.03, p_adjusted, 90)
        comparison = bias.Comparison("b", "a", {"position_bias": difference}, ())
        monkeypatch.setattr(bias, "compare_all", lambda _, comparison=comparison: ([comparison], [{}, {}], []))
        page = write_page(results)
        row = page.text[page.text.index("+10.0") :]
        assert row[: row.index("significant")].endswith("not ") is (label == "not significant")


@pytest.mark.parametrize("name", ["second-chance", "chance"])
def test_notes_do_not_depend_on_network_names(write_page, name):
    results = [make_results("a"), make_results(name, seed=1, margin=3, threshold=0.4)]
    (comparison,), *_ = bias.compare_all(results)
    assert len(comparison.notes) == 2
    page = write_page(results, notes=[report.Note(name, "by chance")])
    assert all(note in page.text for note in (*comparison.notes, "by chance"))


def test_a_note_about_several_comparisons_appears_once(write_page):
    results = [make_results("x/a"), make_results("x/b", seed=1, margin=3), make_results("x/c", seed=2, margin=3)]
    (note,) = bias_records.notes(results, bias.compare_all(results)[0])
    assert note.about == "b, a; c, a" and "margin" in note.note
    assert write_page(results).text.count(note.note) == 1


def test_results_that_cannot_be_compared_have_a_note(write_page):
    results = [make_results("a"), make_results("dead", constant=2.0, seed=1)]
    page = write_page(results)
    assert "dead is not compared with a" in page.text and 'id="differences"' not in page.source


def test_without_scores_there_is_no_accuracy(write_page):
    outputs = tuple(f"output {i}" for i in range(7))
    results = [
        make_results("a", scored=False, outputs=outputs),
        make_results("b", seed=2, scored=False, outputs=outputs),
    ]
    page = write_page(results, gallery=gallery(results))
    (note,) = bias_records.notes(results, bias.compare_all(results)[0])
    assert note.about == "a; b" and page.source.count(note.note) == 1
    assert 'data-label="accuracy"' not in page.source and "prediction" not in {
        part["part"].split()[-1] for part in bias_records.parts(results)
    }
    assert list(bias_images(results)) == [RANDOM, "Least energy inside (a)", DIFFERENT]


def test_differing_options_are_shown_per_network(write_page):
    page = write_page([make_results(margin=3, tolerance=1), make_results("b", margin=5)])
    assert "margin 3 net 5 b" in page.text


def test_hostile_names_are_escaped(write_page):
    keys = tuple(f"{ODD[i % len(ODD)]}{i}" for i in range(90))
    results = [make_results(name, classes=ODD, keys=keys, skipped=ODD, seed=i) for i, name in enumerate(ODD)]
    notes = [report.Note(ODD[1], "<b>bold</b>")]
    page = write_page(results, gallery=gallery(results), notes=notes, command=ODD[2], title=ODD[3])
    page.check_self_contained()
    assert "\x1b" not in page.source and "\u202e" not in page.source
    for name in (*ODD[:4], "<b>bold</b>"):
        assert name in page.text
    output = io.StringIO()
    records = [*bias_records.overview(results), *bias_records.classes(results[0], ODD)]
    console = Console(file=output, width=300)
    console.print(records_table(records, [*bias_records.OVERVIEW, *bias_records.CLASSES[:1]]))
    for name in ODD[:4]:
        assert name in output.getvalue()


@pytest.mark.parametrize("count", [1, 2])
def test_constant_maps_alone_give_a_page_without_nan(write_page, count):
    results = [make_results(f"dead {i}", constant=2.0, seed=i) for i in range(count)]
    page = write_page(results, gallery=gallery(results))
    page.check_self_contained()
    assert "nan" not in page.text.lower().split()
    assert [record["images"] for record in bias_records.left_out(results)] == [90] * count


def test_threshold_curves_show_the_measured_rates(write_page):
    torch.manual_seed(0)
    regions = torch.zeros(30, 16, 16, dtype=torch.bool)
    regions[:, 4:12, 4:12] = True
    measures = bias.measure(torch.rand(30, 16, 16), regions)
    results = make_results(images=30)
    values = dict(zip(CURVES, (measures.curves.inside, measures.curves.outside, measures.curves.beyond), strict=True))
    results = replace(results, rows={**results.rows, **{name: curve.numpy() for name, curve in values.items()}})
    charts = dict(bias_page.curves([results]))
    for measure in ("position_bias", "range_bias"):
        line = max(charts[measure.replace("_", " ")].axes[0].lines, key=lambda line: len(line.get_xdata()))
        assert line.get_xdata() == pytest.approx([i / 100 for i in range(1, 101)])
        assert line.get_ydata() == pytest.approx([rate.value for rate in results.curves[measure][1:]])
    page = write_page([results, make_results("b", images=30)])
    assert 'id="thresholds"' in page.source and 'id="thresholds"' not in write_page([make_results()]).source


def test_a_single_image_gives_a_valid_page(write_page):
    results = make_results(images=1, classes=("only",))
    page = write_page([results], gallery=gallery([results]))
    page.check_self_contained()
    assert ALL in page.text and "nan" not in page.text.lower().split() and 'id="classes"' not in page.source


def test_a_set_without_classes_has_no_class_table(write_page):
    results = make_results(classes=("a",), images=30)
    rows = {**results.rows, "label": np.full(30, -1)}
    bare = bias.Results("net", "farm", "", "gradcam", "", "predicted", 0.5, (), rows, outputs=("a", "b"), scored=False)
    page = write_page([bare])
    page.check_self_contained()
    assert 'id="classes"' not in page.source


def test_the_most_biased_of_many_classes_are_listed(write_page):
    names = [f"kind {i}" for i in range(300)]
    results = [make_results("a", images=4000, classes=names), make_results("b", images=4000, classes=names, seed=1)]
    chosen = bias_records.chosen_classes(results)

    def low(name: str) -> float:
        return np.mean([network_results.by_class[name].position_bias.low for network_results in results])

    assert len(chosen) == 20 and [low(name) for name in chosen] == sorted(map(low, chosen), reverse=True)
    enough = [name for name, summary in results[0].by_class.items() if summary.images >= 10]
    assert set(chosen) <= set(enough) and max(map(low, set(enough) - set(chosen))) <= low(chosen[-1])
    page = write_page(results)
    assert chosen[0] in page.text and "left out of the table: 280" in page.text


def test_few_classes_are_all_listed_by_number_of_images():
    results = make_results()
    counts = [record["images"] for record in bias_records.classes(results, bias_records.chosen_classes([results]))]
    assert counts == sorted(counts, reverse=True) and sum(counts) == 90


def test_parts_are_split_by_region_size():
    results = make_results(images=300)
    parts = {record["part"]: record["images"] for record in bias_records.parts([results])}
    area = results.rows["region_area"]
    assert parts["small region"] == (area < 1 / 16).sum() and parts["large region"] == (area >= 1 / 4).sum()


def test_the_gallery_has_extreme_and_random_images():
    results = make_results(constant=0.2, empty=0.1, images=200)
    chosen = bias_images([results], 12)
    assert chosen == bias_images([results], 12) and [len(part) for part in chosen.values()] == [4, 4, 4]
    energy, measured = results.rows["energy_inside"], comparable(results.rows)
    random, right, wrong = chosen.values()
    for indices, which in ((right, results.rows["correct"]), (wrong, ~results.rows["correct"])):
        assert indices == sorted(np.flatnonzero(measured & which), key=lambda i: energy[i])[:4]
    remaining = sorted(set(range(200)) - set(right) - set(wrong))
    assert [remaining.index(index) * 4 // len(remaining) for index in random] == [0, 1, 2, 3]


def test_the_gallery_has_images_with_the_largest_differences():
    results = [
        make_results("a", images=200),
        make_results("b", images=200, seed=1),
        make_results("c", images=200, seed=2),
    ]
    chosen = bias_images(results, 8)
    gap = np.ptp(np.stack([network_results.rows["energy_inside"] for network_results in results]), axis=0)
    others = {index for heading, indices in chosen.items() if "predictions" in heading for index in indices}
    assert chosen[DIFFERENT] == [i for i in np.argsort(-gap, kind="stable") if i not in others][:2]


@pytest.mark.parametrize(("images", "count"), [(5, 12), (90, 0), (90, 1), (90, 2), (90, 3), (12, 12), (13, 12)])
def test_the_gallery_has_the_requested_number_of_images(images, count):
    for results in ([make_results(images=images)], [make_results(images=images), make_results(images=images, seed=1)]):
        indices = [index for part in bias_images(results, count).values() for index in part]
        assert len(indices) == len(set(indices)) == min(images, count)


def test_wrong_input_keeps_the_existing_page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    for results, words in (
        ([], "no bias results"),
        ([make_results("a"), make_results("b", images=80)], "not of the same images"),
        ([make_results()], "page.html"),
    ):
        with pytest.raises(InputError, match=words):
            report.write_bias_html(results, path, title="t")
        assert path.read_text() == "before"
    with pytest.raises(InputError, match="images to show"):
        bias_images([make_results()], -1)


def test_distributions_exclude_constant_maps_and_empty_regions():
    results = make_results(constant=0.2, empty=0.2)
    assert len(bias_page.distributions([results])) == 3 and bias_page.distributions([make_results(constant=2.0)]) == []
    assert not math.isnan(results.rows["energy_inside"][comparable(results.rows)].mean())


def test_the_terminal_table_fits_its_width():
    results = [make_results(f"a network with a long name {i}", seed=i, constant=0.1) for i in range(3)]
    results.append(make_results("[red]dead[/red]", constant=2.0))
    columns = (bias_records.NETWORK, *bias_records.columns(bias_records.BRIEF))
    output = io.StringIO()
    Console(file=output, width=80).print(records_table(bias_records.overview(results), columns))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for network_results in results[:3]:
        assert f"{100 * network_results.position_bias.value:.1f}%" in output.getvalue()
    output = io.StringIO()
    Console(file=output, width=200, markup=False).print(records_table(bias_records.overview(results), columns))
    assert all(network_results.model in output.getvalue() for network_results in results)
