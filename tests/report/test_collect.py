"""Run folders as the rows of a report."""

import json
import os
from dataclasses import replace

import pytest
import torch

from regard import models, stats
from regard.bias import Results
from regard.errors import InputError
from regard.report import collect


def collect_one(run):
    """Collects the result of a single run."""
    (result,), notes = collect([run.folder])
    assert notes == []
    return result


def test_a_result_reflects_its_run_folder(make_run):
    run = make_run("student", correct=0.6)
    result = collect_one(run)
    measured = Results.load(run.folder / "bias.json")
    assert (result.name, result.epochs, result.finished) == ("student", 3, True)
    cost = models.complexity(run.model(), 32)
    assert (result.parameters, result.multiply_adds) == (cost.parameters, cost.multiply_adds)
    assert result.test_accuracy == result.value("accuracy") == run.metrics()[-1]["test_accuracy"]
    assert result.accuracy == measured.accuracy  # the same 60 images
    for measure in ("position_bias", "range_bias", "spill"):
        assert result.estimate(measure) == measured.overall.estimates()[measure]
    assert result.bias is not None and result.bias.model == "student"


def test_collect_preserves_the_random_state(make_run):
    run = make_run("student")
    before = torch.get_rng_state()
    collect_one(run)
    assert torch.equal(torch.get_rng_state(), before)


def test_missing_files_give_none(make_run):
    run = make_run("bare", measured=False, weights=False)
    (run.folder / "environment.json").unlink()
    result = collect_one(run)
    assert (result.parameters, result.multiply_adds) == (None, None)
    assert result.bias is result.estimate("position_bias") is result.value("spill") is None


@pytest.mark.parametrize("torn", ['{"epoch": 4, "test_acc', "4", '{"test_accuracy": 0.5}', '["epoch"]', "\x00\x00"])
def test_a_torn_last_line_of_metrics_is_ignored(make_run, torn):
    run = make_run("student")
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write(torn)
    result = collect_one(run)
    assert result.epochs == 3 and result.accuracy is not None


def test_an_invalid_accuracy_is_none(make_run):
    run = make_run("student", measured=False)
    for value in (float("nan"), None, "high", True, 1.5, -0.1):
        run.write_metrics([{"epoch": 1, "test_accuracy": value}])
        result = collect_one(run)
        assert (result.epochs, result.test_accuracy, result.accuracy) == (1, None, None)


def test_an_interval_needs_the_number_of_test_images(make_run):
    run = make_run("student", measured=False)
    for wrong in ({}, {"test_images": "many"}, {"test_images": 0}, {"test_images": [700]}):
        run.write_metrics([{"epoch": 1, "test_accuracy": 1 / 7, **wrong}])
        assert (collect_one(run).test_accuracy, collect_one(run).accuracy, collect_one(run).test_images) == (
            1 / 7,
            None,
            None,
        )
    run.write_metrics([{"epoch": 1, "test_accuracy": 1 / 7, "test_images": 700}])
    assert collect_one(run).accuracy == stats.proportion(100, 700)


def test_names_are_unique_and_printable(make_run):
    runs = [make_run(name) for name in ("a/student", "b/student", "teacher", "a\x1b[31m\u202eb")]
    results, _ = collect([run.folder for run in runs])
    assert [result.name for result in results] == ["a/student", "b/student", "teacher", r"a\x1b[31m\u202eb"]
    assert len(collect([runs[0].folder, str(runs[0].folder)])[0]) == 1


def test_a_name_that_is_not_utf8_is_escaped(make_run):
    run = make_run("plain", weights=False)
    folder = run.folder.with_name(os.fsdecode(b"caf\xe9"))
    try:
        run.folder.rename(folder)
    except OSError:
        pytest.skip("this file system has only names that are text")
    assert collect([folder])[0][0].name == r"caf\udce9"


def test_runs_without_results_get_notes(make_run, tmp_path):
    for name, file_name in (("metrics", "metrics.jsonl"), ("bias", "bias.json"), ("environment", "environment.json")):
        run = make_run(f"broken-{name}", weights=False)
        (run.folder / file_name).write_bytes(b"{" if name != "metrics" else b"\xff\xfe\x00")
    (make_run("list", weights=False).folder / "environment.json").write_text(json.dumps([1]))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "recipe.yaml").write_text("data: [")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    make_run("fresh", epochs=0)
    make_run("good")
    results, notes = collect([tmp_path])
    assert [result.name for result in results] == ["good"]
    kinds = {about.rpartition("/")[2]: note.split(":")[0] for about, note in notes}
    assert kinds == {
        **dict.fromkeys(("broken-bias", "broken-environment", "broken-metrics", "list", "torn"), "broken"),
        "empty": "empty folder",
        "other": "no recipe.yaml",
        "fresh": "no epoch is finished",
    }


@pytest.mark.parametrize("path", ["nowhere", "file", "bare", "none-*"])
def test_paths_without_runs_are_named_in_the_error(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "bare" / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match=path.replace("*", r"\*")):
        collect([path])


def test_options_that_change_test_images_change_the_test_set(make_run, recipe):
    def test_set(name, **options):
        data = replace(recipe.data, options={**recipe.data.options, **options})
        return collect_one(make_run(name, measured=False, weights=False, data=data)).test_set

    sets = [
        test_set("a"),
        test_set("b", cue=0.1),
        test_set("c", test_cue=0.5),
        test_set("d", train=20),
    ]
    assert sets[0] == sets[1] == sets[3] != sets[2]
