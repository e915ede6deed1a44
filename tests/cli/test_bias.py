"""`regard bias`: two networks on image files with regions, from the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import by_torchrun

from regard import models, training
from regard.bias import Results
from regard.cli import main

pytestmark = pytest.mark.slow

COUNT = 21
NETWORKS = ("first.safetensors", "second.safetensors")


def network(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = models.create("wrn-10-0.5", num_classes=4)
    torch.save(model.state_dict(), path.with_suffix(".pth"))
    training.import_weights(
        path.with_suffix(".pth"),
        training.ModelRecipe("wrn-10-0.5"),
        path,
        class_names=("ant", "bee", "cat", "<b>dog</b>"),
        preprocessing=training.Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 32, 0.9),
    )


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two networks, and images with masks."""
    folder = tmp_path_factory.mktemp("bias")
    for seed, name in enumerate(NETWORKS):
        network(folder / name, seed)
    generator = np.random.default_rng(0)
    for i in range(COUNT):
        class_name = ("ant", "bee", "cat")[i % 3]
        for subfolder in ("images", "masks"):
            (folder / "set" / subfolder / class_name).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (36, 48, 3), dtype=np.uint8)
        mask = np.zeros((36, 48), np.uint8)
        top, left = generator.integers(4, 20, 2)
        mask[top : top + 10, left : left + 8 + i] = 255
        if i == 5:
            mask[:] = 0
        Image.fromarray(pixels).save(folder / "set/images" / class_name / f"{i:03d}.png")
        Image.fromarray(mask).save(folder / "set/masks" / class_name / f"{i:03d}.png")
    return folder


