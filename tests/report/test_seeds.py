"""Runs that differ only in their seeds: how they are grouped, their estimates and comparisons."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from regard import bias, stats
from regard.errors import InputError
from regard.report import collect, seed_groups
from regard.report.parts import compare
from regard.report.provenance import environments, repeats
from regard.report.seeds import default_reference
from regard.training import ModelRecipe, OptimizerRecipe, TransferRecipe
from regard.training.recipe import GuidanceRecipe


def group_runs(runs, names=None):
    results, _ = collect([getattr(run, "folder", run) for run in runs])
    return seed_groups(results, names)


def with_accuracies(run, *values):
    """Writes these test accuracies to the run, one per epoch."""
    run.write_metrics(
        [{"epoch": i, "task": 1.0, "test_accuracy": value, "test_images": 60} for i, value in enumerate(values, 1)]
    )
    return run


def test_runs_that_differ_in_seed_and_location_are_one_network(make_run, recipe):
    data = replace(recipe.data, folder="elsewhere", download=True, workers=1)
    runs = [
        make_run("net-seed0"),
        make_run("net-seed1", seed=1, source="again", threads=2, trackers=["tensorboard"], save_minutes=1.0),
        make_run("net-seed10", seed=10, data=data),
        make_run("net-seed2", seed=2, device="cuda"),
    ]
    (group,), notes = group_runs(runs)
    assert (group.name, notes) == ("net", [])
    assert [run.recipe.seed for run in group.runs] == [0, 1, 2, 10]
    assert [run.name for run in group.runs] == ["net, seed 0", "net, seed 1", "net, seed 2", "net, seed 10"]
    assert group.first.bias.model == "net, seed 0"


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": OptimizerRecipe(lr=0.05)},
        {"model": ModelRecipe("wrn-10-1", "se")},
        {"precision": "bfloat16"},
        {"label_smoothing": 0.1},
    ],
)
def test_another_recipe_is_another_network(make_run, fields):
    groups, _ = group_runs([make_run("a-seed0"), make_run("b-seed1", seed=1, **fields)])
    assert [group.name for group in groups] == ["a", "b"]


def test_networks_are_described_by_their_differing_fields(make_run):
    shuffle = ModelRecipe("wrn-10-1", "shuffle", "sub-attention-2", [1, 2], {"groups": 4})
    runs = [make_run("a"), make_run("b", optimizer=OptimizerRecipe(lr=0.05)), make_run("c", model=shuffle)]
    descriptions = [group.description for group in group_runs(runs)[0]]
    assert descriptions[:2] == ["wrn-10-1, optimizer.lr 0.1", "wrn-10-1, optimizer.lr 0.05"]
    for value in ("wrn-10-1", "attention shuffle", "gate sub-attention-2", "attention_options.groups 4"):
        assert value in descriptions[2]


def test_students_of_equal_teachers_are_one_network(make_run):
    teachers = [make_run(f"teacher-seed{seed}", seed=seed) for seed in (0, 1)]
    other = make_run("other", optimizer=OptimizerRecipe(lr=0.05))

    def student(name, seed, teacher):
        return make_run(name, seed=seed, transfer=TransferRecipe(teacher=str(teacher.folder), beta=1e3))

    students = [student(f"student-seed{seed}", seed, teachers[seed]) for seed in (0, 1)]
    groups, _ = group_runs([*students, student("taught-otherwise", 2, other), *teachers, other])
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("student", 2),
        ("taught-otherwise", 1),
        ("teacher", 2),
        ("other", 1),
    ]
    assert "transfer.teacher teacher" in groups[0].description and "transfer.teacher other" in groups[1].description
    # The same seed with another seed of the teacher is another run, not a copy.
    again = student("student-again", 0, teachers[1])
    for run, accuracy in ((students[0], 0.5), (again, 0.6), (students[1], 0.75)):
        with_accuracies(run, accuracy, accuracy, accuracy)
    (group,), notes = group_runs([*students, again])
    assert [run.recipe.seed for run in group.runs] == [0, 0, 1]
    assert len({run.name for run in group.runs}) == 3 and notes == []
    # Its runs of one seed are not independent, so their mean counts once.
    assert group.estimate("accuracy") == stats.mean([0.55, 0.75], 0, 1) and group.to_record()["seeds"] == 2


def test_guided_runs_from_one_pretrained_network_are_one_network(make_run):
    pretrained = [make_run(f"before-seed{seed}", seed=seed) for seed in (0, 1)]
    guided = GuidanceRecipe(weight=1.0, share=0.1)
    guided_runs = [
        make_run(
            f"after-seed{seed}", seed=seed, guidance=guided, model=ModelRecipe("wrn-10-1", pretrained=str(run.folder))
        )
        for seed, run in enumerate(pretrained)
    ]
    unused = make_run("unused", guidance=GuidanceRecipe(weight=0.0, maps="attention"))
    assert "guidance" not in group_runs([*pretrained, unused])[0][1].description
    groups, _ = group_runs([*guided_runs, *pretrained])
    assert [(group.name, len(group.runs)) for group in groups] == [("after", 2), ("before", 2)]
    for part in ("pretrained before", "guidance.weight 1.0", "guidance.share 0.1"):
        assert part in groups[0].description and part not in groups[1].description
    assert default_reference(groups).name == "before"
    assert [repeat.name for repeat in repeats(groups)][0] == "before"


def test_teachers_of_moved_students_are_found_or_named(make_run, tmp_path):
    runs = []
    for seed in (0, 1):
        teacher = make_run(f"t{seed}", seed=seed)
        runs += [make_run(f"s{seed}", seed=seed, transfer=TransferRecipe(teacher=str(teacher.folder), beta=1.0))]
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in [path for path in tmp_path.iterdir() if path != moved]:
        shutil.move(path, moved / path.name)
    assert [len(group.runs) for group in group_runs([moved / "s0", moved / "s1"])[0]] == [2]
    for seed in (0, 1):
        shutil.rmtree(moved / f"t{seed}")
    assert [len(group.runs) for group in group_runs([moved / "s0", moved / "s1"])[0]] == [1, 1]
    named = [
        make_run(f"n{seed}", seed=seed, transfer=TransferRecipe(teacher=f"runs/gone-seed{seed}", beta=1.0))
        for seed in (0, 1)
    ]
    assert [len(group.runs) for group in group_runs(named)[0]] == [2]


def test_repeated_and_unfinished_seeds_are_not_counted(make_run):
    runs = [make_run("n-seed0"), make_run("copy"), make_run("n-seed1", seed=1, epochs=2)]
    (group,), notes = group_runs(runs)
    assert len(group.runs) == 1 and len(group.unfinished) == 1
    assert [note.about for note in notes] == ["copy", "n-seed1"]
    assert "2 of 3 epochs" in notes[1].note
    assert [record["counted"] for record in group.run_records()] == [True, False]
    (alone,), _ = group_runs(runs[2:])
    assert len(alone.runs) == 1 and not alone.finished  # an unfinished run is shown if there is no other


def test_estimates_over_seeds_use_students_t(make_run):
    accuracies = [20 / 60, 33 / 60, 29 / 60, 41 / 60]
    runs = [
        with_accuracies(make_run(f"n-seed{i}", seed=i, measured=i != 2), 0.1, 0.1, a) for i, a in enumerate(accuracies)
    ]
    (group,), _ = group_runs(runs)
    assert group.estimate("accuracy") == stats.mean(accuracies, 0, 1)
    measured = [run.bias for run in group.runs if run.bias is not None]
    assert len(measured) == 3
    for measure in ("position_bias", "spill"):
        values = [results.overall.estimates()[measure].value for results in measured]
        assert group.estimate(measure) == stats.mean(values, 0, 1)
    assert group.values("accuracy") == pytest.approx(dict(enumerate(accuracies)))
    record = group.to_record()
    assert record["accuracy_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (record["accuracy_n"], record["spill_n"]) == (4, 3)
    (single,), _ = group_runs(runs[:1])
    assert single.estimate("accuracy") == stats.proportion(20, 60)


def test_networks_with_several_seeds_are_compared_by_seed(make_run):
    low = [0.30, 0.40, 0.35, 0.45, 0.20, 0.31]
    high = [0.42, 0.50, 0.44, 0.57, 0.33, 0.40]
    runs = [with_accuracies(make_run(f"low-seed{i}", seed=i, measured=False), 0.1, 0.1, a) for i, a in enumerate(low)]
    runs += [
        with_accuracies(make_run(f"high-seed{i}", seed=i, measured=False, optimizer=OptimizerRecipe(lr=0.5)), 0, 0, a)
        for i, a in enumerate(high)
    ]
    (low_group, high_group), _ = group_runs(runs)
    ((comparison,), notes) = compare([low_group, high_group], low_group)
    assert (comparison.network, comparison.measure, comparison.over) == ("high", "accuracy", "seeds")
    assert comparison.difference == stats.over_seeds(high, low)
    assert notes == []
    (low_pair, high_group), _ = group_runs([*runs[:2], *runs[6:]])
    ((comparison,), _) = compare([low_pair, high_group], low_pair)
    record = comparison.to_record()
    assert record["difference"] == pytest.approx(0.11)
    # Two seeds have no interval and no test.
    assert record["difference_low"] is record["p"] is record["significant"] is None
    (low_single, high_group), _ = group_runs([*runs[:1], *runs[6:]])
    comparisons, notes = compare([low_single, high_group], low_single)
    assert comparisons == [] and [note.note for note in notes] == [
        f"not compared: no two finished seeds in common, and no bias.json of {n}" for n in ("high", "low")
    ]


def test_networks_of_one_seed_are_compared_by_image(make_run):
    runs = [make_run("low", correct=0.1), make_run("high", correct=0.95, optimizer=OptimizerRecipe(lr=0.5))]
    (low, high), _ = group_runs(runs)
    comparisons, _ = compare([low, high], low)
    expected = bias.compare(high.first.bias, low.first.bias).differences
    assert [comparison.measure for comparison in comparisons] == ["accuracy", "position_bias", "range_bias"]
    assert all(
        comparison.over == "images" and comparison.difference == expected[comparison.measure]
        for comparison in comparisons
    )
    assert comparisons[0].difference.value > 0


def test_notes_of_comparisons_do_not_depend_on_run_names(make_run):
    """A name that contains the word "chance" changes nothing."""
    lr = OptimizerRecipe(lr=0.5)
    base = make_run("base")
    for name in ("plain", "second-chance"):
        groups, _ = group_runs([base, make_run(name, optimizer=lr)])
        other = replace(groups[1].first.bias, margin=7)
        groups[1] = replace(groups[1], runs=(replace(groups[1].first, bias=other),))
        comparisons, notes = compare(groups, groups[0])
        assert len(comparisons) == 3
        assert [note.about for note in notes] == [f"{name}, base"] and "margin" in notes[0].note


def test_networks_measured_on_other_images_are_not_compared(make_run):
    groups, _ = group_runs([make_run("a"), make_run("b", optimizer=OptimizerRecipe(lr=0.5))])
    other = replace(groups[1].first.bias, keys=tuple(f"other {i}" for i in range(60)))
    groups[1] = replace(groups[1], runs=(replace(groups[1].first, bias=other),))
    comparisons, notes = compare(groups, groups[0])
    assert comparisons == [] and len(notes) == 1


def test_every_seed_has_a_command_and_recorded_versions(make_run):
    runs = [make_run("n-seed0"), make_run("n-seed1", seed=1)]
    for i, run in enumerate(runs):
        path = run.folder / "environment.json"
        recorded = {**json.loads(path.read_text()), "command": f"regard train x.yaml --seed {i}", "torch": f"9.{i}"}
        path.write_text(json.dumps(recorded))
    groups, _ = group_runs([*runs, make_run("m", optimizer=OptimizerRecipe(lr=0.5))])
    (repeat, _) = repeats(groups)
    lines = repeat.commands.splitlines()
    assert lines[0] == f"regard train n.yaml --run {runs[0].folder}"
    assert lines[1] == f"regard train n.yaml --seed=1 --run {runs[1].folder}"
    assert [line.split()[:2] for line in lines[2:]] == [["regard", "bias"]] * 2
    assert repeat.recorded.splitlines() == ["regard train x.yaml --seed 0", "regard train x.yaml --seed 1"]
    facts = dict(environments(groups))
    assert facts["torch"][:2] == [("9.0", "n, seed 0"), ("9.1", "n, seed 1")]
    assert [runs_of_version for _, runs_of_version in facts["python"]] == [""]
    assert not {"command", "classes"} & facts.keys()


def test_names_are_given_per_network(make_run):
    runs = [make_run("n-seed0"), make_run("n-seed1", seed=1), make_run("m", optimizer=OptimizerRecipe(lr=0.5))]
    groups, _ = group_runs(runs, ["one", "two"])
    assert [group.name for group in groups] == ["one", "two"]
    for names, message in ((["one"], r"1 names for 2 networks \(n, m\)"), (["one", "one"], "given twice")):
        with pytest.raises(InputError, match=message):
            group_runs(runs, names)
