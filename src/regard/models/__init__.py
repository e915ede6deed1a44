"""Networks by name, with attention in them; what they cost; weights from elsewhere."""

from regard.models.cifar_resnet import CifarResNet
from regard.models.complexity import Complexity, complexity
from regard.models.create import create
from regard.models.official import load_official
from regard.models.weights import load_weights, read_checkpoint
from regard.models.wide_resnet import WideResNet

__all__ = [
    "CifarResNet",
    "Complexity",
    "WideResNet",
    "complexity",
    "create",
    "load_official",
    "load_weights",
    "read_checkpoint",
]