@pytest.fixture
def here(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*NETWORKS, "set"):
        (tmp_path / name).symlink_to(data_folder / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIONS = ("--data=masks:set", "--batch_size=4", "--shard=8", "--workers=0")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Returns the status, the output and the notes; after an error its line alone."""
    status = main(list(arguments))
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines(keepends=True) if line.startswith("regard: ")]
    return status, out, "".join(errors) if status else err


def same_rows(a: Results, b: Results) -> None:
    assert a.keys == b.keys
    for name in a.rows:
        np.testing.assert_array_equal(a.rows[name], b.rows[name])


def test_two_networks_are_compared_and_measured_only_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "bias", *NETWORKS, *OPTIONS, "--examples=6")
    assert status == 0, err
    folder = here / "bias-masks"
    assert "second.safetensors" in out and "significant" in out and "report.html" in err
    first, second = (Results.load(folder / f"{name}.json") for name in ("first", "second"))
    assert len(first) == COUNT and first.keys[0] == "ant/000.png" and first.overall.empty_regions == 1
    assert first.scored and first.classes == ("ant", "bee", "cat") and first.outputs[3] == "<b>dog</b>"
    assert first.rows["label"].tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert np.array_equal(first.rows["correct"], first.rows["label"] == first.rows["predicted"])
    assert not np.array_equal(first.rows["energy_inside"], second.rows["energy_inside"])
    report = json.loads((folder / "report.json").read_text())
    assert [record["model"] for record in report["networks"].values()] == list(NETWORKS)
    assert {record["model"] for record in report["comparisons"]} == {NETWORKS[1]}
    page = (folder / "report.html").read_text()
    assert "<script" not in page and "<b>dog" not in page and page.count("data:image/") >= 6

    # A second call reuses all shards and gives the same results.
    before = {path: path.stat().st_mtime_ns for path in (folder / "shards").rglob("*.parquet")}
    assert len(before) == 2 * 3
    assert run(capsys, "bias", *NETWORKS, *OPTIONS, "--examples=0")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    same_rows(Results.load(folder / "first.json"), first)

    # Wrong options with --overwrite delete nothing.
    for option in ("--method=gradcan", "--threshold=2", "--shard=0"):
        assert run(capsys, "bias", *NETWORKS, *OPTIONS, "--overwrite", option)[0] == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before

    # Only a missing shard is measured again.
    next(iter(before)).unlink()
    assert run(capsys, "bias", *NETWORKS, *OPTIONS, "--examples=0")[0] == 0
    same_rows(Results.load(folder / "first.json"), first)
    same_rows(Results.load(folder / "second.json"), second)

    status, _, err = run(capsys, "bias", *NETWORKS, *OPTIONS, "--method=layercam")
    assert status == 2 and "method differs" in err and err.count("regard: ") == 1
    assert run(capsys, "bias", *NETWORKS, *OPTIONS, "--method=layercam", "--overwrite", "--examples=0")[0] == 0
    assert Results.load(folder / "first.json").method == "layercam"


def test_keep_maps_stores_the_cams(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "bias", NETWORKS[0], *OPTIONS, "--keep-maps", "--examples=0", "--json", "--quiet")
    assert status == 0 and err == "", err
    results = Results.load(here / "bias-masks/first.json")
    assert [cam.dtype for cam in results.rows["map"]] == [np.uint8] * COUNT
    assert json.loads(out)["results"] == results.to_records()


def test_networks_without_common_images_are_not_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One network has no focus on any image; the results of both are still written."""
    torch.manual_seed(0)
    model = models.create("wrn-10-0.5", num_classes=4)
    torch.nn.init.zeros_(model.fc.weight)
    torch.save(model.state_dict(), "flat.pth")
    same = ["--mean=[0.5,0.5,0.5]", "--std=[0.25,0.25,0.25]", "--image-size=32", "--out=flat.safetensors"]
    assert run(capsys, "import", "flat.pth", "--model=wrn-10-0.5", *same)[0] == 0
    status, _, err = run(capsys, "bias", NETWORKS[0], "flat.safetensors", *OPTIONS)
    assert status == 0, err
    assert "flat.safetensors is not compared with first.safetensors: none of 21 images" in err
    assert "is not compared with" in (here / "bias-masks/report.html").read_text()


def test_missing_preprocessing_is_given_by_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without preprocessing needs it as options, and uses them."""
    torch.manual_seed(0)
    torch.save(models.create("wrn-10-0.5", num_classes=4).state_dict(), "plain.pth")
    assert run(capsys, "import", "plain.pth", "--model=wrn-10-0.5", "--out=plain.safetensors")[0] == 0
    status, _, err = run(capsys, "bias", "plain.safetensors", *OPTIONS)
    assert status == 2 and "--data.mean, --data.std" in err
    normalisation = ["--data.mean=[0.5,0.5,0.5]", "--data.std=[0.25,0.25,0.25]", "--data.size=24", "--examples=1"]
    assert run(capsys, "bias", "plain.safetensors", *OPTIONS, *normalisation)[0] == 0
    transform = Results.load(here / "bias-masks/plain.json").provenance["transform"]
    assert "size=(24, 24)" in transform and "crop_pct=1.0" in transform


def test_two_processes_give_the_results_of_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bias", str(here / NETWORKS[0]), f"--data=masks:{here}/set", *OPTIONS[1:], "--examples=0"]
    assert run(capsys, *arguments, f"--out={here}/one")[0] == 0
    first, second = by_torchrun([*arguments, f"--out={here}/two"], 2, here / "logs")
    assert first.count("page: ") == 1 and second == ""
    same_rows(Results.load(here / "one/first.json"), Results.load(here / "two/first.json"))


def test_unreadable_files_are_an_error_or_skipped(
    here: Path, capsys: pytest.CaptureFixture[str], data_folder: Path
) -> None:
    broken = here / "broken"
    for part in ("images", "masks"):
        (broken / part).mkdir(parents=True)
        for i in range(6):
            (broken / part / f"{i}.png").write_bytes(
                (data_folder / f"set/{part}/bee" / f"{1 + 3 * i:03d}.png").read_bytes()
            )
    (broken / "images/2.png").write_bytes(b"no picture")
    arguments = ["bias", NETWORKS[0], "--data=masks:broken", "--batch_size=2", "--workers=0"]
    status, _, err = run(capsys, *arguments)
    assert status == 2 and "2.png" in err and err.count("regard: ") == 1
    status, out, err = run(capsys, *arguments, "--unreadable=skip", "--examples=4")  # resumes
    assert status == 0, err
    report = Results.load(here / "bias-masks/first.json")
    assert len(report) == 5 and len(report.skipped) == 1 and "2.png" in report.skipped[0]
    assert "not readable" in out
    status, _, err = run(capsys, *arguments)
    assert status == 2 and "2.png" in err and err.count("regard: ") == 1
    # A shard with unreadable images alone.
    (broken / "images/3.png").write_bytes(b"")
    assert run(capsys, *arguments, "--unreadable=skip", "--shard=2", "--out=two", "--examples=0")[0] == 0
    report = Results.load(here / "two/first.json")
    assert report.keys == ("0.png", "1.png", "4.png", "5.png") and len(report.skipped) == 2
    for i in (0, 1, 4, 5):
        (broken / f"images/{i}.png").write_bytes(b"")
    status, _, err = run(capsys, *arguments, "--unreadable=skip", "--out=none")
    assert status == 2 and "no images; 6 could not be read" in err and err.count("regard: ") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bias"], "MODEL is missing"),
        (["bias", *NETWORKS], "are not known; name some (--data)"),
        (["bias", NETWORKS[0], f"./{NETWORKS[0]}", *OPTIONS], "named twice"),
        (["bias", "resnet51", *OPTIONS], "no run folder resnet51"),
        (["bias", "wrn-16-1=none.pth", *OPTIONS], "no checkpoint 'none.pth'"),
        (["bias", NETWORKS[0], "--data"], "--data needs a value"),
        (["bias", NETWORKS[0], "--data=masks:nowhere"], "nowhere"),
        (["bias", NETWORKS[0], "--data=mask:set"], "mask"),
        (["bias", NETWORKS[0], *OPTIONS, "--method=gradcan"], "did you mean 'gradcam'"),
        (["bias", NETWORKS[0], *OPTIONS, "--layer=group7"], "unknown layer 'group7'"),
        (["bias", NETWORKS[0], *OPTIONS, "--threshold=2"], "threshold is 2"),
        (["bias", NETWORKS[0], *OPTIONS, f"--margin={10**20}"], "margin is 1000000"),
        (["bias", NETWORKS[0], *OPTIONS, "--tolerance=-1"], "tolerance is -1"),
        (["bias", NETWORKS[0], *OPTIONS, "--tolerance=inf"], "tolerance"),
        (["bias", NETWORKS[0], *OPTIONS, "--shard=0"], "--shard is 0"),
        (["bias", NETWORKS[0], *OPTIONS, "--batch_size=0"], "--batch-size is 0"),
        (["bias", NETWORKS[0], *OPTIONS, "--workers=-1"], "--workers is -1"),
        (["bias", NETWORKS[0], *OPTIONS, "--limit=0"], "limit"),
        (["bias", NETWORKS[0], *OPTIONS, "--out=first.safetensors"], "is a file"),
        (["bias", NETWORKS[0], "--data=clutter", "--split=val"], "--split is for a set of image files"),
        (["bias", NETWORKS[0], "--data=clutter"], "was trained for 4 classes"),
        (["bias", NETWORKS[0], "--data=folder:set/images"], "no regions"),
    ],
)
def test_wrong_input_is_a_one_line_error(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, _, err = run(capsys, *arguments)
    assert status == 2 and message in err and err.count("regard: ") == 1
    assert not list(here.glob("bias-*"))


def test_shards_of_changed_files_are_not_reused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The masks change their content but not their size."""
    masks = []
    for i in range(2):
        for part in ("images", "masks"):
            (here / "own" / part).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (36, 36), (40 * i, 90, 120)).save(here / f"own/images/{i}.png")
        mask = Image.new("L", (36, 36))
        mask.paste(255, (0, 0, 9 + 9 * i, 18))
        masks.append(here / f"own/masks/{i}.png")
        mask.save(masks[-1])
    size = max(path.stat().st_size for path in masks)
    for path in masks:
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))  # the PNG ends before the padding
    arguments = ["bias", NETWORKS[0], "--data=masks:own", "--workers=0", "--examples=0"]
    assert run(capsys, *arguments)[0] == 0
    areas = Results.load(here / "bias-masks/first.json").rows["region_area"].tolist()
    contents = [path.read_bytes() for path in masks]
    for path, content in zip(masks, reversed(contents), strict=True):
        path.write_bytes(content)
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    status, _, err = run(capsys, *arguments)
    assert status == 2 and "data differs" in err and err.count("regard: ") == 1
    assert run(capsys, *arguments, "--overwrite")[0] == 0
    assert Results.load(here / "bias-masks/first.json").rows["region_area"].tolist() == areas[::-1]


