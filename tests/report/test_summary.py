"""Run folders as rows."""

import io
import json
import shutil

import pytest
import torch
from rich.console import Console

from regard import bias, models, report
from regard.errors import InputError
from regard.formatting import large, points
from regard.report.wording import describe, listed, number
from regard.stats import proportion
from regard.training import ModelRecipe, TransferRecipe, load_recipe


def test_a_row_says_what_the_run_folder_says(make_run):
    run = make_run("student", correct=0.6)
    (row,) = report.summarize([run])
    measured = bias.Results.load(run.folder / "bias.json")
    assert (row.name, row.epochs, row.what) == ("student", 3, "wrn-10-1")
    cost = models.complexity(run.model(), 32)
    assert (row.parameters, row.multiply_adds) == (cost.parameters, cost.multiply_adds)
    assert row.test_accuracy == run.metrics()[-1]["test_accuracy"]
    assert row.accuracy == measured.accuracy  # the same 60 images
    assert row.position_bias == measured.position_bias
    assert row.range_bias == measured.range_bias
    assert row.spill == measured.overall.means["spill"]
    assert row.bias is not None and row.bias.model == "student"


def test_paths_strings_and_runs_are_the_same(make_run):
    run = make_run("student")
    rows = [report.summarize([given])[0] for given in (run, run.folder, str(run.folder))]
    assert {row.name for row in rows} == {"student"}


def test_the_random_state_is_left_alone(make_run):
    run = make_run("student")
    before = torch.get_rng_state()
    report.summarize([run])
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_missing_is_none(make_run):
    run = make_run("bare", measured=False, weights=False)
    (run.folder / "environment.json").unlink()
    (run.folder / "metrics.jsonl").unlink()
    (row,) = report.summarize([run])
    assert (row.parameters, row.multiply_adds, row.epochs) == (None, None, 0)
    assert (row.test_accuracy, row.accuracy) == (None, None)
    assert (row.bias, row.position_bias, row.range_bias, row.spill) == (None, None, None, None)


@pytest.mark.parametrize("torn", ['{"epoch": 4, "test_acc', "4", '{"test_accuracy": 0.5}', '["epoch"]', "\x00\x00"])
def test_a_torn_last_line_of_metrics_is_left_out(make_run, torn):
    run = make_run("student")
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write(torn)
    (row,) = report.summarize([run])
    assert row.epochs == 3
    assert row.accuracy is not None


@pytest.mark.parametrize("value", [float("nan"), None, "high", 1.5, -0.1])
def test_an_accuracy_that_is_none_is_none(make_run, value):
    run = make_run("student")
    run.write_metrics([{"epoch": 1, "test_accuracy": value}])
    (row,) = report.summarize([run])
    assert (row.epochs, row.test_accuracy, row.accuracy) == (1, None, None)


def test_an_interval_needs_the_number_of_test_images(make_run, recipe):
    run = make_run("student", measured=False)
    run.write_metrics([{"epoch": 1, "test_accuracy": 1 / 7}])  # not of 60 images
    (row,) = report.summarize([run])
    assert row.test_accuracy == 1 / 7
    assert row.accuracy is None
    run.write_metrics([{"epoch": 1, "test_accuracy": 1 / 7, "test_images": 700}])
    (row,) = report.summarize([run])
    assert row.accuracy is not None
    assert row.accuracy == proportion(100, 700)


def test_names(make_run, tmp_path):
    first, second = make_run("a/student"), make_run("b/student")
    third = make_run("teacher")
    assert [row.name for row in report.summarize([first, second, third])] == ["a/student", "b/student", "teacher"]
    assert [row.name for row in report.summarize([first, second], ["one", " two\n2"])] == ["one", "two 2"]
    for names in (["one"], ["one", "one"], ["one", ""]):
        with pytest.raises(InputError, match="name"):
            report.summarize([first, second], names)
    with pytest.raises(InputError, match="twice"):
        report.summarize([first, str(first.folder)])


