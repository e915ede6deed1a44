"""Creates torchvision's detectors by name, over a feature pyramid of any network, with or without attention."""

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
from regard.models.hub import BUILDERS

_ASPECTS = (0.5, 1.0, 2.0)


class Detector(nn.Module):
    """A mixin for torchvision's detectors: labels are class indices 0 … K - 1, in targets and in detections.

    Attributes:
        num_classes: K, without a background.
        background: number of labels before the first class in torchvision's detector.
    """

    num_classes: int
    transform: GeneralizedRCNNTransform
    background = 0

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """Returns losses in training, detections in evaluation.

        Args:
            images: float32 (3, H, W) in [0, 1], of any sizes.
            targets: in training one dict per image: `boxes` float32 (n, 4) as xyxy in pixels of the image, `labels`
                int64 (n,), and `masks` (n, H, W) for detectors with masks.

        Returns:
            In training a dict of scalar losses. In evaluation one dict per image: `boxes` (n, 4) in pixels of the
            image, `labels` (n,), `scores` (n,), and `masks` float32 (n, 1, H, W) in [0, 1] for detectors with masks.

        Raises:
            InputError: targets or required masks are missing in training, a label is no class, or a box has no area.
            UnfitImage: an image would have a side of 0 pixels after resizing.
        """
        if self.training:
            keys = {"boxes", "labels"}
            if not targets or len(targets) != len(images) or not all(keys <= target.keys() for target in targets):
                raise InputError("a detector in training needs targets: a dict of boxes and labels for each image")
            targets = self._torchvision_targets(targets)
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

    def _torchvision_targets(self, targets: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Checks targets and adds `background` to their labels."""
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
                    f"targets[{number}] has a box without area, {box}; expected left, top, right, bottom; leave it out"
                )
        if isinstance(self, torchvision_detection.MaskRCNN) and not all("masks" in target for target in targets):
            raise InputError("targets have no masks, which this detector needs; add masks or use one for boxes only")
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


# Name -> class, function that builds it, strides of the network's levels, levels that the pyramid adds.
_DETECTORS: dict[str, tuple[type[Detector], Callable[..., Detector], tuple[int, ...], Extra]] = {
    "faster-rcnn": (FasterRCNN, _two_stage, (4, 8, 16, 32), "pool"),
    "mask-rcnn": (MaskRCNN, _two_stage, (4, 8, 16, 32), "pool"),
    "cascade-rcnn": (FasterRCNN, _cascade, (4, 8, 16, 32), "pool"),
    "cascade-mask-rcnn": (MaskRCNN, _cascade, (4, 8, 16, 32), "pool"),
    "retinanet": (RetinaNet, _retinanet, (8, 16, 32), "p6p7"),
    "fcos": (FCOS, _fcos, (8, 16, 32), "p6p7-from-p5"),
}


def _check_options(name: str, kind: type[Detector], options: Mapping[str, Any]) -> None:
    """Raises InputError for an unknown option of the detector `name`, or a value of another kind."""
    parameters = [inspect.signature(function).parameters for function in (GeneralizedRCNNTransform, kind, create)]
    defaults = {option: parameter.default for group in parameters for option, parameter in group.items()}
    for option in options.keys() - defaults.keys():
        raise unknown(
            f"option of {name}", option, defaults.keys() - {"name", "backbone", "num_classes", "kwargs", "options"}
        )
    for option, value in options.items():
        default = defaults[option]
        if isinstance(default, int | float):
            is_list = isinstance(value, list | tuple) and option == "min_size"  # torchvision draws one of them
            whole = isinstance(default, int)
            for number in value if is_list else [value]:
                check_number(option, number, "[1, 2^40]" if whole else "[0, 2^40]", whole=whole)
        elif isinstance(value, str | int | float):
            raise InputError(f"{option} is {value!r:.40}; {name} takes a list, a module of torchvision, or None")


def names() -> tuple[str, ...]:
    """The names of all detectors of `create`."""
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
    """Creates the detector `name` over a feature pyramid of the network `backbone`, with or without attention.

    Args:
        name: 'faster-rcnn' (arXiv 1506.01497, with pyramid 1612.03144), 'mask-rcnn' (1703.06870), 'cascade-rcnn' and
            'cascade-mask-rcnn' (1712.00726), 'retinanet' (1708.02002) or 'fcos' (1904.01355).
        backbone: a name of `models.create`, or a classification network, which becomes a part of the detector.
        num_classes: K, without a background.
        attention: name of the attention module of the backbone; gate, stages and options as in `models.create`.
        attention_start: 'published' or 'identity' (`attention.attach`). None means 'identity' if the weights of the
            backbone were trained without this attention, and 'published' otherwise.
        pretrained: weights of the backbone: True for the published ones of timm or torchvision, or a file of weights or
            its contents, as in `models.load_official`. A log message lists what was loaded.
        frozen_stages: freezes the stem and this number of stages; their attention is trained only if it starts as the
            identity. 0 freezes nothing.
        norm: training of the backbone's batch norms: 'statistics' (fixed statistics, trained scale and shift), 'fixed',
            'batch', 'sync' or 'group'; see `set_norms`.
        strides: strides of the backbone's levels; None for those of the paper: 4, 8, 16 and 32 for two-stage detectors,
            8, 16 and 32 for the others.
        channels: number of channels of the pyramid's levels.
        backbone_options: options of the network.
        options: options of torchvision's detector: `min_size` (800, the shorter side that images are scaled to),
            `max_size` (1333), `image_mean` and `image_std` (those of the backbone's published weights, or of ImageNet),
            `box_score_thresh`, …

    Raises:
        InputError: the name or an option is unknown, the backbone does not have these strides or stages, or the weights
            do not fit.
    """
    if name not in _DETECTORS:
        raise unknown("detector", name, _DETECTORS)
    kind, build, default_strides, extra = _DETECTORS[name]
    _check_options(name, kind, {**options, "num_classes": num_classes, "channels": channels})
    check_number("frozen_stages", frozen_stages, "[0, 2^40]", whole=True)
    attention_stages = None if attention_stages is None else list(attention_stages)
    pyramid = build_backbone(
        backbone,
        partial(Pyramid, strides=strides or default_strides, channels=channels, extra=extra),
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
        as_identity = any(isinstance(module, IdentityStart) for module in attached(detector).values())
        vars(detector)["created_with"] = {  # for `models.save_pretrained`, with the fields of a recipe
            "detector": name,
            "name": backbone,
            "num_classes": num_classes,
            "attention": attention,
            "gate": gate,
            "attention_stages": attention_stages,
            "attention_options": dict(attention_options or {}),
            "attention_start": None if attention is None else "identity" if as_identity else "published",
            "options": dict(backbone_options or {}),
            "detector_options": {
                **{"frozen_stages": frozen_stages, "norm": norm, "strides": strides, "channels": channels},
                **options,
            },
        }
    return detector


def _build(network: Mapping[str, Any], classes: int) -> Detector:
    """Builds a detector from the fields in `created_with`, with new weights."""
    fields = dict(network)
    options = {"backbone_options": fields.pop("options", None), **dict(fields.pop("detector_options", None) or {})}
    return create(str(fields.pop("detector")), str(fields.pop("name")), classes, **fields, **options)


BUILDERS["detector"] = _build
