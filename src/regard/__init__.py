"""regard: attention in convolutional networks.

Build it in (`attention`, `models`), transfer it (`transfer`, `training`), measure where a network looks and how wrong
that is (`maps`, `studies`, `bias`), on data of your own or built in (`data`), and take it elsewhere (`export`).
Compare it with what was published (`recipes`, `store`, `tables`, `reproduction`), and show it (`report`).
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from regard.errors import InputError
from regard.version import __version__

if TYPE_CHECKING:
    from regard import (
        attention,
        bias,
        data,
        detection,
        export,
        figures,
        maps,
        models,
        recipes,
        report,
        reproduction,
        store,
        studies,
        tables,
        training,
        transfer,
    )

__all__ = [
    "InputError",
    "__version__",
    "attention",
    "bias",
    "data",
    "detection",
    "export",
    "figures",
    "maps",
    "models",
    "recipes",
    "report",
    "reproduction",
    "store",
    "studies",
    "tables",
    "training",
    "transfer",
]


def __getattr__(name: str) -> ModuleType:
    # On first use, so that `regard --help` does not wait for torch.
    if name in __all__:
        return importlib.import_module(f"regard.{name}")
    raise AttributeError(f"module 'regard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
