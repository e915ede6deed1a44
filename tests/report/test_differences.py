"""What is said of the difference of two networks."""

from dataclasses import replace

import pytest

from regard import bias, report
from regard.errors import InputError
from regard.report.caveats import caveats, same_but_for_seed, seeds
from regard.stats import holm
from regard.training import TransferRecipe


def test_significant_after_correction(make_run):
    runs = [make_run("base", correct=0.3, position=0.6)]
    runs += [make_run(f"net{i}", correct=0.1 * i, position=0.15 * (6 - i)) for i in range(1, 7)]
    rows = report.summarize(runs)
    found = report.differences(rows, "base")
    assert len(found.lines) == 3 * 6
    assert {line.significant for line in found.lines} == {True, False}  # the case is not trivial
    for line in found.lines:
        assert line.significant == (line in found.significant)
    shown = {i: line.difference for i, line in enumerate(found.lines)}
    assert holm(shown) == shown  # all that are shown are corrected together


def test_the_difference_is_the_network_minus_the_reference(make_run):
    rows = report.summarize([make_run("low", correct=0.1), make_run("high", correct=0.95)])
    found = report.differences(rows, 0)
    accuracy = found.lines[0]
    assert (accuracy.row.name, accuracy.measure, accuracy.direction) == ("high", "accuracy", "higher")
    expected = bias.compare(rows[1].bias, rows[0].bias)
    for line, name in zip(found.lines, ("accuracy", "position_bias", "range_bias"), strict=True):
        assert replace(line.difference, p_adjusted=None) == replace(expected.differences[name], p_adjusted=None)
    assert report.differences(rows, "high").lines[0].direction == "lower"
    assert report.differences(rows, -1).reference is rows[1]


def test_what_cannot_be_compared_is_named(make_run):
    rows = report.summarize(
        [make_run("a"), make_run("b", measured=False), make_run("c", measured=False), make_run("d")]
    )
    other = replace(rows[3].bias, keys=tuple(f"other {i}" for i in range(60)))
    rows[3] = replace(rows[3], bias=other)
    found = report.differences(rows)
    assert not found.lines
    assert len(found.notes) == 3
    assert found.notes[0].startswith("b is not compared with a: no bias.json in")
    assert "no image in common" in found.notes[2]
    assert "no bias.json in" in report.differences(rows[:2], "b").notes[0]


def test_the_reference_is_a_row(make_run):
    rows = report.summarize([make_run("student")])
    with pytest.raises(InputError, match="did you mean 'student'"):
        report.differences(rows, "studnet")
    with pytest.raises(InputError, match="0 to 0"):
        report.differences(rows, 1)
    assert report.differences(rows).lines == ()


def test_one_seed_each_is_said_and_several_are_used(make_run):
    teachers = [make_run(f"teacher{seed}", seed=seed, correct=0.9) for seed in (0, 1)]
    students = [
        make_run(f"s{seed}", seed=seed, transfer=TransferRecipe(teacher=str(teachers[seed].folder), beta=1e3))
        for seed in (0, 1)
    ]
    one = report.summarize([teachers[0], students[0]])
    assert "was trained once, with one seed" in seeds(one)
    assert same_but_for_seed(one) == []
    several = report.summarize([*teachers, *students])
    assert [[row.name for row in group] for group in same_but_for_seed(several)] == [
        ["teacher0", "teacher1"],
        ["s0", "s1"],
    ]
    assert "trained once" not in seeds(several)
    assert "s0 and s1: two seeds, test accuracy" in seeds(several)
    assert "every other network was trained once" in seeds(several[:3])


def test_what_does_not_fit_together_is_said(make_run):
    good, short = make_run("good"), make_run("short", epochs=2)
    fresh, bare = make_run("fresh", epochs=0), make_run("bare", measured=False)
    other = make_run("other", correct=0.9)
    wrong = make_run("wrong", correct=0.1)
    for name in ("bias.json", "bias.parquet"):
        (wrong.folder / name).rename(other.folder / name)
    assert caveats(report.summarize([good])) == []
    said = caveats(report.summarize([good, short, fresh, bare, other]))
    assert said[:3] == [
        "fresh has no finished epoch.",
        "short has finished 2 of 3 epochs.",
        "Where bare looks was not measured (no bias.json).",
    ]
    assert said[3].startswith("other: its bias.json counts")
    assert len(said) == 4
