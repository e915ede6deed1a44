"""Evaluation over a data set, and its results on disk."""

import json
import math
import os
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from regard.bias import Results, compare, evaluate, measure
from regard.data import InMemoryDataset
from regard.errors import InputError
from regard.maps import GradCAM, GradientMap
from regard.stats import mean, proportion

CLASSES = ("ant", "bee", "cat")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Network(nn.Module):
    def __init__(self, outputs=3):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, outputs)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


def network(seed=0, outputs=3):
    torch.manual_seed(seed)
    return Network(outputs).eval()


def image_set(n=37, regions=True, **changes):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(n, 12, 12, dtype=torch.bool)
    for i in range(n):
        masks[i, i % 6 : i % 6 + 6, i % 5 : i % 5 + 7] = True
    masks[3] = False
    fields = {
        "images": torch.randint(0, 256, (n, 3, 12, 12), dtype=torch.uint8, generator=generator),
        "labels": torch.randint(0, 3, (n,), generator=generator),
        "classes": CLASSES,
        "name": "spots",
        "split": "test",
        "mean": MEAN,
        "std": STD,
        "regions": masks if regions else None,
    }
    return InMemoryDataset(**{**fields, **changes})


def normalised(images, mean=MEAN, std=STD):
    return (images.images.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def assert_close(actual, expected, name):
    """Up to rounding, which may swap the ranks of pixels with nearly equal values."""
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-3 if name in ("auc", "rank_accuracy") else 1e-5)


@pytest.fixture(scope="module")
def results():
    return evaluate(network(), image_set(), batch_size=10)


def test_rows_hold_the_measures_of_the_maps(results):
    images, cam = image_set(), GradCAM(network())
    measures = measure(cam(normalised(images)), images.regions)
    for name, values in measures.items():
        assert_close(results.rows[name], values.numpy(), name)
    assert np.array_equal(results.rows["label"], images.labels)
    assert np.array_equal(results.rows["predicted"], cam.logits.argmax(1))
    assert np.array_equal(results.rows["correct"], cam.logits.argmax(1) == images.labels)
    assert (results.model, results.dataset, results.split) == ("Network", "spots", "test")
    assert (results.method, results.layer, results.target, results.threshold) == ("gradcam", "layer2", "predicted", 0.5)
    assert len(results) == 37 and results.classes == CLASSES


def test_rates_leave_out_constant_maps_and_empty_regions(results):
    rows = results.rows
    counted = ~rows["constant"] & (rows["region_area"] > 0)
    assert results.overall.empty_regions == 1 and results.overall.constant_maps == rows["constant"].sum()
    for rate, flags in [(results.position_bias, rows["position_bias"]), (results.range_bias, rows["range_bias"])]:
        assert rate == proportion(flags[counted].sum(), counted.sum())
    assert results.accuracy == proportion(rows["correct"].sum(), 37)
    assert results.overall.means["spill"] == mean(rows["spill"][counted], 0, 1)


def test_parts_add_up(results):
    assert sum(part.images for part in results.by_class.values()) == 37
    assert list(results.by_class) == list(CLASSES)
    assert results.right.images + results.wrong.images == 37
    assert results.right.accuracy.value == 1 and results.wrong.accuracy.value == 0
    for name in ("position_bias", "range_bias", "pointing"):
        overall = getattr(results.overall, name)
        for parts in ([results.right, results.wrong], results.by_class.values()):
            rates = [rate for part in parts if (rate := getattr(part, name)).n]
            assert sum(rate.n for rate in rates) == overall.n
            assert sum(rate.n * rate.value for rate in rates) == pytest.approx(overall.n * overall.value)


def test_batches_give_the_same_rows_as_a_dataset(results):
    images = image_set()
    parts = zip(normalised(images).split(8), images.labels.split(8), images.regions.split(8), strict=True)
    other = evaluate(network(), ([*part] for part in parts))
    assert other.classes == other.outputs == ("0", "1", "2") and other.dataset == "batches" and other.scored
    for name, values in results.rows.items():
        assert_close(other.rows[name], values, name)


