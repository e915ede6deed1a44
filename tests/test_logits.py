"""Networks with one output for two classes, and logits inside dicts, tuples and other outputs."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from regard import InputError, bias, data, maps, models, training, transfer
from regard.cli import main

NAME = "wrn-10-0.5"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def binary(bias_: float = 0.0) -> nn.Module:
    """A network with one output."""
    torch.manual_seed(0)
    model = models.create(NAME, 1).eval()
    with torch.no_grad():
        model.fc.bias.fill_(bias_)
    return model


def two_outputs(model: nn.Module) -> nn.Module:
    """The equivalent network with two outputs: logits (-z / 2, z / 2)."""
    other = models.create(NAME, 2).eval()
    state = model.state_dict()
    state["fc.weight"] = torch.cat((-state["fc.weight"], state["fc.weight"])) / 2
    state["fc.bias"] = torch.cat((-state["fc.bias"], state["fc.bias"])) / 2
    other.load_state_dict(state)
    return other


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def black_batches(labels: Tensor) -> data.Loader:
    images = torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    return data.create_loader(data.InMemoryDataset(images, labels, classes, "black", "test", (0.0,) * 3, (1.0,) * 3), 4)


def write_images(folder, count: int = 3) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


OPTIONS = ["--data.size=32", "--data.mean=[0.5,0.5,0.5]", "--data.std=[0.25,0.25,0.25]", "--device=cpu"]


@pytest.mark.slow
def test_commands_accept_a_network_with_one_output(workdir, capsys) -> None:
    write_images(workdir / "set")
    torch.save(binary(-9.0).state_dict(), "negative.pth")
    torch.save({"state_dict": two_outputs(binary(-9.0)).state_dict()}, "two.pth")
    (workdir / "names.txt").write_text("cat\ndog\n")
    options = ["--mean=[0.5,0.5,0.5]", "--std=[0.25,0.25,0.25]", "--image-size=32", "--class-names=names.txt"]
    for name in ("negative", "two"):
        assert run(capsys, "import", f"{name}.pth", f"--model={NAME}", *options, f"--out={name}.safetensors")[0] == 0
    assert training.load_pretrained("negative.safetensors").class_count == 2

    status, out, _ = run(capsys, "explain", "set/test/cat/0.png", "--model=negative.safetensors", "--device=cpu")
    assert status == 0
    explanation = json.loads((workdir / "explained/explain.json").read_text())["records"]
    pixels = torch.from_numpy(np.array(Image.open("set/test/cat/0.png"))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        z = binary(-9.0)((pixels - 0.5) / 0.25).item()
    assert z < -5
    first, second = explanation
    assert (first["class"], second["class"]) == ("cat", "dog")
    assert first["probability"] == pytest.approx(1 / (1 + np.exp(z)), abs=1e-6)
    assert second["probability"] == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-6)

    sources = ["negative.safetensors", f"{NAME}=negative.pth", "two.safetensors"]
    status, out, _ = run(capsys, "evaluate", *sources, "--data.name=folder", "--data.folder=set", *OPTIONS, "--json")
    records = json.loads(out)
    assert status == 0 and [record["accuracy"] for record in records] == [0.5] * 3
    assert [record["loss"] for record in records] == pytest.approx([records[0]["loss"]] * 3, rel=1e-6)


def test_bias_with_one_output_equals_two_outputs(images) -> None:
    regions = torch.zeros(4, 32, 32, dtype=torch.bool)
    regions[:, 8:20, 8:20] = True
    batch = (images, torch.tensor([0, 1, 0, 1]), regions)
    with torch.no_grad():
        right = (binary()(images)[:, 0] > 0) == batch[1].bool()
    single, double = (bias.evaluate(model, [batch], device="cpu") for model in (binary(), two_outputs(binary())))
    assert single.to_dict()["summary"] == double.to_dict()["summary"] and len(single) == 4
    assert single.accuracy == double.accuracy and single.accuracy.value == right.double().mean()


@pytest.mark.parametrize("name", ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "gradient", "activation"])
def test_saliency_maps_with_one_output_equal_two_outputs(name, images) -> None:
    """The output is the score of class 1, and its negative the score of class 0; the probability is the sigmoid."""
    model = binary()
    method, reference = maps.create(name, model), maps.create(name, two_outputs(model))
    for classes in (0, 1, None, [[0, 1]] * 4):
        actual, expected = method(images, classes), reference(images, classes)
        assert torch.equal(method.classes, reference.classes)
        assert torch.allclose(method.logits[:, 0], reference.logits[:, 1] * 2, atol=1e-6)
        # Maps that are linear in the scores: the scores of two outputs are half of the single output.
        factor = 2 if name in ("gradcam", "hirescam", "layercam", "xgradcam") else 1
        if name != "gradcam++":
            assert torch.allclose(actual, factor * expected, rtol=1e-4, atol=1e-7)
    method(images)
    with torch.no_grad():
        z = model(images)[:, 0]
    assert torch.equal(method.classes, (z >= 0).long()) and torch.equal(method.logits[:, 0], z)
    assert torch.equal(method(images, top=1)[:, 0], method(images))
    with pytest.raises(InputError, match="2 outputs"):
        method(images, 2)


def test_gradcam_with_one_output_by_hand(images) -> None:
    model = binary()
    with maps.Taps(model, "group2") as taps:
        z = model(images)
    (features,) = taps.features.values()
    features.retain_grad()
    (gradients,) = torch.autograd.grad(z.sum(), features)
    for class_, sign in ((1, 1), (0, -1)):
        cam = torch.einsum("nc,nchw->nhw", sign * gradients.mean((2, 3)), features).clamp(min=0)
        actual = maps.GradCAM(model, "group2")(images, class_, upsample=False)
        assert torch.allclose(actual, cam, atol=1e-7)


def test_group_activation_with_one_output_equals_two_outputs(images) -> None:
    single = maps.group_activation(binary(), "group2", images, [0, 1, 0, 1], 4)
    double = maps.group_activation(two_outputs(binary()), "group2", images, [0, 1, 0, 1], 4)
    assert torch.allclose(single, double, atol=1e-6, equal_nan=True)


def test_losses_and_scores_with_one_output_equal_two_outputs(images) -> None:
    labels = torch.tensor([0, 1, 1, 0])
    for task in ("cross_entropy", "binary_cross_entropy"):
        student, teacher = binary(), two_outputs(binary(1.0))
        objective = transfer.Objective(student, teacher, beta=0, alpha=0.5, task=task)
        losses = objective(images, labels)
        z = student(images)[:, 0]
        assert losses.logits.shape == (4, 1)
        assert losses.terms["task"].item() == pytest.approx(
            F.binary_cross_entropy_with_logits(z, labels.float()).item()
        )
        expected = transfer.distillation_loss(two_outputs(student)(images), teacher(images), labels, alpha=0.5)
        assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    batches = black_batches(torch.tensor([0, 1, 1, 0, 1, 1]))
    score = training.evaluate(binary(9.0), batches)
    assert score.accuracy == pytest.approx(4 / 6)
    expected = training.evaluate(two_outputs(binary(9.0)), batches)
    assert score[:4] == pytest.approx(expected[:4], rel=1e-6)


class Wrapped(nn.Module):
    """A network that returns its logits inside another object."""

    def __init__(self, model: nn.Module, pack) -> None:
        super().__init__()
        self.model, self.pack = model, pack

    def forward(self, images: Tensor) -> object:
        return self.pack(self.model(images))


@dataclass
class Output:
    logits: Tensor
    hidden: None = None


GoogLeNetOutputs = namedtuple("GoogLeNetOutputs", "logits aux")

PACKED = {
    "dict": lambda z: {"hidden": None, "logits": z},
    "out": lambda z: OrderedDict(out=z, aux=z * 0),
    "tuple": lambda z: (z, z * 0),
    "list": lambda z: [z],
    "attribute": Output,
    "named": lambda z: GoogLeNetOutputs(z, None),
    "tuple of dict": lambda z: ({"logits": z}, None),
}


@pytest.mark.parametrize("form", PACKED)
def test_logits_are_found_in_dicts_tuples_and_attributes(form, images) -> None:
    torch.manual_seed(0)
    model = models.create(NAME, 4).eval()
    packed = Wrapped(model, PACKED[form])
    assert torch.equal(maps.GradCAM(packed, "model.group2")(images), maps.GradCAM(model, "group2")(images))
    labels = torch.tensor([0, 1, 2, 3])
    scores = [
        transfer.Objective(student, teacher, beta=1, alpha=0.5, layers=[layer])(images, labels).total.item()
        for student, teacher, layer in ((packed, packed, "model.group2"), (model, model, "group2"))
    ]
    assert scores[0] == scores[1]
    groups = [
        maps.group_activation(network, layer, images, None, 2)
        for network, layer in ((packed, "model.group2"), (model, "group2"))
    ]
    assert torch.equal(*groups)
    batches = black_batches(labels)
    assert training.evaluate(packed, batches) == training.evaluate(model, batches)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ({"loss": None, "boxes": None}, "boxes"),
        ((), "tuple"),
        (None, "NoneType"),
        ({"logits": "x"}, "str"),
        ([[]], "list"),
    ],
)
def test_outputs_without_logits_are_named_in_the_error(output, name, images) -> None:
    packed = Wrapped(models.create(NAME, 4).eval(), lambda _: output)
    batch = (images, torch.zeros(4, dtype=torch.int64), torch.ones(4, 32, 32) > 0)
    for call in (
        lambda: maps.GradCAM(packed, "model.group2")(images),
        lambda: transfer.Objective(packed, None)(images, torch.zeros(4, dtype=torch.int64)),
        lambda: bias.evaluate(packed, [batch], layer="model.group2"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert name in str(caught.value) and "\n" not in str(caught.value)
