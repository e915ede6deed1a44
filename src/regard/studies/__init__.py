"""Studies of trained networks by class: gates of attention modules, groups of channels.

- `gate_activations` measures the gates of attention modules by channel, class and depth.
- `group_scores` scores each group of channels alone (`maps.group_activation`) by class.
- `Moments` are means and variances by class.
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
