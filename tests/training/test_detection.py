"""Detectors in the trainer: the same loop, checkpoints, processes and run folders as for classifiers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from support.scenes import write_scenes

from regard import attention, models, training
from regard.cli import main
from regard.errors import InputError
from regard.training.distributed import Processes
from regard.training.loop import Loop

pytestmark = pytest.mark.slow
SMALL = "{strides: [4], channels: 8, norm: statistics, frozen_stages: 0, box_batch_size_per_image: 8, "
SMALL += "rpn_batch_size_per_image: 32, rpn_post_nms_top_n_train: 50, rpn_post_nms_top_n_test: 20, "
SMALL += "box_detections_per_img: 5}"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


def recipe(scenes: Path, *more: str) -> training.Recipe:
    return training.load_recipe(
        None,
        [
            *("--data.name=coco", f"--data.folder={scenes}", "--data.size=64", "--data.workers=0", "--threads=1"),
            *("--model.name=cifar-resnet11", "--model.detector=faster-rcnn", f"--model.detector_options={SMALL}"),
            *("--optimizer.lr=0.01", "--schedule.epochs=2", "--schedule.batch_size=2", "--device=cpu", *more),
        ],
    )


def weights(run: Path) -> bytes:
    return (run / "last.safetensors").read_bytes()


class Killed(training.Hook):
    """Saves a checkpoint within the second epoch and ends the run one step later."""

    def after_step(self, loop: Loop) -> None:
        if (loop.epoch, loop.step) == (1, 1):
            loop.save()
        if (loop.epoch, loop.step) == (1, 2):
            raise KeyboardInterrupt


def test_a_run_records_losses_and_ap_and_resumes_exactly(scenes, tmp_path) -> None:
    plan = recipe(scenes, "--ema=0.9", "--schedule.accumulate=2")
    whole = training.train(plan, tmp_path / "whole")
    row = whole.row
    assert row is not None and 0 <= row["test_box_ap"] <= 1 and row["test_images"] == 3
    terms = ("classifier", "box_reg", "objectness", "rpn_box_reg")
    assert row["loss"] == pytest.approx(sum(row[term] for term in terms), rel=1e-5)
    assert "accuracy" not in row and "test_accuracy" not in row

    with pytest.raises(KeyboardInterrupt):
        training.train(plan, tmp_path / "cut", hooks=[Killed()])
    resumed = training.train(plan, tmp_path / "cut", resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert resumed.row is not None and resumed.row["loss"] == row["loss"]


def test_a_nan_gradient_stops_the_run(scenes, tmp_path, monkeypatch) -> None:
    clip = Loop.clip

    def clip_nan(loop: Loop) -> torch.Tensor:
        gradient = loop.parameters[0].grad
        assert gradient is not None
        gradient[0] = math.nan
        return clip(loop)

    monkeypatch.setattr(Loop, "clip", clip_nan)
    with pytest.raises(InputError, match="NaN or infinite in epoch 1, step 1"):
        training.train(recipe(scenes), tmp_path / "run")


@pytest.mark.parametrize("detector", ["faster-rcnn", "mask-rcnn", "retinanet"])
def test_batch_losses_are_the_mean_of_micro_batch_losses(scenes, detector) -> None:
    """Several processes and several micro-batches therefore learn the same as one."""
    options = "{strides: [4], channels: 8, frozen_stages: 0}" if detector == "retinanet" else SMALL
    plan = recipe(scenes, f"--model.detector={detector}", f"--model.detector_options={options}")
    with Processes("cpu") as processes:
        torch.manual_seed(0)
        task = training.Detection.create(plan, training.Detection.load_data(plan.data), processes)
        task.student.train()
        batch = next(iter(task.loader.epoch(0)))
        whole = task.objective(*task.inputs(batch, 5, 0.0))
        parts = training.loop.micro_batches(batch, 2, fewest=1)
        halves = [task.objective(*task.inputs(part, 5, 0.0)) for part in parts]
        for name, loss in whole.terms.items():
            if name not in (
                "mask",
                "box_reg",
                "classifier",
            ):  # means over boxes, whose number differs between images
                assert loss.item() == pytest.approx(sum(half.terms[name].item() for half in halves) / 2, rel=1e-4)


def test_the_command_line_trains_evaluates_and_draws(scenes, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.yaml"
    training.recipe.write_recipe(recipe(scenes, "--schedule.epochs=1", "--model.detector=mask-rcnn"), file)
    assert main(["train", str(file), "--run", "run", "--json", "--quiet"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert main(["detect", "evaluate", "run", "--json", "--workers=0", "--quiet", "--out=found"]) == 0
    assert sorted(path.name for path in Path("found").iterdir()) == ["1-run-boxes.json", "1-run-masks.json"]
    overall = [row for row in json.loads(capsys.readouterr().out)["results"] if row["class"] is None]
    assert [row["kind"] for row in overall] == ["boxes", "masks"]
    assert overall[0]["AP"] == pytest.approx(trained["test_box_ap"], abs=1e-12)
    assert (
        main(["detect", "predict", str(scenes / "val2017"), "--model=run", "--out=seen", "--score=0", "--quiet"]) == 0
    )
    index = json.loads((tmp_path / "seen" / "detections.json").read_text())
    assert len(index["images"]) == 3 and all((tmp_path / "seen" / row["picture"]).is_file() for row in index["images"])
    for image in index["images"]:
        for row in image["detections"]:
            left, top, right, bottom = row["box"]
            assert 0 <= left <= right <= 64 and 0 <= top <= bottom <= 64
            assert row["class"] in ("disc", "box") and row["mask"]["size"] == [64, 64]
    assert (
        main(["detect", "predict", str(scenes / "val2017" / "000.png"), "--model=run", "--out=none", "--score=1"]) == 0
    )
    assert "lower it (--score)" in capsys.readouterr().err
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["test_box_ap"] == pytest.approx(trained["test_box_ap"]) and run["test_accuracy"] is None
    for command in (["evaluate", "run"], ["gates", "run"]):
        assert main([*command, "--quiet"]) == 2
        assert "detector" in capsys.readouterr().err
    monkeypatch.setattr("regard.detection.evaluate", None)  # refused before the evaluation
    assert main(["detect", "evaluate", "run", "--quiet", "--out=found"]) == 2
    assert "1-run-boxes.json exists already" in capsys.readouterr().err


@pytest.mark.parametrize("source_attention", ["se", None])
def test_attention_starts_from_the_backbone_weights_or_as_identity(source_attention, scenes, tmp_path, capsys) -> None:
    source = models.create("cifar-resnet11", 5, attention=source_attention)
    models.write_weights(source, tmp_path / "backbone.safetensors", {})
    options = ("--model.attention=se", f"--model.pretrained={tmp_path / 'backbone.safetensors'}", "--schedule.epochs=1")
    run = training.train(recipe(scenes, *options), tmp_path / "run").run.folder
    start = "identity" if source_attention is None else "published"
    assert training.Run.open(run).recipe.model.attention_start == start
    detector = training.load_pretrained(run).model()  # rebuilt from the run
    assert all(
        isinstance(module, attention.IdentityStart) == (source_attention is None)
        for module in attention.attached(detector).values()
    )
    assert main(["complexity", str(run), "--image-size", "64", "--json"]) == 0
    plain, attached = json.loads(capsys.readouterr().out)
    assert attached["detector"] == "faster-rcnn"
    assert attached["parameters"] > plain["parameters"]
