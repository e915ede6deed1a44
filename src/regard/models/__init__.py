"""Creates networks by name, with attention modules; measures their cost; reads and writes checkpoints."""

from regard.models.checkpoints import (
    fingerprint,
    load_weights,
    read_checkpoint,
    read_notes,
    read_shapes,
    write_weights,
)
from regard.models.cifar_resnet import CifarResNet, SmallImageResNet
from regard.models.complexity import Complexity, complexity
from regard.models.costs import Cost, count_costs, measure_costs
from regard.models.create import create
from regard.models.hub import from_pretrained, push_to_hub, save_pretrained
from regard.models.loading import MOST_CLASSES, count_classes, described_options, load_built, load_official
from regard.models.measuring import Latency, PeakMemory, Times, latency, peak_memory
from regard.models.mobile import SmallImageMobileNetV2, SmallImageShuffleNet
from regard.models.plain import NIN, SmallImageVGG
from regard.models.wide_resnet import PreActResNet, WideResNet

__all__ = [
    "MOST_CLASSES",
    "NIN",
    "CifarResNet",
    "Complexity",
    "Cost",
    "Latency",
    "PeakMemory",
    "PreActResNet",
    "SmallImageMobileNetV2",
    "SmallImageResNet",
    "SmallImageShuffleNet",
    "SmallImageVGG",
    "Times",
    "WideResNet",
    "complexity",
    "count_classes",
    "count_costs",
    "create",
    "described_options",
    "fingerprint",
    "from_pretrained",
    "latency",
    "load_built",
    "load_official",
    "load_weights",
    "measure_costs",
    "peak_memory",
    "push_to_hub",
    "read_checkpoint",
    "read_notes",
    "read_shapes",
    "save_pretrained",
    "write_weights",
]
