"""A small network for the tests of maps and studies, and its images."""

import pytest
import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Three convolutions, each with batch norm and an in-place ReLU, then dropout and 5 classes."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.layer1 = self._stage(3, 8, 1, inplace)
        self.layer2 = self._stage(8, 16, 2, inplace)
        self.layer3 = self._stage(16, 12, 2, inplace)
        self.act = nn.ReLU(inplace=inplace)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12, 5)
        self.unused = nn.Conv2d(3, 3, 1)

    @staticmethod
    def _stage(channels: int, out: int, stride: int, inplace: bool) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=inplace)
        )

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(images)))
        return self.fc(self.drop(self.act(features - 0.1).mean((2, 3))))


@pytest.fixture(params=[True], ids=lambda inplace: "inplace" if inplace else "plain")
def model(request: pytest.FixtureRequest) -> Small:
    """`Small` in float64 and evaluation mode, with running statistics other than the initial ones."""
    torch.manual_seed(0)
    network = Small(request.param).double()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, 3, 16, 16, dtype=torch.float64) * 2 + 1)
    return network.eval()


@pytest.fixture
def x() -> Tensor:
    """Four images."""
    return torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
