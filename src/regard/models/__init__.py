"""Networks by name, with attention in them; what they cost; weights from elsewhere."""

from regard.models.checkpoints import (
    check_fit,
    fingerprint,
    load_weights,
    read_checkpoint,
    read_notes,
    read_shapes,
    write_weights,
)
from regard.models.cifar_resnet import CifarResNet
from regard.models.complexity import Complexity, complexity
from regard.models.costs import Cost, count_costs, measure_costs
from regard.models.create import MOST_CLASSES, create
from regard.models.folding import folded
from regard.models.measuring import Latency, PeakMemory, Times, latency, peak_memory
from regard.models.nin import NIN
from regard.models.preact_resnet import PreActResNet
from regard.models.published import count_classes, count_entries, described_options, entries_for, load_official
from regard.models.wide_resnet import WideResNet

__all__ = [
    "MOST_CLASSES",
    "NIN",
    "CifarResNet",
    "Complexity",
    "Cost",
    "Latency",
    "PeakMemory",
    "PreActResNet",
    "Times",
    "WideResNet",
    "check_fit",
    "complexity",
    "count_classes",
    "count_entries",
    "count_costs",
    "create",
    "described_options",
    "entries_for",
    "fingerprint",
    "folded",
    "latency",
    "load_official",
    "load_weights",
    "measure_costs",
    "peak_memory",
    "read_checkpoint",
    "read_notes",
    "read_shapes",
    "write_weights",
]
