"""What one image costs a network: parameters and operations, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from regard.errors import InputError, first_line
from regard.models.cost.counting import Kind, Operations, counted, unsupported
from regard.modes import evaluation_mode
from regard.stages import unwrapped

_MULTIPLY_ADDS: tuple[Kind, ...] = ("convolution", "1-d convolution", "matrix product")
_PUBLISHED: tuple[Kind, ...] = (
    "convolution",
    "matrix product",
    "convolution bias",
    "batch norm",
    "rectifier",
    "spatial pooling",
)


@dataclass(frozen=True)
class Complexity:
    """Learned parameters, and the operations of one forward pass of one image.

    Attributes:
        parameters: how many numbers are learned.
        operations: how many of each kind; `regard.models.cost.counting.counted` says how each kind is counted.
        calls: how many operators of each kind.
        uncounted: calls by name of operators that were not counted; most of them only move values.
            `unsupported_operators` are the others.
    """

    parameters: int
    operations: Mapping[Kind, int]
    calls: Mapping[Kind, int]
    uncounted: Mapping[str, int]

    @property
    def unsupported_operators(self) -> dict[str, int]:
        """Calls by name of operators that compute something and were not counted.

        Where there are any, the other figures are too small.
        """
        return unsupported(self.uncounted)

    @property
    def multiply_adds(self) -> int:
        """Those of convolutions and matrix products, which is what most papers and tools give.

        Norms, activations, pooling and the multiplication by a gate are not counted.
        """
        return sum(self.operations.get(kind, 0) for kind in _MULTIPLY_ADDS)

    @property
    def published_flops(self) -> int:
        """Operations as the GFLOPs of SA-Net's table count them (arXiv 2102.00240, ImageNet classification).

        One for a multiply-add of a convolution or matrix product, one for a bias that a convolution adds, two an
        element for batch norm, one an element for a rectifier, one an input element for spatial pooling. Not counted
        are 1-d convolutions (ECA's), other norms and activations, other reductions, biases of linear layers, and
        everything elementwise, the product with the gate and the residual addition included. The paper names no tool;
        the first versions of flops-counter.pytorch, now ptflops, count so, and all twelve numbers come out.
        """
        return sum(self.operations.get(kind, 0) for kind in _PUBLISHED)


def complexity(model: nn.Module, image_size: int | tuple[int, int]) -> Complexity:
    """The cost of one forward pass of one RGB image of `image_size` (H, W), in evaluation mode.

    Nothing is computed where the network allows it: tensors without values run through it. One that looks at values
    runs on an image of zeros, and what it does with that is counted. Modes of the modules and values of the tensors are
    left as they were.

    Raises:
        InputError: the network does not take an image of that size.
    """
    model = unwrapped(model)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    parameters = sum(p.numel() for p in model.parameters())
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, 3, height, width, device=like.device, dtype=like.dtype)
    try:
        found = _without_values(model, image)
    except Exception:  # an operator that has no such form, or a network that looks at values
        try:
            found = _forward(model, {}, image)
        except NotImplementedError as error:  # torch's operators that take functions
            raise InputError(
                f"the operations of {type(model).__name__} cannot be counted, for want of a rule of torch for one of "
                f"them: {first_line(error)}"
            ) from error
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            raise InputError(
                f"{type(model).__name__} does not take an image of {height} x {width}: {first_line(error)}"
            ) from error
    return Complexity(parameters, dict(found.count), dict(found.calls), dict(found.uncounted))


def _without_values(model: nn.Module, image: Tensor) -> Operations:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return _forward(model, {name: t.detach().to("meta") for name, t in tensors.items()}, image.to("meta"))


def _forward(model: nn.Module, tensors: dict[str, Tensor], image: Tensor) -> Operations:
    with torch.no_grad(), evaluation_mode(model), counted() as found:
        functional_call(model, tensors, (image,))
    return found