@pytest.mark.parametrize("option", [[], ["--overwrite"]])
def test_files_of_the_user_are_kept(here: Path, capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    names = ["shards/train-000.tar", "shards/first/notes.txt", "shards/first/000000.tar", "first.txt"]
    for name in names:
        (here / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "mine" / name).write_text(name)
    arguments = ["bias", NETWORKS[0], *OPTIONS, "--examples=0", "--out=mine"]
    assert run(capsys, *arguments, *option)[0] == 0
    assert run(capsys, *arguments, "--method=layercam", "--overwrite")[0] == 0
    assert Results.load(here / "mine/first.json").method == "layercam"
    assert all((here / "mine" / name).read_text() == name for name in names)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("bias", name) for name in ("report.html", "report.json", "first.json", "first.parquet")),
        *(("bias", name) for name in ("shards/first/000001.parquet", "shards/first/plan.json")),
        *((study, f"{study}.{ending}") for study in ("gates", "groups") for ending in ("html", "json")),
    ],
)
def test_a_user_file_at_an_output_path_is_an_error(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    option = ["--overwrite"] if command == "bias" else []
    (here / "mine" / name).parent.mkdir(parents=True)
    (here / "mine" / name).write_text('{"of": "a person"}')
    options = {"bias": OPTIONS, "gates": OPTIONS[::3], "groups": (*OPTIONS[::3], "--layer=group3", "--groups=2")}
    status, _, err = run(capsys, command, NETWORKS[0], *options[command], "--out=mine", *option)
    assert status == 2 and str(Path(name).parent) in err and "mine" in err and err.count("regard: ") == 1
    assert (here / "mine" / name).read_text() == '{"of": "a person"}'
    assert [path.name for path in (here / "mine").rglob("*") if path.is_file()] == [Path(name).name]


@pytest.mark.parametrize("make", [lambda path: path.write_text("[" * 10**5), os.mkfifo], ids=["nested", "pipe"])
def test_an_unreadable_plan_is_an_error_and_keeps_its_shards(
    here: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object]
) -> None:
    shard = here / "mine/shards/first/000000.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_text("a person's")
    make(shard.with_name("plan.json"))
    status, _, err = run(capsys, "bias", NETWORKS[0], *OPTIONS, "--out=mine", "--overwrite")
    assert status == 2 and "shards/first" in err and err.count("regard: ") == 1
    assert shard.read_text() == "a person's"


