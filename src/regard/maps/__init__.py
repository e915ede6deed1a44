"""Maps: where a network looks, read from any model, which is left as it was.

- `Taps`: the outputs of named layers; `MapTaps`: their attention maps.
- `activation_map`: what a layer responds to.
- `create`: a method that makes maps, by one of the `names`; all are called alike, see `MapMethod`.
- `GradCAM` and its kin: what speaks for a class.
- `GradientMap`: what the loss changes with; `ActivationMap`: `activation_map` as a method.
- `group_activation`: how much each group of channels alone speaks for a class.
- `group_scores`: the same for the images of each class.
- `gate_activations`: what attention modules multiply each channel with, by class and depth; `gate_factors` of one.
"""

from regard.maps.activation import activation_map
from regard.maps.cam import ClassActivationMap, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from regard.maps.factors import gate_factors
from regard.maps.gates import GateActivations, LayerGates, attention_layers, gate_activations
from regard.maps.gradient import GradientMap
from regard.maps.groups import GroupScores, check_groups, group_activation, group_scores
from regard.maps.map_taps import MapTaps
from regard.maps.method import MapMethod
from regard.maps.moments import Moments
from regard.maps.registry import create, names
from regard.maps.response import ActivationMap
from regard.maps.taps import Taps

__all__ = [
    "ActivationMap",
    "ClassActivationMap",
    "GateActivations",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientMap",
    "GroupScores",
    "HiResCAM",
    "LayerCAM",
    "LayerGates",
    "MapMethod",
    "MapTaps",
    "Moments",
    "Taps",
    "XGradCAM",
    "activation_map",
    "attention_layers",
    "check_groups",
    "create",
    "gate_activations",
    "gate_factors",
    "group_activation",
    "group_scores",
    "names",
]
