"""CAMs of the detections of a detector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import DataWarning, InputError
from regard.maps.detections import Detections, checked_detections, checked_image, highest
from regard.maps.features import Reshape
from regard.maps.gradient import GradientMap
from regard.maps.layers import Layer, readable
from regard.maps.method import Fuse, uncached_autocast
from regard.maps.registry import create
from regard.modes import eager_evaluation
from regard.stages import stages

_PYRAMID = "FeaturePyramidNetwork"


class DetectionCAM:
    """The CAM of each detection of an image: a CAM method with the score of the detection in place of a class score.

    Example::

        cam = DetectionCAM(detector)
        maps = cam(image)                 # (n, H, W), one map for each of the n detections of cam.detections
        maps[0]                           # of the detection with the highest score

    Any detector with torchvision's interface will do, for the scores of those keep their graph in evaluation. One
    forward takes place, and one backward for each detection, down to the layer. The detector is unchanged afterwards,
    as with every `MapMethod`.

    Which method: the channel weights of Grad-CAM, Grad-CAM++ and XGrad-CAM are means over the whole image, so their
    maps show every object that resembles the detected one. Those of "hirescam" and "layercam" weigh each pixel by
    itself and are of the one detection; HiResCAM's is the formula of ODAM (Zhao and Chan, ICLR 2023, arXiv 2304.06354)
    without its smoothing.

    Which layer: the last stage of the backbone's body. The levels of a feature pyramid make poor layers, and there is
    a warning: only the level that a detection was assigned to has a gradient, and in a two-stage detector that gradient
    is 0 outside the region that was pooled, so that a map by pixel lies in its box by construction.

    Args:
        detector: maps a list of images (3, H, W) to a list of dicts with `boxes` (n, 4), `labels` (n,) and `scores`
            (n,). With torchvision's `transform` in it, maps follow the resized and padded image that this makes.
        layer: a name as in `detector.named_modules()`, the module itself, or several of these, whose maps are fused;
            None: the last stage of `detector.backbone`, or of its `body`.
        method: "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam" or "activation"; the last is the same map for
            every detection.
        fuse, reshape: see `MapMethod`.

    Attributes:
        detector: the detector.
        method: name of the method.
        layers: names of the tapped layers.
        detections: those of the last call that have maps: its `boxes`, `labels`, `scores` and further entries, without
            a graph, highest score first; None before it.

    Raises:
        InputError: an unknown layer or method, or a detector whose body is not known.

    Warns:
        DataWarning: the layer is in a feature pyramid.
    """

    def __init__(
        self,
        detector: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        method: str = "gradcam",
        *,
        fuse: Fuse = "mean",
        reshape: Reshape | None = None,
    ) -> None:
        self.detector = detector
        self._network = readable(detector)
        self.method = method
        layer = last_of_body(self._network) if layer is None else layer
        self._cam = create(method, detector, layer, fuse=fuse, reshape=reshape)
        if isinstance(self._cam, GradientMap):
            raise InputError("method 'gradient' explains a loss over classes; take hirescam or another CAM method")
        self.layers = self._cam.layers
        self.detections: Detections | None = None
        for name in self.layers:
            if _in_pyramid(self._network, name):
                warnings.warn(
                    f"layer {name!r} is in the feature pyramid: only the level that a detection was assigned to has a "
                    "gradient, and of a two-stage detector it lies in the box by construction; leave layer out for the "
                    "last stage of the body",
                    DataWarning,
                    stacklevel=2,
                )

    @property
    def layer(self) -> str:
        """The names of the tapped layers, joined by "+"."""
        return self._cam.layer

    def __call__(
        self, image: Tensor, *, score_threshold: float = 0.0, limit: int | None = None, upsample: bool = True
    ) -> Tensor:
        """The maps of the detections of one image.

        Args:
            image: (3, H, W), floating point, in [0, 1], on the device of the detector, which normalises it itself.
            score_threshold: lowest score of a detection that gets a map.
            limit: number of detections, at most, those with the highest scores; None: all.
            upsample: to the size of the image, bilinearly (`align_corners=False`), without the padding; False: as large
                as the features, padding included, of several layers as the largest.

        Returns:
            (n, H, W), n may be 0; at least 0, not normalised (of several layers: in [0, 1]), without a graph. A
            detection whose score does not change with the layer, as one that was assigned to another level of a
            pyramid, has a map of zeros.

        Raises:
            InputError: an image of another shape or dtype, no detections in what the detector gives, scores without a
                graph, a layer that has no part in them.
        """
        image = checked_image(self._network, image)
        batches: list[Any] = []  # what the detector's transform makes of the image: a padded batch of one
        transform = getattr(self._network, "transform", None)
        with eager_evaluation(self._network), ExitStack() as hooks:
            if isinstance(transform, nn.Module):
                hooks.callback(transform.register_forward_hook(lambda *call: batches.append(call[2][0])).remove)
            output, tapped = self._cam.tapped_run(
                lambda: self._detections(image), lambda: batches[-1].tensors if batches else None, first=True
            )
            scores = output["scores"]
            chosen = highest(scores.detach(), score_threshold, limit)
            self.detections = {name: values.detach()[chosen] for name, values in output.items()}
            one_hot = torch.eye(len(scores), dtype=scores.dtype, device=scores.device)[chosen]
            maps = self._cam.combined(scores, tapped, one_hot.unbind()) if len(chosen) else {}
            squeezed = {name: part[0] for name, part in maps.items()}  # (n, h, w)
            if not upsample:
                grids = [layer.arrange(layer.output).shape[-2:] for layer in tapped.values()]
                size = max(grids, key=lambda grid: grid[0] * grid[1])
                return self._cam.fused(squeezed, size) if squeezed else image.new_empty(0, *size)
            height, width = image.shape[1:]
            if not squeezed:
                return image.new_empty(0, height, width)
            whole = [height, width]  # the padded batch in pixels of the image
            if batches:
                (resized,), padded = batches[-1].image_sizes, batches[-1].tensors.shape[-2:]
                sides = zip(whole, resized, padded, strict=True)
                whole = [max(side, round(side * full / part)) for side, part, full in sides]
            return self._cam.fused(squeezed, whole)[:, :height, :width].contiguous()

    def _detections(self, image: Tensor) -> Detections:
        with uncached_autocast(image.device.type):
            return checked_detections(self._network([image]), 1)[0]


def last_of_body(detector: nn.Module) -> str:
    """The name of the last stage of a detector's body: of `backbone.body` if there is one, or else of `backbone`.

    Raises:
        InputError: there is no backbone, or its stages are not known.
    """
    backbone = getattr(detector, "backbone", None)
    if not isinstance(backbone, nn.Module):
        inside = ", ".join(name for name, _ in detector.named_children()) or "none"
        raise InputError(f"{type(detector).__name__} has no backbone (its children: {inside}); name the layer instead")
    body = getattr(backbone, "body", None)
    prefix, body = ("backbone.body", body) if isinstance(body, nn.Module) else ("backbone", backbone)
    # torchvision's IntermediateLayerGetter ends with the last layer taken; a pyramid of regard names its levels.
    names = getattr(backbone, "levels", {}).values() or (body if isinstance(body, nn.ModuleDict) else stages(body))
    return f"{prefix}.{list(names)[-1]}"


def _in_pyramid(detector: nn.Module, name: str) -> bool:
    """Whether the layer is a feature pyramid, or in one."""
    parts = name.split(".")
    around = (detector.get_submodule(".".join(parts[:end])) for end in range(1, len(parts) + 1))
    return any(_PYRAMID in (kind.__name__ for kind in type(module).__mro__) for module in around)
