"""`regard evaluate`: runs, checkpoints and other networks, on the data of their run and on other data."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import Command, ended
from torch.nn import functional as F

from regard import data, models, training
from regard.cli import main
from regard.training import Preprocessing, Run

pytestmark = pytest.mark.slow

NETWORK = "wrn-10-0.5"
CLUTTER = "--data.options={train: 96, test: 40}"
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    json_option = ["--json"] if "evaluate" in arguments else []
    status = main([*arguments, *json_option, *([] if "export" in arguments else ["--device=cpu"])])
    return status, *capsys.readouterr()


def metrics(out: str) -> tuple[str, str]:
    """Returns accuracy and loss from the one record of `regard evaluate --json`."""
    (record,) = json.loads(out)
    return f"{record['accuracy']:.2%}", f"{record['loss']:.4f}"


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status, out, err = run(capsys, *arguments)
    assert status == 2 and not out and "Traceback" not in err, out + err
    return err.splitlines()[-1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(folder: Path, *options: str) -> Run:
    small = [f"--model.name={NETWORK}", "--schedule.epochs=1", "--schedule.batch_size=32", "--device=cpu"]
    recipe = training.load_recipe(None, [*small, "--threads=1", CLUTTER, *options])
    return training.train(recipe, folder).run


def untrained(folder: Path, classes: tuple[str, ...], *options: str, seed: int = 0) -> Run:
    """Writes a run with random weights, on data that need not exist."""
    defaults = [f"--data.mean={list(MEAN)}", f"--data.std={list(STD)}", f"--model.name={NETWORK}"]
    recipe = training.load_recipe(None, [*defaults, *options])
    saved_run = Run.create(folder, recipe, classes)
    torch.manual_seed(seed)
    model = training.build_network(recipe.model, len(classes))
    for module in model.modules():  # so that predictions differ clearly between images
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=1)
    saved_run.save_weights(model, "last", 1, 0.5)
    return saved_run


def class_folders(folder: Path, classes: tuple[str, ...], side: int | tuple[int, int] = 32, count: int = 3) -> None:
    """Writes `train/` and `test/` folders with noise images of varying brightness."""
    width, height = (side, side) if isinstance(side, int) else side
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = generator.integers(0, generator.integers(40, 256), (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def logits(network: training.Pretrained, images: data.InMemoryDataset, mean=MEAN, std=STD) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    with torch.no_grad():
        return network.model()((images.images / 255 - mean) / std)


def expected_metrics(outputs: torch.Tensor, labels: torch.Tensor) -> tuple[str, str]:
    accuracy = (outputs.argmax(1) == labels).double().mean().item()
    return f"{accuracy:.2%}", f"{F.cross_entropy(outputs, labels).item():.4f}"


@pytest.fixture(scope="module")
def clutter(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("clutter") / "run")


# Checkpoints


def test_the_last_checkpoint_scores_like_its_run(clutter: Run, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (newest,) = sorted(clutter.checkpoints.iterdir())[-1:]
    status, out, err = run(capsys, "evaluate", str(newest))
    assert status == 0, err
    record = json.loads(out)[0]
    assert (record["model"], record["weights"], record["data"]) == (str(newest), "checkpoint", "clutter test")
    assert not err
    assert metrics(out) == metrics(run(capsys, "evaluate", str(clutter.folder))[1])
    checkpoint_network = training.load_pretrained(newest)
    run_network = training.load_pretrained(clutter.folder)
    assert (checkpoint_network.classes, checkpoint_network.preprocessing) == (
        run_network.classes,
        run_network.preprocessing,
    )
    status, out, err = run(capsys, "bias", str(newest), "--examples=0", "--out=there")
    assert status == 0, err
    assert (clutter.folder / f"bias-{newest.stem}.json").is_file() and not (clutter.folder / "bias.json").exists()
    assert "one set of weights" in error_line(capsys, "evaluate", str(newest), "--weights=best")


def test_a_user_file_named_bias_json_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_run = untrained(here / "run", tuple("0123456789"), CLUTTER)
    (saved_run.folder / "bias.json").write_text('{"of": "a person"}')
    err = error_line(capsys, "bias", "run", "--out=there", "--examples=0")
    assert "run/bias.json" in err and not (here / "there").exists()
    assert (saved_run.folder / "bias.json").read_text() == '{"of": "a person"}'


def test_checkpoints_with_a_moving_average_are_scored_with_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_run = trained(here / "run", "--ema=0.9")
    newest = sorted(saved_run.checkpoints.iterdir())[-1]
    status, out, err = run(capsys, "evaluate", str(newest))
    assert status == 0, err
    assert json.loads(out)[0]["weights"] == "moving average"
    assert metrics(out) == metrics(run(capsys, "evaluate", "run")[1])
    content = models.read_checkpoint(newest)
    model = saved_run.model()
    models.load_weights(model, content["model"], "the weights themselves")
    images = data.load("clutter", train=96, test=40).test
    with torch.no_grad():
        outputs = model(
            (images.images / 255 - torch.tensor(images.mean)[:, None, None]) / torch.tensor(images.std)[:, None, None]
        )
    assert expected_metrics(outputs, images.labels) != metrics(out)
    del content["hooks"]["WeightAverage"]
    torch.save(content, newest)
    assert "has no moving average" in error_line(capsys, "evaluate", str(newest))


def test_broken_and_missing_checkpoints_are_errors(
    clutter: Run, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(clutter.folder, here / "run")
    bad = here / "run/checkpoints/step-000000099.pt"
    torch.save({"epoch": 3}, bad)
    assert "has no network" in error_line(capsys, "evaluate", str(bad))
    torch.save({"model": models.create("wrn-10-1", 10).state_dict()}, bad)
    assert "does not fit" in error_line(capsys, "evaluate", str(bad))
    content = sorted(clutter.checkpoints.iterdir())[-1].read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    assert "cut short or no checkpoint" in error_line(capsys, "evaluate", str(bad))
    missing = "run/checkpoints/step-000000001.pt"
    assert f"no checkpoint {missing}; a run keeps only the newest" in error_line(capsys, "evaluate", missing)


def test_a_copied_checkpoint_needs_the_name_of_its_network(
    clutter: Run, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outside its run folder, a checkpoint does not name its network; NAME=PATH does."""
    newest = sorted(clutter.checkpoints.iterdir())[-1]
    shutil.copy(newest, "copy.pt")
    assert "name its network, NAME=copy.pt" in error_line(capsys, "evaluate", "copy.pt")
    data_recipe = clutter.recipe.data
    normalisation = [f"--data.mean={list(data_recipe.mean)}", f"--data.std={list(data_recipe.std)}"]
    status, out, err = run(capsys, "evaluate", f"{NETWORK}=copy.pt", "--data.name=clutter", CLUTTER, *normalisation)
    assert status == 0, err
    assert metrics(out) == metrics(run(capsys, "evaluate", str(clutter.folder))[1])


