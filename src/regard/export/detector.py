"""Exports a detector to an ONNX file."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from regard.errors import check_interval
from regard.export.onnx import Exported, check_differences, check_target, export_context, metadata_props, temporary_path
from regard.modes import evaluation_mode

_MIN_SHARE = 0.9  # required share of equal detections; of equal scores, another one may be dropped


def detector_to_onnx(
    detector: nn.Module,
    path: str | Path,
    image_size: tuple[int, int],
    *,
    opset: int = 17,
    check: bool = True,
    images: Sequence[Tensor] | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Writes a detector, in evaluation mode, to an ONNX file that takes one image of any size.

    The input `image` is float32 (3, H, W) in [0, 1]; the graph includes resizing, normalisation and suppression. The
    outputs are `boxes` (n, 4) in pixels of the image, `labels` (n,), `scores` (n,) and, if the detector has them,
    `masks` (n, 1, H, W).

    Args:
        detector: a detector of `detection.create` or torchvision; unchanged afterwards.
        image_size: H and W of the image used for tracing.
        check: run the graph with onnxruntime on two images, and compare the detections.
        images: images for the check, float32 (3, H, W) in [0, 1]; None for noise, one of `image_size` and one of
            another size.
        path, opset, metadata, overwrite: as in `to_onnx`.

    Returns:
        The file; its `difference` is also None if nothing is detected on the images.

    Raises:
        InputError: as in `to_onnx`.
    """
    path = Path(path)
    for name, number in zip(("height", "width"), image_size, strict=True):
        check_interval(name, number, "[1, 2^16]")
    check_target(path, large=False, check=check, overwrite=overwrite)
    onnx = import_module("onnx")
    height, width = image_size
    images = images or [torch.rand(3, height, width), torch.rand(3, width + width // 5, height)]
    with evaluation_mode(detector), torch.no_grad():
        graph = _trace(detector, images[0], opset)
        difference = check_differences((_difference(graph, detector, image) for image in images if check), path)
    model = onnx.load_from_string(graph)
    onnx.helper.set_model_props(model, metadata_props(metadata))
    with temporary_path(path) as temporary:
        onnx.save(model, temporary)
    return Exported(path, opset, difference)


class _OneImage(nn.Module):
    """A detector that takes one image and returns its detections as a tuple."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = copy.copy(detector)
        self.detector._modules = dict(detector._modules)
        self.detector.transform = copy.copy(detector.transform)
        self.detector.transform.__class__ = _ExactResize
        self.names = ("boxes", "labels", "scores", *(("masks",) if _has_masks(detector) else ()))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (detections,) = self.detector([image])
        return tuple(detections[name] for name in self.names)


class _ExactResize(GeneralizedRCNNTransform):
    """Resizes as torchvision does without tracing, where it computes sizes in float64, not in float32."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        if self.fixed_size is not None:  # as in SSD
            return super().resize(image, target)
        sides = torch._shape_as_tensor(image)[-2:].double()
        extremes = torch.cat((sides.amin(0, keepdim=True), sides.amax(0, keepdim=True)))  # scalars would be float32
        limits = torch.tensor([self.min_size[-1], self.max_size], dtype=torch.float64)
        height, width = (sides * (limits / extremes).amin(0, keepdim=True)).floor().long().unbind()
        size: Any = (height, width)
        resized = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)
        return resized[0], target


def _has_masks(detector: Any) -> bool:
    return hasattr(detector, "roi_heads") and bool(detector.roi_heads.has_mask())


def _trace(detector: nn.Module, image: Tensor, opset: int) -> bytes:
    """The graph of a detector, from torch's tracing exporter, for which torchvision registers its operators."""
    single, file = _OneImage(detector).eval(), io.BytesIO()
    axes = {"image": {1: "height", 2: "width"}, **{name: {0: "detections"} for name in single.names}}
    if "masks" in axes:
        axes["masks"] |= {2: "height", 3: "width"}
    torch._C._jit_set_onnx_log_enabled(False)  # otherwise a failure prints the whole graph
    with export_context(detector), mock.patch.object(F, "channel_shuffle", _channel_shuffle):
        torch.onnx.export(
            single,
            (image,),
            file,  # type: ignore[arg-type]  # the annotation lacks file objects
            dynamo=False,
            input_names=["image"],
            output_names=list(single.names),
            dynamic_axes=axes,
            opset_version=opset,
        )
    return file.getvalue()


def _channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """`F.channel_shuffle` with operators that the exporter supports."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _difference(graph: bytes, detector: nn.Module, image: Tensor) -> float | None:
    """The largest deviation of boxes, relative to the longer side of the image, and scores; None without detections."""
    names = ("boxes", "labels", "scores")
    session = import_module("onnxruntime").InferenceSession(graph, providers=["CPUExecutionProvider"])
    outputs = dict(zip(names, map(torch.from_numpy, session.run(names, {"image": image.numpy()})), strict=True))
    (expected,) = detector([image])
    if not len(expected["boxes"]) or not len(outputs["boxes"]):
        return None if len(expected["boxes"]) == len(outputs["boxes"]) else float("inf")
    side = max(image.shape[1:])
    boxes = torch.cdist(expected["boxes"], outputs["boxes"], p=float("inf")) / side
    scores = (expected["scores"][:, None] - outputs["scores"]).abs()
    different = expected["labels"][:, None] != outputs["labels"]
    nearest = torch.maximum(boxes, scores).masked_fill(different, float("inf")).amin(1)
    return float(nearest.quantile(_MIN_SHARE))
