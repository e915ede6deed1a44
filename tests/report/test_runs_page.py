"""The report of runs: records, figures, and a page that is safe and self-contained."""

import io
import json
import os
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from support.snapshots import check_snapshot

from regard import bias, report, stats
from regard.bias.interventions import VARIANTS
from regard.errors import InputError
from regard.report.provenance import recipe_yaml, repeats
from regard.training import ModelRecipe, OptimizerRecipe, TransferRecipe, load_recipe

pytestmark = pytest.mark.slow

LR = (OptimizerRecipe(lr=0.1), OptimizerRecipe(lr=0.2), OptimizerRecipe(lr=0.3))


@pytest.fixture
def write_page(parse, tmp_path):
    """write_page(runs, **options) -> the report, and its page."""

    def write(runs, **options):
        runs = report.report_runs([run.folder for run in runs], **{"images": 0, **options})
        return runs, parse(runs.save(tmp_path / "pages" / "report.html").read_text(encoding="utf-8"))

    return write


def records_of(kind, records):
    return [record for record in records if record["record"] == kind]


def test_the_page_shows_its_records_and_is_self_contained(make_run, tmp_path, write_page):
    teacher = make_run("teacher", correct=0.9, optimizer=LR[1])
    transfer = TransferRecipe(teacher=str(teacher.folder), beta=1000.0)
    runs = [make_run("student", correct=0.3), make_run("student-at", transfer=transfer), teacher]
    result, page = write_page(runs, images=3, title="Made up", names=["student", "student-at", "the teacher"])
    assert os.listdir(tmp_path / "pages") == ["report.html"]
    page.check_self_contained()
    records = result.to_records()
    json.dumps(records, allow_nan=False)
    assert [record["network"] for record in records_of("network", records)] == ["student", "student-at", "the teacher"]
    for record in records_of("network", records):
        for measure in ("accuracy", "position_bias", "range_bias"):
            value, low, high = (f"{100 * record[measure + end]:.1f}" for end in ("", "_low", "_high"))
            assert f"{value}% {low} to {high}" in page.text
        assert f"{record['parameters']:,}" in page.text and f"{record['spill']:.3f}" in page.text
        assert record["description"] in page.text
    assert "transfer.beta 1000" in page.text and "transfer.teacher the teacher" in page.text
    assert page.source.count('<ul class="scale">') == 1 and "edge of the region" in page.text
    comparisons = records_of("comparison", records)
    assert [
        (comparison["network"], comparison["reference"], comparison["over"]) for comparison in comparisons[::3]
    ] == [
        ("student-at", "student", "images"),
        ("the teacher", "student", "images"),
    ]
    for comparison in comparisons:
        assert f"{abs(100 * comparison['difference']):.1f}" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == (3 + 4) * 4
    assert len(page.source) < 3_000_000
    environment = re.compile(r"(?<=Environment\n).*(?=h2: Glossary)", re.DOTALL)  # depends on the machine
    images = re.compile(r"p: image \d+ label \d\n")
    check_snapshot("pages/runs", images.sub("", environment.sub("", page.outline)))
    assert (
        write_page(runs, images=3, title="Made up", names=["student", "student-at", "the teacher"])[1].source
        == page.source
    )


def test_interventions_are_shown_and_corrected_with_other_tests(make_run, write_page):
    runs = [make_run("one"), make_run("two", optimizer=LR[1]), make_run("three", optimizer=LR[2])]
    for i, run in enumerate(runs[:2]):
        results = bias.Results.load(run.folder / "bias.json")
        random = np.random.default_rng(i)
        changed = {name: (random.random(len(results)) < 0.2).astype(float) for name in VARIANTS}
        replace(results, rows={**results.rows, **changed}).save(run.folder / "bias.json")
    result, page = write_page(runs)
    records = records_of("intervention", result.to_records())
    assert {record["model"] for record in records} == {"one", "two"}
    drop = next(record for record in records if (record["model"], record["measure"]) == ("two", "drop_mixed_other"))
    expected = bias.effects(bias.Results.load(runs[1].folder / "bias.json"))["drop_mixed_other"]
    assert (drop["value"], drop["p"]) == (expected.value, expected.p) and drop["p_adjusted"] > drop["p"]
    assert page.source.count('id="interventions"') == 1 and f"{100 * drop['second']:.1f}%" in page.text
    console = Console(file=io.StringIO(), width=200)
    console.print(result)
    assert "Position bias and interventions" in console.file.getvalue()
    differences = [*records_of("comparison", result.to_records()), *records]
    tests = {i: stats.Difference(0, 0, 0, record["p"], None, 9) for i, record in enumerate(differences)}
    for i, difference in stats.holm(tests).items():
        assert differences[i]["p_adjusted"] == pytest.approx(difference.p_adjusted)


