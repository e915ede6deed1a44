"""Wrong input to `regard detect` and to detector recipes: a one-line error, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from support.scenes import write_scenes

from regard import training
from regard.cli import main
from regard.errors import InputError


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    recipe = training.load_recipe(None, ["--model.name=cifar-resnet11", "--data.mean=[0,0,0]", "--data.std=[1,1,1]"])
    run = training.Run.create(tmp_path / "classifier", recipe, tuple("0123456789"))
    run.save_weights(training.make_model(recipe, 10), "last", 1, 0.1)
    return str(run.folder)


def test_a_classifier_is_rejected(classifier, tmp_path, capsys) -> None:
    assert main(["detect", "evaluate", classifier]) == 2
    assert "is a classifier (cifar-resnet11)" in capsys.readouterr().err
    (tmp_path / "photo.png").touch()
    assert main(["detect", "predict", str(tmp_path / "photo.png"), "--model", classifier, "--out", "seen"]) == 2
    error = capsys.readouterr().err
    assert "is a classifier" in error and error.count("\n") == 1 and not Path("seen").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "photo.png"], "the detector is missing"),
        (["evaluate", "a", "a"], "a is named twice"),
        (["evaluate", "a", "--model", "b"], "--model is for regard detect predict"),
        (["predict", "photo.png", "--model", "a", "--score", "2"], "--score is 2"),
        (["draw", "photo.png"], "evaluate"),
        (["evaluate", "a", "--score", "0.9"], "--score is for regard detect predict"),
        (["predict", "photo.png", "--model", "a", "--per-class"], "--per-class is for regard detect evaluate"),
    ],
)
def test_wrong_arguments_are_an_error(arguments, message, capsys) -> None:
    assert main(["detect", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.detector=yolo"], "detector"),
        (["--model.detector_options={norm: fixed}"], "model.detector_options is for detectors"),
        (["--model.gate=sub-attention"], "model.gate is given, and attention is not"),
        (["--model.detector=fcos", "--model.attention_stages=[1]"], "model.attention_stages is given"),
        (["--augmentation.photometric=true"], "photometric is for detectors"),
        (["--model.detector=fcos", "--augmentation.mixup=0.2"], "mixup is for classifiers"),
        (["--model.detector=fcos", "--label_smoothing=0.1"], "label_smoothing is for classifiers"),
        (["--model.detector=fcos", "--data.crop_pct=1"], "data.crop_pct is for classifiers"),
        (["--model.detector=fcos", "--augmentation.crop=64"], "crop is the square of jitter"),
        (
            ["--model.detector=fcos", "--augmentation.jitter=[0.5, 2]", "--augmentation.short_side=[64]"],
            "leave one out",
        ),
    ],
)
def test_incompatible_recipe_fields_are_an_error(options, message) -> None:
    with pytest.raises(InputError, match=message):
        training.load_recipe(None, options)


def test_mask_rcnn_needs_masks_and_a_detector_needs_objects(tmp_path) -> None:
    scenes = write_scenes(tmp_path / "boxes", masks=False)
    small = "--model.detector_options={strides: [4], channels: 8}"
    options = ["--model.name=cifar-resnet11", small, "--data.workers=0"]
    data = ["--data.name=coco", f"--data.folder={scenes}"]
    with pytest.raises(InputError, match="boxes without masks"):
        training.train(training.load_recipe(None, [*options, *data, "--model.detector=mask-rcnn"]), tmp_path / "run")
    path = scenes / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    crowds = [{**annotation, "iscrowd": 1} for annotation in content["annotations"]]
    for objects, message in (
        (crowds, f"{len(crowds)} objects, all crowds"),
        ([], "no image of split 'train' .* has obj"),
    ):
        path.write_text(json.dumps({**content, "annotations": objects}))
        with pytest.raises(InputError, match=message):
            training.train(training.load_recipe(None, [*options, *data, "--model.detector=fcos"]), tmp_path / "run")
    path.write_text(json.dumps({**content, "categories": []}))
    with pytest.raises(InputError, match="no objects with a class"):
        training.train(training.load_recipe(None, [*options, *data, "--model.detector=fcos"]), tmp_path / "run")
    for split in ("train", "test"):
        (tmp_path / "plain" / split / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "plain" / split / "cat" / "0.png")
    data = ["--data.name=files", f"--data.folder={tmp_path / 'plain'}", "--model.detector=faster-rcnn"]
    with pytest.raises(InputError, match="objects"):
        training.train(training.load_recipe(None, [*options, *data]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
