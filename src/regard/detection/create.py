"""Detectors by name: torchvision's, over a pyramid of any network, with attention in it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models import detection as torchvision_detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from regard.attention import Gate, attached
from regard.attention.start import IdentityStart, Start
from regard.detection.backbone import Norm, Weights, build_backbone
from regard.detection.cascade import CascadeHeads
from regard.detection.pyramid import Extra, Pyramid
from regard.errors import InputError, UnfitImage, check_number, first_line, unknown
from regard.models.create import attacher
from regard.models.hub import MAKERS

_ASPECTS = (0.5, 1.0, 2.0)


class Detector(nn.Module):
    """A detector of torchvision whose labels are class indices 0 … K - 1, in targets and in detections. A mixin.

    Attributes:
        num_classes: K, without a background.
        background: how many labels of torchvision's detector come before the first class.
    """

    num_classes: int
    transform: GeneralizedRCNNTransform
    background = 0

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """Losses in training, detections in evaluation.

        Args:
            images: float32 (3, H, W) in [0, 1], of any sizes.
            targets: in training, of each image `boxes` float32 (n, 4) as xyxy in pixels of the image, `labels` int64
                (n,), and for detectors with masks `masks` (n, H, W).

        Returns:
            In training a dict of losses, scalars. In evaluation of each image a dict of `boxes` (n, 4) in its pixels,
            `labels` (n,), `scores` (n,) and, for detectors with masks, `masks` float32 (n, 1, H, W) in [0, 1].

        Raises:
            InputError: no targets in training; labels beyond the classes; a box without area; no masks where they are
                needed; as UnfitImage, an image that would have a side of 0 pixels after resizing.
        """
        if self.training:
            if (
                not targets
                or len(targets) != len(images)
                or not all({"boxes", "labels"} <= one.keys() for one in targets)
            ):
                raise InputError("a detector in training needs targets: a dict of boxes and labels for each image")
            targets = self._shifted(targets)
        try:
            outputs = super().forward(images, targets)
        except RuntimeError as error:
            for height, width in (image.shape[-2:] for image in images):
                if max(height, width) > min(height, width) * self.transform.max_size:
                    raise UnfitImage(
                        f"an image of {width} x {height} pixels is too long and narrow to detect in"
                    ) from error
            raise
        if not self.training and self.background:
            for detections in outputs:
                detections["labels"] = detections["labels"] - self.background
        return outputs

    def _shifted(self, targets: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        labels = torch.cat([target["labels"] for target in targets])
        if labels.is_floating_point():
            raise InputError(f"labels of objects are {labels.dtype}; expected class indices, int64")
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.num_classes):
            raise InputError(
                f"labels of objects are {int(labels.min())} to {int(labels.max())}; expected class indices 0 to "
                f"{self.num_classes - 1}, as the detector has {self.num_classes} classes"
            )
        for number, boxes in enumerate(target["boxes"] for target in targets):
            flat = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
            if flat.any():
                box = boxes[flat][0].tolist()
                raise InputError(
                    f"targets[{number}] has a box without area, {box}; leave such objects out (expected left, top, "
                    "right, bottom)"
                )
        if isinstance(self, torchvision_detection.MaskRCNN) and not all("masks" in target for target in targets):
            raise InputError("this detector learns masks, and there are objects without; take one of boxes alone")
        return [{**target, "labels": target["labels"] + self.background} for target in targets]


class FasterRCNN(Detector, torchvision_detection.FasterRCNN):
    """torchvision's Faster R-CNN with labels from 0; see `detection.create`."""

    background = 1


class MaskRCNN(Detector, torchvision_detection.MaskRCNN):
    """torchvision's Mask R-CNN with labels from 0; see `detection.create`."""

    background = 1


class RetinaNet(Detector, torchvision_detection.RetinaNet):
    """torchvision's RetinaNet; see `detection.create`."""


class FCOS(Detector, torchvision_detection.FCOS):
    """torchvision's FCOS; see `detection.create`."""


