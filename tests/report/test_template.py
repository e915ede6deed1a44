"""Parts that all pages share: the base template, tables of records, notes, how to reproduce a page, the glossary."""

from __future__ import annotations

import re

import pytest
from jinja2 import ChoiceLoader, DictLoader, PackageLoader

from regard.columns import Column
from regard.report import glossary, template
from regard.report.records import Note

PAGE = """{% extends "base.html" %}
{% from "macros.html" import table, notes, facts, repeat, key with context %}
{% block main %}
{{ key(styles) }}
{{ table(records, columns, "A fixed sentence on the [focus] and the [range_bias|second bias].", styles) }}
{{ notes(items) }}
{{ repeat(blocks, [("python", "3"), ("torch", [("1", "a"), ("2", "b")])]) }}
{% endblock %}
"""
HOSTILE = ["<script>alert(1)</script>", "cat)", "[red]x[/red]", "[focus]", "a\x1b[31m\u202eb", "{{ 7 * 7 }} &amp; $x$"]


@pytest.fixture
def page(tmp_path, monkeypatch, parse):
    loader = ChoiceLoader([DictLoader({"try.html": PAGE}), PackageLoader("regard.report")])
    monkeypatch.setattr(template.environment(), "loader", loader)
    records = [
        {
            "network": name,
            "accuracy": 0.5,
            "accuracy_low": 0.25,
            "accuracy_high": 0.75,
            "p": 0.0004,
            "significant": index > 0 or None,
            "empty": None,
        }
        for index, name in enumerate(HOSTILE)
    ]
    columns = [
        Column("network", "network"),
        Column("accuracy", "accuracy", "percent", "accuracy"),
        Column("p", "p", "p"),
        Column("significant", "result", "significant", "significant"),
        Column("empty", "nowhere", "number"),
    ]
    path = template.write_page(
        "try.html",
        tmp_path / "page.html",
        title=HOSTILE[0],
        records=records,
        columns=columns,
        styles={name: index for index, name in enumerate(HOSTILE)},
        items=[Note(name, name) for name in HOSTILE],
        blocks=[template.Repeat(HOSTILE[0], HOSTILE[4])],
    )
    return parse(path.read_text())


def test_a_page_is_escaped_and_self_contained(page):
    page.check_self_contained()
    assert "<script" not in page.source and "\x1b" not in page.source and "\u202e" not in page.source
    for name in (HOSTILE[0], *HOSTILE[1:4], HOSTILE[5]):
        assert page.text.count(name) >= 4  # key, table, and twice in the notes


def test_tables_show_intervals_and_labels_without_empty_columns(page):
    assert "50.0%" in page.text and "25.0 to 75.0" in page.text and "< 0.001" in page.text
    assert page.text.count("not tested") == 1
    assert "nowhere" not in page.text


def test_every_term_on_a_page_is_defined_once(page):
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    links = {(attributes.get("href") or "")[1:] for tag, attributes in page.tags if tag == "a"}
    assert links <= set(anchors)
    assert {"term-focus", "term-range_bias", "term-accuracy", "term-significant", "term-holm"} <= set(anchors)
    assert "term-eta_squared" not in anchors


def test_glossary_links_point_to_its_own_terms():
    for term in glossary.TERMS.values():
        for key, _ in re.findall(r"\[(\w+)(\|[^\]]+)?\]", term.definition):
            assert key in glossary.TERMS
        assert "[" not in glossary.plain(term.definition).replace("[0, 1]", "")
