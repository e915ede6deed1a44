"""Evaluation of detectors: measures as in pycocotools, results, skipped images and several processes."""

import json

import numpy as np
import pytest
import torch
from support.detections import judged, results, scene
from torch import nn

from regard import data, detection
from regard.detection.matching import MEASURES
from regard.errors import InputError, UnfitImage


def as_array(of):
    assert tuple(of) == MEASURES
    return np.array(list(of.values()))


@pytest.mark.parametrize("masks", [False, True])
def test_all_measures_equal_pycocotools(masks):
    kind = "masks" if masks else "boxes"
    for seed in range(3):
        evaluation = scene(seed, masks)
        assert (evaluation.kinds == ("boxes", "masks")) is masks
        expected = judged(evaluation, kind)
        assert 0 < expected[0] < 1
        np.testing.assert_allclose(as_array(getattr(evaluation, kind)), expected, rtol=0, atol=1e-12)
    for label, name in enumerate(evaluation.classes):
        expected = judged(evaluation, kind, [evaluation.category_ids[label]])
        np.testing.assert_allclose(as_array(evaluation.by_class[kind][name]), expected, rtol=0, atol=1e-12)


BOX = (10, 10, 20, 20)
NAN = float("nan")


@pytest.mark.parametrize(
    ("truth", "detections", "expected"),
    [
        # One box, of 400 pixels, is small.
        ([(0, 0, BOX, 0, 400)], [(0, 0, BOX, 0.9)], {"AP": 1, "AP50": 1, "AR1": 1, "APs": 1, "APm": NAN, "ARl": NAN}),
        # Shifted by a sixth: 2/3 and 10/3 left and right, IoU 50/70 = 0.714: the thresholds 0.5 to 0.7 of ten.
        (
            [(0, 0, BOX, 0, 400)],
            [(0, 0, (10 + 10 / 3, 10, 20, 20), 1)],
            {"AP": 0.5, "AP50": 1, "AP75": 0, "AR100": 0.5},
        ),
        # A duplicate with a lower score comes after full recall, with a higher one before.
        ([(0, 0, BOX, 0, 400)], [(0, 0, BOX, 0.9), (0, 0, BOX, 0.8)], {"AP": 1}),
        ([(0, 0, BOX, 0, 400)], [(0, 0, (60, 60, 9, 9), 0.9), (0, 0, BOX, 0.8)], {"AP": 0.5, "AR1": 0, "AR10": 1}),
        # Half of the objects, at precision 1: the recalls 0, 0.01, …, 0.5 of 101.
        ([(i, 0, BOX, 0, 400) for i in (0, 1)], [(0, 0, BOX, 0.9)], {"AP": 51 / 101, "AR100": 0.5}),
        # Detections inside a crowd do not count, and the crowd does not have to be detected.
        (
            [(0, 0, BOX, 0, 400), (0, 0, (50, 10, 60, 60), 1, 3600)],
            [(0, 0, (60, 20, 9, 9), 0.9), (0, 0, (80, 20, 9, 9), 0.9), (0, 0, BOX, 0.8)],
            {"AP": 1, "AR1": 0, "AR10": 1},
        ),
        ([(0, 0, BOX, 1, 400)], [(0, 0, BOX, 0.9)], {"AP": NAN, "AR100": NAN}),
        # The annotated area decides: the object is large, and its box of 400 pixels no false positive among small ones.
        ([(0, 0, BOX, 0, 10000)], [(0, 0, BOX, 0.9)], {"APs": NAN, "APm": NAN, "APl": 1, "ARl": 1}),
        # A false positive in an image without objects; no detections; neither objects nor detections.
        ([(1, 0, BOX, 0, 400)], [(0, 0, BOX, 0.9), (1, 0, BOX, 0.8)], {"AP": 0.5}),
        ([(0, 0, BOX, 0, 400)], [], {"AP": 0, "AR1": 0}),
        ([], [], {"AP": NAN, "AR100": NAN}),
        # Classes have equal weight: one is detected, the other is not.
        ([(0, 0, BOX, 0, 400), (0, 1, BOX, 0, 400)], [(0, 0, BOX, 0.9)], {"AP": 0.5}),
        # Detections after the hundredth do not count.
        ([(0, 0, BOX, 0, 400)], [*[(0, 0, (60, 60, 9, 9), 0.9)] * 100, (0, 0, BOX, 0.8)], {"AP": 0, "AR100": 0}),
    ],
)
def test_measures_of_small_scenes_by_hand(truth, detections, expected):
    actual = results(truth, detections, images=2).boxes
    np.testing.assert_allclose([actual[name] for name in expected], list(expected.values()), rtol=0, atol=1e-12)


