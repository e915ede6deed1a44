"""The page of published tables and our runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import filled_tables as made_up
from support.snapshots import check_snapshot

from regard import stats
from regard.errors import InputError
from regard.formatting import p_value
from regard.report import write_tables_html
from regard.report.tables_page import charts
from regard.tables import corrected_together


def test_the_page_has_numbers_labels_and_notes(tmp_path: Path, parse) -> None:
    page = parse(write_tables_html([made_up.full()], tmp_path / "new" / "page.html").read_text())
    for text in (
        "CIFAR-10, SE 94.57 94.56 ± 0.10 (5)",
        "STL-10, SE 83.81† –",
        "STL-10, LSAS-SE – no recipe",
        "CIFAR-10: LSAS-SE − SE +0.44 +0.44 (+0.38 to +0.50) < 0.001 significant, compatible with published",
        "0: 94.50, 1: 94.61, 2: 94.55, 3: 94.70, 4: 94.44",
    ):
        assert text in page.text
    assert 'class="good">significant, compatible' in page.source.replace('class="text good"', 'class="good"')
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2")][:1] == ["h1"]
    assert "from 3 seeds on" not in page.text and 'id="term-p"' in page.source  # the glossary explains it
    check_snapshot("pages/tables", page.outline)
    assert not re.search(r"(src|href)=\"(?!#)", page.source)


def test_figures_have_every_seed_and_the_published_value() -> None:
    values, differences = (figure.axes[0] for _, figure in charts(made_up.full()))
    points = {line.get_marker(): [] for line in values.lines}
    for line in values.lines:
        points[line.get_marker()].append([float(x) for x in line.get_xdata()])
    assert points["|"] == [made_up.SE, made_up.LSAS]
    assert points["D"] == [[94.57], [95.01]]
    assert [x for line in differences.lines if line.get_marker() == "D" for x in line.get_xdata()] == [
        pytest.approx(0.44)
    ]
    # A long row name would hide the compared columns, so the title has it.
    assert [text.get_text() for text in differences.texts] == ["LSAS-SE − SE", "+0.440"]


def test_incomparable_values_are_drawn_without_published_ones() -> None:
    axes = {title: figure.axes[0] for title, figure in charts(made_up.several())}
    assert not any(line.get_marker() == "D" for line in axes["ResNet-50"].lines)
    assert any(line.get_marker() == "D" for line in axes["ResNet-50: differences"].lines)


def test_several_tables_are_linked(tmp_path: Path, parse) -> None:
    tables = [made_up.full(), made_up.several(), made_up.full()]
    page = parse(write_tables_html(tables, tmp_path / "p.html").read_text())
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and "#table" in attributes["href"]]
    assert links == ["#table-1-lsas-2", "#table-2-sanet-1", "#table-3-lsas-2"]
    ids = [attributes.get("id") for tag, attributes in page.tags if tag == "section"]
    assert [f"#{anchor}" for anchor in ids[:1]] == links[:1] and {link[1:] for link in links} <= set(ids)
    assert "<title>Mine</title>" in write_tables_html(tables[:1], tmp_path / "q.html", title="Mine").read_text()


def test_comparisons_of_all_tables_are_corrected_together(tmp_path: Path, parse) -> None:
    full, several = made_up.full(), made_up.several()
    page = parse(write_tables_html([full, several], tmp_path / "p.html").read_text())
    differences = [one for table in (full, several) for one in table.differences.values()]
    expected = stats.holm(dict(enumerate(differences)))
    corrected = corrected_together([full, several])
    adjusted = [one.difference.p_adjusted for table in corrected for one in table.comparisons]
    assert adjusted == [one.p_adjusted for one in expected.values()]
    assert any(one.p_adjusted != one.p for one in expected.values() if one.p is not None)
    for one in expected.values():
        assert one.p is None or p_value(one.p_adjusted) in page.text


def test_hostile_titles_are_escaped(tmp_path: Path, parse) -> None:
    filled = made_up.filled(made_up.table(title=made_up.NASTY, rows={"cifar10": made_up.NASTY, "stl10": "\x1b[0m"}))
    page = parse(write_tables_html([filled], tmp_path / "page.html").read_text())
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "A|B & C <script>alert(1)</script> 100% of_it $x$" in page.text
    assert "\x1b" not in page.source


def test_an_empty_table_has_no_figures(tmp_path: Path, parse) -> None:
    page = parse(write_tables_html([made_up.filled(made_up.table())], tmp_path / "page.html").read_text())
    assert "CIFAR-10, SE 94.57 –" in page.text and "no runs" in page.text
    assert not [tag for tag, _ in page.tags if tag == "svg"]


def test_unwritable_pages_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        write_tables_html([], tmp_path / "page.html")
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        write_tables_html([made_up.full()], tmp_path / "file" / "page.html")