def test_options_take_effect():
    model, images = network(), image_set()
    calls = []
    results = evaluate(
        model,
        images,
        layer=model.layer1,
        target="label",
        threshold=0.3,
        batch_size=20,
        mean=(0.1, 0.1, 0.1),
        std=(0.5, 0.5, 0.5),
        device="cpu",
        progress=lambda *counts: calls.append(counts),
        name="mine",
    )
    maps = GradCAM(model, "layer1")(normalised(images, (0.1,) * 3, (0.5,) * 3), images.labels)
    expected = measure(maps, images.regions, 0.3)
    np.testing.assert_allclose(results.rows["focus_area"], expected.focus_area, atol=1e-5)
    np.testing.assert_allclose(results.rows["auc"], expected.auc, atol=1e-4)
    assert (results.model, results.layer, results.target, results.threshold) == ("mine", "layer1", "label", 0.3)
    assert calls == [(20, 37), (37, 37)]


def test_custom_methods():
    model, images = network().train(), image_set()
    received = []

    def by_red(model, batch, classes):
        received.append(classes)
        return batch[:, 0]

    results = evaluate(model, images, method=by_red)
    expected = measure(normalised(images)[:, 0], images.regions)
    np.testing.assert_allclose(results.rows["auc"], expected.auc, atol=1e-5)
    assert (results.method, results.layer) == (f"{__name__}:{by_red.__qualname__}", "")
    assert np.array_equal(received[0], results.rows["predicted"]) and model.training
    by_layer = evaluate(model, images, method=GradCAM(model, "layer1"))
    assert (by_layer.method, by_layer.layer) == ("gradcam", "layer1")


def test_labels_are_mapped_to_other_outputs():
    """Class i of three is output 4 - i of five."""
    images = image_set()
    results = evaluate(network(outputs=5), images, label_outputs=[4, 3, 2], outputs=list("abcde"))
    assert results.scored and results.classes == CLASSES and results.outputs == tuple("abcde")
    right = [int(p) == 4 - int(c) for p, c in zip(results.rows["predicted"], images.labels, strict=True)]
    assert results.rows["correct"].tolist() == right
    by_label = evaluate(network(outputs=5), images.subset([0, 1]), label_outputs=[4, 3, 2], target="label")
    assert by_label.rows["explained"].tolist() == [4 - int(label) for label in images.labels[:2]]


def test_results_are_unscored_when_labels_are_not_outputs():
    results = evaluate(network(outputs=5), image_set(), label_outputs=[-1, -1, -1])
    assert not results.scored and not results.rows["correct"].any() and results.outputs[4] == "class 4"
    assert results.accuracy.n == 0 and results.right.images == results.wrong.images == 0
    assert not any(record["part"] == "prediction" for record in results.to_records())


def test_unlabelled_images_are_neither_right_nor_wrong():
    images = image_set(12)
    labels = images.labels.clone()
    labels[::3] = -1
    results = evaluate(network(), [(normalised(images), labels, images.regions)])
    assert results.accuracy == proportion(results.rows["correct"].sum(), 8)
    assert results.right.images + results.wrong.images == 8 and not results.rows["correct"][::3].any()


def test_shards_are_kept_in_a_folder_and_reused(results, tmp_path):
    images, calls = image_set(), []
    first = evaluate(network(), images, batch_size=10, folder=tmp_path / "shards", shard=20)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        "000000.parquet",
        "000001.parquet",
        "plan.json",
    ]
    second = evaluate(
        network(),
        images,
        batch_size=10,
        folder=tmp_path / "shards",
        shard=20,
        progress=lambda *counts: calls.append(counts),
    )
    assert calls == [(20, 37), (37, 37)] and second.provenance["weights"] == first.provenance["weights"]
    for name, values in results.rows.items():
        np.testing.assert_array_equal(first.rows[name], values)
        np.testing.assert_array_equal(second.rows[name], values)
    for changes, field in (({"seed": 1}, "weights"), ({"n": 36}, "data")):
        model = network(changes.get("seed", 0))
        with pytest.raises(InputError, match=f"another evaluation: {field} differs"):
            evaluate(model, image_set(changes.get("n", 37)), batch_size=10, folder=tmp_path / "shards", shard=20)


