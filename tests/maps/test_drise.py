"""D-RISE."""

from __future__ import annotations

import pytest
import torch
from support.detectors import Boxes, two_stage

from regard import bias, maps
from regard.errors import InputError
from regard.maps.drise import similarity

BOXES, EVIDENCE = [[10, 5, 30, 25], [50, 20, 70, 40]], [[40, 30, 60, 45], [5, 30, 25, 45]]
IMAGE = torch.ones(3, 50, 75) - torch.tensor([0.1, 0.2, 0.3])[:, None, None]


def regions_of(boxes: list[list[int]]) -> torch.Tensor:
    regions = torch.zeros(len(boxes), 50, 75, dtype=torch.bool)
    for region, (x0, y0, x1, y1) in zip(regions, boxes, strict=True):
        region[y0:y1, x0:x1] = True
    return regions


def test_maps_highlight_the_evidence_and_not_the_box() -> None:
    drise = maps.DRISE(Boxes(BOXES, [0, 2], EVIDENCE), masks=200, cells=6, batch_size=50)
    result = drise(IMAGE)
    assert drise.detections is not None and drise.detections["labels"].tolist() == [0, 2]
    torch.testing.assert_close(drise.detections["boxes"], torch.tensor(BOXES, dtype=torch.float32))
    at_evidence, in_box = (bias.measure(result, regions_of(boxes)) for boxes in (EVIDENCE, BOXES))
    assert at_evidence.pointing.all() and (at_evidence.auc > 0.98).all() and (at_evidence.spill < 0.4).all()
    assert (in_box.energy_inside < 0.1).all() and in_box.position_bias.all()


def test_masks_depend_on_the_seed_and_not_the_batch_size() -> None:
    detector = Boxes(BOXES, [0, 2])
    torch.manual_seed(7)
    first = maps.DRISE(detector, masks=40, batch_size=8)(IMAGE)
    second = maps.DRISE(detector, masks=40, batch_size=7)(IMAGE)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, maps.DRISE(detector, masks=40, seed=1)(IMAGE))
    assert torch.initial_seed() == 7 and torch.equal(
        torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(7))
    )


def test_similarity() -> None:
    """The highest IoU x cosine x objectness; without class scores, label and score replace the cosine."""
    targets = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    detections = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]]),
        "labels": torch.tensor([1, 1, 2]),
        "scores": torch.tensor([0.2, 0.8, 1.0]),
    }
    torch.testing.assert_close(similarity(targets, detections), torch.tensor([0.4]))  # the second: 0.5 x 0.8
    targets["class_scores"] = torch.tensor([[3.0, 4.0]])
    detections["class_scores"] = torch.tensor([[4.0, 3.0], [3.0, 4.0], [0.0, 1.0]])
    torch.testing.assert_close(similarity(targets, detections), torch.tensor([0.96]))
    detections["objectness"] = torch.tensor([0.5, 0.98, 0.1])
    torch.testing.assert_close(similarity(targets, detections), torch.tensor([0.49]))
    assert similarity(targets, {name: values[:0] for name, values in detections.items()}).tolist() == [0]
    without_area = {name: torch.zeros_like(values) for name, values in detections.items()}
    assert similarity(without_area, without_area).tolist() == [0, 0, 0]


def test_half_precision_is_summed_in_float32() -> None:
    detector, options = Boxes(BOXES, [0, 2], EVIDENCE), {"masks": 30, "cells": 6, "batch_size": 30}
    expected = maps.DRISE(detector, **options)(IMAGE)
    half = maps.DRISE(detector.bfloat16(), **options)(IMAGE.bfloat16())
    torch.testing.assert_close(half, expected, rtol=0, atol=0.02)


def test_detectors_are_unchanged_and_detections_limited(unchanged) -> None:
    detector = two_stage().train()
    drise = maps.DRISE(detector, masks=6, batch_size=4)
    image = torch.rand(3, 40, 50)
    calls: list[tuple[int, int]] = []
    with unchanged(detector):
        result = drise(image, limit=3, progress=lambda done, total: calls.append((done, total)))
    assert result.shape == (3, 40, 50) and not result.requires_grad and result.min() >= 0
    assert calls == [(4, 6), (6, 6)]
    assert drise(image, score_threshold=1.1).shape == (0, 40, 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"masks": 0}, "masks is 0"), ({"cells": -1}, "cells"), ({"probability": 1}, "probability is 1")],
)
def test_options_out_of_range_fail(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        maps.DRISE(Boxes(BOXES, [0, 2]), **options)
