"""A detector's maps against the objects it detects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.detectors import Boxes, two_stage

from regard import bias, maps
from regard.bias.detections import IGNORED, WRONG, match
from regard.data import ImageDataset, Objects
from regard.errors import InputError

H, W = 48, 72  # the size to which the detector's transform resizes images, so that maps are exact
BOXES, LABELS = [[8, 4, 28, 24], [40, 20, 60, 44]], [0, 2]  # detected in every image


class Scenes(ImageDataset):
    """Images of three objects each: (class, box, crowd). Masks are the lower half of the box."""

    name, split, classes, has_objects, has_object_masks = "scenes", "val", ("a", "b", "c"), True, True

    def __init__(self, objects: list[list[tuple[int, list[int], bool]]], masks: bool = True) -> None:
        self._objects, self.has_object_masks = objects, masks
        self.keys = [f"{i}.png" for i in range(len(objects))]
        self.labels = torch.full((len(objects),), -1)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(np.full((H, W, 3), (250, 200 - index, 150), np.uint8))

    def mask(self, index: int) -> None:
        return None

    def objects(self, index: int, masks: bool = True) -> Objects:
        labels, boxes, crowd = zip(*self._objects[index], strict=True) if self._objects[index] else ((), (), ())
        n = len(labels)
        pixels = torch.zeros(n, H, W, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(pixels, boxes, strict=True):
            mask[(y0 + y1) // 2 : y1, x0:x1] = True
        corners = torch.tensor(boxes, dtype=torch.float32).reshape(n, 4)
        object_masks = pixels if masks and self.has_object_masks else None
        indices = torch.tensor(labels, dtype=torch.int64)
        crowds = torch.tensor(crowd, dtype=torch.bool)
        return Objects(corners, indices, object_masks, crowds, pixels.sum((1, 2)).float(), torch.arange(n))


SCENES = Scenes(
    [
        [(1, [40, 20, 60, 44], False), (0, [8, 4, 28, 22], False)],  # b is detected as c; a matches with IoU 0.9
        [(2, [40, 20, 60, 44], False), (2, [40, 20, 60, 42], False)],  # c matches the first of two; there is no a
        [(2, [30, 10, 70, 48], True)],  # c lies in a crowd region
        [],
    ]
)


def evaluate(detector: Boxes, **options) -> bias.Results:
    return bias.evaluate_detector(detector, SCENES, method="layercam", layer="backbone", **options)


def test_each_detection_is_measured_against_its_own_object() -> None:
    """Each map is exactly the box of its detection; each object mask is the lower half of the object's box."""
    results = evaluate(Boxes(BOXES, LABELS))
    assert results.keys == (
        "0.png object 1",
        "0.png c 40,20,60,44",
        "1.png a 8,4,28,24",
        "1.png object 0",
        "2.png a 8,4,28,24",
        "3.png a 8,4,28,24",
        "3.png c 40,20,60,44",
    )
    rows = results.rows
    assert rows["correct"].tolist() == [True, False, False, True, False, False, False]
    assert rows["label"].tolist() == rows["predicted"].tolist() == [0, 2, 0, 2, 0, 0, 2]
    np.testing.assert_allclose(rows["probability"][:2], (250 / 255, 150 / 255), rtol=1e-5)
    np.testing.assert_allclose(rows["spill"], [1 - 9 / 20, 0, 0, 1 / 2, 0, 0, 0], atol=1e-6)
    assert rows["range_bias"].tolist() == rows["correct"].tolist() and not rows["position_bias"].any()
    np.testing.assert_allclose(rows["region_area"][:2] * H * W, (20 * 9, 20 * 24), rtol=1e-5)
    assert (results.accuracy.value, results.accuracy.n) == (pytest.approx(2 / 7), 7)
    assert (results.right.images, results.wrong.images) == (2, 5)
    assert {name: summary.images for name, summary in results.by_class.items()} == {"a": 4, "b": 0, "c": 3}
    assert {name: summary.images for name, summary in results.by_size.items()} == {"small": 7, "medium": 0, "large": 0}


def test_regions_are_boxes_on_request_or_without_masks() -> None:
    boxes = evaluate(Boxes(BOXES, LABELS), region="box")
    np.testing.assert_allclose(boxes.rows["spill"], 0, atol=1e-6)
    np.testing.assert_allclose(boxes.rows["iou"], 1, atol=1e-6)
    scenes = Scenes([SCENES._objects[0]], masks=False)
    results = bias.evaluate_detector(Boxes(BOXES, LABELS), scenes, method="layercam", layer="backbone")
    np.testing.assert_allclose(results.rows["spill"], [1 / 10, 0], atol=1e-6)