def _two_stage(kind: type[Detector], pyramid: Pyramid, num_classes: int, options: Mapping[str, Any]) -> Detector:
    levels = [str(level) for level in range(len(pyramid.levels))]
    parts = {
        "rpn_anchor_generator": _anchors([(8 * stride,) for stride in pyramid.strides]),
        "box_roi_pool": MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
    }
    if issubclass(kind, MaskRCNN):
        parts["mask_roi_pool"] = MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2)
    return kind(pyramid, num_classes + 1, **{**parts, **options})


def _cascade(kind: type[Detector], pyramid: Pyramid, num_classes: int, options: Mapping[str, Any]) -> Detector:
    detector = _two_stage(kind, pyramid, num_classes, options)
    detector.roi_heads = CascadeHeads(cast(RoIHeads, detector.roi_heads), num_classes + 1)
    return detector


def _retinanet(kind: type[Detector], pyramid: Pyramid, num_classes: int, options: Mapping[str, Any]) -> Detector:
    sizes = [tuple(int(4 * stride * 2 ** (octave / 3)) for octave in range(3)) for stride in pyramid.strides]
    return kind(pyramid, num_classes, **{"anchor_generator": _anchors(sizes), **options})


def _fcos(kind: type[Detector], pyramid: Pyramid, num_classes: int, options: Mapping[str, Any]) -> Detector:
    anchors = AnchorGenerator(tuple((stride,) for stride in pyramid.strides), ((1.0,),) * len(pyramid.strides))
    return kind(pyramid, num_classes, **{"anchor_generator": anchors, **options})


def _anchors(sizes: Sequence[tuple[int, ...]]) -> AnchorGenerator:
    return AnchorGenerator(tuple(sizes), (_ASPECTS,) * len(sizes))


# Name -> its class, how that is made, the strides of the network's levels, and the levels that the pyramid adds.
_DETECTORS: dict[str, tuple[type[Detector], Callable[..., Detector], tuple[int, ...], Extra]] = {
    "faster-rcnn": (FasterRCNN, _two_stage, (4, 8, 16, 32), "pool"),
    "mask-rcnn": (MaskRCNN, _two_stage, (4, 8, 16, 32), "pool"),
    "cascade-rcnn": (FasterRCNN, _cascade, (4, 8, 16, 32), "pool"),
    "cascade-mask-rcnn": (MaskRCNN, _cascade, (4, 8, 16, 32), "pool"),
    "retinanet": (RetinaNet, _retinanet, (8, 16, 32), "p6p7"),
    "fcos": (FCOS, _fcos, (8, 16, 32), "p6p7-from-p5"),
}


def _check_options(name: str, kind: type[Detector], options: Mapping[str, Any]) -> None:
    """Raises InputError for an option that the detector `name` does not have, and for a value of another kind."""
    parameters = [inspect.signature(made).parameters for made in (GeneralizedRCNNTransform, kind, create)]
    defaults = {option: parameter.default for group in parameters for option, parameter in group.items()}
    for option in options.keys() - defaults.keys():
        raise unknown(
            f"option of {name}", option, defaults.keys() - {"name", "backbone", "num_classes", "kwargs", "options"}
        )
    for option, value in options.items():
        default = defaults[option]
        if isinstance(default, int | float):
            several = isinstance(value, list | tuple) and option == "min_size"  # torchvision draws one of them
            whole = isinstance(default, int)
            for one in value if several else [value]:
                check_number(option, one, "[1, 2^40]" if whole else "[0, 2^40]", whole=whole)
        elif isinstance(value, str | int | float):
            raise InputError(f"{option} is {value!r:.40}; {name} takes a list, or a module of torchvision, or nothing")


def names() -> tuple[str, ...]:
    """The detectors that `create` knows."""
    return tuple(_DETECTORS)