def brightness(model, images, classes, scale):
    return scale * images.mean(1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (partial(GradientMap, power=1), partial(GradientMap, power=2)),
        (partial(GradCAM, layer=["layer1", "layer2"]), partial(GradCAM, layer=["layer1", "layer2"], fuse="max")),
        (lambda _: partial(brightness, scale=1), lambda _: partial(brightness, scale=-1)),
    ],
)
def test_shards_of_a_method_with_other_options_are_refused(tmp_path, first, second):
    model, images = network(), image_set(4)
    for _ in range(2):
        evaluate(model, images, method=first(model), folder=tmp_path / "shards")
    with pytest.raises(InputError, match="another evaluation: method_options differs"):
        evaluate(model, images, method=second(model), folder=tmp_path / "shards")


def test_float64_models_give_float32_rows():
    results = evaluate(network().double(), image_set())
    assert results.rows["auc"].dtype == np.float32


def test_constant_maps_are_counted():
    model = network()
    nn.init.zeros_(model.fc.weight)
    results = evaluate(model, image_set())
    assert results.overall.constant_maps == 37 and results.position_bias.n == 0
    assert math.isnan(results.position_bias.value)
    with pytest.raises(InputError, match="nothing to compare"):
        compare(results, results)


@pytest.mark.parametrize(
    ("model", "dataset", "options", "message"),
    [
        (network(), image_set(regions=False), {}, "'spots' have no regions"),
        (network(outputs=5), image_set(), {}, "5 outputs, the data set 3 classes"),
        (network(outputs=2), image_set(), {"target": "label"}, "2 outputs"),
        (network(), image_set(), {"label_outputs": [0, 1]}, "2 outputs for the 3 classes"),
        (network(), image_set(), {"label_outputs": [0, 1, 7]}, "output 7 for a model with 3"),
        (network(), image_set(), {"label_outputs": [0, -1, 2]}, "-1 for some classes"),
        (network(), image_set(), {"label_outputs": [-1] * 3, "target": "label"}, "no label that is an output"),
        (network(), image_set(), {"outputs": ["a"]}, "1 names for 3 outputs"),
        (network(), [], {"folder": "x"}, "cannot be saved in shards"),
        (network(), image_set(), {"target": "best"}, "unknown target 'best'"),
        (network(), image_set(), {"method": "gradcan"}, "did you mean 'gradcam'"),
        (network(), image_set(), {"layer": "layer3"}, "near: layer"),
        (network(), image_set(), {"method": GradCAM(network())}, "of another model"),
        (network(), image_set(), {"method": lambda m, x, c: x[:, 0], "layer": "layer1"}, "leave it out"),
        (network(), image_set(), {"device": "gpu"}, "unknown device 'gpu'"),
        (network(), image_set(), {"threshold": 2}, "threshold is 2"),
        (network(), [], {}, "no images"),
        (network(), [], {"mean": MEAN}, "leave them out"),
        (network(), [torch.zeros(2, 3, 8, 8)], {}, "three tensors"),
        (network(), [(torch.zeros(2, 3, 8, 8), torch.zeros(2), None)], {}, "three tensors"),
        (network(), [(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.zeros(2, 8, 8))], {}, "torch.float32"),
        (
            network(),
            [(torch.zeros(1, 3, 8, 8), torch.tensor([7]), torch.ones(1, 8, 8).bool())],
            {},
            "labels from 7 to 7",
        ),
    ],
)
def test_wrong_input_fails(model, dataset, options, message):
    with pytest.raises(InputError, match=message) as error:
        evaluate(model, dataset, **options)
    assert "\n" not in str(error.value)


