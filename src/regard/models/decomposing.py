"""What every mode that watches torch's operators needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def decomposed(mode: TorchDispatchMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    """The output of `func`, whose parts `mode` sees one by one, if it has parts; else NotImplemented.

    Autograd takes operators such as `linear` and `conv2d` to pieces before a mode sees them. Under
    `torch.inference_mode()` there is no autograd.
    """
    if not isinstance(func, OpOverload) or not _has_parts(func):
        return NotImplemented
    TorchDispatchMode.__enter__(mode)  # not what a mode does besides when it starts and ends
    try:
        # As autograd does; `func.decompose` prefers what the compiler takes.
        return func._op_dk(_COMPOSITE, *args, **(kwargs or {}))
    finally:
        TorchDispatchMode.__exit__(mode, None, None, None)


@cache
def _has_parts(func: OpOverload) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE)
