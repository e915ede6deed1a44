"""Studies of trained networks by class: gates of attention modules, groups of channels.

- `gate_activations`: the gates of attention modules, channel by channel, by class and depth.
- `group_scores`: `maps.group_activation`, how much each group of channels alone speaks for a class, by class.
- `Moments`: the means and variances by class that both give.
"""

from regard.studies.gates import GateActivations, LayerGates, attention_layers, gate_activations
from regard.studies.groups import GroupScores, group_scores
from regard.studies.moments import Moments

__all__ = [
    "GateActivations",
    "GroupScores",
    "LayerGates",
    "Moments",
    "attention_layers",
    "gate_activations",
    "group_scores",
]
