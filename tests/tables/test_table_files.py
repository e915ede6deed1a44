"""Hand-written table files: a one-line error for each mistake, and no content is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from regard.errors import InputError
from regard.tables.fill import fill
from regard.tables.published import PublishedTable, load_table

TABLE = """title: Mine
metrics: [accuracy]
columns: {a: A, b: B, c: C}
comparisons: [[a, b]]
rows:
  r:
    title: R
    a: {published: 1}
    b: {published: 2}
    c: {}
"""

Load = Callable[..., PublishedTable]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """load(old, new, table=TABLE) -> the table, with `old` replaced by `new` in its text."""

    def read(old: str, new: str, table: str = TABLE) -> PublishedTable:
        assert table.count(old) == 1
        path = tmp_path / "mine.yaml"
        path.write_text(table.replace(old, new))
        return load_table(path)

    return read


def check_error(load: Load, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError) as error_info:
        load(old, new)
    text = str(error_info.value)
    assert "mine.yaml: " in text and message in text
    assert text.isprintable() and len(text) < 5000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Mine", "title: Mine\ntitle: Yours", "the key 'title' is given twice (line 2)"),
        ("c: {}\n", "c: {}\n  r: {title: S}\n", "the key 'r' is given twice (line 11)"),
        ("c: {}\n", "c: {}\n  1: {title: S}\n  '1': {title: T}\n", "the key '1' is given twice (line 12)"),
        ("c: C}", "c: C, a: D}", "the key 'a' is given twice (line 3)"),
        ("c: C}", "c: C, true: D, True: E}", "the key 'True' is given twice"),
        ("c: C}", 'c: C, "x\\ny": D, "x\\ny": E}', "the key 'x\\ny' is given twice"),
        ("c: {}", "c: {}\n    a: {published: 3}", "the key 'a' is given twice (line 11)"),
        ("{published: 1}", "{published: 1, published: 2}", "the key 'published' is given twice (line 8)"),
    ],
)
def test_a_repeated_key_is_an_error(load: Load, old: str, new: str, message: str) -> None:
    check_error(load, old, new, message)


def test_a_key_may_override_a_merged_one(load: Load) -> None:
    rows = """rows:
  deep: &deep {<<: &shared {title: R, a: {published: 3}}, title: S}
  other: {<<: *deep, title: T}
