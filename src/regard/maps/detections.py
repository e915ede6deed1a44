"""What detectors take and give, with torchvision's interface."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from regard.errors import InputError

Detections = dict[str, Tensor]
"""The n detections in an image: `boxes` (n, 4), `labels` (n,), `scores` (n,), and perhaps others (n, …)."""


def checked_image(detector: nn.Module, image: Tensor) -> Tensor:
    """The image, in the dtype of the detector.

    Raises:
        InputError: it is not floating point (3, H, W) on the device of the detector.
    """
    if not isinstance(image, Tensor) or image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
        what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise InputError(f"the image is {what}; expected a floating-point tensor (3, H, W) in [0, 1]")
    parameter = next((p for p in detector.parameters() if p.is_floating_point()), image)
    if parameter.device != image.device:
        raise InputError(f"the image is on {image.device}, the detector on {parameter.device}; move one of them")
    return image.clone() if image.is_inference() else image


def checked_detections(output: Any, count: int) -> list[Detections]:
    """What a detector gives for so many images.

    Raises:
        InputError: it is not a list of so many dicts with boxes (n, 4), labels (n,) and scores (n,).
    """
    if isinstance(output, list) and len(output) == count and all(map(_are_detections, output)):
        return output
    what = f"a {type(output).__name__}"
    if isinstance(output, list) and output and isinstance(output[0], dict):
        what = f"a list of {len(output)} dicts with {', '.join(map(str, output[0])) or 'nothing in them'}"
    raise InputError(
        f"the model gives {what}; expected a detector: for {count} images a list of as many dicts with boxes (n, 4), "
        "labels (n,) and scores (n,)"
    )


def _are_detections(one: Any) -> bool:
    if not isinstance(one, dict) or not all(isinstance(one.get(key), Tensor) for key in ("boxes", "labels", "scores")):
        return False
    shape = one["scores"].shape
    return len(shape) == 1 and one["labels"].shape == shape and one["boxes"].shape == (*shape, 4)


def highest(scores: Tensor, threshold: float, limit: int | None) -> Tensor:
    """The indices of the scores (n,) that are at least the threshold, the highest first, at most `limit` of them."""
    order = scores.argsort(descending=True, stable=True)
    return order[scores[order] >= threshold][:limit]
