"""Networks for use without regard: ONNX files, checked against the network they come from."""

from regard.deployment.onnx_file import Exported, export_onnx

__all__ = ["Exported", "export_onnx"]