"""
    table = load(TABLE[TABLE.index("rows:") :], rows)
    assert table.rows == {"deep": "S", "other": "T"}
    assert table.cells["other", "a"].published == (3,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Mine", "title: Mine\nruns: 0x_", "'0x_' cannot be read (line 2); if it is text, quote it"),
        ("title: Mine", "title: Mine\nruns: 0b_", "'0b_' cannot be read (line 2)"),
        ("title: Mine", "title: Mine\nruns: " + "9" * 5000, "9' cannot be read (line 2)"),
        ("title: Mine", "title: Mine\nruns: 0x" + "f" * 5000, "f' cannot be read (line 2)"),
        ("title: Mine", "title: !!int ''", "'' cannot be read (line 1)"),
        ("title: Mine", "title: !!bool x", "'x' cannot be read (line 1)"),
        ("title: Mine", "title: !!timestamp x", "'x' cannot be read (line 1)"),
        ("title: Mine", 'title: "\\ud800"', "cannot be read (line 1)"),
        ("title: Mine", 'title: "\\U00110000"', "this is no YAML: "),
        ("title: Mine", "title: {", "this is no YAML: "),
        ("title: Mine", "title: " + "[" * 1200, "nested too deep"),
        ("title: Mine", "title: " + "[" * 600 + "]" * 600, "nested too deep"),
        ("title: Mine", "title: " + "{a: " * 600 + "}" * 600, "nested too deep"),
        ("{published: 1}", "{published: 1" + "0" * 400 + "}", "row r, a: published is 1000"),
    ],
)
def test_unreadable_values_are_a_one_line_error(load: Load, old: str, new: str, message: str) -> None:
    check_error(load, old, new, message)


def test_lists_nested_by_reference_are_an_error(load: Load) -> None:
    deep = "".join(f"- &n{index} [*n{index - 1}]\n" for index in range(1, 1000))
    check_error(load, "title: Mine\n", f"title: Mine\nnotes:\n- &n0 [x]\n{deep}", "one of the notes is [")
    deeper = "".join(f"- &n{index} [*n{index - 1}]\n" for index in range(1, 1600))
    check_error(load, "title: Mine\n", f"title: Mine\nnotes:\n- &n0 [x]\n{deeper}", "more than 1,048,576 values")
    check_error(load, "title: Mine\n", f"title: Mine\nmetric:\n- &n0 [x]\n{deep}", "unknown field of a table 'metric'")


@pytest.mark.parametrize("text", ["2024-13-45", "2024-1-5", "2024-01-05 10:00", "="])
def test_dates_are_text(load: Load, text: str) -> None:
    assert load("title: Mine", f"title: {text}").title == text


def test_cyclic_teachers_are_an_error(load: Load) -> None:
    circle = "a: {teacher: b}\n    b: {teacher: a}"
    check_error(load, "a: {published: 1}\n    b: {published: 2}", circle, "row r: the teachers of a, b form a cycle")
    longer = "a: {teacher: b}\n    b: {teacher: c}\n    c: {teacher: a}"
    rest = "a: {published: 1}\n    b: {published: 2}\n    c: {}"
    check_error(load, rest, longer, "row r: the teachers of a, b, c form a cycle")
    from_outside = "a: {teacher: b}\n    b: {teacher: c}\n    c: {teacher: b}"
    check_error(load, rest, from_outside, "row r: the teachers of b, c form a cycle")


def test_a_teacher_may_have_a_teacher(load: Load) -> None:
    table = load("a: {published: 1}\n    b: {published: 2}", "a: {teacher: b}\n    b: {teacher: c}")
    assert [cell.teacher for cell in table.cells.values()] == ["b", "c", None]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Mine", "title:", "a table lacks title"),
        ("title: R", "title:", "row r lacks title"),
        ("c: C}", "c: }", "columns: c lacks a title"),
        ("title: Mine", "title: [x]", "title is ['x']; expected text"),
        ("title: Mine", "title: true", "title is True; expected text, in quotes if need be, or a number"),
        ("title: Mine", "title: Mine\nsource: {x: y}", "source is {'x': 'y'}; expected text"),
        ("title: Mine", "title: Mine\nnotes: [[x]]", "one of the notes is ['x']; expected text"),
        ("title: R", "title: [x]", "the title of row r is ['x']; expected text"),
        ("c: C}", "c: [x]}", "the title of column c is ['x']; expected text"),
        ("{published: 1}", "{note: [x]}", "row r, a: note is ['x']; expected text"),
    ],
)
def test_titles_must_be_text(load: Load, old: str, new: str, message: str) -> None:
    check_error(load, old, new, message)


def test_numbers_are_text_and_null_is_not(load: Load) -> None:
    table = load("{published: 1}", "{note: }", TABLE.replace("Mine", "7\nsource:\nnotes: [one, ~, 2.5]"))
    assert (table.title, table.source, table.cells["r", "a"].note) == ("7", "", "")
    assert table.notes == ("one", "2.5")


@pytest.mark.parametrize("value", ["200", "-5", "100.01", "-0.1", ".inf"])
def test_values_that_are_not_percentages_are_an_error(load: Load, value: str) -> None:
    check_error(load, "published: 1", f"published: {value}", "expected accuracy, %, from 0 to 100")


def test_percentages_include_0_and_100(load: Load) -> None:
    assert load("published: 1", "published: 0").cells["r", "a"].published == (0,)
    assert load("published: 1", "published: 100").cells["r", "a"].published == (100,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[accuracy]", "[top1, top5, top1]", "metrics: top1 is given twice"),
        ("[[a, b]]", "[[a, b], [b, a], [a, b]]", "comparisons: [a, b] is given twice"),
        ("c: C}\ncomparisons: [[a, b]]", "c: C, 1: D}\ncomparisons: [[1, '1']]", "is not a pair of two columns"),
    ],
)
def test_repeated_metrics_and_comparisons_are_an_error(load: Load, old: str, new: str, message: str) -> None:
    check_error(load, old, new, message)


def test_columns_may_be_numbers(load: Load) -> None:
    numbers = """title: Mine
columns: {1: A, 2: B, 2024-01-05: C}
comparisons: [[1, 2], [1, 2024-01-05]]
rows: {r: {title: R, 1: {teacher: 2}, 2: {teacher: 2024-01-05}, 2024-01-05: {}}}
"""
    table = load("Mine", "Numbers", numbers)
    assert [cell.teacher for cell in table.cells.values()] == ["2", "2024-01-05", None]
    check_error(load, TABLE, numbers.replace("teacher: 2}", "teacher: 3}"), "its teacher is in column 3, which the row")
    check_error(load, TABLE, numbers.replace("teacher: 2}", "teacher: 1}"), "row r, 1: it is its own teacher")


def test_column_keys_may_be_any_text(load: Load) -> None:
    table = load("c: C}", "c: C, a=b: D, =1: E, '-1': F}")
    assert list(table.columns) == ["a", "b", "c", "a=b", "=1", "-1"]


def test_costs_are_unbounded_and_not_compared(load: Load) -> None:
    metrics = "metrics: [accuracy, parameters, gflops]"
    rows = TABLE.replace("{published: 1}", "{published: [1, 149.2, 4.13]}").replace(
        "published: 2", "published: [2, 1, 1]"
    )
    table = load("metrics: [accuracy]", metrics, rows)
    assert table.cells["r", "a"].published == (1, 149.2, 4.13)
    assert [comparison.metric.name for comparison in fill(table, []).comparisons] == ["accuracy"]
