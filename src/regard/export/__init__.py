"""Exports networks and detectors to ONNX files, and checks their outputs against torch."""

from regard.export.detector import detector_to_onnx
from regard.export.onnx import Exported, to_onnx

__all__ = ["Exported", "detector_to_onnx", "to_onnx"]
