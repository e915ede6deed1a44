"""Networks for use without regard: ONNX files, checked against the network they come from."""

from regard.export.onnx import Exported, to_onnx

__all__ = ["Exported", "to_onnx"]
