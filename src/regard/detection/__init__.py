"""Object detection and instance segmentation with attention in the backbone::

    detector = detection.create("faster-rcnn", "resnet50", num_classes=80, attention="shuffle", pretrained=True)

- `create`: torchvision's Faster, Mask and Cascade R-CNN, RetinaNet and FCOS over any network with stages.
- `Pyramid`: the feature pyramid over a network with stages.
- `complexity`: parameters and operations of a detector, counted as in SA-Net's table of object detection.
"""

from regard.detection.backbone import freeze_stages, set_norms
from regard.detection.compare import Comparison, compare, compare_all
from regard.detection.costs import DetectorCost, complexity
from regard.detection.create import FCOS, Detector, FasterRCNN, MaskRCNN, RetinaNet, create, names
from regard.detection.evaluation import evaluate
from regard.detection.pyramid import Pyramid
from regard.detection.results import Results

__all__ = [
    "FCOS",
    "Comparison",
    "Detector",
    "DetectorCost",
    "FasterRCNN",
    "MaskRCNN",
    "Pyramid",
    "Results",
    "RetinaNet",
    "compare",
    "compare_all",
    "complexity",
    "create",
    "evaluate",
    "freeze_stages",
    "names",
    "set_norms",
]
