"""Checks of the images and the outputs of detectors with torchvision's interface."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from regard.errors import InputError
from regard.maps.features import describe

Detections = dict[str, Tensor]
"""The n detections in an image: `boxes` (n, 4), `labels` (n,), `scores` (n,), and perhaps more tensors (n, …)."""


def checked_image(detector: nn.Module, image: Tensor) -> Tensor:
    """The image; raises InputError unless it is floating point (3, H, W) on the device of the detector."""
    if not isinstance(image, Tensor) or image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
        raise InputError(f"the image is {describe(image)}; expected a floating-point tensor (3, H, W) in [0, 1]")
    parameter = next((p for p in detector.parameters() if p.is_floating_point()), image)
    if parameter.device != image.device:
        raise InputError(f"the image is on {image.device}, the detector on {parameter.device}; move one of them")
    return image.clone() if image.is_inference() else image


def checked_detections(output: Any, count: int) -> list[Detections]:
    """The output of a detector for `count` images; raises InputError unless it is a list of `count` `Detections`."""
    if isinstance(output, list) and len(output) == count and all(map(_are_detections, output)):
        return output
    what = f"a {type(output).__name__}"
    if isinstance(output, list) and output and isinstance(output[0], dict):
        what = f"a list of {len(output)} dicts with {', '.join(map(str, output[0])) or 'no keys'}"
    raise InputError(
        f"the model gives {what}; expected a detector, which gives for {count} images a list of {count} dicts with "
        "boxes (n, 4), labels (n,) and scores (n,)"
    )


def _are_detections(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(k), Tensor) for k in ("boxes", "labels", "scores")):
        return False
    shape = value["scores"].shape
    return len(shape) == 1 and value["labels"].shape == shape and value["boxes"].shape == (*shape, 4)


def highest(scores: Tensor, threshold: float, limit: int | None) -> Tensor:
    """The indices of the scores (n,) that reach the threshold, highest first, at most `limit` of them."""
    order = scores.argsort(descending=True, stable=True)
    return order[scores[order] >= threshold][:limit]