class Recaller(nn.Module):
    """Detects every object of a data set exactly, with its mask and decreasing scores."""

    def __init__(self, dataset, classes=None):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.detections = {}
        for i in range(len(dataset)):
            objects = dataset.objects(i)
            labels = objects.labels if classes is None else torch.tensor([classes[label] for label in objects.labels])
            self.detections[tuple(np.asarray(dataset.image(i))[::7, ::7].ravel())] = {
                "boxes": objects.boxes,
                "labels": labels,
                "scores": 1 / torch.arange(1, 1 + len(labels)),
                "masks": objects.masks[:, None].float(),
            }

    def forward(self, images):
        assert not self.training
        return [
            self.detections[tuple((255 * x).round().byte().permute(1, 2, 0)[::7, ::7].numpy().ravel())] for x in images
        ]


@pytest.fixture(scope="module")
def clutter():
    return data.clutter(train=10, test=30).test


def test_a_perfect_detector_scores_one_and_its_results_are_saved(clutter, tmp_path):
    sizes = []
    loader = data.create_loader(clutter, 7, objects=True)
    evaluation = detection.evaluate(Recaller(clutter), loader, name="recaller", after_batch=sizes.append)
    assert sizes == [7, 7, 7, 7, 2] and len(evaluation) == 30 and evaluation.keys == tuple(clutter.keys)
    for measures in (evaluation.boxes, evaluation.masks, evaluation.by_class["masks"][clutter.classes[0]]):
        assert measures["AP"] == measures["AR1"] == 1
    records = evaluation.to_records()
    assert evaluation._repr_html_().count("<tr>") == 1 + len(records)
    assert len(records) == 2 * (1 + len(clutter.classes)) and json.dumps(records, allow_nan=False)
    expected = {"model": "recaller", "kind": "boxes", "class": None, "objects": 30, "AP": 1}
    assert expected.items() <= records[0].items()
    loaded = detection.Results.load(evaluation.save(tmp_path / "found"))
    assert loaded.to_records() == records and loaded.keys == evaluation.keys
    assert loaded.truth.counts == evaluation.truth.counts
    boxes, masks = (json.loads(evaluation.save_coco(tmp_path / kind, kind).read_text()) for kind in ("boxes", "masks"))
    assert boxes[0]["bbox"] == evaluation.detections.box[0].tolist() and masks[0]["segmentation"]["size"] == [32, 32]
    (tmp_path / "found").write_bytes((tmp_path / "found").read_bytes()[:-9])
    for path in (tmp_path / "found", tmp_path / "boxes", tmp_path / "none"):
        with pytest.raises(InputError, match=path.name):
            detection.Results.load(path)


def test_refused_images_are_named_or_skipped(clutter):
    class Narrow(Recaller):
        def forward(self, images):
            if any(torch.equal(image, refused) for image in images):
                raise UnfitImage("too narrow")
            return super().forward(images)

    refused = torch.from_numpy(np.array(clutter.image(4))).permute(2, 0, 1) / 255
    with pytest.raises(InputError, match=rf"{clutter.keys[4]}: too narrow; .*\(--unreadable skip\)"):
        detection.evaluate(Narrow(clutter), clutter)
    for images in (clutter, data.create_loader(clutter, 7, objects=True)):
        evaluation = detection.evaluate(Narrow(clutter), images, unreadable="skip")
        assert evaluation.skipped == (f"{clutter.keys[4]}: too narrow",)
        assert evaluation.keys == (*clutter.keys[:4], *clutter.keys[5:])
        assert evaluation.boxes["AP"] == 1


def test_classes_are_matched_by_name(clutter):
    names = ["other", *reversed(clutter.classes)]
    model = Recaller(clutter, classes=[names.index(name) for name in clutter.classes])
    assert detection.evaluate(model, clutter, classes=names).boxes["AP"] == 1
    assert detection.evaluate(model, clutter, classes=[*names[1:], "more"]).boxes["AP"] < 1
    with pytest.raises(InputError, match="1 classes that the detector does not have"):
        detection.evaluate(model, clutter, classes=names[:-1])
    with pytest.raises(InputError, match="without a background"):
        detection.evaluate(model, clutter)
    model.num_classes = 91
    with pytest.raises(InputError, match="91 classes"):
        detection.evaluate(model, clutter)


def test_two_processes_give_the_results_of_one(clutter, monkeypatch):
    model, sent = Recaller(clutter), []

    def gather(parts, part):
        sent.append(part)
        parts[:] = [sent[0], part]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    loaders = [data.create_loader(clutter, 8, objects=True, rank=rank, world_size=2) for rank in (0, 1)]
    detection.evaluate(model, loaders[0])
    gathered, single = detection.evaluate(model, loaders[1]), detection.evaluate(model, clutter)
    assert [len(part[0]) for part in sent] == [15, 15]
    assert gathered.keys == single.keys and gathered.coco_results("masks") == single.coco_results("masks")
    assert gathered.to_records() == single.to_records()