# Other images


def test_another_set_uses_the_normalisation_and_size_of_the_run(here: Path, capsys) -> None:
    classes = ("ant", "bee", "cat")
    class_folders(here / "set", classes, side=48)
    saved_run = untrained(here / "run", classes, "--data.name=clutter")
    status, out, err = run(capsys, "evaluate", "run", "--data.name=folder", "--data.folder=set")
    assert status == 0, err
    assert not err
    images = data.load("folder", "set", size=32).test
    assert metrics(out) == expected_metrics(logits(saved_run, images), images.labels)


def test_other_sizes_and_normalisations_are_noted(here: Path, capsys) -> None:
    classes = ("ant", "bee", "cat")
    class_folders(here / "set", classes, side=48)
    saved_run = untrained(here / "run", classes, "--data.name=clutter")
    options = ["--data.size=48", "--data.mean=[0.1,0.2,0.3]", f"--data.std={list(STD)}"]
    status, out, err = run(capsys, "evaluate", "run", "--data.name=folder", "--data.folder=set", *options)
    assert status == 0, err
    assert err.splitlines() == [
        "note: run was trained on images with size 32; folder has 48",
        "note: run was trained on images with mean [0.4, 0.5, 0.6]; folder has [0.1, 0.2, 0.3]",
    ]
    images = data.load("folder", "set", size=48).test
    assert metrics(out) == expected_metrics(logits(saved_run, images, mean=(0.1, 0.2, 0.3)), images.labels)
    status, out, err = run(capsys, "evaluate", "run", "--data=folder:set/test", "--data.size=24", "--data.crop_pct=0.9")
    assert status == 0, err
    assert err == "note: run was trained on images with size 32; folder has 24\n"


