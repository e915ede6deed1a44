"""Counts the parameters of a network, and its operations per image while torch runs it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from regard.attention import kernels
from regard.errors import InputError, first_line
from regard.modes import evaluation_mode, image_channels, run_on_meta
from regard.notebook import Tabular
from regard.stages import unwrapped

Kind = Literal[
    "convolution",
    "1-d convolution",
    "convolution bias",
    "matrix product",
    "batch norm",
    "other norm",
    "rectifier",
    "other activation",
    "spatial pooling",
    "other reduction",
    "elementwise",
]
_MULTIPLY_ADDS: tuple[Kind, ...] = ("convolution", "1-d convolution", "matrix product")
_PUBLISHED: tuple[Kind, ...] = (
    *("convolution", "matrix product", "convolution bias", "batch norm", "rectifier", "spatial pooling"),
)


@dataclass(frozen=True)
class Complexity(Tabular):
    """Learned parameters, and the operations of one forward pass of one image.

    Convolutions and matrix products are counted in multiply-adds, by torch's FlopCounterMode. A norm counts two
    operations per element if it scales and shifts, otherwise one. Activations, pooling and other reductions count one
    per input element; elementwise operations and the bias of a convolution count one per output element.

    "Other norms" are group, layer and instance norm, every norm that uses the statistics of its input, and the
    subtraction of a mean over pixels from its input (one operation per element). A mean or maximum over the spatial
    axes of (…, C, H, W) is spatial pooling.

    Attributes:
        parameters: number of learned parameters.
        operations: number of operations of each kind.
        uncounted: name of each operator that computes values but is not counted -> number of its calls. If it is not
            empty, the other numbers are too small.
    """

    parameters: int
    operations: Mapping[Kind, int]
    uncounted: Mapping[str, int]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of convolutions and matrix products, the number that most papers and tools report.

        Norms, activations, pooling and the multiplication by a gate are not counted.
        """
        return sum(self.operations.get(kind, 0) for kind in _MULTIPLY_ADDS)

    @property
    def published_flops(self) -> int:
        """Operations as counted in SA-Net's table of GFLOPs (arXiv 2102.00240, ImageNet classification).

        Counted: one per multiply-add of a convolution or matrix product, one per bias that a convolution adds, two per
        element of batch norm, one per element of a rectifier, one per input element of spatial pooling. Not counted:
        1-d convolutions (ECA's), other norms and activations, other reductions, biases of linear layers, and
        elementwise operations, including the product with the gate and the residual addition. The paper names no tool.
        The first versions of flops-counter.pytorch (now ptflops) count this way, and reproduce all twelve numbers.
        """
        return sum(self.operations.get(kind, 0) for kind in _PUBLISHED)

    def to_records(self) -> list[dict[str, Any]]:
        """Dicts with `quantity` and `number`: the parameters, the multiply-adds, the operations of each kind, and the
        calls of each operator that is not counted."""
        records: list[dict[str, Any]] = [
            {"quantity": "parameters", "number": self.parameters},
            {"quantity": "multiply-adds", "number": self.multiply_adds},
        ]
        records += [{"quantity": kind, "number": count} for kind, count in self.operations.items()]
        return records + [{"quantity": f"{name} (not counted)", "number": n} for name, n in self.uncounted.items()]


def complexity(model: nn.Module, image_size: int | tuple[int, int]) -> Complexity:
    """Counts the parameters of `model`, and the operations of its forward pass for one image in evaluation mode.

    The network runs on meta tensors if possible, otherwise (if its forward depends on values) on an image of zeros.
    The image has three channels, unless only the channels of the first convolution fit. Both branches of `torch.cond`
    are counted. The model is unchanged afterwards.

    Args:
        image_size: side of the image in pixels, or (H, W).

    Raises:
        InputError: the network does not take an image of that size, or torch cannot count one of its operators.
    """
    model = unwrapped(model)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1:
        raise InputError(f"an image has at least 1 x 1 pixels, not {height} x {width}")
    parameters = sum(p.numel() for p in model.parameters())
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    image = torch.zeros(1, image_channels(model, height, width), height, width, device=like.device, dtype=like.dtype)
    try:
        return Complexity(parameters, *_count(model, partial(run_on_meta, model, image.to("meta"))))
    except Exception:  # an operator without a meta kernel, or a forward that depends on values
        pass
    try:
        return Complexity(parameters, *_count(model, partial(model, image)))
    except NotImplementedError as error:  # higher-order operators of torch
        raise InputError(
            f"the operations of {type(model).__name__} cannot be counted: torch has no rule for one of them "
            f"({first_line(error)})"
        ) from error
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        raise InputError(
            f"{type(model).__name__} does not take an image of {height} x {width}: {first_line(error)}"
        ) from error


