"""Runs that differ in their seeds as one network: which belong together, and what they come to."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from regard import report
from regard.errors import InputError
from regard.report import bubbles, charts, tested
from regard.report.repeat import environments, repeats
from regard.report.seed_differences import over_seeds, seed_difference
from regard.report.seed_groups import each_alone
from regard.training import ModelRecipe, OptimizerRecipe, TransferRecipe


def groups_of(runs, names=None):
    return report.seed_groups(report.summarize(runs), names)


def with_accuracies(run, *values):
    """The run with these test accuracies, one an epoch."""
    run.write_metrics([{"epoch": i + 1, "task": 1.0, "test_accuracy": value} for i, value in enumerate(values)])
    return run


def test_runs_that_differ_in_seed_and_place_are_one_network(make_run, recipe):
    data = replace(recipe.data, folder="elsewhere", download=True, workers=1)
    runs = [
        make_run("net-seed0"),
        make_run("net-seed1", seed=1, source="again", threads=2, trackers=["tensorboard"], save_minutes=1.0),
        make_run("net-seed10", seed=10, data=data),
        make_run("net-seed2", seed=2, device="cuda"),
    ]
    (group,), notes = groups_of(runs)
    assert (group.name, notes) == ("net", [])
    assert [row.recipe.seed for row in group.rows] == [0, 1, 2, 10]
    assert [row.name for row in group.rows] == ["net, seed 0", "net, seed 1", "net, seed 2", "net, seed 10"]
    assert group.rows[0].bias.model == "net, seed 0"


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
    groups, _ = groups_of([make_run("a-seed0"), make_run("b-seed1", seed=1, **fields)])
    assert [group.name for group in groups] == ["a", "b"]


def test_networks_of_the_same_words_are_told_apart(make_run):
    groups, _ = groups_of([make_run("a"), make_run("b", optimizer=OptimizerRecipe(lr=0.05))])
    assert [group.what for group in groups] == ["wrn-10-1, optimizer.lr 0.1", "wrn-10-1, optimizer.lr 0.05"]


def test_students_of_teachers_of_one_network_are_one_network(make_run):
    teachers = [make_run(f"teacher-seed{seed}", seed=seed) for seed in (0, 1)]
    other = make_run("other", optimizer=OptimizerRecipe(lr=0.05))

    def student(name, seed, teacher):
        return make_run(name, seed=seed, transfer=TransferRecipe(teacher=str(teacher.folder), beta=1e3))

    students = [student(f"student-seed{seed}", seed, teachers[seed]) for seed in (0, 1)]
    groups, _ = groups_of([*students, student("taught-otherwise", 2, other), *teachers, other])
    assert [(group.name, len(group.rows)) for group in groups] == [
        ("student", 2),
        ("taught-otherwise", 1),
        ("teacher", 2),
        ("other", 1),
    ]
    assert groups[0].what.endswith("from teacher") and groups[1].what.endswith("from other")
    # One seed taught by another of the teacher's is another run, not the same one again.
    again = student("student-again", 0, teachers[1])
    groups, notes = groups_of([*students, again])
    assert [row.recipe.seed for row in groups[0].rows] == [0, 0, 1]
    assert len({row.name for row in groups[0].rows}) == 3 and notes == []


def test_teachers_are_found_beside_moved_students_and_else_known_by_name(make_run, tmp_path):
    runs = []
    for seed in (0, 1):
        teacher = make_run(f"t{seed}", seed=seed)
        runs += [make_run(f"s{seed}", seed=seed, transfer=TransferRecipe(teacher=str(teacher.folder), beta=1.0))]
    place = tmp_path / "moved"
    place.mkdir()
    for path in [path for path in tmp_path.iterdir() if path != place]:
        shutil.move(path, place / path.name)
    assert [len(group.rows) for group in groups_of([place / "s0", place / "s1"])[0]] == [2]
    for seed in (0, 1):
        shutil.rmtree(place / f"t{seed}")
    assert [len(group.rows) for group in groups_of([place / "s0", place / "s1"])[0]] == [1, 1]
    named = [
        make_run(f"n{seed}", seed=seed, transfer=TransferRecipe(teacher=f"runs/gone-seed{seed}", beta=1.0))
        for seed in (0, 1)
    ]
    assert [len(group.rows) for group in groups_of(named)[0]] == [2]


def test_the_same_seed_again_and_unfinished_seeds_are_not_counted(make_run):
    runs = [make_run("n-seed0"), make_run("copy"), make_run("n-seed1", seed=1, epochs=2)]
    (group,), notes = groups_of(runs)
    assert len(group.rows) == 1 and len(group.unfinished) == 1
    assert notes == [
        "copy has the recipe and the seed of n-seed0 and is not counted again.",
        f"{group.unfinished[0].name} has finished 2 of 3 epochs and is not counted.",
    ]
    (alone,), _ = groups_of(runs[2:])
    assert len(alone.rows) == 1 and not alone.finished  # shown, for there is nothing else


def test_the_numbers_are_those_of_numpy(make_run):
    accuracies = [20 / 60, 33 / 60, 29 / 60, 41 / 60]
    runs = [
        with_accuracies(make_run(f"n-seed{i}", seed=i, measured=i != 2), 0.1, 0.1, a) for i, a in enumerate(accuracies)
    ]
    (group,), _ = groups_of(runs)
    found = group.statistics("accuracy")
    assert found.count == 4
    assert found.mean == pytest.approx(100 * np.mean(accuracies))
    assert found.deviation == pytest.approx(100 * np.std(accuracies, ddof=1))
    measured = [row for row in group.rows if row.bias is not None]
    assert len(measured) == 3
    biases = [100 * row.bias.rows["position_bias"].mean() for row in measured]
    assert group.statistics("position bias").mean == pytest.approx(np.mean(biases))
    spills = [row.bias.rows["spill"].astype(float).mean() for row in measured]
    assert group.statistics("spill").deviation == pytest.approx(np.std(spills, ddof=1))
    assert group.values("accuracy") == pytest.approx({i: 100 * a for i, a in enumerate(accuracies)})


def test_differences_are_taken_seed_by_seed(make_run):
    low = [0.30, 0.40, 0.35, 0.45, 0.20, 0.31]
    high = [0.42, 0.50, 0.44, 0.57, 0.33, 0.40]
    runs = [with_accuracies(make_run(f"low-seed{i}", seed=i, measured=False), 0.1, 0.1, a) for i, a in enumerate(low)]
    runs += [
        with_accuracies(make_run(f"high-seed{i}", seed=i, measured=False, optimizer=OptimizerRecipe(lr=0.5)), 0, 0, a)
        for i, a in enumerate(high)
    ]
    (one, other), _ = groups_of(runs)
    (line,) = over_seeds(other, one)
    gaps = np.array(high) - np.array(low)
    assert line.difference.value == pytest.approx(gaps.mean())
    assert line.difference.p == pytest.approx(2 / 2**6)  # all six of one sign, two-sided
    assert (line.direction, line.measure) == ("higher", "accuracy (6 seeds)")
    assert over_seeds(one, one) == ()
    # Of five seeds no p of signs falls below 0.05, however far the interval is from 0.
    (less, _), _ = groups_of([*runs[:5], *runs[6:]])
    five = seed_difference(other, less, "accuracy")
    assert five.seeds == 5 and five.low > 0 and not five.significant
    (single, _), _ = groups_of([*runs[:1], *runs[6:]])
    assert over_seeds(other, single) == ()


def test_curves_have_the_mean_and_the_band_of_the_seeds(make_run, monkeypatch):
    from regard.report import figures

    values = [[0.1, 0.5, 0.3], [0.2, 0.3, 0.6], [0.6, 0.1, 0.5]]
    groups, _ = groups_of([with_accuracies(make_run(f"n-seed{i}", seed=i), *v) for i, v in enumerate(values)])
    drawn = {}
    monkeypatch.setattr(figures, "curves", lambda series, unit, caption, salt: drawn.setdefault(salt, series) and "")
    found = charts.curves(groups, {"n": 0})
    assert [chart.title.split()[0] for chart in found] == ["Test", "Training"]  # no attention loss: there is none
    (series,) = drawn["curve Test accuracy"]
    assert list(series.x) == [1, 2, 3]
    assert np.allclose(series.y, 100 * np.mean(values, 0))
    assert np.allclose(series.low, 100 * np.min(values, 0)) and np.allclose(series.high, 100 * np.max(values, 0))
    charts.curves(each_alone(groups[0].rows[:1]), {"n, seed 0": 0}, "alone ")
    assert drawn["alone curve Test accuracy"][0].low == ()


def test_bubbles_are_as_large_as_their_networks(make_run):
    sizes = [20_000, 80_000, 180_000]
    widths = bubbles.diameters(sizes)
    assert np.allclose(np.square(widths) / widths[0] ** 2, np.array(sizes) / sizes[0])
    runs = [make_run("small-seed0"), make_run("small-seed1", seed=1), make_run("large", model=ModelRecipe("wrn-10-2"))]
    groups, _ = groups_of(runs)
    styles = {group.name: i for i, group in enumerate(groups)}
    chart = charts.costs(groups, styles)
    for group in groups:
        assert group.name in chart.svg and f"{100 * np.mean(group.accuracies):.1f}%" in chart.svg
    assert charts.costs(groups[:1], styles) is None
    unfinished, _ = groups_of([runs[0], make_run("u", epochs=1, model=ModelRecipe("wrn-10-2"))])
    assert charts.costs(unfinished, {"small": 0, "u": 1}) is None


def test_names_of_bubbles_keep_off_one_another():
    rows = [bubbles.Bubble(f"network {i}", i, 1e7 * (1 + i % 2), 60 + 0.01 * i, 60, 60, 1e5) for i in range(8)]
    centres = [(100.0 + 200 * (i % 2), 100.0 + 2 * i) for i in range(8)]
    boxes = bubbles._labels(rows, centres, [30.0] * 8, bubbles._Box(0, 0, 460, 300))
    for i, box in enumerate(boxes):
        assert sum(box.overlap(other) for other in boxes[:i]) == 0
        assert box.overlap(bubbles._Box(0, 0, 460, 300)) == pytest.approx(box.area)


def test_what_decides_on_the_test_images_parts_networks(make_run, recipe):
    def of(name, **options):
        data = replace(recipe.data, options={**recipe.data.options, **options})
        return make_run(name, measured=False, weights=False, data=data)

    runs = [of("a"), of("b", cue=0.1), of("c", test_cue=0.5), of("d", train=20)]
    rows = report.summarize(runs)
    keys = [repr(tested.tested_on(row)) for row in rows]
    assert keys[0] == keys[1] == keys[3] != keys[2]
    assert [len(group.rows) for group in report.seed_groups(rows)[0]] == [1, 1, 1, 1]
    said = tested.titles([rows[0], rows[2]])
    assert "test_cue 0.0" in said[0] and "test_cue 0.5" in said[1]


def test_commands_of_every_seed_and_what_was_recorded(make_run):
    runs = [make_run("n-seed0"), make_run("n-seed1", seed=1)]
    for i, run in enumerate(runs):
        path = run.folder / "environment.json"
        about = {**json.loads(path.read_text()), "command": f"regard train x.yaml --seed {i}", "torch": f"9.{i}"}
        path.write_text(json.dumps(about))
    groups, _ = groups_of([*runs, make_run("m", optimizer=OptimizerRecipe(lr=0.5))])
    (repeat, _) = repeats(groups)
    lines = repeat.commands.splitlines()
    assert lines[0] == f"regard train n-seed0.yaml --run {runs[0].folder}"
    assert lines[1] == f"regard train n-seed0.yaml --seed=1 --run {runs[1].folder}"
    assert [line.split()[:2] for line in lines[2:]] == [["regard", "bias"]] * 2
    assert repeat.recorded.splitlines() == ["regard train x.yaml --seed 0", "regard train x.yaml --seed 1"]
    found = dict(environments(groups))
    assert found["torch"][:2] == [("9.0", "n, seed 0"), ("9.1", "n, seed 1")]
    assert [whose for _, whose in found["python"]] == [""]
    assert "command" not in found


def test_names_are_of_networks(make_run):
    runs = [make_run("n-seed0"), make_run("n-seed1", seed=1), make_run("m", optimizer=OptimizerRecipe(lr=0.5))]
    groups, _ = groups_of(runs, ["one", "two"])
    assert [group.name for group in groups] == ["one", "two"]
    for names, said in ((["one"], "1 names for 2 networks"), (["one", "one"], "given twice")):
        with pytest.raises(InputError, match=said):
            groups_of(runs, names)
    with pytest.raises(InputError, match=r"\(n, m\)"):
        groups_of(runs, ["one"])
