"""Exports a network with attention to ONNX, and runs it by onnxruntime without torch and regard.

pip install "regard[export]"
python examples/onnx_inference.py network.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

from regard import export, models


def write(path: Path) -> None:
    """Exports a small network; for a run or an imported file use `regard export runs/NAME --out FILE`."""
    model = models.create("wrn-10-1", 10, attention="se", gate="sub-attention")
    exported = export.to_onnx(model, path, image_size=32)
    print(f"{path}: opset {exported.opset}, deviation {exported.difference:.1e}")


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    """The logits (N, K) of normalised images, float32 (N, 3, H, W), with any N."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="write an ONNX file and run it")
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    write(path)
    print(logits(path, np.zeros((2, 3, 32, 32), np.float32)).shape)


if __name__ == "__main__":
    main()
