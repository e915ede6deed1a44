"""The page: whole, harmless, and with the numbers of the reports."""

import os
import shlex
from dataclasses import replace

import pytest
from PIL import Image

from regard import report
from regard.errors import InputError
from regard.report import bubbles, figures, svg
from regard.report.repeat import environments, repeats, short
from regard.report.seed_groups import each_alone
from regard.training import TransferRecipe, load_recipe


@pytest.fixture
def written(parse):
    """written(rows, path, **options) -> text of the page and what is in it."""

    def write(rows, path, **options):
        text = report.write_html(rows, path, title="Made up", **{"images": 3, **options}).read_text(encoding="utf-8")
        return text, parse(text)

    return write


def test_the_page_needs_nothing_but_itself_and_has_the_numbers_of_the_reports(make_run, tmp_path, written):
    teacher = make_run("teacher", correct=0.9)
    transfer = TransferRecipe(teacher=str(teacher.folder), beta=1000.0)
    rows = report.summarize([make_run("student", correct=0.3), make_run("student-at", transfer=transfer), teacher])
    path = tmp_path / "new" / "report.html"
    text, page = written(rows, path, notes=["A note."])

    assert os.listdir(path.parent) == ["report.html"]
    page.check_alone()

    for row in rows:
        for rate in (row.accuracy, row.position_bias, row.range_bias):
            assert f"{100 * rate.value:.1f}% {100 * rate.low:.1f} to {100 * rate.high:.1f}" in page.text
        assert f"{row.parameters:,}" in page.text
        assert f"{row.spill.value:.3f}" in page.text
        assert row.what in page.text
    for line in report.differences(rows).lines:
        points = f"{abs(100 * line.difference.value):.1f} points"
        said = f"{line.direction} by {points}" if line.significant else f"{line.measure} "
        assert said in page.text
    assert "Made up" in page.text and "A note." in page.text
    assert "Three networks were trained on clutter (40 training and 60 test images, 32 × 32 pixels" in page.text
    assert "Each network saw 3 epochs, with seed 0, on the CPU" in page.text
    assert "each network here was trained once" in page.text
    assert "Even if no network differed, one in twenty such intervals" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == (3 + 4) * 4
    assert len(text) < 3_000_000

    assert written(rows, tmp_path / "again.html", notes=["A note."])[0] == text


def test_names_are_harmless(make_run, tmp_path, written):
    evil = [
        "<script>alert(1)<script>",
        '"><img src=x onerror=alert(1)>',
        "$x$ {{ 7 * 7 }} &amp; <!--",
        "a\x1b[31m\u202eb",
    ]
    rows = report.summarize([make_run(name) for name in evil])
    text, page = written(rows, tmp_path / "r.html", images=1, notes=["<b>bold</b>"])
    assert "<script" not in text and "<b>bold" not in text
    assert not any("onerror" in attributes for _, attributes in page.tags)
    for name in (*evil[:3], "a?[31m?b", "<b>bold</b>"):
        assert " ".join(name.split()) in page.text


def test_a_name_that_is_no_text(make_run, tmp_path, written):
    run = make_run("plain", weights=False)
    folder = run.folder.with_name(os.fsdecode(b"caf\xe9"))
    try:
        run.folder.rename(folder)
    except OSError:
        pytest.skip("this file system has only names that are text")
    rows = report.summarize([folder])
    assert rows[0].name == "caf?"
    assert "caf?" in written(rows, tmp_path / "r.html", images=0)[0]


def test_what_is_missing_is_said_and_the_rest_is_there(make_run, tmp_path, written):
    bare = make_run("bare", measured=False, weights=False, epochs=0)
    _, page = written(report.summarize([make_run("student"), bare]), tmp_path / "r.html")
    assert "bare has no finished epoch." in page.text
    assert "Where bare looks was not measured (no bias.json)." in page.text
    assert "bare is not compared with student: no bias.json in" in page.text
    assert "bare is not in the gallery of test images" in page.text
    assert "No two networks here can be compared" in page.text
    _, page = written(report.summarize([bare]), tmp_path / "r.html")
    assert "One network was trained on clutter" in page.text
    assert "this network was trained once" in page.text
    assert "What the differences mean" not in page.text and "Test images" not in page.text


def test_data_that_are_gone_leave_a_page_without_a_sheet(make_run, recipe, tmp_path, written):
    gone = replace(recipe.data, name="folder", folder=str(tmp_path / "gone"), options={})
    rows = report.summarize([make_run("student", data=gone)])
    _, page = written(rows, tmp_path / "r.html")
    assert "There is no gallery of test images: " in page.text
    assert "Test accuracy" in page.text
    assert not any(tag == "img" for tag, _ in page.tags)


def test_nothing_is_downloaded(make_run, recipe, tmp_path, monkeypatch, written):
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: pytest.fail("a report downloads"))
    data = replace(recipe.data, name="cifar10", folder=str(tmp_path), options={}, download=True)
    _, page = written(report.summarize([make_run("student", data=data)]), tmp_path / "r.html")
    assert "There is no gallery of test images: CIFAR-10 not found" in page.text


