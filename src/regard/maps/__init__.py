"""Maps: where a network looks, read from any model, which is left as it was.

- `Taps`: the outputs of named layers.
- `activation_map`: what a layer responds to.
- `GradCAM`: what speaks for a class.
- `group_activation`: how much each group of channels alone speaks for a class.
"""

from regard.maps.activation import activation_map
from regard.maps.cam import ClassActivationMap, GradCAM
from regard.maps.groups import group_activation
from regard.maps.taps import Taps

__all__ = ["ClassActivationMap", "GradCAM", "Taps", "activation_map", "group_activation"]
