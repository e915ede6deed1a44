"""Attention maps of layers, and class activation maps (CAMs) of any model, which stays unchanged.

- `Taps`: the outputs of named layers; `MapTaps`: their attention maps.
- `activation_map`: the activation-based attention map of a layer.
- `create`: a CAM method by one of the `names`; all have the same interface, see `MapMethod`.
- `GradCAM` and its variants: CAMs of a class.
- `GradientMap`: the gradient-based attention map (saliency); `ActivationMap`: `activation_map` as a method.
- `register`: adds a method, or a function `(model, images, classes) -> maps`, under a name.
- `last_features`: the layer whose CAM is taken unless stated.
- `DetectionCAM`: the CAM of each detection of a detector.
- `DRISE`: the same without gradients; `create_for_detections`: one of both by name.
- `group_activation`: the class score of each group of channels alone.
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