def _count(model: nn.Module, run: Callable[[], Any]) -> tuple[dict[Kind, int], dict[str, int]]:
    """Counts the operations of `run` by kind, and by name the calls of operators that are not counted."""
    operators = _Operators()
    counter = FlopCounterMode(display=False, custom_mapping=_FLOPS)
    # The counter is entered last, so it runs first: it decomposes operators in inference mode, and the other mode
    # counts the parts.
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model), _unfused(), operators, counter:
        run()
    products = counter.get_flop_counts().get("Global", {})
    for operator, flops in products.items():
        kind: Kind = "convolution" if "conv" in operator.__name__ else "matrix product"
        operators.operations[kind] += flops // 2
    operators.operations["convolution"] -= operators.operations["1-d convolution"]
    uncounted = {operator.__name__: calls for operator, calls in operators.unknown.items() if operator not in products}
    return {kind: count for kind, count in operators.operations.items() if count}, uncounted


import_module("torchvision")  # registers its operators
# Formulas that FlopCounterMode lacks: twice the multiply-adds, from the shapes of the arguments and of the output.
_FLOPS = {
    torch.ops.aten.mv: lambda matrix, *_, **__: 2 * prod(matrix),
    torch.ops.aten.dot: lambda left, *_, **__: 2 * prod(left),
    torch.ops.aten.addmv: lambda _, matrix, *__, **___: 2 * prod(matrix),
    torch.ops.aten._trilinear: lambda _, weight, *__, out_shape, **___: 2 * prod(out_shape) * prod(weight[1:]),
    # Without the interpolation of the samples.
    torch.ops.torchvision.deform_conv2d: lambda _, weight, *__, out_shape, **___: (
        2 * prod(out_shape) * prod(weight[1:])
    ),
    # Only moves values. Registered by overload, because the counter would otherwise decompose it.
    torch.ops.aten.upsample_nearest2d.default: lambda *_, **__: 0,
    torch.ops.aten.upsample_nearest2d.vec: lambda *_, **__: 0,
}


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention modules use their formulas, and torch runs dot-product attention, transformer and recurrent layers
    step by step."""
    libraries: tuple[Any, ...] = torch.backends.mkldnn, torch.backends.cudnn  # they fuse recurrent layers
    enabled = [library.enabled for library in libraries]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for library in libraries:
            library.enabled = False
        with kernels.reference(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for library, flag in zip(libraries, enabled, strict=True):
            library.enabled = flag


# Operators that count one per input element: names without the underscore of in-place forms.
_PER_INPUT: dict[Kind, re.Pattern[str]] = {
    "rectifier": re.compile(r"relu|leaky_relu|_prelu_kernel|elu|hardtanh|threshold"),
    "other activation": re.compile(
        r"(hard)?sigmoid|log_sigmoid_forward|tanh|silu|hardswish|mish|gelu|softplus|_(safe_|log_)?softmax"
    ),
    "spatial pooling": re.compile(r"_?(adaptive_)?(avg|max)_pool[23]d(_with_indices)?"),
    "other reduction": re.compile(
        r"mean|sum|a?max|a?min|aminmax|var|var_mean|std|std_mean|prod|logsumexp|linalg_vector_norm"
    ),
}
# Norm -> index of its weight among the arguments.
_SCALE = {"native_group_norm": 1, "native_layer_norm": 2, "_fused_rms_norm": 2}
_INTERPOLATION = re.compile(r"_?upsample_(linear|bilinear|bicubic|trilinear)\w*|grid_sampler_[23]d")
_COPIES = {"clone", "copy", "_to_copy", "fill", "zero"}
# Operators that only move, compare or draw values.
_MOVES = re.compile(
    r"as_strided|cat|stack|clone|copy|_to_copy|lift_fresh|fill|zero|masked_fill|index|_unsafe_index"
    r"|index_select|index_put|index_copy|index_fill|gather|scatter|take|embedding|where|roll|flip|rot90|repeat"
    r"|repeat_interleave|tile|unsafe_split\w*|transpose|t|\w+_copy|\w+_scatter|\w+_like|new_\w+"
    r"|\w+_pad[123]?d?|constant_pad_nd|im2col|pixel_(un)?shuffle|(native_)?channel_shuffle"
    r"|_?upsample_nearest\w*|max_unpool[23]d|tri[ul]|masked_select|nonzero|unique\w*|sort|argsort|topk"
    r"|kthvalue|argmax|argmin|searchsorted|bucketize|equal|allclose|is_\w+|_local_scalar_dense|item"
    r"|native_dropout|bernoulli|normal|uniform|random|exponential|multinomial|\w*contiguous|_reshape\w*"
    r"|_pack_padded_sequence|_pad_packed_sequence|detach|(un)?squeeze|_assert_\w+|_linalg_check_errors"
)


class _Operators(TorchDispatchMode):
    """Counts the operators that torch runs, except convolutions and matrix products.

    Attributes:
        operations: kind -> number of operations.
        unknown: operator that computes values, but is of no known kind -> number of calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[Kind] = Counter()
        self.unknown: Counter[Any] = Counter()
        self.last_mean: tuple[Tensor, Tensor] | None = None  # its input and output, if the last operator was a mean

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        counts = _operations(name, func, args, out)
        if name == "sub" and self.last_mean and args[0] is self.last_mean[0] and args[1] is self.last_mean[1]:
            counts |= {"other norm": args[0].numel(), "spatial pooling": -args[0].numel()}
        self.last_mean = (args[0], out) if name == "mean" and "spatial pooling" in counts else None
        self.operations.update(counts)
        if not counts and _computes(func, args) and not _MOVES.fullmatch(name):
            self.unknown[func.overloadpacket] += 1
        return out


