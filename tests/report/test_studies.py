"""The studies of gates and groups: tables, plain numbers, and pages that need nothing but themselves."""

from __future__ import annotations

import json
import math
from io import StringIO

import pytest
import torch
from rich.console import Console

from regard import attention, models, report
from regard.errors import InputError
from regard.report import figures
from regard.report.group_study import class_scores
from regard.report.studies import counted, shown_classes, some_classes
from regard.studies import gate_activations, group_scores

NAMES = ("cat", "<dog>", "plane", "pug", "ship", "tree", "zebra", "eel", "ant", "bee")


@pytest.fixture(scope="module")
def batches():
    draw = torch.Generator().manual_seed(0)
    return [(torch.randn(24, 3, 16, 16, generator=draw), torch.arange(24) % 8)]


def network(**options):
    torch.manual_seed(3)
    model = models.create("wrn-10-0.5", 10, attention="shuffle", attention_options={"groups": 2, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def gates(batches):
    return [
        report.GateStudy("shuffled & <b>", gate_activations(network(), batches)),
        report.GateStudy("in order", gate_activations(network(shuffle=False), batches, layers=["group0", "group2"])),
    ]


@pytest.fixture(scope="module")
def groups(batches):
    return [
        report.GroupStudy(name, group_scores(network(shuffle=shuffle), "group1", batches, 8, classes=range(6)))
        for name, shuffle in (("shuffled", True), ("in order", False))
    ]


@pytest.fixture(scope="module")
def checked(parse):
    """The page of a text, if it needs nothing but itself and has no colours or numbers left that mean nothing."""

    def check(text: str):
        page = parse(text)
        page.check_alone()
        assert "#a1b2" not in text and "nan" not in page.text.split()
        return page

    return check


def printed(table) -> str:
    text = StringIO()
    Console(file=text, width=160).print(table)
    return " ".join(text.getvalue().split())


@pytest.mark.slow
def test_the_page_of_gates(gates, tmp_path, checked):
    path = report.write_gates_html(
        gates, tmp_path / "new" / "gates.html", title="Gates", classes=NAMES, data="made up", command="regard gates a b"
    )
    page = checked(path.read_text(encoding="utf-8"))
    assert "24 images of 8 classes, 3 of each, of made up." in page.text
    assert "shuffled & <b>" in page.text and "regard gates a b" in page.text
    chance = gates[0].found.chance_share
    assert chance == pytest.approx(7 / 23) and f"{chance:.3f} by chance alone" in page.text
    for study in gates:
        for layer in study.found.layers.values():
            assert f"{layer.class_share:.3f}" in page.text
            assert f"{study.network}: {layer.channels} channels of ShuffleAttention" in page.text
    assert "–" in page.text  # the second network has no gates in group1
    drawn = [said for said in page.said if "mean over channels" in said]
    assert len(drawn) == 3 + 2
    first = gates[0].found.layers["group0.block0.attention"].by_class
    assert f"all classes {first.overall.mean():.3f}" in drawn[0]
    shown = some_classes(gates[0].found.classes)
    assert len(shown) == 5
    for label in shown:
        assert f"{NAMES[label]} {first.row(label).mean():.3f}" in drawn[0]


@pytest.mark.slow
def test_the_page_of_a_network_at_its_start(batches, tmp_path, checked):
    """Every gate is the same for all images: no share, and the page says why."""
    start = models.create("wrn-10-0.5", 10, attention="shuffle", attention_options={"groups": 2})
    study = report.GateStudy("start", gate_activations(start, batches))
    page = checked(report.write_gates_html([study], tmp_path / "g.html", title="t").read_text(encoding="utf-8"))
    assert "the same for all images: 8 of 8 in group0.block0.attention" in page.text
    assert "class 0" in page.text and "the dotted line" not in page.text
    wide = models.create("wrn-10-0.5", 10, attention="se")
    study = report.GateStudy("one class", gate_activations(wide, batches, classes=[2], of="output"))
    page = checked(report.write_gates_html([study], tmp_path / "g.html", title="t").read_text(encoding="utf-8"))
    assert "3 images of 1 class." in page.text and "The mean output is" in page.text


def test_many_channels_are_drawn_in_runs(tmp_path, checked):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 130, 1), attention.create("ese", 130), torch.nn.Flatten())
    found = gate_activations(model, [(torch.randn(6, 3, 4, 4), torch.arange(6) % 2)])
    text = report.write_gates_html([report.GateStudy("a", found)], tmp_path / "g.html", title="t").read_text()
    assert "more than 64 channels, 64 runs of neighbours" in checked(text).text
    assert "run of about 2 channels" in text