def test_the_reference_is_chosen_and_marked(make_run, tmp_path, written):
    rows = report.summarize([make_run("a"), make_run("b", correct=0.95)])
    _, page = written(rows, tmp_path / "r.html", reference="b", images=0)
    assert "b reference" in page.text and "a reference" not in page.text
    assert "Each network minus b," in page.text
    with pytest.raises(InputError, match="reference"):
        written(rows, tmp_path / "r.html", reference="c")


def test_wrong_input_loses_nothing(make_run, tmp_path):
    rows = report.summarize([make_run("a")])
    path = tmp_path / "r.html"
    path.write_text("before")
    for given, options in (([], {}), (rows, {"images": -1}), (rows, {"reference": 7})):
        with pytest.raises(InputError):
            report.write_html(given, path, title="t", **options)
    assert path.read_text() == "before"
    with pytest.raises(InputError, match="cannot write"):
        report.write_html(rows, path / "inside.html", title="t", images=0)


def test_many_networks_have_unlike_styles():
    styles = [(svg.colour_of(i), svg.dashes_of(i)) for i in range(22)]
    assert len(set(styles)) == 22
    assert [colour for colour, _ in styles].count(0) == 1  # the reference's alone
    assert max(colour for colour, _ in styles) < svg.COLOURS


def test_networks_of_one_colour_have_unlike_dots(make_run, tmp_path, written):
    dots = [(svg.colour_of(i), svg.core_of(i)) for i in range(22)]
    assert len(set(dots)) == 22

    def drawn(i):
        bubble = bubbles.Bubble("a", i, 1e6, 50, 49, 51, 1e5)
        return [
            figures.forest([figures.Bar("a", i, 50, 40, 60)], "c", "s"),
            figures.curves([figures.Series(i, [1, 2], [3, 4], [2, 3], [4, 5])], "%", "c", "s"),
            figures.depths([figures.Series(i, [1, 2], [0.3, 0.4])], 0.1, "c", "s"),
            bubbles.bubbles([bubble, replace(bubble, name="b", style=0, x=2e6)], "c", "s"),
        ]

    for first, second in zip(drawn(1), drawn(8), strict=True):
        dot = "fill: var(--paper); stroke: var(--net-1)"
        assert dot in second and dot not in first
    hollow = "--net: var(--net-1); --core: var(--paper)"
    rows = report.summarize([make_run(str(i), weights=False, position=0.1 * i) for i in range(9)])
    text, _ = written(rows, tmp_path / "r.html", images=0)
    beside = text.count("</svg> 8")  # in the table, the key of the curves, and above its three lines of differences
    assert beside >= 3 and text.count(hollow) == beside + 3
    assert hollow not in written(rows[:8], tmp_path / "r.html", images=0)[0]


def test_figures_take_their_colours_from_the_page():
    drawn = figures.forest([figures.Bar("a <b> $c$", i, 50 + i, 40, 60) for i in range(9)], 'a "caption"', "salt")
    assert "var(--net-0)" in drawn and "var(--net-7)" in drawn and "#a1b2" not in drawn and "#0a0b0c" not in drawn
    assert 'aria-label="a &quot;caption&quot;"' in drawn
    assert "a &lt;b&gt; $c$" in drawn
    assert "http:" not in drawn and "<metadata" not in drawn and "<style" not in drawn
    nan = float("nan")
    assert "<svg" in figures.curves(
        [figures.Series(0, [1, 2], [nan, 1.0]), figures.Series(1, [1], [nan])], "", "c", "s"
    )


def test_recipes_and_commands_repeat_the_run(make_run, tmp_path):
    teacher = make_run("the teacher", seed=3)
    student = make_run("-student", transfer=TransferRecipe(teacher=str(teacher.folder), beta=1000.0))
    rows = report.summarize([student, teacher])
    found = repeats(each_alone(rows))
    assert [repeat.name for repeat in found] == ["the teacher", "-student"]
    for repeat, run in zip(found, (teacher, student), strict=True):
        (tmp_path / "short.yaml").write_text(repeat.recipe)
        assert load_recipe(tmp_path / "short.yaml") == run.recipe
        train, measure = (shlex.split(line) for line in repeat.commands.splitlines())
        assert train[:2] == ["regard", "train"] and train[3:] == ["--run", str(run.folder)]
        assert train[2] in (f"{run.name}.yaml", f"./{run.name}.yaml") and not train[2].startswith("-")
        assert measure == ["regard", "bias", str(run.folder), "--layer", "group2"]
    assert short(load_recipe(None)) == "{}\n"


def test_environments_are_told_apart(make_run):
    rows = report.summarize([make_run("a"), make_run("b")])
    rows[1].environment["torch"] = "0.4"
    found = dict(environments(each_alone(rows)))
    assert found["torch"] == [(rows[0].environment["torch"], "a"), ("0.4", "b")]
    assert [whose for _, whose in found["python"]] == [""]
    assert "classes" not in found


def test_images_that_are_read_while_training_have_no_sheet(make_run, recipe, tmp_path, written):
    for place in (tmp_path / "set" / split / name for split in ("train", "val") for name in "0123456789"):
        place.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(place / "a.png")
    data = replace(recipe.data, name="files", folder=str(tmp_path / "set"), size=32, options={})
    _, page = written(report.summarize([make_run("student", data=data)]), tmp_path / "r.html")
    assert "There is no gallery of test images: those of " in page.text and "are read while training." in page.text
