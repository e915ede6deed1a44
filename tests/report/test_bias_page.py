"""The page of bias reports: the numbers of the reports and nothing else, whatever the reports hold."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from regard import bias, report
from regard.bias.results import COLUMNS
from regard.errors import InputError
from regard.report import breakdown, sights, wording
from regard.report.contrast import Contrast
from regard.stats import Difference, Estimate

CLASSES = ("cat", "dog", "cow")


def made(
    model: str = "net",
    *,
    seed: int = 0,
    images: int = 90,
    classes: Sequence[str] = CLASSES,
    position: float = 0.3,
    flat: float = 0.0,
    empty: float = 0.0,
    scored: bool = True,
    **fields: object,
) -> bias.Results:
    """A report with rows drawn at random; what is of the images is the same for all models."""
    of_images, draw = np.random.default_rng(99), np.random.default_rng(seed)
    area = of_images.uniform(0.01, 0.6, images)
    area[of_images.random(images) < empty] = 0
    labels = of_images.integers(0, len(classes), images)
    right = (draw.random(images) < 0.7) & scored
    dull = draw.random(images) < flat
    away = (draw.random(images) < position) | dull | (area == 0)
    energy = np.where(area > 0, draw.random(images), 0)
    rows = {name: draw.random(images) for name, dtype in COLUMNS.items() if dtype is np.float32}
    predicted = np.where(right, labels, (labels + 1) % len(classes))
    rows |= {
        "label": labels,
        "predicted": predicted,
        "explained": predicted,
        "correct": right,
        "position_bias": away,
        "range_bias": ~away & (draw.random(images) < 0.5),
        "spill": np.where(dull, np.nan, rows["spill"]),
        "auc": np.where(area > 0, rows["auc"], np.nan),
        "energy_inside": np.where(dull, np.nan, energy),
        "pointing": ~away,
        "region_area": area,
        "constant": dull,
    }
    settings = {"keys": [f"{i}.jpg" for i in range(images)], "provenance": {"fit": {"size": [8, 8]}}, **fields}
    settings["keys"] = tuple(settings["keys"])
    return bias.Results(
        model, "farm", "val", "gradcam", "layer4", "predicted", 0.5, tuple(classes), rows, scored=scored, **settings
    )


def against_first(reports: Sequence[bias.Results]) -> list[bias.Comparison]:
    return bias.compare_all(reports)[0]


def shown(reports: Sequence[bias.Results], count: int = 12, side: int = 8) -> list[report.Sight]:
    draw = np.random.default_rng(0)
    picture = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
    region = np.zeros((side, side), dtype=bool)
    region[2:5, 2:5] = True
    heats = [draw.random((side, side)) for _ in reports]
    pictures, regions = [picture] * len(reports), [region] * len(reports)
    return [
        report.make_sight(reports, index, why, pictures, regions, heats)
        for index, why in report.choose_sights(reports, count)
    ]


@pytest.fixture(scope="module")
def pair() -> tuple[list[bias.Results], list[bias.Comparison]]:
    """Two reports that differ, and their comparison."""
    reports = [made("a", seed=1, position=0.6), made("b", seed=2, position=0.2)]
    return reports, against_first(reports)


@pytest.fixture
def written(tmp_path, parse):
    """written(reports, **options) -> what is on the page."""

    def write(reports, comparisons=(), **options):
        page = report.write_bias_html(reports, comparisons, tmp_path / "page.html", **{"title": "Made up", **options})
        return parse(page.read_text(encoding="utf-8"))

    return write


def told(rate: Estimate) -> str:
    return f"{100 * rate.value:.1f}% ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def test_the_page_of_one_network_says_what_its_report_says(written, tmp_path):
    one = made(flat=0.1, empty=0.1, skipped=("bad.jpg: cut short",))
    page = written([one], sights=shown([one]), notes=["A note."], command="regard bias net --data farm")
    page.check_alone()
    assert os.listdir(tmp_path) == ["page.html"]
    whole = one.overall
    assert f"net looks away from the object in {told(whole.position_bias)} of {whole.position_bias.n}" in page.text
    assert f"In {told(whole.range_bias)} it looks at the object and past its edge" in page.text
    inside = 1 - whole.position_bias.value - whole.range_bias.value
    assert f"In the other {100 * inside:.1f}% the focus lies inside" in page.text
    assert f"It predicts the right class for {told(whole.accuracy)}" in page.text
    assert f"of the images predicted right, {told(one.right.position_bias)} show position bias" in page.text
    for mean in (whole.means["energy_inside"], whole.means["spill"], whole.means["miss"]):
        assert f"{mean.value:.3f} {mean.low:.3f} to {mean.high:.3f}" in page.text
    for part in (one.right, one.wrong, *one.by_size.values(), *one.by_class.values()):
        rate = part.position_bias
        assert f"{100 * rate.value:.1f}% {100 * rate.low:.1f} to {100 * rate.high:.1f}" in page.text
    assert "small is below 1/16, medium is below 1/4, large the rest" in page.text
    assert f"without a focus: {whole.constant_maps} of 90 (" in page.text
    assert f"region is empty: {whole.empty_regions} of 90 (" in page.text
    assert "1 (bad.jpg: cut short)" in page.text
    assert "A note." in page.text and "regard bias net --data farm" in page.text
    assert "fit size [8, 8]" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 12 * 2
    assert "What the differences mean" not in page.text
    again = written([one], sights=shown([one]), notes=["A note."], command="regard bias net --data farm")
    assert again.source == page.source


def test_several_networks_are_compared_with_the_first(written):
    reports = [made("a", seed=1, position=0.6), made("b", seed=2, position=0.2), made("c", seed=3, position=0.6)]
    found = against_first(reports)
    page = written(reports, found, sights=shown(reports))
    page.check_alone()
    for one, comparison in zip(reports[1:], found, strict=True):
        assert f"{one.model}: position bias in {told(one.position_bias)}" in page.text
        names = {"accuracy": "accuracy", "position_bias": "position bias", "range_bias": "range bias"}
        for key, name in names.items():
            difference = comparison.differences[key]
            size = f"{abs(100 * difference.value):.1f} points"
            way = "higher" if difference.value > 0 else "lower"
            assert (f"{name} {way} by {size}" if difference.significant else f"{name} ") in page.text
        energy = comparison.differences["energy_inside"]
        assert f"{energy.low:+.3f} to {energy.high:+.3f}".replace("-", "−") in page.text
        assert all(f"{one.model}: {note}" in page.text for note in comparison.notes)
    measures = ("accuracy", "position_bias", "range_bias", "pointing", "energy_inside", "spill", "auc")
    headline = [comparison.differences[name] for comparison in found for name in measures]
    significant = sum(line.significant for line in headline)
    assert 0 < significant < len(headline)  # the case is not trivial
    assert f"Significant: {significant} of {len(headline)} " in page.text
    assert f"Not significant: {len(headline) - significant} of {len(headline)} " in page.text
    assert "a reference" in page.text and "b reference" not in page.text


def test_an_end_that_leaves_zero_out_is_not_written_as_zero():
    def written(low: float, high: float, **options) -> tuple[str, str, str]:
        paired = Difference((low + high) / 2, low, high, 0.04, 0.04 if low > 0 or high < 0 else 1, 90)
        line = Contrast("spill", paired, **options)
        return line.value, line.low, line.high

    assert written(0.0004, 0.03) == ("+1.5", "+0.04", "+3.0")
    assert written(-0.03, -0.0004) == ("−1.5", "−3.0", "−0.04")
    assert written(-0.0004, 0.03) == ("+1.5", "0.0", "+3.0")
    assert written(0.0003, 0.03, points=False) == ("+0.015", "+0.0003", "+0.030")
    assert written(0.0004, 0.0012) == ("+0.08", "+0.04", "+0.12")  # many images


def test_a_comparison_the_wrong_way_round_is_refused(written, pair):
    reports, found = pair
    with pytest.raises(InputError, match="wrong way round"):
        written(reports[::-1], found)
    with pytest.raises(InputError, match="3 reports"):
        written([*reports, made("c")], found)
    assert "No two networks here can be compared" in written(reports, [None]).text
    assert "No two networks here can be compared" in written(reports, []).text


def test_without_scores_there_is_no_accuracy_and_it_is_said_why(written):
    outputs = tuple(f"output {i}" for i in range(7))
    reports = [made("a", scored=False, outputs=outputs), made("b", seed=2, scored=False, outputs=outputs)]
    page = written(reports, sights=shown(reports))
    assert "The labels of farm val are not outputs of the networks, so accuracy is not measured" in page.text
    assert "Accuracy" not in page.text.replace("Accuracy counts all images", "")
    assert "predicted right" not in page.text and "✗" not in page.text.replace("with ✗ where", "")
    assert "The least energy inside the region for a: the worst, not typical" in page.text
    mixed = written([made("c"), *reports[1:]])
    assert "are not outputs of b, so accuracy is not measured" in mixed.text


def test_what_is_allowed_for_is_said(written):
    assert "counts as inside it" not in written([made()]).text
    page = written([made(margin=3, tolerance=1), made("b", margin=5)])
    assert "A focus that goes at most 3 or 5 pixels beyond the region counts as inside it." in page.text
    assert "a highest value at most 0 or 1 pixels from the region is in it." in page.text
    assert "margin 3 pixels net 5 pixels b" in page.text


def test_a_focus_that_is_hardly_ever_inside_is_explained(written):
    rows = made().rows
    wide = {**rows, "range_bias": ~rows["position_bias"]}
    one = replace(made(), rows=wide)
    said = "Hardly any focus lies inside its region."
    assert said in written([one]).text
    assert said not in written([one, made("b")]).text


def test_names_are_harmless(written):
    evil = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }} $x$ &amp;", "a\x1b[31m\u202eb")
    keys = [f"{evil[i % 4]}{i}" for i in range(90)]
    reports = [made(name, classes=evil, keys=keys, skipped=evil, seed=i) for i, name in enumerate(evil[:3])]
    page = written(reports, sights=shown(reports), notes=["<b>bold</b>"], command=evil[0], title=evil[1])
    page.check_alone()
    assert "\x1b" not in page.source and "\u202e" not in page.source
    for name in (*evil[:3], "<b>bold</b>"):
        assert name in page.text


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_to_compare_is_said(written, count):
    reports = [made(f"dead {i}", flat=2.0, seed=i) for i in range(count)]
    page = written(reports, [None] * (count - 1), sights=shown(reports))
    page.check_alone()
    assert "no map that can be held against a region: each is constant, or the region is empty." in page.text
    assert "without a focus: 90 of 90" in page.text
    assert "nan" not in page.text.lower().split()
    assert "no focus" in page.text


def test_one_image(written):
    one = made(images=1, classes=("only",))
    page = written([one], sights=shown([one]))
    page.check_alone()
    assert "For 1 image of farm val" in page.text and "All images" in page.text
    assert "nan" not in page.text.lower().split()
    assert "By class" not in page.text


def test_a_set_without_classes(written):
    one = made(classes=("a",), images=30)
    rows = {**one.rows, "label": np.full(30, -1)}
    bare = bias.Results("net", "farm", "", "gradcam", "", "predicted", 0.5, (), rows, outputs=("a", "b"), scored=False)
    page = written([bare], sights=shown([bare]))
    page.check_alone()
    assert "By class" not in page.text and "that of the method" in page.text


def test_many_classes_leave_the_most_biased_with_enough_images(written):
    names = [f"kind {i}" for i in range(300)]
    reports = [made("a", images=4000, classes=names), made("b", images=4000, classes=names, seed=1)]
    found = breakdown.classes(reports)
    assert (len(found.rows), found.total) == (20, 300)
    lows = [np.mean([summary.position_bias.low for summary in row.summaries]) for row in found.rows]
    assert lows == sorted(lows, reverse=True)
    others = [
        np.mean([one.by_class[name].position_bias.low for one in reports])
        for name, summary in reports[0].by_class.items()
        if summary.images >= 10 and name not in {row.name for row in found.rows}
    ]
    assert max(others) <= min(lows) and found.eligible == len(others) + 20
    assert all(row.images >= 10 for row in found.rows)
    page = written(reports)
    assert f"20 of 300 classes: the most biased among the {found.eligible} with at least 10 images" in page.text
    assert found.rows[0].name in page.text


def test_few_classes_are_all_there_by_number_of_images():
    found = breakdown.classes([made()])
    counts = [row.images for row in found.rows]
    assert counts == sorted(counts, reverse=True) and sum(counts) == 90


def test_classes_with_few_images_are_left_out(written):
    labels = np.repeat([0, 1, 2], [60, 21, 9])
    one = made()
    page = written([replace(one, rows={**one.rows, "label": labels})])
    assert "The 2 of 3 classes with at least 10 images, by number of images." in page.text
    assert "cat 60" in page.text and "dog 21" in page.text and "cow 9" not in page.text
    assert "None of the 3 classes has at least 10 images." in written([made(images=9)]).text


def test_the_worst_are_the_worst_and_the_typical_are_drawn():
    one = made(flat=0.2, empty=0.1, images=200)
    chosen = report.choose_sights([one], 12)
    assert chosen == report.choose_sights([one], 12)
    assert len({index for index, _ in chosen}) == 12
    by_reason: dict[str, list[int]] = {}
    for index, why in chosen:
        by_reason.setdefault(why, []).append(index)
    typical, right, wrong = by_reason
    assert typical == sights.TYPICAL and [len(own) for own in by_reason.values()] == [4, 4, 4]
    assert right.startswith("Predicted right") and wrong.startswith("Predicted wrong")
    energy, comparable = one.rows["energy_inside"], ~one.rows["constant"] & (one.rows["region_area"] > 0)
    for why, which in ((right, one.rows["correct"]), (wrong, ~one.rows["correct"])):
        candidates = np.flatnonzero(comparable & which)
        assert by_reason[why] == sorted(candidates, key=lambda i: energy[i])[:4]
    left = sorted(set(range(200)) - set(by_reason[right]) - set(by_reason[wrong]))
    assert [left.index(index) * 4 // len(left) for index in by_reason[typical]] == [0, 1, 2, 3]


def test_where_the_networks_differ_most():
    reports = [made("a", images=200), made("b", images=200, seed=1), made("c", images=200, seed=2)]
    chosen = report.choose_sights(reports, 8)
    apart = [index for index, why in chosen if why.startswith("Where the networks differ")]
    gap = np.ptp(np.stack([one.rows["energy_inside"] for one in reports]), axis=0)
    taken = {index for index, why in chosen if why.startswith("Predicted")}
    assert apart == [i for i in np.argsort(-gap, kind="stable") if i not in taken][:2]
    assert any("right by a, with" in why for _, why in chosen)


@pytest.mark.parametrize(("images", "count"), [(5, 12), (90, 0), (90, 1), (90, 2), (90, 3), (12, 12), (13, 12)])
def test_any_number_of_images_can_be_asked_for(images, count):
    for reports in ([made(images=images)], [made(images=images), made(images=images, seed=1)]):
        chosen = report.choose_sights(reports, count)
        assert len(chosen) == len({index for index, _ in chosen}) == min(images, count)
    if images <= count:
        assert {why for _, why in chosen} == {"All images"}


def test_reports_of_other_images_are_refused(written):
    reports = [made("a"), made("b", images=80)]
    for call in (report.choose_sights, lambda given: written(given, [None])):
        with pytest.raises(InputError, match=r"not\s+of the same images"):
            call(reports)
        with pytest.raises(InputError, match="no bias reports"):
            call([])
    with pytest.raises(InputError, match="0 or more"):
        report.choose_sights(reports[:1], -1)


def test_a_sight_has_the_numbers_of_the_reports():
    one = made(flat=0.2, images=50, outputs=tuple(f"output {i}" for i in range(5)))
    picture, heat, region = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8)), np.ones((8, 8), dtype=bool)
    for index in range(50):
        sight = report.make_sight([one], index, "why", [picture], [region], [heat])
        row = {name: values[index] for name, values in one.rows.items()}
        (view,) = sight.views
        assert (sight.name, sight.label) == (f"{index}.jpg", CLASSES[row["label"]])
        assert (view.predicted, view.wrong) == (f"output {row['predicted']}", not row["correct"])
        expected = "position bias" if row["position_bias"] else "range bias" if row["range_bias"] else "inside"
        assert view.verdict == ("no focus" if row["constant"] else expected)
        assert view.probability == row["probability"]
        assert view.energy == row["energy_inside"] or (math.isnan(view.energy) and row["constant"])
    with pytest.raises(InputError, match="expected one size"):
        report.make_sight([one], 0, "why", [picture], [region[:4]], [heat])
    with pytest.raises(InputError, match="expected 1"):
        report.make_sight([one], 0, "why", [picture, picture], [region], [heat])


def test_each_network_may_see_the_image_its_own_way(written):
    reports = [made("a"), made("b", seed=1)]
    sizes = (8, 12)
    pictures = [np.zeros((side, side, 3), np.uint8) for side in sizes]
    regions = [np.ones((side, side), dtype=bool) for side in sizes]
    heats = [np.ones((side, side)) for side in sizes]
    page = written(reports, sights=[report.make_sight(reports, 3, "why", pictures, regions, heats)])
    assert sum(tag == "img" for tag, _ in page.tags) == 3
    assert any("Image 3.jpg, map of b: class" in (attributes.get("alt") or "") for _, attributes in page.tags)
    with pytest.raises(InputError, match="views of 3.jpg"):
        written(reports, sights=[report.make_sight(reports[:1], 3, "why", pictures[:1], regions[:1], heats[:1])])


def test_eight_networks_fit_with_fewer_images(written):
    reports = [made(f"network {i}", seed=i) for i in range(8)]
    page = written(reports, sights=shown(reports, 60))
    assert sum(tag == "img" for tag, _ in page.tags) == 40 * 9
    assert "20 more were chosen" in page.text


def test_wrong_input_loses_nothing(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    with pytest.raises(InputError):
        report.write_bias_html([], [], path, title="t")
    assert path.read_text() == "before"
    with pytest.raises(InputError, match="cannot write"):
        report.write_bias_html([made()], [], path / "below.html", title="t")


def test_paths_are_shown_without_the_folder_that_all_lie_in(written):
    reports = [made("/runs/sweep/plain"), made("/runs/sweep/se", seed=1)]
    page = written(reports, sights=shown(reports))
    assert "plain: position bias in" in page.text and "by plain, with the least" in page.text
    assert "/runs/sweep/plain" in page.text  # among the settings
    for names in (["resnet50", "resnet18"], ["a=/w/x.pth", "a=/w/y.pth"], ["a/", "a/b"]):
        assert wording.shortened(names) == names
    assert wording.shortened(["runs/a/x", "runs/a/y", "runs/b"]) == ["a/x", "a/y", "b"]
    assert wording.shortened(["/w/net.safetensors"]) == ["net.safetensors"]


def test_the_terminal_table_fits_and_has_the_numbers():
    reports = [made(f"a network with a long name {i}", seed=i, flat=0.1) for i in range(3)]
    reports.append(made("[red]dead[/red]", flat=2.0))
    output = io.StringIO()
    Console(file=output, width=80).print(report.bias_table(reports))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    for one in reports[:3]:
        assert f"{100 * one.position_bias.value:.1f}" in text and f"{one.position_bias.n}" in text
        energy = one.overall.means["energy_inside"]
        assert f"{energy.low:.3f}–{energy.high:.3f}" in text
    assert "…" not in text and "accuracy" in text
    output = io.StringIO()
    Console(file=output, width=80).print(report.bias_table([made(scored=False)]))
    assert "accuracy" not in output.getvalue()
