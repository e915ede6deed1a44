"""How many files of regard one call runs through, and how often it moves from one file to another.

    python benchmarks/file_moves.py             # the table
    python benchmarks/file_moves.py --trace     # and the files of each call in the order they are met

A move is a call of a function of another file, or the return from it; code of torch and of Python in between is left
out. The networks are plain ones, defined here. Each call has run once before, so that what happens at the first alone
(kernels are compiled, sizes checked) is left out. Making the method, `GradCAM(model)`, is a row of its own.
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
    """Three stages of a convolution each."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in ((3, 8), (8, 16), (16, 32))
        )
        self.fc = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(images))).mean((2, 3)))


def visited(work: Callable[[], object]) -> list[str]:
    """The files of regard in the order in which the work runs in them, without repeats in a row."""
    active: list[str] = []
    met: list[str] = []

    def note(frame: FrameType, event: str, _arg: object) -> None:
        name = frame.f_code.co_filename
        if event not in ("call", "return") or not name.startswith(SOURCE):
            return
        if event == "call":
            active.append(name)
        else:
            active.pop()
        met.extend(active[-1:])

    work()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return [str(Path(name).relative_to(SOURCE)) for name, _ in groupby(met)]


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
    for name, work in calls().items():
        met = visited(work)
        rows.append([name, str(len(set(met))), str(len(met) - 1)])
        if options.trace:
            print(f"{name}: {' '.join(met)}")
    text = table(["call", "files", "moves between files"], rows)
    publish("Files that a call runs through", text, torch.device("cpu"), save=not options.dry)


if __name__ == "__main__":
    main()