def test_the_table_of_gates(gates):
    text = printed(report.gates_table(gates))
    for study in gates:
        for layer in study.found.layers.values():
            assert layer.name in text and f"{layer.class_share:.3f}" in text
    assert "24 images is between the 8 classes" in text and "0.304 by chance alone" in text


def test_the_numbers_of_gates(gates):
    record = json.loads(json.dumps(report.gates_record(gates, NAMES, [3, 1]), allow_nan=False))
    assert record["classes"]["3"] == {"name": "pug", "images": 3}
    layer = record["networks"][0]["layers"][2]
    found = gates[0].found.layers["group2.block0.attention"]
    assert layer["layer"] == "group2.block0.attention" and layer["channels"] == 32
    assert layer["input_channels"] == found.order.tolist()
    assert record["networks"][1]["layers"][1]["input_channels"] is None
    assert list(layer["by_class"]) == ["3", "1"]
    assert layer["by_class"]["3"]["mean"] == pytest.approx(found.by_class.row(3).tolist(), rel=1e-6)
    assert layer["class_share"] == pytest.approx(found.class_share, rel=1e-6)
    assert layer["quantiles"]["0.5"] == pytest.approx(found.by_class.overall.quantile(0.5).item(), rel=1e-6)


def test_the_page_of_groups(groups, tmp_path, checked):
    path = tmp_path / "groups.html"
    report.write_groups_html(
        groups, path, title="Groups", classes=NAMES, shown=[1, 3], data="made up", command="regard"
    )
    page = checked(path.read_text(encoding="utf-8"))
    assert "18 images of 6 classes, 3 of each, of made up." in page.text
    assert "shuffled: group1, 8 groups; in order: group1, 8 groups." in page.text
    assert "<dog>" in page.text and "pug" in page.text and "plane" not in page.text
    for study in groups:
        for label in (1, 3):
            own = class_scores(study.found, label)
            best = own.groups[own.order[0]]
            assert f"{own.order[0] + 1}: {100 * best.value:.1f}%" in page.text
            assert f"{100 * best.low:.1f} to {100 * best.high:.1f}" in page.text
            said = f"{study.network}, {NAMES[label]}: whole image {100 * own.whole.value:.1f}%"
            assert any(one.startswith(said) for one in page.said)
    assert "Without score" not in page.text


def test_scores_of_a_class(groups):
    found = groups[0].found
    own = class_scores(found, 3)
    row = found.classes.index(3)
    means, errors = found.scores.mean[row].tolist(), found.scores.standard_error[row].tolist()
    for score, mean, error in zip(own.groups, means, errors, strict=True):
        assert score.value == mean and score.low == pytest.approx(max(0, mean - 1.96 * error))
        assert score.high == pytest.approx(min(1, mean + 1.96 * error))
    assert own.images == 3 and own.flat == 0
    assert [own.groups[i].value for i in own.order] == sorted(means, reverse=True)
    assert own.mean == pytest.approx(sum(means) / 8)


