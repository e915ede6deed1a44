"""In how many source files of regard one call runs, and how often it moves from one file to another.

    python benchmarks/file_moves.py             # the table
    python benchmarks/file_moves.py --trace     # also the files of each call in order

A move is a call of a function in another file, or the return from it; code of torch and Python in between does not
count. The networks are plain ones, defined here. Each call is traced at its second run, because the first run also
compiles kernels and checks sizes. Creating the method, `GradCAM(model)`, is a separate row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType

import torch
from common import arguments, publish, table
from torch import Tensor, nn

import regard
from regard import attention, maps, transfer

SOURCE = str(Path(regard.__file__).parent)


class Network(nn.Module):
    """Three stages with one convolution each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in ((3, 8), (8, 16), (16, 32))
        )
        self.fc = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(images))).mean((2, 3)))


def visited(function: Callable[[], object]) -> list[str]:
    """The files of regard that a call runs in, in order, without consecutive repeats."""
    stack: list[str] = []
    files: list[str] = []

    def trace(frame: FrameType, event: str, _arg: object) -> None:
        name = frame.f_code.co_filename
        if event not in ("call", "return") or not name.startswith(SOURCE):
            return
        if event == "call":
            stack.append(name)
        else:
            stack.pop()
        files.extend(stack[-1:])

    function()
    sys.setprofile(trace)
    try:
        function()
    finally:
        sys.setprofile(None)
    return [str(Path(name).relative_to(SOURCE)) for name, _ in groupby(files)]


def calls() -> dict[str, Callable[[], object]]:
    x, images, labels = torch.randn(2, 64, 8, 8), torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    shuffle, se = attention.create("shuffle", 64, groups=8), attention.create("se", 64)
    model = Network().eval()
    cam, objective = maps.GradCAM(model), transfer.Objective(Network(), Network())
    return {
        "`shuffle(x)`": lambda: shuffle(x),
        "`se(x)`": lambda: se(x),
        "`GradCAM(model)`": lambda: maps.GradCAM(model),
        "`GradCAM(model)(images)`, the call": lambda: cam(images),
        "`Objective`, a step": lambda: objective(images, labels).total.backward(),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--trace", action="store_true", help="print the files of each call in order")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for name, function in calls().items():
        files = visited(function)
        rows.append([name, str(len(set(files))), str(len(files) - 1)])
        if options.trace:
            print(f"{name}: {' '.join(files)}")
    text = table(["call", "files", "moves between files"], rows)
    publish("Files that a call runs through", text, torch.device("cpu"), save=not options.dry)


if __name__ == "__main__":
    main()