def test_interventions_are_in_records_files_and_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "bias", *NETWORKS, *OPTIONS, "--interventions", "--json", "--examples=1")
    assert status == 0
    records = json.loads(out)
    effects = {(record["model"], record["measure"]): record for record in records["interventions"]}
    assert {model for model, _ in effects} == set(NETWORKS)
    drop = effects[NETWORKS[1], "drop_mixed_other"]
    results = Results.load(here / "bias-masks/second.json")
    finite = ~np.isnan(results.rows["mixed_other"])
    assert drop["n"] == finite.sum() < COUNT  # an image with an empty region is not used as a background either
    assert drop["value"] == pytest.approx(
        results.rows["correct"][finite].mean() - results.rows["mixed_other"][finite].mean(), abs=1e-6
    )
    between = [record for record in records["comparisons"] if record["measure"].startswith("drop_")]
    tested = [record for record in (*records["comparisons"], *records["interventions"]) if record["p"] is not None]
    least = min(tested, key=lambda record: record["p"])
    assert len(between) == 6 and least["p_adjusted"] == pytest.approx(len(tested) * least["p"])
    page = (here / "bias-masks/report.html").read_text()
    assert page.count('alt="') > 7 * 2 and 'id="interventions"' in page
    status, _, error = run(capsys, "bias", *NETWORKS, *OPTIONS, "--interventions", "--seed=1")
    assert status and "interventions" in error and error.count("\n") == 1
