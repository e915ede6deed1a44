"""The pages and tables of gates and of channel groups."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.snapshots import check_snapshot

from regard import models, report
from regard.errors import InputError
from regard.report.studies import classes_to_draw, spread_classes
from regard.studies import gate_activations, group_scores

NAMES = ("cat)", "<dog>", "[red]x[/red]", "$x$", "ship", "tree", "zebra", "eel")


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(24, 3, 16, 16, generator=generator), torch.arange(24) % 8)]


def network(**options):
    torch.manual_seed(3)
    model = models.create("wrn-10-0.5", 10, attention="shuffle", attention_options={"groups": 2, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def gates(batches):
    return {
        "shuffled & <b>": gate_activations(network(), batches, class_names=NAMES),
        "in order": gate_activations(network(shuffle=False), batches, layers=["group0", "group2"], class_names=NAMES),
    }


@pytest.fixture(scope="module")
def groups(batches):
    return {
        name: group_scores(network(shuffle=shuffle), "group1", batches, 4, classes=range(6), class_names=NAMES)
        for name, shuffle in (("shuffled & <b>", True), ("in order", False))
    }


def printed(table) -> str:
    text = StringIO()
    Console(file=text, width=200).print(table)
    return " ".join(text.getvalue().split())


def test_the_page_of_gates_shows_its_records(gates, tmp_path, parse):
    path = report.write_study_html(gates, tmp_path / "new" / "g.html", labels=[0, 2], data="made up", command="a b")
    page = parse(path.read_text(encoding="utf-8"))
    page.check_self_contained()
    titles = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "role" in attributes]
    assert titles == ["Eta squared by depth; dotted line: expected by chance", *gates, "shuffled & <b>", *gates]
    for record in report.study_records(gates):
        assert f"{record['eta_squared']:.3f}" in page.text and record["network"] in page.text
    assert NAMES[0] in page.text and NAMES[2] in page.text and NAMES[1] not in page.text
    check_snapshot("pages/gates", page.outline)


def test_the_page_of_groups_shows_its_records(groups, tmp_path, parse):
    path = report.write_study_html(groups, tmp_path / "g.html", labels=[1, 3], data="made up", command="a b")
    page = parse(path.read_text(encoding="utf-8"))
    page.check_self_contained()
    titles = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "role" in attributes]
    assert titles == [*groups, *groups]
    for record in report.study_records(groups):
        is_drawn = record["class"] in (NAMES[1], NAMES[3])
        assert (record["class"] in page.text) == is_drawn
        assert not is_drawn or f"{100 * record['whole']:.1f}%" in page.text
    check_snapshot("pages/groups", page.outline)


def test_a_network_of_nan_has_a_page(batches, tmp_path, parse):
    model = network()
    torch.nn.init.constant_(next(model.parameters()), torch.nan)
    results = {"dead": gate_activations(model, batches), "net": gate_activations(network(), batches)}
    page = parse(report.write_study_html(results, tmp_path / "g.html").read_text(encoding="utf-8"))
    assert {record["median"] for record in results["dead"].to_records()} == {None}
    assert "nan" not in page.text.lower().split()


def test_an_untrained_network_has_no_eta_squared(batches, tmp_path, parse):
    start = models.create("wrn-10-0.5", 10, attention="shuffle", attention_options={"groups": 2})
    result = gate_activations(start, batches)
    assert {record["eta_squared"] for record in result.to_records()} == {None}
    text = report.write_study_html({"start": result}, tmp_path / "g.html").read_text(encoding="utf-8")
    page = parse(text)
    page.check_self_contained()
    assert "nan" not in page.text.lower().split()
    assert "Eta squared by depth" not in page.source


def test_terminal_tables_show_the_records(gates, groups):
    text = printed(report.study_table(gates))
    for record in report.study_records(gates):
        assert record["layer"] in text and f"{record['median']:.3f}" in text
    text = printed(report.study_table(groups))
    records = report.study_records(groups)
    assert [record["class"] for record in records] == [*NAMES[:6], *NAMES[:6]]
    for record in records:
        assert record["class"] in text and f"{100 * record['highest']:.1f}" in text
    json.dumps(records, allow_nan=False)


def test_classes_to_draw_are_given_or_spread(gates):
    assert spread_classes(range(1000)) == [100, 300, 500, 700, 900]
    assert spread_classes([4, 7]) == [4, 7]
    assert classes_to_draw(gates, [3, 1, 3]) == [3, 1]
    with pytest.raises(InputError, match="class 9 is not among those counted"):
        classes_to_draw(gates, [9])
    with pytest.raises(InputError, match="8 classes to draw"):
        classes_to_draw(gates, range(8))


def test_wrong_input_keeps_the_existing_page(gates, groups, batches, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    few = gate_activations(network(), batches, classes=[1, 2])
    output = gate_activations(network(), batches, quantity="output")
    for results in ({}, {**gates, "few": few}, {**gates, "output": output}):
        with pytest.raises(InputError):
            report.write_study_html(results, path)
    predicted = group_scores(network(), "group1", batches, 4, classes=range(6), target="predicted")
    for results in ({}, {**groups, "predicted": predicted}):
        with pytest.raises(InputError):
            report.write_study_html(results, path)
    with pytest.raises(InputError, match="class 77"):
        report.write_study_html(gates, path, labels=[77])
    with pytest.raises(InputError, match="not overwritten"):
        report.write_study_html(gates, path)
    assert path.read_text() == "before"
    with pytest.raises(InputError, match="cannot write"):
        report.write_study_html(groups, Path(path, "inside.html"))