def test_all_comparisons_on_a_page_are_corrected_together(make_run, recipe, write_page):
    """Significant is an adjusted p below 0.05, everywhere on the page."""
    test_cue = replace(recipe.data, options={**recipe.data.options, "test_cue": 0.9})
    runs = [make_run(f"a{i}", correct=0.2 + 0.15 * i, position=0.2 + 0.1 * i, optimizer=lr) for i, lr in enumerate(LR)]
    runs += [make_run(f"b{i}", correct=0.2 + 0.6 * i, data=test_cue, optimizer=lr) for i, lr in enumerate(LR[:2])]
    result, page = write_page(runs)
    assert len(result.parts) == 2
    comparisons = records_of("comparison", result.to_records())
    assert len(comparisons) == 3 * 3
    expected = stats.holm(
        {
            i: stats.Difference(0, 0, 0, comparison["p"], None, comparison["n"])
            for i, comparison in enumerate(comparisons)
        }
    )
    labels = [comparison["significant"] for comparison in comparisons]
    assert set(labels) == {True, False}  # both labels occur
    for i, comparison in enumerate(comparisons):
        assert comparison["p_adjusted"] == pytest.approx(expected[i].p_adjusted)
        assert comparison["significant"] == (comparison["p_adjusted"] < 0.05)
    table = page.text.count("not significant"), page.text.count("significant")
    assert table[0] == labels.count(False) and "resolved" not in page.text


def test_five_differences_of_one_sign_may_be_insignificant(make_run, write_page):
    """One of five seeds is an outlier: p is above 0.05 although all differences have the same sign."""
    gaps = (0.01, 0.01, 0.01, 0.01, 0.3)
    runs = []
    for seed, gap in enumerate(gaps):
        for name, accuracy, lr in (("low", 0.3, LR[0]), ("high", 0.3 + gap, LR[1])):
            run = make_run(f"{name}-seed{seed}", seed=seed, measured=False, weights=False, optimizer=lr)
            run.write_metrics([{"epoch": 3, "test_accuracy": accuracy + seed / 100, "test_images": 100}])
            runs.append(run)
    result, page = write_page(runs, reference="low")
    (comparison,) = records_of("comparison", result.to_records())
    assert (
        comparison["over"] == "seeds"
        and comparison["n"] == 5
        and comparison["p"] > 0.05
        and comparison["significant"] is False
    )
    assert "not significant" in page.text


HOSTILE = ["<script>alert(1)<script>", "cat)", "[red]x[/red]", "$x$ {{ 7 * 7 }} &amp; <!--", "a\x1b[31m\u202eb"]


def test_hostile_names_are_escaped_on_page_and_terminal(make_run, write_page):
    runs = [make_run(f"run{i}", optimizer=OptimizerRecipe(lr=0.1 + i)) for i in range(len(HOSTILE))]
    result, page = write_page(runs, images=1, names=HOSTILE)
    page.check_self_contained()
    assert "<script" not in page.source and "\x1b" not in page.source and "\u202e" not in page.source
    output = io.StringIO()
    Console(file=output, width=200).print(result)
    for name in (*HOSTILE[:4], r"a\x1b[31m\u202eb"):
        assert page.text.count(" ".join(name.split())) >= 4
        assert name in output.getvalue()
    assert "\x1b" not in output.getvalue()


def test_the_terminal_shows_numbers_and_significance(make_run):
    runs = [make_run("a", correct=0.1), make_run("b", correct=0.95, optimizer=LR[1])]
    result = report.report_runs([run.folder for run in runs], images=0)
    output = io.StringIO()
    Console(file=output, width=200).print(result)
    text = output.getvalue()
    for record in records_of("network", result.to_records()):
        assert f"{100 * record['position_bias']:.1f}" in text
        assert f"{100 * record['position_bias_low']:.1f} to {100 * record['position_bias_high']:.1f}" in text
    assert "significant" in text and "adjusted" in text


def test_missing_results_are_noted_beside_the_others(make_run, write_page):
    bare = make_run("bare", measured=False, weights=False, optimizer=LR[1])
    result, page = write_page([make_run("student"), bare], images=3)
    notes = [note.about for part in result.parts for note in part.notes]
    assert "bare" in notes and "bare, student" in notes
    assert records_of("comparison", result.to_records()) == []
    _, page = write_page([bare], images=3)
    assert "test accuracy" in page.text.lower() and not any(tag == "img" for tag, _ in page.tags)


def test_results_of_other_weights_or_images_have_a_note(make_run):
    other, wrong, good = make_run("other", correct=0.9), make_run("wrong", correct=0.1), make_run("good")
    for name in ("bias.json", "bias.parquet"):
        (wrong.folder / name).rename(other.folder / name)
    (part,) = report.report_runs([good.folder], images=0).parts
    assert part.notes == ()
    (part,) = report.report_runs([other.folder], images=0).parts
    assert [note.about for note in part.notes] == ["other"]