def create(
    name: str,
    backbone: str | nn.Module = "resnet50",
    num_classes: int = 80,
    *,
    attention: str | None = None,
    gate: Gate | str = "sigmoid",
    attention_stages: Iterable[int] | None = None,
    attention_options: Mapping[str, Any] | None = None,
    attention_start: Start | None = None,
    pretrained: Weights = False,
    frozen_stages: int = 1,
    norm: Norm = "statistics",
    strides: Sequence[int] | None = None,
    channels: int = 256,
    backbone_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Detector:
    """The detector `name` over a feature pyramid of the network `backbone`, with or without attention in it.

    Args:
        name: 'faster-rcnn' (arXiv 1506.01497, with pyramid 1612.03144), 'mask-rcnn' (1703.06870), 'cascade-rcnn' and
            'cascade-mask-rcnn' (1712.00726), 'retinanet' (1708.02002) or 'fcos' (1904.01355).
        backbone: a name of `models.create`, or a classification network, which becomes a part of the detector.
        num_classes: K, without a background.
        attention: a module of `attention.names()`, in the backbone; gate, stages and options as in `models.create`.
        attention_start: 'published' or 'identity' (`attention.attach`); None for 'identity' in a backbone whose weights
            were trained without this attention, and 'published' in others.
        pretrained: the weights of the backbone: True for the published ones of timm or torchvision, a file of weights
            or its contents, as `models.load_official` takes them. What was loaded is logged.
        frozen_stages: the stem and so many stages do not learn, and their attention only if it begins as the identity;
            0: all learn.
        norm: of the backbone: 'statistics' (they are fixed; scale and shift learn), 'fixed', 'batch', 'sync' or
            'group'; see `set_norms`.
        strides: of the backbone's levels; None for those of the paper: 8, 16 and 32, and 4 with two stages.
        channels: of the pyramid's levels.
        backbone_options: of the network itself.
        options: of torchvision's detector: `min_size` (800, the shorter side that images are scaled to), `max_size`
            (1333), `image_mean` and `image_std` (those of the backbone's published weights, or of ImageNet),
            `box_score_thresh`, …

    Raises:
        InputError: an unknown name; a backbone without these strides or stages; weights that do not fit.
    """
    if name not in _DETECTORS:
        raise unknown("detector", name, _DETECTORS)
    kind, build, customary, extra = _DETECTORS[name]
    _check_options(name, kind, {**options, "num_classes": num_classes, "channels": channels})
    check_number("frozen_stages", frozen_stages, "[0, 2^40]", whole=True)
    attention_stages = None if attention_stages is None else list(attention_stages)
    pyramid = build_backbone(
        backbone,
        partial(Pyramid, strides=strides or customary, channels=channels, extra=extra),
        attach=attacher(attention, gate, attention_stages, attention_options, attention_start),
        start=attention_start,
        pretrained=pretrained,
        norm=norm,
        frozen_stages=frozen_stages,
        options=backbone_options or {},
    )
    published = getattr(pyramid.body, "pretrained_cfg", None) or {}
    for option in ("mean", "std"):
        if published.get(option):
            options.setdefault(f"image_{option}", list(published[option]))
    try:
        detector = build(kind, pyramid, num_classes, options)
    except (TypeError, ValueError) as error:  # a value that does not fit
        raise InputError(f"{name}: {first_line(error)}") from error
    detector.num_classes = num_classes
    if isinstance(backbone, str):
        started = [isinstance(module, IdentityStart) for module in attached(detector).values()]
        vars(detector)["created_with"] = {  # for `models.save_pretrained`, with fields like those of a recipe
            "detector": name,
            "name": backbone,
            "num_classes": num_classes,
            "attention": attention,
            "gate": gate,
            "attention_stages": attention_stages,
            "attention_options": dict(attention_options or {}),
            "attention_start": None if attention is None else "identity" if any(started) else "published",
            "options": dict(backbone_options or {}),
            "detector_options": {
                **{"frozen_stages": frozen_stages, "norm": norm, "strides": strides, "channels": channels},
                **options,
            },
        }
    return detector


def _again(network: Mapping[str, Any], classes: int) -> Detector:
    """The detector of fields like those in `created_with`, without its weights."""
    fields = dict(network)
    options = {"backbone_options": fields.pop("options", None), **dict(fields.pop("detector_options", None) or {})}
    return create(str(fields.pop("detector")), str(fields.pop("name")), classes, **fields, **options)


MAKERS["detector"] = _again