def test_preprocessing_of_imported_networks_is_compared_with_the_data(here: Path, capsys) -> None:
    classes = ("ant", "bee", "cat")
    class_folders(here / "set", classes, side=40)
    torch.manual_seed(0)
    torch.save(models.create(NETWORK, 3).state_dict(), "net.pt")
    network = training.ModelRecipe(NETWORK)
    preprocessing = Preprocessing(MEAN, STD, 36, 0.9, interpolation="bicubic")
    training.import_weights("net.pt", network, "net.safetensors", class_names=classes, preprocessing=preprocessing)
    folder = ["--data.name=folder", "--data.folder=set"]
    status, out, err = run(capsys, "evaluate", "net.safetensors", *folder)
    assert status == 0, err
    assert err.splitlines() == [
        "note: net.safetensors was trained on images with crop_pct 0.9; folder has 1.0",
        "note: net.safetensors was trained on images with interpolation bicubic; folder has bilinear",
    ]
    assert not run(capsys, "evaluate", "net.safetensors", "--data=folder:set/test")[2]
    training.import_weights("net.pt", network, "bare.safetensors")
    err = run(capsys, "evaluate", "bare.safetensors", *folder)[2]
    assert "the normalisation of bare.safetensors is not known; that of folder is used" in err
    torch.save(models.create("resnet10t", 10).state_dict(), "timm.pt")
    err = run(capsys, "evaluate", "resnet10t=timm.pt", "--data.name=clutter", CLUTTER)[2]
    assert "resnet10t=timm.pt was trained on images with size 176; clutter has 32" in err


def test_the_training_precision_is_noted(here: Path, capsys) -> None:
    classes = tuple("0123456789")
    untrained(here / "run", classes, "--precision=bfloat16", CLUTTER)
    status, _, err = run(capsys, "evaluate", "run")
    assert status == 0 and "note: run was trained with precision bfloat16" in err


def test_infinite_outputs_are_noted(here: Path, capsys) -> None:
    saved_run = untrained(here / "run", tuple("0123456789"), CLUTTER)
    model = saved_run.model()
    bias = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1].bias
    torch.nn.init.constant_(bias[3:4], -torch.inf)  # a class that is never predicted
    saved_run.save_weights(model, "last", 1, 0.5)
    status, out, err = run(capsys, "evaluate", "run")
    assert status == 0 and json.loads(out)[0]["loss"] is None
    assert "note: run has outputs that are NaN or infinite" in err


# Classes


def imported(here: Path, names: tuple[str, ...]) -> training.Pretrained:
    torch.manual_seed(1)
    torch.save(models.create(NETWORK, len(names)).state_dict(), "net.pt")
    preprocessing = Preprocessing(MEAN, STD, 32)
    return training.import_weights(
        "net.pt", training.ModelRecipe(NETWORK), "net.safetensors", class_names=names, preprocessing=preprocessing
    )


def test_classes_are_matched_by_name(here: Path, capsys) -> None:
    """The classes may have any order, and the data may have only some of them."""
    network = imported(here, ("cat", "ant", "dog", "bee"))
    class_folders(here / "all", ("ant", "bee", "cat", "dog"))
    class_folders(here / "some", ("bee", "cat"))
    for folder, indices in (("all", [1, 3, 0, 2]), ("some", [3, 0])):
        status, out, err = run(capsys, "evaluate", "net.safetensors", "--data.name=folder", f"--data.folder={folder}")
        assert status == 0, err
        images = data.load("folder", folder, size=32).test
        assert metrics(out) == expected_metrics(logits(network, images), torch.tensor(indices)[images.labels])
        note = "note: folder has 2 of the 4 classes of net.safetensors, which still predicts among all 4"
        assert (note in err) == (folder == "some")
        assert "top5" not in json.loads(out)[0]


