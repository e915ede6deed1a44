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
from regard.maps.layers import Layer, hookable
from regard.maps.method import Fuse, uncached_autocast
from regard.maps.registry import create
from regard.modes import eager_evaluation
from regard.stages import stages

_PYRAMID = "FeaturePyramidNetwork"


class DetectionCAM:
    """The CAM of each detection of an image: a CAM method of the detection's score instead of a class score.

    Example::

        cam = DetectionCAM(detector)
        maps = cam(image)                 # (n, H, W), one map for each of the n detections in cam.detections
        maps[0]                           # for the detection with the highest score

    This works for detectors with torchvision's interface, whose scores keep their graph in evaluation mode. A call runs
    one forward, and one backward per detection, down to the layer. The detector is unchanged afterwards, as with every
    `MapMethod`.

    Which method: Grad-CAM, Grad-CAM++ and XGrad-CAM average channel weights over the whole image, so their maps show
    every object that resembles the detected one. "hirescam" and "layercam" weight each pixel separately and show the
    one detection; HiResCAM is the formula of ODAM (Zhao and Chan, ICLR 2023, arXiv 2304.06354) without its smoothing.

    Which layer: the last stage of the backbone's body. Levels of a feature pyramid are poor layers and raise a warning:
    only the level that a detection was assigned to has a gradient, and in a two-stage detector that gradient is 0
    outside the pooled region, so a map weighted by pixel lies inside the box by construction.

    Args:
        detector: maps a list of images (3, H, W) to a list of dicts with `boxes` (n, 4), `labels` (n,) and `scores`
            (n,). If it has torchvision's `transform`, maps account for its resizing and padding.
        layer: a name as in `detector.named_modules()`, the module itself, or several of these, whose maps are fused;
            None: the last stage of `detector.backbone`, or of its `body`.
        method: "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam" or "activation", which gives every detection
            the same map.
        fuse, reshape: see `MapMethod`.

    Attributes:
        detector: the detector.
        method: name of the method.
        layers: names of the tapped layers.
        detections: the detections of the last call that have maps: `boxes`, `labels`, `scores` and further entries,
            without a graph, highest score first; None before the first call.

    Raises:
        InputError: an unknown layer or method, or a detector whose backbone has no known stages.

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
        self._network = hookable(detector)
        self.method, self.fuse, self.reshape = method, fuse, reshape
        layer = last_of_body(self._network) if layer is None else layer
        self._cam = create(method, detector, layer, fuse=fuse, reshape=reshape)
        if isinstance(self._cam, GradientMap):
            raise InputError("method 'gradient' explains a loss over classes; use hirescam or another CAM method")
        self.layers = self._cam.layers
        self.detections: Detections | None = None
        for name in self.layers:
            if _in_pyramid(self._network, name):
                warnings.warn(
                    f"layer {name!r} is in the feature pyramid: only the level that a detection was assigned to has a "
                    "gradient, which in a two-stage detector lies inside the box by construction; leave layer out to "
                    "use the last stage of the body",
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
            image: (3, H, W), floating point, in [0, 1], not normalised, on the device of the detector.
            score_threshold: lowest score of a detection that gets a map.
            limit: maximum number of detections, those with the highest scores; None: all.
            upsample: whether to resize to the image, bilinearly (`align_corners=False`), without the padding; False:
                maps have the size of the features, padding included, or of the largest features of several layers.

        Returns:
            (n, H, W), n may be 0; at least 0, not normalised (for several layers: in [0, 1]), without a graph. A
            detection whose score does not depend on the layer has a map of zeros, for example one that was assigned to
            another level of a pyramid.

        Raises:
            InputError: an image of another shape or dtype, an output without detections, scores without a graph, or a
                layer that no score depends on.
        """
        image = checked_image(self._network, image)
        batches: list[Any] = []  # the output of the detector's transform: a padded batch of one image
        transform = getattr(self._network, "transform", None)
        with eager_evaluation(self._network), uncached_autocast(image.device.type), ExitStack() as hooks:
            if isinstance(transform, nn.Module):
                hooks.callback(transform.register_forward_hook(lambda *call: batches.append(call[2][0])).remove)
            output, tapped = self._cam.tapped_run(
                lambda: checked_detections(self._network([image]), 1)[0],
                lambda: batches[-1].tensors if batches else None,
                first=True,
            )
            scores = output["scores"]
            order = highest(scores.detach(), score_threshold, limit)
            self.detections = {name: values.detach()[order] for name, values in output.items()}
            one_hot = torch.eye(len(scores), dtype=scores.dtype, device=scores.device)[order]
            maps = self._cam.compute(scores, tapped, one_hot.unbind()) if len(order) else {}
            maps = {name: layer_maps[0] for name, layer_maps in maps.items()}  # (n, h, w)
            if not upsample:
                grids = [layer.arrange(layer.output).shape[-2:] for layer in tapped.values()]
                size = max(grids, key=lambda grid: grid[0] * grid[1])
                return self._cam.fused(maps, size) if maps else image.new_empty(0, *size)
            height, width = image.shape[1:]
            if not maps:
                return image.new_empty(0, height, width)
            extent = [height, width]  # the size of the padded batch in pixels of the image
            if batches:
                (resized,), padded = batches[-1].image_sizes, batches[-1].tensors.shape[-2:]
                sides = zip(extent, resized, padded, strict=True)
                extent = [max(side, round(side * outer / inner)) for side, inner, outer in sides]
            return self._cam.fused(maps, extent)[:, :height, :width].contiguous()


def last_of_body(detector: nn.Module) -> str:
    """The name of the last stage of `detector.backbone.body`, or of `detector.backbone` if it has no body."""
    backbone = getattr(detector, "backbone", None)
    if not isinstance(backbone, nn.Module):
        inside = ", ".join(name for name, _ in detector.named_children()) or "none"
        raise InputError(f"{type(detector).__name__} has no backbone (its children: {inside}); name the layer instead")
    body = getattr(backbone, "body", None)
    prefix, body = ("backbone.body", body) if isinstance(body, nn.Module) else ("backbone", backbone)
    # torchvision's IntermediateLayerGetter ends with the last layer it returns; regard's pyramids name their levels.
    names = getattr(backbone, "levels", {}).values() or (body if isinstance(body, nn.ModuleDict) else stages(body))
    return f"{prefix}.{list(names)[-1]}"


def _in_pyramid(detector: nn.Module, name: str) -> bool:
    """Whether the layer is a feature pyramid or inside one."""
    parts = name.split(".")
    ancestors = (detector.get_submodule(".".join(parts[:end])) for end in range(1, len(parts) + 1))
    return any(_PYRAMID in (kind.__name__ for kind in type(module).__mro__) for module in ancestors)
