"""Shared fixtures: the golden cases. Tests use one thread, so that parallel tests do not compete for cores."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
torch.set_num_threads(1)

GOLDENS = Path(__file__).parent / "goldens"
_spec = importlib.util.spec_from_file_location("golden_weights", GOLDENS / "weights.py")
assert _spec is not None and _spec.loader is not None
_weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_weights)


@dataclass(frozen=True)
class Goldens:
    """The golden cases: descriptions, weights, inputs and outputs by name."""

    index: dict[str, dict[str, Any]]

    def outputs(self, case: str) -> dict[str, Tensor]:
        return load_file(GOLDENS / f"{case}.safetensors")

    def state(self, case: str, prefix: str = "") -> dict[str, Tensor]:
        """The state dict of a case, in float64, under its original names."""
        shapes = self.index[case]["state"]
        return {name: torch.from_numpy(_weights.tensor(prefix + name, tuple(s))) for name, s in shapes.items()}

    def inputs(self, name: str, shape: list[int]) -> Tensor:
        return torch.from_numpy(_weights.inputs(name, tuple(shape)))

    def images(self, case: str) -> Tensor:
        return self.inputs(self.index[case]["input_name"], self.index[case]["input_shape"])


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest deviation, relative to the largest expected value."""
    return float((actual.detach() - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="session")
def goldens() -> Goldens:
    return Goldens(json.loads((GOLDENS / "index.json").read_text()))


@pytest.fixture(scope="session")
def relative_error():
    return _relative_error