def test_what_is_no_run_is_one_clear_line(make_run, tmp_path):
    run = make_run("student")
    with pytest.raises(InputError, match="no run folder"):
        report.summarize([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no runs"):
        report.summarize([])
    (run.folder / "bias.json").write_text("{")
    with pytest.raises(InputError, match=r"bias\.json"):
        report.summarize([run])
    (run.folder / "bias.json").unlink()
    (run.folder / "environment.json").write_text("{")
    with pytest.raises(InputError, match=r"environment\.json"):
        report.summarize([run])


def test_the_teacher_has_its_name_in_the_report(make_run):
    teacher = make_run("big")
    student = make_run("small", transfer=TransferRecipe(teacher=str(teacher.folder), beta=1000.0))
    rows = report.summarize([teacher, student], ["the teacher", "the student"])
    assert rows[1].what == "wrn-10-1, attention transfer (beta 1000) from the teacher"
    shutil.rmtree(teacher.folder)
    assert report.summarize([student])[0].what == "wrn-10-1, attention transfer (beta 1000) from big"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "wrn-16-1"),
        ({"model": ModelRecipe("wrn-16-1", "se")}, "wrn-16-1 with SE attention"),
        (
            {"model": ModelRecipe("cifar-resnet164", "se", "sub-attention", [3])},
            "cifar-resnet164 with SE attention (sub-attention gate of order 1, LSAS, in stage 3)",
        ),
        (
            {"model": ModelRecipe("cifar-resnet20", "shuffle", "sub-attention-2", [1, 2], {"groups": 4})},
            "cifar-resnet20 with shuffle attention (groups 4, sub-attention gate of order 2, in stages 1 and 2)",
        ),
        (
            {"model": ModelRecipe("wrn-16-1", "se", attention_start="identity")},
            "wrn-16-1 with SE attention (identity start)",
        ),
        ({"model": ModelRecipe("cifar-resnet20", options={"block": "basic"})}, "cifar-resnet20 (block basic)"),
        (
            {"transfer": TransferRecipe(teacher="runs/wrn-16-2", alpha=0.9)},
            "wrn-16-1, distillation (alpha 0.9, temperature 4) from wrn-16-2",
        ),
        (
            {"transfer": TransferRecipe(teacher="runs/wrn-16-2", alpha=0.9, beta=500.0, form="paper")},
            "wrn-16-1, attention transfer (beta 500, form of the paper) and distillation (alpha 0.9, temperature 4) "
            "from wrn-16-2",
        ),
    ],
)
def test_recipes_in_words(fields, words):
    recipe = load_recipe(None)
    for name, value in fields.items():
        setattr(recipe, name, value)
    assert describe(recipe) == words


def test_numbers_in_words():
    counts = {None: "–", 175_994: "175,994", 1_234_567: "1.23 M", 26_800_000: "26.8 M", 4_110_000_000: "4.11 G"}
    assert {count: large(count) for count in counts} == counts
    assert [points(x) for x in (0.031, -0.0042, 0.0001, -0.0001)] == ["+3.1", "−0.4", "0.0", "0.0"]
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert (number(1, "network"), number(13, "network")) == ("one network", "13 networks")


def test_the_terminal_table_has_the_same_numbers(make_run):
    rows = report.summarize([make_run("a"), make_run("b", measured=False)], ["[red]plain[/red]", "bare"])
    output = io.StringIO()
    Console(file=output, width=110).print(report.terminal_table(rows))
    text = output.getvalue()
    assert "[red]plain[/red]" in text
    rate = rows[0].position_bias
    assert rate is not None and f"{100 * rate.value:.1f}" in text
    assert f"{100 * rate.low:.1f}–{100 * rate.high:.1f}" in text
    assert "–" in next(line for line in text.splitlines() if "bare" in line)


def test_an_environment_without_fields_is_named(make_run):
    run = make_run("student")
    (run.folder / "environment.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="environment.json"):
        report.summarize([run])
