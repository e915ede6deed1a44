"""Runs with guidance: the effect of each recipe field, and refused recipes."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tests.support import sources

from regard import InputError, data, models, training, transfer
from regard.training import Run, load_recipe

SMALL = [
    *("--model.name=wrn-10-0.25", "--schedule.epochs=1", "--schedule.batch_size=20", "--schedule.milestones=[]"),
    *("--optimizer.lr=0.05", "--device=cpu", "--threads=1", "--guidance.weight=1"),
]


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    return data.Splits(*data.load("clutter", train=60, test=20, region="outline"))


def trained(folder, splits: data.Splits, *options: str) -> Run:
    return training.train(load_recipe(None, [*SMALL, *options]), folder / "run", splits=splits).run


def test_guidance_lowers_the_energy_outside(splits, tmp_path) -> None:
    """Both for guided attention maps and for guided class activation maps."""
    for kind in ("attention", "cam"):
        options = (f"--guidance.maps={kind}", "--schedule.epochs=5", "--augmentation.flip=false")
        rows = trained(tmp_path / kind, splits, *options, "--guidance.weight=5").metrics()
        assert rows[-1]["guidance"] < 0.8 * rows[0]["guidance"] and rows[0]["loss"] == pytest.approx(
            rows[0]["task"] + 5 * rows[0]["guidance"], rel=1e-4
        )


def test_accumulated_micro_batches_have_the_guidance_of_the_whole_batch(splits, tmp_path) -> None:
    options = ("--model.fixed_norms=true", "--guidance.share=0.3")
    whole = trained(tmp_path / "whole", splits, *options)
    parts = trained(tmp_path / "parts", splits, *options, "--schedule.accumulate=4")
    assert parts.metrics()[0]["guidance"] == pytest.approx(whole.metrics()[0]["guidance"], rel=1e-4)
    for name, value in load_file(whole.weights()).items():
        torch.testing.assert_close(load_file(parts.weights())[name], value, rtol=1e-3, atol=2e-5)


def test_the_annotated_images_do_not_depend_on_the_seed(splits, tmp_path, monkeypatch) -> None:
    recorded: list[torch.Tensor] = []
    monkeypatch.setattr(training.classification, "Guided", lambda: RecordingGuided(recorded))
    for seed in (0, 1):
        trained(tmp_path / str(seed), splits, "--guidance.share=0.2", f"--seed={seed}")
    first, second = torch.cat(recorded[:3]), torch.cat(recorded[3:])
    assert first.sort().values.tolist() == second.sort().values.tolist() and len(first) == 12
    low, high = splits.train.labels[first].bincount(minlength=10).aminmax()
    assert high - low <= 1


@pytest.mark.slow
@pytest.mark.parametrize("maps", ["cam", "attention", "gate"])
def test_a_compiled_step_matches_an_eager_one(maps, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = models.create("wrn-10-0.25", 10, attention="cbam", attention_stages=(3,)).train()
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    regions = torch.zeros(4, 16, 16, dtype=torch.bool)
    regions[:3, 4:9, 5:11] = True
    totals, gradients = [], []
    for compile in (False, True):
        objective = transfer.Objective(
            deepcopy(model), None, beta=0, guidance=3.0, guidance_maps=maps, image_size=16, compile=compile
        )
        for step in range(2):  # the second step checks that hooks and batch norm statistics persist
            losses = objective(images, labels, step / 2, regions)
            losses.total.backward()
        totals.append([losses.total.detach(), losses.terms["guidance"].detach()])
        gradients.append([parameter.grad for parameter in objective.student.parameters()])
    assert totals[0][1] > 0
    torch.testing.assert_close(totals[1], totals[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


class RecordingGuided(training.hooks.Guided):
    """Keeps the indices of the images with a region."""

    def __init__(self, recorded: list[torch.Tensor]) -> None:
        self.recorded = recorded

    def before_step(self, loop, batch):
        self.recorded.append(batch.index[batch.masks.flatten(1).any(1)])
        return super().before_step(loop, batch)


@pytest.mark.parametrize(
    "options",
    [
        ["--guidance.form=energie"],
        ["--guidance.maps=camm"],
        ["--guidance.share=0"],
        ["--guidance.share=1.5"],
        ["--guidance.dilate=-1"],
        ["--guidance.weight=-1"],
        ["--guidance.weight={start: 1, stop: 2}"],
        ["--guidance.maps=gate"],
        ["--guidance.maps=attention", "--guidance.layers=[group7]"],
        ["--guidance.layers=[group1]"],
        ["--augmentation.mixup=0.2"],
        ["--guidance.maps=gradcam", "--compile=true"],
        ["--data.name=files", "--augmentation.policy=rand-m7-mstd0.5"],
    ],
    ids=" ".join,
)
def test_invalid_guidance_is_one_line(options, splits, tmp_path) -> None:
    with pytest.raises(InputError) as caught:
        trained(tmp_path, splits, *options)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_data_sets_without_regions_are_refused(splits, tmp_path) -> None:
    train = splits.train
    without_regions = data.InMemoryDataset(
        train.images, train.labels, train.classes, train.name, train.split, train.mean, train.std
    )
    with pytest.raises(InputError, match="regions"):
        trained(tmp_path, data.Splits(without_regions, without_regions))
    sources.class_folders(tmp_path / "files")
    sources.shards(tmp_path / "wds")
    for name in ("files", "wds"):
        options = [f"--data.name={name}", f"--data.folder={tmp_path / name}", "--data.size=32", "--data.workers=0"]
        with pytest.raises(InputError, match="regions") as caught:
            training.train(load_recipe(None, [*SMALL, *options, "--schedule.batch_size=2"]), tmp_path / "run")
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
