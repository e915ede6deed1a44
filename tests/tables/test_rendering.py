"""Every rendering says the same numbers and words, and shows nasty titles as they are."""

from __future__ import annotations

import csv
import io
import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from regard.tables.comma_separated import COLUMNS, COMPARISON_COLUMNS, comparisons_csv, csv_text
from regard.tables.contents import contents
from regard.tables.filled import FilledTable
from regard.tables.latex import latex
from regard.tables.markdown import markdown
from regard.tables.published import Cell
from regard.tables.setting import Setting
from regard.tables.terminal import terminal_table

made_up = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("made_up.py"))))


def printed(filled: FilledTable, width: int = 160, **options: bool) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(terminal_table(filled, **options))
    return console.file.getvalue()


def joined(text: str) -> str:
    return " ".join(text.split())


def cells(line: str) -> list[str]:
    """Of a line of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


FORMATS = {"terminal": printed, "narrow": lambda f: printed(f, 80), "markdown": markdown, "latex": latex}
SAID = [
    "ResNet164 with SE and with LSAS-SE",
    "Source: LSAS (arXiv 2305.05200), table 2.",
    "Published: the mean of 3 runs.",
    "Numbers: accuracy, %; higher is better.",
    "Runs: 10 finished, data: cifar10.",
    "The paper trains 164 epochs.",
    "STL-10, LSAS-SE: Printed as a figure only.",
    "The published number was not compared with the source.",
    "No finished run yet.",
    "No recipe: regard has none for this cell.",
    "reproduced",
]


@pytest.mark.parametrize("rendering", FORMATS.values(), ids=FORMATS)
def test_all_formats_say_the_facts_and_the_notes(rendering) -> None:
    text = joined(rendering(made_up.full())).replace("\\%", "%")
    for words in SAID:
        assert words in text
    for number in ("94.57", "95.01", "+0.44", "0.031"):
        assert number in text
    assert "83.81\\dag{}" in text if rendering is latex else "83.81†" in text
    assert "not given" in text
    assert "Shortened" not in text


@pytest.mark.parametrize("rendering", FORMATS.values(), ids=FORMATS)
def test_what_is_left_out_is_said(rendering) -> None:
    text = joined(rendering(made_up.full())).replace("-{}-", "--").replace("\\_", "_")
    assert "Not shown: 2 finished runs with cifar10 (--budget 0.1)." in text
    assert "Not counted: resnet164-se-cifar10-x: optimizer.lr is 0.2, the recipe says 0.1." in text


@pytest.mark.parametrize("rendering", [*FORMATS.values(), csv_text, comparisons_csv])
def test_the_same_runs_give_the_same_text(rendering) -> None:
    for make in (made_up.full, made_up.several):
        assert rendering(make()) == rendering(make())


def test_the_main_table_of_markdown() -> None:
    lines = markdown(made_up.full()).splitlines()
    start = lines.index("|  |  | SE | LSAS-SE |")
    assert lines[start + 1] == "| --- | --- | ---: | ---: |"
    assert [cells(line) for line in lines[start + 2 : start + 6]] == [
        ["CIFAR-10", "published", "94.57", "95.01"],
        ["", "ours", "94.56 ± 0.10 (5)", "95.00 ± 0.15 (5)"],
        ["STL-10", "published", "83.81†", "not given"],
        ["", "ours", "—", "no recipe"],
    ]


def test_comparisons_and_seeds_of_markdown() -> None:
    lines = [cells(line) for line in markdown(made_up.full()).splitlines() if line.startswith("|")]
    assert [
        *("CIFAR-10", "LSAS-SE against SE", "+0.44", "+0.44 (+0.38 to +0.50)", "0.031", "reproduced"),
        "+0.44 points (95% interval +0.38 to +0.50) with 5 seeds, one-sided p = 0.031; "
        "published +0.44, which the interval holds.",
    ] in lines
    assert [
        *("STL-10", "LSAS-SE against SE", "not given", "—", "", "no runs"),
        "No seed has a run in both columns; no difference is published.",
    ] in lines
    assert [
        *("CIFAR-10, SE", "5", "94.55", "94.56 ± 0.10", "94.44 to 94.68"),
        *("0: 94.50, 1: 94.61, 2: 94.55, 3: 94.70, 4: 94.44", "164 epochs"),
        *("lsas/resnet164-se-cifar10 (3f2a9c01)", "0.7.0", "cifar10"),
    ] in lines


def test_a_median_is_shown_where_one_was_published() -> None:
    runs = {("cifar10", "se"): [94.0, 94.1, 96.0]}
    assert "94.10 ± 1.13 (3)" in markdown(made_up.filled(made_up.table(statistic="median"), runs))
    text = markdown(made_up.filled(made_up.table(statistic="mean"), runs))
    assert "94.70 ± 1.13 (3)" in text
    assert "the mean ± the sample standard deviation" in text


def test_one_seed_has_no_deviation_and_no_interval() -> None:
    runs = {("cifar10", "se"): [94.0], ("cifar10", "lsas-se"): [94.5]}
    text = markdown(made_up.filled(made_up.table(), runs))
    assert "| 94.00 (1) | 94.50 (1) |" in text
    assert "| one seed | +0.50 points with 1 seed, which shows no spread; published +0.44. |" in text
    assert "±" not in text.partition("### Notes")[0]
    assert "bootstrap" not in text
    assert "Student" not in text


def test_an_empty_table_shows_the_published_numbers_and_explains_no_statistics() -> None:
    text = markdown(made_up.filled(made_up.table()))
    assert "| CIFAR-10 | published | 94.57 | 95.01 |\n|  | ours | — | — |" in text
    assert "Runs: 0 finished." in text
    assert "Every seed" not in text
    assert "±" not in text
    assert "Shortened" not in text


@pytest.mark.parametrize("rendering", FORMATS.values(), ids=FORMATS)
def test_shortened_schedules_and_other_data_are_said_first(rendering) -> None:
    text = joined(rendering(made_up.several())).replace("\\_", "_")
    assert "Shortened schedules: 16 of 164 epochs; not comparable with the published numbers in absolute terms." in text
    assert "Another setting than the recipes': data.train_images 12000; not comparable" in text
    assert text.index("Shortened") < text.index("76.384")


def test_epochs_of_several_lengths_are_said_as_a_range() -> None:
    published = made_up.table()
    runs = {("cifar10", "se"): [90.0], ("cifar10", "lsas-se"): [91.0]}
    found = made_up.filled(published, runs, epochs=15)
    changed = dict(found.cells)
    changed["cifar10", "se"] = type(changed["cifar10", "se"])(
        **{**changed["cifar10", "se"].__dict__, "epochs": 20, "full_epochs": 200}
    )
    found = FilledTable(published, Setting(0.1), "cifar10", changed)
    assert "Shortened schedules: 15 to 20 of 164 to 200 epochs;" in markdown(found)


def test_a_shortened_schedule_reproduces_nothing() -> None:
    runs = {("cifar10", "se"): made_up.SE, ("cifar10", "lsas-se"): made_up.LSAS}
    assert "| same direction, in another setting |" in markdown(made_up.filled(made_up.table(), runs, epochs=16))
    other = Setting(1, {"data.train_images": 1000})
    text = markdown(made_up.filled(made_up.table(), runs, setting=other))
    assert "| same direction, in another setting |" in text
    assert "Shortened" not in text
    assert "reproduced" not in text


def test_several_metrics_and_a_seed_that_does_not_say_one() -> None:
    text = markdown(made_up.several())
    assert "| ResNet-50 | top-1, %, published | 76.384 | 77.384 |" in text
    assert "|  | top-1, %, ours | 75.20 ± 0.10 (3) | — | — | — | — | 76.33 ± 0.25 (3) | — |" in text
    assert "|  | top-5, %, ours | 92.10 ± 0.10 (3) | — | — | — | — | 93.00 ± 0.14 (2) | — |" in text
    assert "| ResNet-50, top-5, % | SA against plain | +1.25 | +0.95 (−0.96 to +2.86) | 0.250 |" in text


def test_a_metric_that_no_run_says_is_not_shown_as_missing_runs() -> None:
    entries = contents(made_up.filled(made_up.table(), {("cifar10", "se"): [(None,)]})).entries
    assert entries["cifar10", "se", 0].ours == "not measured"
    assert entries["cifar10", "lsas-se", 0].ours == "—"
    assert entries["stl10", "lsas-se", 0].ours == "no recipe"


def test_published_numbers_keep_the_decimals_they_were_printed_with() -> None:
    cells = {("cifar10", "se"): Cell("cifar10", "se", (94.5,)), ("cifar10", "lsas-se"): Cell("cifar10", "se", (94.0,))}
    entries = contents(made_up.filled(made_up.table(cells=cells))).entries
    assert [entry.published for entry in entries.values()] == ["94.5", "94.0"]


def test_the_terminal_keeps_to_its_width() -> None:
    for width in (60, 80, 120, 160):
        for make in (made_up.full, made_up.several):
            assert max(map(len, printed(make(), width).splitlines())) <= width


def test_the_terminal_has_columns_where_they_fit_and_blocks_where_not() -> None:
    wide, narrow = printed(made_up.several(), 160), printed(made_up.several(), 80)
    assert re.search(r"ResNet-50 +top-1, %, published +76\.384 +77\.384 +78\.384", wide)
    assert re.search(r"top-1, %, ours +75\.20 ± 0\.10 \(3\) +— ", wide)
    assert re.search(r"ResNet-50, top-1, % *\n +plain +76\.384 +75\.20 ± 0\.10 \(3\)", narrow)
    assert re.search(r" +SA +81\.384 +76\.33 ± 0\.25 \(3\)", narrow)
    assert "Without runs, as published:\n  ResNet-50, top-1, %: SA against SE +4.00\n" in narrow
    assert "ResNet-101, top-5, %: SA against plain +1.25; SA against SE +1.00\n" in narrow


def test_every_seed_can_be_left_out_of_the_terminal() -> None:
    filled = made_up.full()
    assert "0: 94.50, 1: 94.61, 2: 94.55" in printed(filled)
    short = printed(filled, detail=False)
    assert "Every seed" not in short
    assert "94.56 ± 0.10 (5)" in short


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_shows_nasty_titles_as_they_are(width: int) -> None:
    filled = made_up.filled(
        made_up.table(title="[red]A|B[/red] \x1b[31m%_ [/]", columns={"se": "[b]x", "lsas-se": "y"})
    )
    text = printed(filled, width)
    assert text.startswith("[red]A|B[/red] \\x1b[31m%_ [/]\n")
    assert "[b]x" in text
    assert "\x1b" not in text


def test_markdown_escapes_what_would_break_a_table_or_become_markup() -> None:
    filled = made_up.filled(made_up.table(title=made_up.NASTY, rows={"cifar10": "a|b\nc", "stl10": "<b>"}))
    text = markdown(filled)
    assert text.startswith(
        "## A\\|B &amp; C &lt;script&gt;alert(1)&lt;/script&gt; "
        "100% of\\_it \\$x\\$ \\#1 {y} \\~z^2 \\\\n \\*w\\* \\`v\\`"
    )
    assert "| a\\|b\\\\nc | published |" in text
    assert "| &lt;b&gt; | published |" in text
    main = [line for line in text.partition("###")[0].splitlines() if line.startswith("|")]
    assert [len(cells(line)) for line in main] == [4] * 6


def test_markdown_begins_no_list_within_a_note() -> None:
    notes = ("- a", "+ b", "1. c", "23) d", "-5 e", "+0.4 f", "1.5 g")
    text = markdown(made_up.filled(made_up.table(notes=notes)))
    shown = [line for line in text.partition("### Notes")[2].splitlines() if line][: len(notes)]
    assert shown == [r"- \- a.", r"- \+ b.", r"- 1\. c.", r"- 23\) d.", "- -5 e.", "- +0.4 f.", "- 1.5 g."]


def test_latex_puts_its_notes_below_once() -> None:
    text = latex(made_up.full())
    main = text.partition(r"\end{table}")[0]
    assert main.count(r"\begin{minipage}") == main.count(r"\end{minipage}") == main.count(r"\par\smallskip") == 1


def test_a_star_that_begins_a_line_of_latex_is_no_part_of_the_line_end_before() -> None:
    text = latex(made_up.filled(made_up.table(rows={"cifar10": "CIFAR-10", "stl10": "*STL-10"})))
    assert "{*}STL-10 & published" in text
    assert not re.search(r"\\\\\s*[*\[]", text)


def test_latex_is_balanced_and_escaped() -> None:
    filled = made_up.filled(
        made_up.table(title=made_up.NASTY, rows={"cifar10": "[x] 5 % & more", "stl10": "-- β"}),
        {("cifar10", "se"): made_up.SE},
    )
    text = latex(filled)
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    assert opened.count("table") == opened.count("tabular") == 2
    bare = re.sub(r"\\[\\{}%&$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert [line for line in bare.splitlines() if "%" in line] == [
        "% needs \\usepackage{booktabs,graphicx}",
        *["\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"] * 2,
    ]
    assert "{[}x{]} 5 \\% \\& more & published & 94.57 & 95.01 \\\\" in text
    assert " & ours & 94.56 $\\pm$ 0.10 (5) & --- \\\\" in text
    assert "-{}- $\\beta$ & published & 83.81\\dag{}" in text
    assert "A\\textbar{}B \\& C \\textless{}script\\textgreater{}" in text
    assert "of\\_it \\$x\\$ \\#1 \\{y\\} \\textasciitilde{}z\\textasciicircum{}2 \\textbackslash{}n" in text


def test_latex_has_as_many_cells_in_every_line_as_its_columns() -> None:
    for make in (made_up.full, made_up.several):
        for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", latex(make()), re.DOTALL):
            lines = [line for line in body.splitlines() if line.endswith("\\\\")]
            assert lines
            assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}


def test_csv_reads_back_exactly() -> None:
    values = [94.1 + 1 / 3, 94.3, 95.0]
    published = made_up.table(name='a,"b"\n')
    lines = list(csv.DictReader(io.StringIO(csv_text(made_up.filled(published, {("cifar10", "se"): values})))))
    assert tuple(lines[0]) == COLUMNS
    assert [(line["row"], line["column"]) for line in lines] == list(published.cells)
    first = lines[0]
    assert first["table"] == 'a,"b"\n'
    assert (first["metric"], first["statistic"], first["checked"]) == ("accuracy", "mean", "yes")
    assert float(first["published"]) == 94.57
    assert [float(pair.partition(":")[2]) for pair in first["seeds"].split(";")] == values
    assert [int(pair.partition(":")[0]) for pair in first["seeds"].split(";")] == [0, 1, 2]
    assert (int(first["count"]), float(first["median"])) == (3, 94.1 + 1 / 3)
    assert float(first["mean"]) == pytest.approx(sum(values) / 3)
    assert float(first["low"]) < float(first["mean"]) < float(first["high"])
    assert (first["epochs"], first["full_epochs"], first["recipe"]) == ("164", "164", "lsas/resnet164-se-cifar10")
    assert (first["digest"], first["versions"], first["data"]) == ("3f2a9c01", "0.7.0", "cifar10")
    assert lines[2]["checked"] == "no"
    assert (lines[1]["count"], lines[1]["mean"], lines[1]["seeds"], lines[1]["data"]) == ("0", "", "", "")
    assert (lines[3]["published"], lines[3]["recipe"], lines[3]["epochs"]) == ("", "", "")


def test_csv_of_comparisons() -> None:
    lines = list(csv.DictReader(io.StringIO(comparisons_csv(made_up.full()))))
    assert tuple(lines[0]) == COMPARISON_COLUMNS
    first, second = lines
    assert (first["row"], first["column"], first["against"], first["metric"]) == (
        *("cifar10", "lsas-se"),
        *("se", "accuracy"),
    )
    assert float(first["published"]) == pytest.approx(0.44)
    assert float(first["difference"]) == pytest.approx(0.44)
    assert (first["count"], first["p_greater"], first["p_two_sided"]) == ("5", "0.03125", "0.0625")
    assert first["verdict"] == "reproduced"
    assert (first["p"], first["sides"], first["checked"]) == ("0.03125", "1", "yes")
    assert (second["count"], second["difference"], second["verdict"]) == ("0", "", "no runs")
    assert (second["p"], second["sides"], second["checked"]) == ("", "", "no")
    # Readers that go by position find what was there before where it was.
    assert COMPARISON_COLUMNS.index("why") == 14 and COMPARISON_COLUMNS[-1] == "checked"


def test_twenty_seeds_are_all_there() -> None:
    runs = {("cifar10", "se"): [90 + seed / 8 for seed in range(20)]}
    text = markdown(made_up.filled(made_up.table(), runs))
    assert "91.19 ± 0.74 (20)" in text
    assert "18: 92.25, 19: 92.38 |" in text


def test_unfinished_runs_are_named() -> None:
    found = made_up.filled(made_up.table())
    some = dict(found.cells)
    cell = some["cifar10", "se"]
    some["cifar10", "se"] = type(cell)(**{**cell.__dict__, "unfinished": ("a-seed0", "a-seed1")})
    filled = FilledTable(found.table, None, "", some)
    assert "- Not finished: a-seed0, a-seed1.\n" in markdown(filled)
    assert csv_text(filled).splitlines()[1].split(",")[14] == "a-seed0;a-seed1"


FIVE = {("cifar10", "se"): made_up.SE, ("cifar10", "lsas-se"): made_up.LSAS}
SIX = {("cifar10", "se"): [*made_up.SE, 94.6], ("cifar10", "lsas-se"): [*made_up.LSAS, 95.1]}


def unpublished(values, **options) -> FilledTable:
    cells = {place: Cell(*place, (None,), recipe="lsas/x") for place in FIVE}
    return made_up.filled(made_up.table(cells=cells), values, **options)


def test_the_p_that_is_shown_is_the_one_that_decided() -> None:
    (five,), (six,) = (contents(unpublished(values)).comparisons for values in (FIVE, SIX))
    assert (five.p, five.sides, five.verdict) == ("0.062", 2, "not resolved with 5 seeds")
    assert "two-sided p = 0.062 (5 pairs cannot give less than p = 0.0625; 6 could)" in five.why
    assert (six.p, six.sides, six.verdict, six.tone) == ("0.031", 2, "better", "good")
    published = contents(made_up.full()).comparisons[0]
    assert (published.p, published.sides, published.verdict) == ("0.031", 1, "reproduced")
    (line,) = csv.DictReader(io.StringIO(comparisons_csv(unpublished(FIVE))))
    assert (line["p"], line["sides"], line["p_greater"]) == ("0.0625", "2", "0.03125")


def test_the_note_on_differences_says_which_test_it_is() -> None:
    (one,) = (note for note in contents(made_up.full()).notes if note.startswith("Differences"))
    assert "one-sided in the published direction; it can be below 0.05 from 5 seeds on" in one
    assert "two-sided" not in one and "its interval leaves zero out" in one
    (two,) = (note for note in contents(unpublished(FIVE)).notes if note.startswith("Differences"))
    assert "(two-sided); it can be below 0.05 from 6 seeds on" in two and "one-sided" not in two
    against = {("cifar10", "se"): [75.0, 75.1], ("cifar10", "lsas-se"): [74.0, 74.2]}
    rows = {("stl10", column): values for (_, column), values in FIVE.items()}
    cells = dict(made_up.table().cells)
    cells["stl10", "lsas-se"] = replace(cells["stl10", "lsas-se"], published=(85.0,), recipe="lsas/y")
    (both,) = (
        note
        for note in contents(made_up.filled(made_up.table(cells=cells), {**rows, **against})).notes
        if note.startswith("Differences")
    )
    assert "one-sided where ours goes the published way" in both and "two-sided elsewhere" in both


def test_larger_than_published_is_said_and_good() -> None:
    values = {("cifar10", "se"): made_up.SE, ("cifar10", "lsas-se"): [value + 1 for value in made_up.LSAS]}
    one = contents(made_up.filled(made_up.table(), values)).comparisons[0]
    assert (one.verdict, one.tone) == ("reproduced, larger", "good")


def test_a_run_in_several_rows_counts_once() -> None:
    same = Cell("cifar10", "se", (94.57,), recipe="lsas/one")
    cells = {(row, "se"): replace(same, row=row) for row in ("cifar10", "stl10")}
    found = made_up.filled(made_up.table(cells=cells), {place: made_up.SE for place in cells})
    assert "Runs: 5 finished, data: cifar10." in contents(found).facts
    begun = {place: replace(cell, unfinished=("a-seed7", "b-seed7")) for place, cell in found.cells.items()}
    assert "Not finished: a-seed7, b-seed7." in contents(replace(found, cells=begun)).notes


@pytest.mark.parametrize("unchecked", ["se", "lsas-se"])
@pytest.mark.parametrize("rendering", FORMATS.values(), ids=FORMATS)
def test_a_difference_of_a_number_that_was_not_checked_is_marked(rendering, unchecked: str) -> None:
    cells = dict(made_up.table().cells)
    cells["cifar10", unchecked] = replace(cells["cifar10", unchecked], checked=False)
    for values in (FIVE, {}):
        found = made_up.filled(made_up.table(cells=cells), values)
        text = joined(rendering(found))
        assert ("+0.44\\dag{}" if rendering is latex else "+0.44†") in text
        assert "A difference has the sign if either of its two numbers was not." in text
        assert [line["checked"] for line in csv.DictReader(io.StringIO(comparisons_csv(found)))] == ["no", "no"]
    assert "+0.44†" not in (text := joined(markdown(made_up.full()))) and "A difference has the sign" not in text


def test_a_difference_of_medians_is_not_the_mean_of_differences() -> None:
    said = "The table shows medians; a difference of ours is the mean of those seed by seed"
    table = made_up.table(statistic="median")
    assert f"{said}, a published one that of two medians." in contents(made_up.filled(table, FIVE)).notes
    assert not any(note.startswith("The table shows") for note in contents(made_up.full()).notes)
    assert not any(note.startswith("The table shows") for note in contents(made_up.filled(table)).notes)
    nothing = unpublished(FIVE)
    nothing = replace(nothing, table=replace(nothing.table, statistic="median"))
    assert f"{said}." in contents(nothing).notes


def test_warnings_of_a_table_with_nothing_published_hold_it_against_nothing() -> None:
    said = contents(unpublished(FIVE, epochs=16, setting=Setting(0.1, {"data.train_images": 12_000}))).warnings
    assert said == (
        "Shortened schedules: 16 of 164 epochs.",
        "Another setting than the recipes': data.train_images 12000.",
    )


def test_runs_with_the_same_teacher_are_said_not_to_be_independent() -> None:
    found = made_up.full()
    cell = found.cells["cifar10", "lsas-se"]

    def notes(*teachers: str) -> list[str]:
        seeds = tuple(replace(one, teacher=teacher) for one, teacher in zip(cell.seeds, teachers, strict=True))
        cells = {**found.cells, ("cifar10", "lsas-se"): replace(cell, seeds=seeds)}
        return [note for note in contents(replace(found, cells=cells)).notes if "independent" in note]

    assert notes("t0", "t1", "t2", "t3", "t4") == [] == notes("", "", "", "", "")
    end = "they are not independent."
    assert notes("t1", "t0", "t0", "t2", "t0") == [
        f"3 of 5 runs of CIFAR-10, LSAS-SE learned from the same teacher, t0; {end}"
    ]
    assert [note.partition(";")[0][-2:] for note in notes("t1", "t0", "t0", "t1", "t2")] == ["t0", "t1"]


def test_beside_runs_alone_only_the_signs_that_are_there_are_explained() -> None:
    said = contents(made_up.full())
    for words in (
        "— No finished run yet.",
        "No recipe: regard has none for this cell.",
        "† The published number was not compared with the source.",
        "STL-10, LSAS-SE: Printed as a figure only.",
    ):
        assert words in said.notes and words not in said.notes_with_runs
    assert [note for note in said.notes if note in said.notes_with_runs] == list(said.notes_with_runs)
    assert "The paper trains 164 epochs." in said.notes_with_runs
    assert any(note.startswith("Differences") for note in said.notes_with_runs)
