"""Networks of torchvision by name, with published weights from a cache that the tests fill."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from regard import InputError, models, training
from regard.models.torchvision import describe_torchvision, torchvision_names

SMALL = ("squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "densenet121", "googlenet")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of torch's cache, empty; downloads fail."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def fill_cache(name: str, folder: Path) -> nn.Module:
    """Stores weights for `torchvision/name` in the cache, in torchvision's format, and returns the network."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, **options)
    state = model.state_dict()
    if name.startswith("densenet"):  # names of torch before 0.4, which torchvision changes when it loads them
        state = {re.sub(r"(norm|conv)([12]\.\w+)$", r"\1.\2", key): value for key, value in state.items()}
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    weights = torchvision.models.get_model_weights(name).DEFAULT
    torch.save(state, folder / weights.url.rpartition("/")[2])
    return torchvision.models.get_model(name, weights=weights).eval()


def test_names_and_descriptions() -> None:
    names = torchvision_names()
    assert {"torchvision/resnet50", "torchvision/vit_b_16", "torchvision/alexnet"} <= set(names)
    assert not any(word in name for name in names for word in ("rcnn", "retinanet", "deeplab", "fcn", "raft", "r3d"))
    for name in names:
        description = describe_torchvision(name)
        images = torchvision.models.get_model_weights(name.removeprefix("torchvision/")).DEFAULT.transforms()
        assert description["num_classes"] == 1000 and description["input_size"] == (3, *2 * images.crop_size)
        # timm resizes to the side of the crop divided by crop_pct, rounded down.
        assert math.floor(description["input_size"][-1] / description["crop_pct"]) == images.resize_size[0], name


@pytest.mark.parametrize("name", ["resnet50", "convnext_small", "efficientnet_b1", "inception_v3", "swin_v2_t"])
def test_preprocessing_equals_torchvision(name: str) -> None:
    preprocessing = training.load_pretrained(f"torchvision/{name}").preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (301, 433, 3), dtype=np.uint8)
    actual = preprocessing.transform().image(Image.fromarray(pixels)) / 255
    actual = (actual - torch.tensor(preprocessing.mean)[:, None, None]) / torch.tensor(preprocessing.std)[:, None, None]
    expected = torchvision.models.get_model_weights(name).DEFAULT.transforms()(Image.fromarray(pixels))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", SMALL)
def test_published_weights_load_and_the_head_is_replaced(name: str, cache: Path) -> None:
    expected = fill_cache(name, cache)
    model = models.create(f"torchvision/{name}", 1000, pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), expected(x))
    torch.manual_seed(1)
    model = models.create(f"torchvision/{name}", 7, pretrained=True)
    published = expected.state_dict()
    head = [key for key, value in model.state_dict().items() if value.shape != published[key].shape]
    assert sorted(key.rpartition(".")[2] for key in head) == ["bias", "weight"]
    assert all(torch.equal(value, published[key]) for key, value in model.state_dict().items() if key not in head)
    assert model.eval()(x).shape == (2, 7)
    assert float(model.get_parameter(next(key for key in head if key.endswith("weight"))).detach().std()) > 0


def test_a_failed_download_names_the_file_and_the_cache(cache: Path) -> None:
    with pytest.raises(InputError) as caught:
        models.create("torchvision/resnet18", 10, pretrained=True)
    message = str(caught.value)
    assert "no route to host" in message and "resnet18-f37072fd.pth" in message
    assert str(cache) in message and "\n" not in message


def test_downloads_are_checked_by_hash(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *arguments, **_: calls.append(arguments))
    with pytest.raises(InputError):  # nothing was downloaded
        models.create("torchvision/mnasnet1_0", 10, pretrained=True)
    ((url, path, checksum, *_),) = calls
    assert url == "https://download.pytorch.org/models/mnasnet1.0_top1_73.512-f206786ef8.pth"
    assert Path(path).parent == cache and checksum == "f206786ef8"


def test_broken_cached_weights_are_refused(cache: Path) -> None:
    path = cache / "squeezenet1_1-b8a52dc0.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="squeezenet1_1 could not be loaded"):
        models.create("torchvision/squeezenet1_1", 10, pretrained=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match="does not fit SqueezeNet: 52 missing"):
        models.create("torchvision/squeezenet1_1", 10, pretrained=True)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 96)])
def test_networks_with_auxiliary_heads_return_logits(name: str, side: int) -> None:
    with torch.device("meta"):
        model = models.create(f"torchvision/{name}", 7).train()
        assert model(torch.empty(2, 3, side, side)).shape == (2, 7)
    # Images are preprocessed alike for published weights and for weights trained here.
    assert model.transform_input


def test_vision_transformers_use_their_image_size() -> None:
    with torch.device("meta"):
        assert models.create("torchvision/vit_h_14").image_size == 518
        assert models.create("torchvision/vit_b_32", image_size=64).image_size == 64


def test_attention_is_attached_to_the_chosen_stages(relative_error: Callable[..., float]) -> None:
    torch.manual_seed(0)
    plain = models.create("torchvision/resnet18", 5).eval()
    model = models.create("torchvision/resnet18", 5, attention="se", attention_stages=(3, 4)).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    assert isinstance(model.get_submodule("layer4.1.bn2.attention"), nn.Module)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert model(x).shape == (2, 5) and relative_error(model(x), plain(x)) > 1e-3


def test_weights_survive_saving_and_loading(tmp_path: Path) -> None:
    """MNASNet checks the version of its state dict, which safetensors do not store."""
    model = models.create("torchvision/mnasnet0_5", 5)
    models.write_weights(model, tmp_path / "mnasnet.safetensors", {})
    other = models.create("torchvision/mnasnet0_5", 5)
    models.load_weights(other, models.read_checkpoint(tmp_path / "mnasnet.safetensors"), "the file")
    assert models.fingerprint(other) == models.fingerprint(model)


def test_wrong_input_fails_with_one_line() -> None:
    for call, words in (
        (
            lambda: models.create("torchvision/resnet51"),
            "'torchvision/resnet51' (did you mean",
        ),
        (lambda: models.create("torchvision/fasterrcnn_resnet50_fpn"), "unknown network of torchvision"),
        (lambda: models.create("torchvison/resnet50"), "did you mean torchvision/resnet50"),
        (lambda: models.create("torchvision/resnet18", blok=1), "blok"),
        (lambda: models.create("torchvision/vit_b_16", image_size=50), "torchvision/vit_b_16: "),
        (lambda: models.create("torchvision/resnet18", replace_stride_with_dilation=[1]), "torchvision/resnet18: "),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert words in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)