def test_missing_data_leave_a_page_without_a_gallery(make_run, recipe, tmp_path, write_page):
    missing = replace(recipe.data, name="folder", folder=str(tmp_path / "gone"), options={})
    _, page = write_page([make_run("student", data=missing)], images=3)
    assert "no test images" in page.text and not any(tag == "img" for tag, _ in page.tags)


def test_a_report_downloads_nothing(make_run, recipe, tmp_path, monkeypatch, write_page):
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: pytest.fail("a report downloads"))
    data = replace(recipe.data, name="cifar10", folder=str(tmp_path), options={}, download=True)
    _, page = write_page([make_run("student", data=data)], images=3)
    assert "CIFAR-10 not found" in page.text


def test_images_that_are_not_in_memory_have_no_gallery(make_run, recipe, tmp_path, write_page):
    for class_folder in (tmp_path / "set" / split / name for split in ("train", "val") for name in "0123456789"):
        class_folder.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(class_folder / "a.png")
    data = replace(recipe.data, name="files", folder=str(tmp_path / "set"), size=32, options={})
    _, page = write_page([make_run("student", data=data)], images=3)
    assert "not in memory" in page.text


def test_the_reference_is_given_or_the_first_plain_network(make_run, write_page):
    runs = [make_run("a"), make_run("b", optimizer=LR[1])]
    assert write_page(runs, reference="b")[0].parts[0].reference.name == "b"
    assert write_page(runs)[0].parts[0].reference.name == "a"
    more = [make_run(f"b-seed{seed}", seed=seed, optimizer=LR[1]) for seed in (1, 2)]  # more runs of b
    assert report.report_runs([run.folder for run in (*runs, *more)]).parts[0].reference.name == "b"
    assert (
        write_page([make_run("attentive", model=ModelRecipe("wrn-10-1", "se")), *runs])[0].parts[0].reference.name
        == "a"
    )


def test_wrong_input_keeps_the_existing_page(make_run, tmp_path):
    run = make_run("student")
    path = tmp_path / "r.html"
    path.write_text("before")
    for options, message in (({"images": -1}, "0 or more"), ({"reference": "studnet"}, "did you mean 'student'")):
        with pytest.raises(InputError, match=message):
            report.report_runs([run.folder], **options)
    result = report.report_runs([run.folder], images=0)
    with pytest.raises(InputError, match="not overwritten"):
        result.save(path)
    with pytest.raises(InputError, match="cannot write"):
        result.save(path / "inside.html")
    assert path.read_text() == "before"


def test_figures_and_tables_are_available_in_python(make_run, recipe):
    runs = [make_run(f"n-seed{seed}", seed=seed) for seed in (0, 1)]
    runs += [make_run("m", model=ModelRecipe("wrn-10-2"))]
    figures = report.report_runs([run.folder for run in runs], images=0).figures()
    assert all(isinstance(figure, Figure) for figure in figures.values())
    result = report.report_runs([run.folder for run in runs], images=0)
    assert result._repr_html_().count("<table>") == 2 and ">n</td>" in "".join(result._repr_html_().split("\n"))
    assert result.plot().axes[0].get_xlabel() == "multiply-adds"
    with pytest.raises(InputError, match="unknown figure"):
        result.plot("Nothing")
    titles = [title.split()[0] for title in figures]
    assert titles == ["Test", "Accuracy", "Position", "Range", "Test", "Training"]  # without an attention loss
    (cost,) = report.report_runs([runs[0].folder, runs[2].folder], images=0).parts[0].costs().values()
    assert len(cost.axes) == 1
    assert report.report_runs([runs[0].folder, runs[1].folder], images=0).parts[0].costs() == {}


def test_recipes_and_commands_reproduce_the_run(make_run, tmp_path):
    teacher = make_run("the teacher", seed=3)
    student = make_run("-student", transfer=TransferRecipe(teacher=str(teacher.folder), beta=1000.0))
    (part,) = report.report_runs([student.folder, teacher.folder], images=0).parts
    blocks = repeats(part.groups)
    assert [repeat.name for repeat in blocks] == ["the teacher", "-student"]
    for repeat, run in zip(blocks, (teacher, student), strict=True):
        (tmp_path / "short.yaml").write_text(repeat.recipe)
        assert load_recipe(tmp_path / "short.yaml") == run.recipe
        train, measure = (shlex.split(line) for line in repeat.commands.splitlines())
        assert train[:2] == ["regard", "train"] and train[3:] == ["--run", str(run.folder)]
        assert train[2] in (f"{run.name}.yaml", f"./{run.name}.yaml") and not train[2].startswith("-")
        assert measure == ["regard", "bias", str(run.folder), "--layer", "group2"]
    assert recipe_yaml(load_recipe(None)) == "{}\n"
    runs = [make_run("one/net", measured=False), make_run("two/net", measured=False, optimizer=LR[1])]
    (part,) = report.report_runs([run.folder for run in runs], images=0).parts
    assert [repeat.file for repeat in repeats(part.groups)] == ["one-net.yaml", "two-net.yaml"]
