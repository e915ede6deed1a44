"""Attention maps and class activation maps (CAMs) of any model, which stays unchanged.

- `Taps` reads the outputs of layers during a forward; `MapTaps` reads their attention maps.
- `activation_map` computes the activation-based attention map of a layer.
- `create` makes a CAM method by name (`names`); all methods have the interface of `MapMethod`.
- `GradCAM` and its variants are CAMs of a class.
- `GradientMap` is the gradient-based attention map (saliency), `ActivationMap` is `activation_map` as a method.
- `register` adds a method, or a function `(model, images, classes) -> maps`, under a name.
- `last_features` finds the default layer of CAMs.
- `DetectionCAM` is a CAM for each detection of a detector, `DRISE` a map of each detection without gradients;
  `create_for_detections` makes either by name.
- `group_activation` scores each group of channels alone.
"""

from regard.maps.cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from regard.maps.channel_groups import group_activation
from regard.maps.detection_cam import DetectionCAM
from regard.maps.drise import DRISE, create_for_detections
from regard.maps.gradient import ActivationMap, GradientMap
from regard.maps.layers import last_features
from regard.maps.method import MapMethod
from regard.maps.registry import MapFunction, create, method_name, names, register
from regard.maps.taps import MapTaps, Taps, activation_map

__all__ = [
    "DRISE",
    "ActivationMap",
    "DetectionCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientMap",
    "HiResCAM",
    "LayerCAM",
    "MapFunction",
    "MapMethod",
    "MapTaps",
    "Taps",
    "XGradCAM",
    "activation_map",
    "create",
    "create_for_detections",
    "group_activation",
    "last_features",
    "method_name",
    "names",
    "register",
]
