"""Networks by name, as the commands take them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regard import models, training
from regard.errors import InputError


def test_a_name_with_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.create("resnet18", 7).eval()
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    trained = training.open_trained(f"resnet18={tmp_path / 'mine.pth'}")
    assert isinstance(trained, training.Named) and trained.class_count == 7 and trained.classes is None
    x = torch.randn(2, 3, 64, 64)
    found = trained.model()
    assert not found.training and torch.equal(found(x), model(x))
    about = trained.preprocessing
    assert about.mean == (0.485, 0.456, 0.406) and about.size == 224 and about.interpolation == "bicubic"
    fit = training.fit_of(about)
    assert fit.size == (224, 224) and fit.crop_pct == about.crop_pct and fit.fill == (124, 116, 104)
    with pytest.raises(InputError, match="one set of weights"):
        trained.weights("best")


def test_a_name_of_timm_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    build = training.named.build_network

    def offline(network: training.ModelRecipe, classes: int, **options: bool) -> torch.nn.Module:
        asked.append((network.pretrained, options.get("pretrained")))
        if network.pretrained and options.get("pretrained") is None:
            raise OSError("no route to host\nat all")
        return build(network, classes, **options)

    monkeypatch.setattr(training.named, "build_network", offline)
    trained = training.open_trained("resnet18")
    assert trained.source == "resnet18" and trained.class_count == 1000 and trained.preprocessing.size == 224
    with pytest.raises(InputError, match="of resnet18 cannot be had \\(no route to host at all\\); check the network"):
        trained.model()
    assert asked == [(True, False), (True, None)]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("resnet19", "no run folder resnet19, and timm knows no network"),
        ("resnet18=none.pth", "no checkpoint 'none.pth'"),
        ("resnet18d_not=x", "no checkpoint 'x'"),
    ],
)
def test_wrong_input(source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        training.open_trained(source)


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    torch.save(models.create("resnet18", 7).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(InputError, match="mine.pth"):
        training.open_trained(f"resnet34={tmp_path / 'mine.pth'}").model()
    (tmp_path / "list.pth").write_bytes(b"")
    with pytest.raises(InputError, match="list.pth"):
        training.open_trained(f"resnet34={tmp_path / 'list.pth'}").class_count  # noqa: B018
