"""Networks for use without regard: ONNX files, checked against the network they come from."""

from regard.export.detector import detector_to_onnx
from regard.export.onnx import Exported, to_onnx

__all__ = ["Exported", "detector_to_onnx", "to_onnx"]
