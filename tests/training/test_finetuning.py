"""Runs that start from the weights of a run, a file or a published network (`model.pretrained`)."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from regard import InputError, attention, data, models, training
from regard.training import Run, load_recipe
from regard.training.sources import initial_network, like_source

SMALL = [
    *("--schedule.epochs=1", "--schedule.batch_size=20", "--schedule.milestones=[]", "--optimizer.lr=1e-9"),
    *("--optimizer.weight_decay=0", "--device=cpu", "--threads=1"),
]


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    return data.Splits(*data.load("clutter", train=40, test=20))


def trained(folder, splits: data.Splits, *options: str) -> Run:
    return training.train(load_recipe(None, [*SMALL, *options]), folder, splits=splits).run


@pytest.fixture(scope="module")
def source(splits, tmp_path_factory) -> Run:
    """A run with trained attention in two stages."""
    run = trained(
        tmp_path_factory.mktemp("source") / "run",
        splits,
        *("--model.name=wrn-10-0.25", "--model.attention=se", "--model.gate=sub-attention"),
        *("--model.attention_stages=[2,3]", "--seed=5"),
    )
    assert run.recipe.model.pretrained is False
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value for name, value in load_file(run.weights()).items() if "running" not in name}


def all_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], names) -> bool:
    return all(torch.allclose(one[name], other[name], atol=1e-6) for name in names if "num_batches" not in name)


def test_a_run_can_start_from_weights_and_attention_of_another(source, splits, tmp_path) -> None:
    run = trained(tmp_path / "run", splits, f"--model.pretrained={source.folder}")
    assert all_close(weights(run), weights(source), weights(source))
    model = run.recipe.model
    assert (model.name, model.attention, model.gate, model.attention_stages) == (
        *("wrn-10-0.25", "se", "sub-attention", [2, 3]),
    )
    assert (model.pretrained, model.attention_start) == (str(source.folder), "published")
    assert list(attention.attached(run.model())) == list(attention.attached(source.model()))
    second = trained(tmp_path / "again", splits, f"--model.pretrained={run.folder}")  # itself fine-tuned
    assert all_close(weights(second), weights(source), weights(source))


def test_another_number_of_classes_gets_a_new_classifier(source, splits, tmp_path) -> None:
    three = data.Splits(*(with_classes(images, 3) for images in splits))
    notes: list[str] = []
    network = like_source(
        load_recipe(None, [f"--model.pretrained={source.folder}"]).model, training.DataRecipe(), notes.append
    )
    model = initial_network(network, 3, notes.append)
    assert model.fc.out_features == 3 and any("fc.weight, fc.bias" in note for note in notes)
    run = trained(tmp_path / "run", three, f"--model.pretrained={source.folder}", "--model.frozen=[conv0,group0]")
    before, after = weights(source), weights(run)
    assert after["fc.weight"].shape == (3, 16)
    assert all_close(after, before, [name for name in before if not name.startswith("fc.")])
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith(("conv0", "group0")))


def with_classes(images: data.InMemoryDataset, count: int) -> data.InMemoryDataset:
    part = images.subset((images.labels < count).nonzero().flatten())
    return data.InMemoryDataset(
        part.images, part.labels, part.classes[:count], part.name, part.split, part.mean, part.std, part.regions
    )


def test_attention_missing_from_the_source_starts_as_identity(splits, tmp_path) -> None:
    plain = trained(tmp_path / "plain", splits, "--model.name=wrn-10-0.25")
    notes: list[str] = []
    network = load_recipe(None, [f"--model.pretrained={plain.folder}", "--model.attention=eca"]).model
    network = like_source(network, training.DataRecipe(), notes.append)
    assert (network.name, network.attention_start) == ("wrn-10-0.25", "identity")
    assert any("model.name is wrn-10-0.25" in note for note in notes)
    model = initial_network(network, 10, notes.append).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), plain.model()(images))
    assert len(attention.attached(model)) == 3 and any("eca" in note for note in notes)


def test_files_and_names_can_be_sources(tmp_path) -> None:
    model = models.create("wrn-10-0.25", 10, attention="eca")
    models.save_pretrained(model, tmp_path / "kept")
    network = load_recipe(None, [f"--model.pretrained={tmp_path / 'kept'}"]).model
    network = like_source(network, training.DataRecipe(), print)
    assert (network.name, network.attention) == ("wrn-10-0.25", "eca")
    start = initial_network(network, 10, print)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in start.state_dict().items())
    torch.save(models.create("wrn-10-0.25", 10).state_dict(), tmp_path / "file.pt")
    network = load_recipe(None, [f"--model.pretrained=wrn-10-0.25={tmp_path / 'file.pt'}"]).model
    assert like_source(network, training.DataRecipe(), print).name == "wrn-10-0.25"
    assert load_recipe(None, ["--model.pretrained=true"]).model.pretrained is True


def test_unsuitable_sources_are_one_line(source, splits, tmp_path, capsys) -> None:
    for options in (
        [f"--model.pretrained={tmp_path / 'nothing'}"],
        [f"--model.pretrained={source.folder}", "--model.name=resnet18"],
        [f"--model.pretrained={source.folder}", "--model.attention=shuffle", "--model.attention_options={groups: 1}"],
        [f"--model.pretrained={source.folder}", "--model.gate=sub-attention-3", "--model.attention=se"],
    ):
        with pytest.raises(InputError) as caught:
            trained(tmp_path / "run", splits, *options)
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="itself"):
        training.check(load_recipe(None, [f"--model.pretrained={source.folder}"]), source.folder)
