"""Functions `(model, images, classes) -> maps` used as methods."""

import re
import sys
from pathlib import Path

import pytest
import torch

from regard import maps
from regard.errors import InputError

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "maps.md"


def brightness(model, images, classes):
    """The mean of the channels plus the class index, at half the image size."""
    assert not model.training and torch.is_grad_enabled()
    return images[:, :, ::2, ::2].mean(1) + classes[:, None, None]


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(maps.registry, "_METHODS", dict(maps.registry._METHODS))


def test_functions_are_methods(model, x):
    method = maps.create(brightness, model.train())
    assert (method.layers, method.layer) == ((), "")
    result = method(x)
    assert model.training and result.shape == (4, 16, 16) and result.dtype == torch.float64
    model.eval()
    assert torch.equal(method.classes, model(x).argmax(1)) and torch.equal(method.logits, model(x).detach())
    expected = brightness(model, x, method.classes)
    torch.testing.assert_close(method(x, upsample=False), expected)
    assert torch.equal(result, maps.method.resized(expected, (16, 16)))
    per_class = method(x, [[0, 1]] * 4, upsample=False)
    torch.testing.assert_close(per_class[:, 1], per_class[:, 0] + 1)
    assert torch.equal(method(x, top=2, upsample=False)[:, 0], expected)


def test_functions_and_classes_are_registered_by_name(model, x, registered):
    maps.register("Brightness", brightness)
    assert "brightness" in maps.names()
    assert torch.equal(maps.create("BRIGHTNESS", model)(x, 1), maps.create(brightness, model)(x, 1))

    class Brightest(maps.MapMethod):
        """The largest activation."""

        def combine(self, activations, gradients):
            return activations.amax(1)

    maps.register("brightest", Brightest)
    result = maps.create("brightest", model, "layer1", fuse="max")(x, upsample=False)
    torch.testing.assert_close(result, model.layer1(x).amax(1).detach())


def test_unregistered_names_are_not_imported(model, tmp_path, monkeypatch):
    (tmp_path / "own_cams.py").write_text("def red(model, images, classes):\n    return images[:, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="unknown method 'own_cams:red'"):
        maps.create("own_cams:red", model)
    assert "own_cams" not in sys.modules


def test_wrong_maps_layers_and_options_fail(model, x):
    with pytest.raises(InputError, match=r"the method gives \(4, 3, 16, 16\); expected one map per image, \(4, h, w\)"):
        maps.create(lambda model, images, classes: images, model)(x)
    with pytest.raises(InputError, match="the method gives NoneType; expected one map per image"):
        maps.create(lambda model, images, classes: None, model)(x)
    for options in ({"layer": "layer1"}, {"fuse": "max"}):
        with pytest.raises(InputError, match="the method is a function; leave it out"):
            maps.create(brightness, model, **options)


@pytest.mark.parametrize("model", [False], indirect=True)
def test_the_documented_grad_cam_adapter_works(model, x, registered):
    package = pytest.importorskip("pytorch_grad_cam")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S) if "grad_cam" in block)
    del model.unused  # FullGrad expects every layer with a bias to run
    model, x = model.float(), x.float()
    namespace = {"model": model, "images": x}
    exec(code, namespace)
    names = [name for name in maps.names() if name.startswith("grad-cam:")]
    assert names == [f"grad-cam:{name}" for name in ("ablationcam", "eigencam", "eigengradcam", "fullgrad", "scorecam")]
    targets = [package.utils.model_targets.ClassifierOutputTarget(class_) for class_ in (0, 1, 2, 3)]
    for name in ("ScoreCAM", "EigenCAM", "FullGrad"):
        result = maps.create(f"grad-cam:{name}", model)(x, [0, 1, 2, 3])
        with getattr(package, name)(model, [model.layer3]) as cam:
            expected = torch.from_numpy(cam(x.clone(), targets))
        assert result.shape == (4, 16, 16) and "pytorch_grad_cam" in sys.modules
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