def test_groups_without_a_score(batches, tmp_path, checked):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 8)
    )
    with torch.no_grad():
        model[0].weight[:2] = 0
    studies = [report.GroupStudy("flat", group_scores(model, "0", batches, 2))]
    page = checked(report.write_groups_html(studies, tmp_path / "g.html", title="t").read_text(encoding="utf-8"))
    assert "masks nothing" in page.text
    record = json.loads(json.dumps(report.groups_record(studies), allow_nan=False))
    own = record["networks"][0]["classes"]["5"]
    assert own["scores"][0] is None and own["low"][0] is None and own["images_with_a_score"] == [0, 3]
    with torch.no_grad():
        model[0].weight[:] = 0
    studies = [report.GroupStudy("flat", group_scores(model, "0", batches, 2))]
    checked(report.write_groups_html(studies, tmp_path / "g.html", title="t").read_text(encoding="utf-8"))
    assert "–" in printed(report.groups_table(studies))
    assert math.isnan(class_scores(studies[0].found, 5).mean)


def test_the_table_and_numbers_of_groups(groups):
    text = printed(report.groups_table(groups, NAMES))
    record = json.loads(json.dumps(report.groups_record(groups, NAMES), allow_nan=False))
    assert record["target"] == "label" and [one["groups"] for one in record["networks"]] == [8, 8]
    for study, one in zip(groups, record["networks"], strict=True):
        for label in study.found.classes:
            own = class_scores(study.found, label)
            assert f"{NAMES[label]} {study.network} 3 {100 * own.whole.value:.1f} {100 * own.mean:.1f}" in text
            assert one["classes"][str(label)]["scores"] == pytest.approx([s.value for s in own.groups], rel=1e-6)


def test_classes_to_show():
    assert some_classes(range(1000)) == [100, 300, 500, 700, 900]
    assert some_classes([4, 7]) == [4, 7]
    assert shown_classes([1, 2, 3], [3, 1, 3]) == [3, 1]
    assert counted((4, 4, 4), "x") == "12 images of 3 classes, 4 of each, of x"
    assert counted((1000, 2), "") == "1,002 images of 2 classes, 2 to 1,000 of each"
    with pytest.raises(InputError, match="class 9 is not among those counted: 1, 2, 3"):
        shown_classes([1, 2, 3], [9])
    with pytest.raises(InputError, match="8 classes to show"):
        shown_classes(range(10), range(8))


@pytest.mark.slow
def test_wrong_input_loses_nothing(gates, groups, batches, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    other = report.GateStudy("other", gate_activations(network(), batches, classes=[1, 2]))
    output = report.GateStudy("output", gate_activations(network(), batches, of="output"))
    for given in ([], [gates[0], other], [gates[0], output]):
        for make in (
            lambda own: report.write_gates_html(own, path, title="t"),
            report.gates_table,
            report.gates_record,
        ):
            with pytest.raises(InputError):
                make(given)
    few = report.GroupStudy("few", group_scores(network(), "group1", batches, 8, classes=[1]))
    for given in ([], [groups[0], few]):
        with pytest.raises(InputError):
            report.write_groups_html(given, path, title="t")
    with pytest.raises(InputError, match="class 77"):
        report.write_gates_html(gates, path, title="t", shown=[77])
    assert path.read_text() == "before"
    with pytest.raises(InputError, match="cannot write"):
        report.write_groups_html(groups, path / "inside.html", title="t")


def test_figures_take_their_colours_from_the_page():
    rows = [figures.Profile(i, [0.5], [0.0], [0.1, 0.2]) for i in range(8)]
    drawn = [
        figures.profiles(rows, (0, 1), 0.1, "channel", 'a "caption"', "s1"),
        figures.depths([figures.Series(i, [1, 2], [0.1, float("nan")]) for i in range(8)], 0.01, 'a "caption"', "s2"),
        figures.columns([figures.Bar("", 7, 50, 40, 60)] * 3, 70, 100, 'a "caption"', "s3"),
    ]
    for svg in drawn:
        assert "var(--net-7)" in svg and "#a1b2" not in svg and "#0a0b0c" not in svg
        assert 'aria-label="a &quot;caption&quot;"' in svg and "http:" not in svg and "<style" not in svg
