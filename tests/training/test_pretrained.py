"""Pretrained networks by name, as accepted by the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from regard import models, training
from regard.errors import InputError


def test_a_name_with_a_checkpoint_loads_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.create("resnet18", 7).eval()
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    trained = training.load_pretrained(f"resnet18={tmp_path / 'mine.pth'}")
    assert trained.class_count == 7 and trained.classes is None
    x = torch.randn(2, 3, 64, 64)
    network = trained.model()
    assert not network.training and torch.equal(network(x), model(x))
    preprocessing = trained.preprocessing
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.size == 224 and preprocessing.interpolation == "bicubic"
    transform = preprocessing.transform()
    assert transform.size == (224, 224) and transform.crop_pct == preprocessing.crop_pct
    assert transform.fill == (124, 116, 104)
    with pytest.raises(InputError, match="one set of weights"):
        training.load_pretrained(f"resnet18={tmp_path / 'mine.pth'}", "best")


def test_a_timm_name_loads_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def offline(network: training.ModelRecipe, classes: int) -> torch.nn.Module:
        calls.append((network.pretrained, classes))
        raise ValueError("no route to host\nat all")

    monkeypatch.setattr(training.pretrained, "build_network", offline)
    trained = training.load_pretrained("resnet18")
    assert trained.source == "resnet18" and trained.class_count == 1000 and trained.preprocessing.size == 224
    with pytest.raises(InputError, match="cannot be loaded \\(no route to host at all\\)"):
        trained.model()
    assert calls == [(True, 1000)]


def test_a_torchvision_name_loads_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    model = models.create("torchvision/shufflenet_v2_x0_5", 1000).eval()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(model.state_dict(), cache / "shufflenetv2_x0.5-f707e7126e.pth")
    trained = training.load_pretrained("torchvision/shufflenet_v2_x0_5")
    assert trained.source == "torchvision/shufflenet_v2_x0_5" and trained.class_count == 1000
    # The same class names as for timm's networks, so that every class has a single name.
    assert trained.classes == training.imagenet_classes()
    preprocessing = trained.preprocessing
    assert preprocessing.mean == (0.485, 0.456, 0.406) and (preprocessing.size, preprocessing.crop_pct) == (224, 0.875)
    assert preprocessing.interpolation == "bilinear"
    assert preprocessing == training.Preprocessing.of(model.pretrained_cfg)
    x, network = torch.randn(2, 3, 64, 64), trained.model()
    assert not network.training and torch.equal(network(x), model(x))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_a_torchvision_name_with_a_checkpoint_loads_its_weights(name: str, tmp_path: Path) -> None:
    model = models.create(f"torchvision/{name}", 7).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "mine.pth")
    trained = training.load_pretrained(f"torchvision/{name}={tmp_path / 'mine.pth'}")
    assert trained.class_count == 7 and trained.classes is None and trained.preprocessing.size == 224
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(trained.model()(x), model(x))


def test_failed_torchvision_downloads_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host\nat all")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        InputError, match=r"of torchvision/squeezenet1_1 could not be loaded \(OSError: no route to host\)"
    ):
        training.load_pretrained("torchvision/squeezenet1_1").model()


def test_failed_timm_downloads_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub and we cannot")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(InputError, match=r"of resnet18 .* \(no answer from the Hugging Face Hub\); .*resnet18=FILE"):
        training.load_pretrained("resnet18").model()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("wrn-16-1", "no published weights of wrn-16-1; give a run of it, its checkpoint .wrn-16-1=FILE."),
        ("resnet19", "no run folder resnet19, and timm has no network of that name .did you mean resnet"),
        ("torchvision/resnet19", "'torchvision/resnet19' .did you mean .torchvision/resnet"),
        ("torchvision/resnet19=none.pth", "unknown network of torchvision"),
        ("torchvision/resnet18=none.pth", "no checkpoint 'none.pth'"),
        ("resnet18=none.pth", "no checkpoint 'none.pth'"),
        ("resnet18d_not=x", "no checkpoint 'x'"),
    ],
)
def test_unknown_sources_are_named(source: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=expected):
        training.load_pretrained(source)


def test_checkpoints_of_another_network_are_named(tmp_path: Path) -> None:
    torch.save(models.create("resnet18", 7).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(InputError, match="mine.pth"):
        training.load_pretrained(f"resnet34={tmp_path / 'mine.pth'}").model()
    (tmp_path / "list.pth").write_bytes(b"")
    with pytest.raises(InputError, match="list.pth"):
        training.load_pretrained(f"resnet34={tmp_path / 'list.pth'}")