def test_detectors_are_compared_object_by_object() -> None:
    """Only objects that both detect are compared, and without accuracy."""
    elsewhere = Boxes(BOXES, LABELS, [[40, 30, 60, 40], [2, 30, 20, 40]])
    first, second = evaluate(elsewhere), evaluate(Boxes([*BOXES, [0, 0, 9, 9]], [*LABELS, 1]))
    assert first.position_bias.value == 1 and not first.range_bias.value
    assert second.position_bias.value == 0 and len(second) == 7 + 4
    comparison = bias.compare(first, second)
    assert comparison.differences["position_bias"].value == 1
    assert comparison.differences["position_bias"].n == 7
    assert "accuracy" not in comparison.differences
    assert "4 only in the second" in comparison.notes[0]


def test_score_threshold_and_limit_choose_the_detections() -> None:
    detector = Boxes(BOXES, LABELS)
    assert len(evaluate(detector, score_threshold=0.7)) == 4  # red is brighter
    assert len(evaluate(detector, limit=1)) == 4
    assert len(bias.evaluate_detector(two_stage(), SCENES, score_threshold=0, limit=3, label_outputs=(3, 1, 2))) == 12
    drise = maps.DRISE(detector, masks=4)
    assert bias.evaluate_detector(detector, SCENES, method=drise).method == "drise"


def test_results_are_saved_and_resume_from_shards(tmp_path: Path) -> None:
    expected = evaluate(Boxes(BOXES, LABELS))
    counts: list[int] = []
    for _ in range(2):
        results = evaluate(
            Boxes(BOXES, LABELS), folder=tmp_path / "shards", shard=1, progress=lambda done, total: counts.append(done)
        )
    assert counts == [1, 2, 3, 4] * 2
    results.save(tmp_path / "bias.json")
    loaded = bias.Results.load(tmp_path / "bias.json")
    assert loaded.keys == expected.keys and loaded.of_detections
    for name, values in expected.rows.items():
        np.testing.assert_array_equal(loaded.rows[name], values)
    assert loaded.by_size["small"].images == 7
    assert loaded.at(0.9).rows["spill"].tolist() == loaded.rows["spill"].tolist()
    with pytest.raises(InputError, match="another evaluation: region"):
        evaluate(Boxes(BOXES, LABELS), folder=tmp_path / "shards", shard=1, region="box")
    detector = Boxes(BOXES, LABELS)
    with pytest.raises(InputError, match="another evaluation: method_options differs"):
        method = maps.DetectionCAM(detector, "backbone", "layercam", fuse="max")
        bias.evaluate_detector(detector, SCENES, method=method, folder=tmp_path / "shards", shard=1)


def test_matching_is_greedy_by_class_and_score_and_ignores_crowds() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 9], [1, 0, 11, 10], [30, 0, 40, 10], [50, 0, 60, 10], [0, 0, 9, 9]]
    )
    objects = {
        "boxes": torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 10], [25, 0, 80, 10], [50, 0, 60, 10]]),
        "labels": torch.tensor([0, 0, 0, 1]),
        "crowd": torch.tensor([False, False, True, False]),
    }
    detections = {"boxes": boxes, "labels": torch.tensor([0, 0, 0, 0, 1, 1])}
    assert match(detections, objects).tolist() == [1, 0, WRONG, IGNORED, 3, WRONG]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "crowd": torch.zeros(0).bool()}
    assert match(detections, empty).tolist() == [WRONG] * 6
    assert match(empty, objects).tolist() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "mask"}, "unknown region"),
        ({"score_threshold": 1.0}, "detects nothing in 4 images"),
        ({"score_threshold": 2}, "score_threshold"),
        ({"threshold": 0}, "threshold"),
        ({"label_outputs": (0, 0, 1)}, "label_outputs"),
    ],
)
def test_wrong_options_fail(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(Boxes(BOXES, LABELS), **options)


def test_data_without_objects_fail() -> None:
    scenes = Scenes([[]])
    scenes.has_objects = False
    with pytest.raises(InputError, match="no objects"):
        bias.evaluate_detector(Boxes(BOXES, LABELS), scenes, layer="backbone")