# Results on disk.


def test_results_are_saved_and_loaded(results, tmp_path):
    path = results.save(tmp_path / "deep" / "bias.json")
    loaded = Results.load(path)
    for name, values in results.rows.items():
        assert loaded.rows[name].dtype == values.dtype
        np.testing.assert_array_equal(loaded.rows[name], values)
    assert loaded.to_dict() == results.to_dict()
    assert json.loads(path.read_text())["summary"] == results.to_records()
    assert sorted(p.name for p in path.parent.iterdir()) == ["bias.json", "bias.parquet"]
    results.save(path)


def test_a_failed_save_keeps_the_previous_file(results, tmp_path, monkeypatch):
    path = results.save(tmp_path / "bias.json")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        results.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_loading_other_files_fails(results, tmp_path):
    path = tmp_path / "bias.json"
    with pytest.raises(InputError, match="cannot read"):
        Results.load(path)
    text = json.dumps(results.to_dict())
    newer = json.dumps({**results.to_dict(), "version": 99})
    fewer = json.dumps({**results.to_dict(), "images": 36})
    results.save(path)
    bad = {
        "layer": 5,
        "threshold": "0.5",
        "margin": 10**20,
        "tolerance": 1.5,
        "scored": None,
        "classes": [1],
        "model": [],
    }
    settings = [json.dumps({**results.to_dict(), name: value}) for name, value in bad.items()]
    nan = text.replace('"threshold": 0.5', '"threshold": NaN')
    for content in (
        text[:-9],
        "[]",
        "[" * 10**5,
        "{}",
        '{"format": 1, "version": 1}',
        newer,
        fewer,
        "\x00",
        *settings,
        nan,
    ):
        path.write_text(content)
        with pytest.raises(InputError, match="bias.json") as error:
            Results.load(path)
        assert "\n" not in str(error.value)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="pipe.json: it is no regular file"):
        Results.load(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="cannot write"):
        results.save(tmp_path / "bias.json" / "below.json")
    with pytest.raises(InputError, match="ends in .json"):
        results.save(tmp_path / "bias.parquet")
    path.write_text(text)
    (tmp_path / "bias.parquet").unlink()
    with pytest.raises(InputError, match="bias.parquet, which holds the rows"):
        Results.load(path)


def test_records_agree_with_the_summaries(results):
    records = json.loads(json.dumps(results.to_records(), allow_nan=False))
    assert all({"model", "part", "name", "measure", "value", "low", "high", "n"} == set(record) for record in records)
    by_name = {(record["part"], record["name"], record["measure"]): record for record in records}
    assert len(by_name) == len(records)
    parts = [("all", ""), ("prediction", "right"), ("prediction", "wrong"), ("size", "large"), ("class", "bee")]
    summaries = [results.overall, results.right, results.wrong, results.by_size["large"], results.by_class["bee"]]
    for part, summary in zip(parts, summaries, strict=True):
        assert by_name[*part, "images"]["value"] == summary.images
        rate = by_name[*part, "position_bias"]
        assert (rate["value"], rate["n"]) == (summary.position_bias.value, summary.position_bias.n)
    assert by_name["all", "", "empty_regions"]["value"] == 1 and by_name["all", "", "images"]["low"] is None


def test_arrow_table_holds_the_rows(results):
    table = results.to_arrow()
    assert table.column("image").to_pylist() == list(results.keys) and table.column("miss").null_count == 1
    assert table.column("position_bias").to_pylist() == results.rows["position_bias"].tolist()


def test_classes_with_equal_names_are_numbered():
    results = evaluate(network(), image_set(classes=("crane", "crane", "cat")))
    assert list(results.by_class) == ["crane (0)", "crane (1)", "cat"]
