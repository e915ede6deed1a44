"""Networks of a fixed image size on images of another size: in every command and function an error names both sizes."""

from __future__ import annotations

import pytest
import torch

from regard import InputError, attention, bias, data, maps, models, training
from regard.cli import main
from regard.studies import gate_activations

NAME = "vit_tiny_patch16_224"
SMALL = {"depth": 1, "embed_dim": 12, "num_heads": 2}
CLUTTER = ["--data.name=clutter", "--data.options={train: 20, test: 20}", "--device=cpu"]


def vision_transformer(**options) -> torch.nn.Module:
    return models.create(NAME, 10, **SMALL, **options)


def check_error(capsys, expected: int, actual: int, *arguments: str) -> None:
    status = main(list(arguments))
    error = capsys.readouterr().err
    assert status == 2 and error.count("regard: ") == 1, error
    assert f"{expected} x {expected}" in error and f"{actual} x {actual}" in error


@pytest.mark.parametrize("command", ["evaluate", "bias"])
def test_a_checkpoint_refuses_images_of_another_size(capsys, tmp_path, monkeypatch, command) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(models.create(NAME, 10).state_dict(), "vit.pth")
    check_error(capsys, 224, 32, command, f"{NAME}=vit.pth", *CLUTTER)
    assert list(tmp_path.glob("**/*.json")) == []


@pytest.mark.parametrize("name", [NAME, "inception_v3", "torchvision/alexnet"])  # the last two need larger images
def test_training_refuses_another_size_and_leaves_no_run(capsys, tmp_path, name) -> None:
    expected = 299 if name == "inception_v3" else 224
    check_error(capsys, expected, 32, "train", *CLUTTER, f"--model.name={name}", f"--run={tmp_path / 'run'}")
    assert not list(tmp_path.iterdir())


def test_every_function_refuses_images_of_another_size() -> None:
    model, images = vision_transformer(), torch.zeros(2, 3, 32, 32)
    _, test = data.load("clutter", train=20, test=20)
    gated = attention.attach(vision_transformer(), "se", where=["patch_embed.proj"])
    for call in (
        lambda: maps.GradCAM(model)(images),
        lambda: bias.evaluate(model, test),
        lambda: training.evaluate(model, data.create_loader(test, 10)),
        lambda: gate_activations(gated, [(images, torch.zeros(2, dtype=torch.long))]),
        lambda: models.latency({"a": model}, images, repeats=1),
    ):
        with pytest.raises(InputError) as error_info:
            call()
        assert (
            "224 x 224" in str(error_info.value)
            and "32 x 32" in str(error_info.value)
            and "\n" not in str(error_info.value)
        )


def test_flexible_networks_accept_images_of_another_size() -> None:
    images = torch.zeros(2, 3, 32, 48)
    for model in (vision_transformer(img_size=(32, 48)), vision_transformer(dynamic_img_size=True)):
        assert maps.create("gradient", model)(images).shape == (2, 32, 48)