def _operations(name: str, func: Any, args: Sequence[Any], out: Any) -> dict[Kind, int]:
    """The operations of one call by kind, except products; empty for an unknown operator."""
    if name == "convolution":
        weight, bias, transposed = args[1], args[2], args[6]
        counts: dict[Kind, int] = {} if bias is None else {"convolution bias": out.numel()}
        if weight.ndim == 3 and weight.shape[2] > 1:
            counts["1-d convolution"] = (args[0] if transposed else out).numel() * weight[0].numel()
        return counts
    if name in ("addmm", "addmv", "baddbmm"):  # their bias
        return {"elementwise": out.numel()}
    if "batch_norm" in name or name in _SCALE:
        uses_input_statistics = name in _SCALE or any(argument is True for argument in args[3:6])
        scales = args[_SCALE.get(name, 1)] is not None
        return {"other norm" if uses_input_statistics else "batch norm": args[0].numel() * (2 if scales else 1)}
    is_binary = len(args) > 1 and isinstance(args[1], Tensor)  # the maximum of two tensors is no reduction
    kind = next((kind for kind, names in _PER_INPUT.items() if names.fullmatch(name)), None)
    if kind == "other reduction" and name in ("mean", "max", "amax") and not is_binary and _is_spatial(args):
        kind = "spatial pooling"
    if kind is not None and not (kind == "other reduction" and is_binary):
        return {kind: args[0].numel()}
    pointwise = torch.Tag.pointwise in func.tags and name not in _COPIES
    if isinstance(out, Tensor) and (pointwise or _INTERPOLATION.fullmatch(name)):
        return {"elementwise": out.numel()}
    return {}


def _is_spatial(args: Sequence[Any]) -> bool:
    """Whether a reduction runs over spatial axes only: the last of (N, C, HW), the last two of (…, C, H, W)."""
    axes, ndim = args[1] if len(args) > 1 else None, args[0].ndim
    if axes is None or ndim < 3:
        return False
    reduced = {axis % ndim for axis in ([axes] if isinstance(axes, int) else axes)}
    return bool(reduced) and reduced <= {ndim - 1, max(ndim - 2, 2)}


def _computes(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operator computes new values from tensors, unlike a view or an allocation."""
    values = [value for argument in args for value in (argument if isinstance(argument, list | tuple) else [argument])]
    return any(isinstance(value, Tensor) for value in values) and not func.is_view and "view" not in str(func)