def test_classes_that_do_not_match_are_an_error(here: Path, capsys) -> None:
    imported(here, ("cat", "ant", "dog", "bee"))
    folder = ["--data.name=folder", "--data.folder=set"]
    class_folders(here / "set", ("ant", "bee", "cow", "dog"))
    assert "was trained for 4 classes (cat, ant, dog, …), and folder has 4 (ant, bee, cow, …)" in error_line(
        capsys, "evaluate", "net.safetensors", *folder
    )
    repeated_names = ("cat", "ant", "ant", "dog", "bee", "cow")
    training.import_weights(
        weights_file(len(repeated_names)),
        training.ModelRecipe(NETWORK),
        "twice.safetensors",
        class_names=repeated_names,
    )
    assert "was trained for 6 classes" in error_line(
        capsys, "evaluate", "twice.safetensors", *folder
    )  # 'ant' is ambiguous
    for part in ("images", "masks"):
        (here / "plain" / part).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(here / "plain" / part / "0.png")
    assert "masks have no classes" in error_line(capsys, "evaluate", "net.safetensors", "--data=masks:plain")


def weights_file(classes: int) -> Path:
    torch.save(models.create(NETWORK, classes).state_dict(), "other.pt")
    return Path("other.pt")


def test_top_5_accuracy_is_reported_for_many_classes(here: Path, capsys) -> None:
    names = tuple(f"c{i:02d}" for i in range(12))
    network = imported(here, names)
    class_folders(here / "set", names)
    status, out, err = run(capsys, "evaluate", "net.safetensors", "--data.name=folder", "--data.folder=set")
    assert status == 0, err
    images = data.load("folder", "set", size=32).test
    outputs = logits(network, images)
    top5 = (outputs.argsort(1, descending=True)[:, :5] == images.labels[:, None]).any(1).double().mean().item()
    record = json.loads(out)[0]
    assert 0 < top5 < 1 and record["top5_low"] < record["top5"] < record["top5_high"]
    assert record["top5"] == pytest.approx(top5)
    assert metrics(out) == expected_metrics(outputs, images.labels)


def test_unreadable_images_are_counted(here: Path, capsys) -> None:
    imported(here, ("ant", "bee"))
    class_folders(here / "set", ("ant", "bee"))
    (here / "set/test/bee/1.png").write_bytes(b"nothing")
    assert "1.png" in error_line(capsys, "evaluate", "net.safetensors", "--data=folder:set/test", "--workers=0")
    arguments = ["evaluate", "net.safetensors", "--data=folder:set/test", "--workers=0", "--unreadable=skip"]
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    assert "1 unreadable images skipped: bee/1.png" in err
    record = json.loads(out)[0]
    assert (record["images"], record["skipped"]) == (5, 1)


def test_two_processes_give_the_results_of_one(here: Path, capsys) -> None:
    imported(here, ("ant", "bee"))
    class_folders(here / "set", ("ant", "bee"))
    (here / "set/test/bee/1.png").write_bytes(b"nothing")
    arguments = ["evaluate", "net.safetensors", "--data=folder:set/test", "--workers=0", "--unreadable=skip"]
    output = run(capsys, *arguments)[1]
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_ID": "1"}
        environment["MASTER_PORT"] = str(server.getsockname()[1])
    commands = [  # as srun starts the processes
        Command([*arguments, "--json", "--device=cpu"], {**os.environ, **environment, "SLURM_PROCID": rank})
        for rank in ("0", "1")
    ]
    outcomes = ended(commands)
    assert [status for status, _, _ in outcomes] == [0, 0], outcomes
    assert metrics(outcomes[0][1]) == metrics(output) and outcomes[1][1] == ""


# Data sets that are read from disk during training


@pytest.fixture
def run_on_files(here: Path) -> Run:
    classes = ("ant", "bee", "cat")
    class_folders(here / "set", classes, side=(52, 40))
    options = ["--data.name=files", "--data.folder=set", "--data.size=32", "--data.crop_pct=0.8"]
    return untrained(here / "run", classes, *options, "--data.interpolation=bicubic")


