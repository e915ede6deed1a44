"""The page of published tables and our runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from regard.errors import InputError
from regard.report import tables_page, write_tables_html

made_up = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "tables" / "made_up.py")))


def test_the_page_says_numbers_words_and_notes(tmp_path: Path, parse) -> None:
    page = parse(write_tables_html([made_up.full()], tmp_path / "new" / "page.html").read_text())
    for words in (
        "ResNet164 with SE and with LSAS-SE Source: LSAS (arXiv 2305.05200), table 2. Numbers: accuracy, %; higher is "
        "better. Published: the mean of 3 runs. Runs: 10 finished, data: cifar10.",
        "CIFAR-10, accuracy, %",
        "SE 94.57 94.56 ± 0.10 (5)",
        "LSAS-SE 95.01 95.00 ± 0.15 (5)",
        "SE 83.81† —",
        "LSAS-SE not given no recipe",
        "LSAS-SE against SE CIFAR-10 +0.44 +0.44 +0.38 to +0.50",
        "0.031 reproduced +0.44 points (95% interval +0.38 to +0.50) with 5 seeds",
        "1 comparison without runs STL-10: LSAS-SE against SE; published not given",
        "0: 94.50, 1: 94.61, 2: 94.55, 3: 94.70, 4: 94.44",
        "† The published number was not compared with the source.",
    ):
        assert words in page.text
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings == ["h1"]
    assert not re.search(r"(src|href)=\"?(?!#)", page.source)


def test_every_seed_is_a_dot_beside_the_published_mark(tmp_path: Path, parse) -> None:
    page = parse(write_tables_html([made_up.full()], tmp_path / "page.html").read_text())
    strips = re.findall(r'<svg class="strip-picture"[^>]*role="img".*?</svg>', page.source, re.DOTALL)
    assert [strip.count('class="dot"') for strip in strips] == [5, 5, 0]  # the third is the difference
    assert [strip.count('class="published"') for strip in strips] == [1, 1, 1]
    assert [strip.count('class="reach"') for strip in strips] == [1, 1, 1]
    assert "published 94.57; ours 0: 94.50" in page.said[0]
    assert page.said[2] == "published +0.44; ours +0.44 (+0.38 to +0.50)"
    published = float(re.search(r'class="published" x1="([\d.]+)"', strips[0])[1])
    dots = sorted(float(place) for place in re.findall(r'class="dot" cx="([\d.]+)"', strips[0]))
    # 94.57 lies between the third and the fourth of 94.44, 94.50, 94.55, 94.61, 94.70, a third of the way.
    assert dots[2] < published < dots[3]
    assert (published - dots[2]) / (dots[3] - dots[2]) == pytest.approx(1 / 3, abs=0.03)
    assert (dots[1] - dots[0]) / (dots[4] - dots[0]) == pytest.approx(6 / 26, abs=0.01)


def test_numbers_of_another_setting_are_not_drawn_as_if_they_could_be_compared(tmp_path: Path, parse) -> None:
    page = parse(write_tables_html([made_up.several()], tmp_path / "page.html").read_text())
    assert "Shortened schedules: 16 of 164 epochs; not comparable" in page.text
    assert "Published numbers are of another setting; only their differences are drawn." in page.text
    numbers = page.source[page.source.index('<table class="numbers">') : page.source.index('<table class="verdicts">')]
    assert 'class="dot"' in numbers
    assert 'class="published"' not in numbers
    assert "ResNet-50, top-5, %" in page.text
    assert "6 comparisons without runs" in page.text


def test_several_tables_are_linked_and_have_places_of_their_own(tmp_path: Path, parse) -> None:
    page = parse(
        write_tables_html([made_up.full(), made_up.several(), made_up.full()], tmp_path / "p.html").read_text()
    )
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    places = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    assert links == [f"#{place}" for place in places] == ["#table-1-lsas-2", "#table-2-sanet-1", "#table-3-lsas-2"]
    assert "Published tables and our runs" in page.text
    titled = parse(write_tables_html([made_up.full()], tmp_path / "q.html", title="Mine").read_text())
    assert [tag for tag, _ in titled.tags if tag in ("h1", "h2")] == ["h1", "h2"]
    assert "<title>Mine</title>" in titled.source


def test_nasty_titles_are_text(tmp_path: Path, parse) -> None:
    filled = made_up.filled(made_up.table(title=made_up.NASTY, rows={"cifar10": made_up.NASTY, "stl10": "\x1b[0m"}))
    page = parse(write_tables_html([filled], tmp_path / "page.html").read_text())
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "A|B & C <script>alert(1)</script> 100% of_it $x$" in page.text
    assert "\x1b" not in page.source


def test_an_empty_table_draws_nothing(tmp_path: Path, parse) -> None:
    page = parse(write_tables_html([made_up.filled(made_up.table())], tmp_path / "page.html").read_text())
    assert "SE 94.57 —" in page.text
    assert "2 comparisons without runs" in page.text
    assert not [tag for tag, _ in page.tags if tag == "svg"]
    assert "Every seed" not in page.text


def test_one_seed_and_twenty(tmp_path: Path, parse) -> None:
    runs = {("cifar10", "se"): [94.0], ("cifar10", "lsas-se"): [94 + seed / 20 for seed in range(20)]}
    page = parse(write_tables_html([made_up.filled(made_up.table(), runs)], tmp_path / "page.html").read_text())
    assert "one seed" in page.text
    strips = re.findall(r'<svg class="strip-picture"[^>]*role="img".*?</svg>', page.source, re.DOTALL)
    assert [strip.count('class="dot"') for strip in strips] == [1, 20, 0]
    assert [strip.count('class="reach"') for strip in strips] == [0, 1, 0]


def test_a_wide_interval_of_two_seeds_does_not_hide_the_differences(tmp_path: Path) -> None:
    runs = {("cifar10", "se"): [94.0, 94.0], ("cifar10", "lsas-se"): [94.1, 94.9]}
    source = write_tables_html([made_up.filled(made_up.table(), runs)], tmp_path / "page.html").read_text()
    strip = re.findall(r'<svg class="strip-picture"[^>]*role="img".*?</svg>', source, re.DOTALL)[-1]
    ends = re.search(r'class="reach" x1="([\d.]+)" x2="([\d.]+)"', strip)
    middle = float(re.search(r'class="middle" cx="([\d.]+)"', strip)[1])
    assert (float(ends[1]), float(ends[2])) == (10, tables_page.WIDTH - 10)  # cut off: −4.58 to +5.58
    assert middle - tables_page.WIDTH / 2 > 30


def test_an_interval_that_goes_on_beyond_the_picture_has_an_arrow_there(tmp_path: Path, parse) -> None:
    runs = {
        **{("cifar10", "se"): [94.0, 94.0], ("cifar10", "lsas-se"): [94.1, 94.9]},  # −4.58 to +5.58
        **{("stl10", "se"): [83.0, 83.5, 83.3], ("stl10", "lsas-se"): [83.1, 83.9, 85.0]},  # −1.38 to +2.85
    }
    page = parse(write_tables_html([made_up.filled(made_up.table(), runs)], tmp_path / "page.html").read_text())
    strips = re.findall(r'<svg class="strip-picture"[^>]*role="img".*?</svg>', page.source, re.DOTALL)
    assert [strip.count('class="beyond"') for strip in strips] == [0, 2, 1, 2, 2, 1]
    tips = [re.findall(r'class="beyond" d="M([\d.]+) 13', strip) for strip in strips[4:]]
    assert tips == [["2.0", f"{tables_page.WIDTH - 2}.0"], [f"{tables_page.WIDTH - 2}.0"]]
    assert page.said[4].endswith("; the interval goes on beyond the left and right of the picture")
    assert page.said[5].endswith("; the interval goes on beyond the right of the picture")
    assert "An arrow: the interval goes on beyond the picture." in page.text
    whole = write_tables_html([made_up.full()], tmp_path / "whole.html").read_text()
    assert 'class="beyond"' not in whole and "beyond the" not in whole


def test_the_same_tables_give_the_same_bytes(tmp_path: Path) -> None:
    pages = [write_tables_html([made_up.full(), made_up.several()], tmp_path / name) for name in ("a.html", "b.html")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        write_tables_html([], tmp_path / "page.html")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="give another place"):
        write_tables_html([made_up.full()], tmp_path / "file" / "page.html")