def test_a_run_on_files_is_scored_with_its_test_transform(run_on_files: Run, here: Path, capsys) -> None:
    assert training.load_pretrained(run_on_files.folder).preprocessing == Preprocessing(
        MEAN, STD, 32, 0.8, interpolation="bicubic"
    )
    status, out, err = run(capsys, "evaluate", "run", "--workers=0")
    assert status == 0, err
    record = json.loads(out)[0]
    assert (record["weights"], record["data"], record["images"], err) == ("last", "files test", 9, "")
    status, named_output, err = run(capsys, "evaluate", "run", "--data=folder:set/test", "--workers=0")
    assert status == 0, err
    assert metrics(out) == metrics(named_output) and not err
    status, smaller, err = run(capsys, "evaluate", "run", "--workers=0", "--data.crop_pct=1", "--data.size=24")
    assert status == 0, err
    assert "note: run was trained on images with size 32; files has 24" in err
    assert "note: run was trained on images with crop_pct 0.8; files has 1.0" in err
    assert metrics(smaller) != metrics(out)
    status, limited, err = run(capsys, "evaluate", "run", "--workers=0", "--limit=6")
    assert status == 0 and json.loads(limited)[0]["images"] == 6, err
    assert "--split is for a set of image files" in error_line(capsys, "evaluate", "run", "--split=test")
    assert run(capsys, "explain", "set/test/ant/0.png", "--model=run", "--out=seen")[0] == 0


def test_bias_needs_regions_and_gates_need_attention(run_on_files: Run, capsys) -> None:
    assert "have no regions; name a set that has (--data)" in error_line(capsys, "bias", "run")
    assert "has no attention module" in error_line(capsys, "gates", "run")  # which need no regions


def test_an_imported_network_sets_the_preprocessing_of_files(here: Path, capsys) -> None:
    classes = ("ant", "bee", "cat")
    class_folders(here / "set", classes, side=(52, 40))
    imported(here, classes)
    status, out, err = run(
        capsys, "evaluate", "net.safetensors", "--data.name=files", "--data.folder=set", "--workers=0"
    )
    assert status == 0, err
    assert not err
    assert metrics(out) == metrics(run(capsys, "evaluate", "net.safetensors", "--data=folder:set/test")[1])


def test_a_run_on_shards_scores_like_the_same_files(here: Path, capsys) -> None:
    """Commands that need access to single images refuse shards."""
    classes = ("ant", "bee", "cat")
    class_folders(here / "set", classes)
    files = sorted((here / "set/test").rglob("*.png"))
    for shard in range(2):
        with tarfile.open(here / f"{shard}.tar", "w") as archive:
            for path in files[shard::2]:
                name = f"{path.parent.name}{path.stem}"
                (here / "cls").write_text(str(classes.index(path.parent.name)))
                archive.add(path, f"{name}.png")
                archive.add(here / "cls", f"{name}.cls")
    options = f"{{train: 0.tar, test: '{{0,1}}.tar', classes: {list(classes)}}}"
    untrained(
        here / "run", classes, "--data.name=wds", "--data.folder=.", "--data.size=32", f"--data.options={options}"
    )
    files_options = ("--data.name=files", "--data.folder=set")
    expected = metrics(run(capsys, "evaluate", "run", *files_options)[1])
    for workers in (0, 2):
        status, out, err = run(capsys, "evaluate", "run", f"--workers={workers}")
        assert status == 0 and metrics(out) == expected, err
    assert "have no subsets" in error_line(capsys, "evaluate", "run", "--limit=3")
    assert "are a stream" in error_line(capsys, "groups", "run", "--layer=x", "--out=out")
    assert "are a stream" in error_line(capsys, "gates", "run", "--out=out")
    assert "no regions" in error_line(capsys, "bias", "run", "--out=out")


def test_the_default_size_depends_on_the_data_set(here: Path) -> None:
    recipe = training.load_recipe(None, ["--data.name=wds", "--data.folder=x"])
    streamed = Run.create(here / "run", recipe, ("a", "b"))
    preprocessing = training.load_pretrained(streamed.folder, None).preprocessing
    assert (preprocessing.size, preprocessing.crop_pct) == (224, 0.875)
    in_memory = replace(recipe, data=replace(recipe.data, name="cifar10"))
    in_memory_run = Run.create(here / "held", in_memory, ("a", "b"))
    assert training.load_pretrained(in_memory_run.folder, None).preprocessing == Preprocessing(size=32)
