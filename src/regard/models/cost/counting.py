"""Counting operations as torch carries them out, operator by operator."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from regard.attention import ops
from regard.models.decomposing import decomposed

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

# Names of torch's operators, without the underscore of those that work in place.
_CONVOLUTIONS = {"convolution", "_convolution", "convolution_overrideable", "cudnn_convolution", "_slow_conv2d_forward"}
# Matrix products -> where among their arguments the left factor is.
_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}
_PRODUCTS_IN_ATTENTION = {
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
}
# Norms -> where among their arguments the scale is.
_BATCH_NORMS = {
    "native_batch_norm": 1,
    "cudnn_batch_norm": 1,
    "miopen_batch_norm": 1,
    "_native_batch_norm_legit": 1,
    "_native_batch_norm_legit_no_training": 1,
    "_batch_norm_no_update": 1,
}
_OTHER_NORMS = {"native_group_norm": 1, "native_layer_norm": 2, "_fused_rms_norm": 2}
_RECTIFIERS = {"relu", "leaky_relu", "_prelu_kernel", "elu", "hardtanh", "threshold"}
_ACTIVATIONS = {
    "sigmoid",
    "log_sigmoid_forward",
    "hardsigmoid",
    "tanh",
    "silu",
    "hardswish",
    "mish",
    "gelu",
    "softplus",
    "_softmax",
    "_safe_softmax",
    "_log_softmax",
}
_POOLS = {
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
}
_MEANS_AND_MAXIMA = {"mean", "max", "amax"}
_REDUCTIONS = {
    "sum",
    "min",
    "amin",
    "aminmax",
    "var",
    "var_mean",
    "std",
    "std_mean",
    "prod",
    "logsumexp",
    "linalg_vector_norm",
}
_COPIES = {"clone", "copy", "_to_copy", "fill", "zero"}
_INTERPOLATIONS = {
    "upsample_linear1d",
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "upsample_trilinear3d",
    "grid_sampler_2d",
    "grid_sampler_3d",
}
# What only moves, compares or draws values.
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


@dataclass
class Operations:
    """What was counted.

    Attributes:
        count: operations by kind.
        calls: operators by kind.
        uncounted: calls of operators that were not counted, by name: those that only move values, and those unknown
            here, which `unsupported` gives. Views are not among them.
    """

    count: Counter[Kind] = field(default_factory=Counter)
    calls: Counter[Kind] = field(default_factory=Counter)
    uncounted: Counter[str] = field(default_factory=Counter)


def unsupported(uncounted: Mapping[str, int]) -> dict[str, int]:
    """Those of the uncounted operators that do more than move values: what they compute is missing in the count."""
    return {name: calls for name, calls in uncounted.items() if not _MOVES.fullmatch(name)}


@contextmanager
def counted() -> Iterator[Operations]:
    """Counts the operations of what runs inside.

    Attention modules take their plain formulas inside, and torch takes transformer layers, dot-product attention and
    recurrent layers in steps, not in one operator, so that every operator shows. How each kind is counted:

    - convolution, 1-d convolution (with a kernel longer than 1), matrix product: multiply-adds. A deformable
      convolution is one whose samples are interpolated, which is elementwise; a bilinear layer is the matrix product of
      its weight with all products of two inputs, which are elementwise.
    - convolution bias: one an output element. The bias of a matrix product is elementwise.
    - batch norm: two an element if it scales and shifts, else one.
    - other norm: the same; group, layer and instance norm, and any that takes statistics of the images at hand. A mean
      over places that is subtracted at once from what it was taken of is part of a norm: one an element.
    - rectifier: one an element; ReLU, its leaky, parametric and clipped forms, and ELU.
    - other activation: one an element; sigmoid, SiLU, GELU, softmax, …
    - spatial pooling: one an input element; every pooling operator, and a mean or maximum over one or both axes of
      the planes (…, C, H, W), or over the last of (N, C, HW).
    - other reduction: one an input element; sums, variances with or without means, and means and maxima along other
      axes, such as channels.
    - elementwise: one an output element; sums, products, powers, interpolation, …
    """
    found = Operations()
    with _in_steps(), ops.reference(), _Watch(found):
        yield found


@contextmanager
def _in_steps() -> Iterator[None]:
    """Torch takes the layers that it has one fused operator for step by step inside."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    libraries: tuple[Any, ...] = torch.backends.mkldnn, torch.backends.cudnn  # of recurrent layers
    enabled = [library.enabled for library in libraries]
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for library in libraries:
            library.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for library, was in zip(libraries, enabled, strict=True):
            library.enabled = was


class _Watch(TorchDispatchMode):
    """Sees every operator that torch carries out."""

    def __init__(self, found: Operations) -> None:
        super().__init__()
        self.found = found
        self.last_mean: tuple[Tensor, Tensor] | None = None  # of what, and what it is

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        parts = decomposed(self, func, args, kwargs)
        if parts is not NotImplemented:
            return parts
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        counts = _counts(name, func, args, out)
        if name == "sub" and self.last_mean and args[0] is self.last_mean[0] and args[1] is self.last_mean[1]:
            counts += [("other norm", args[0].numel()), ("spatial pooling", -args[0].numel())]
        self.last_mean = (args[0], out) if counts and counts[0][0] == "spatial pooling" and name == "mean" else None
        for kind, operations in counts:
            self.found.count[kind] += operations
            self.found.calls[kind] += 1 if operations >= 0 else -1
        if not counts and _computes(func, args):
            self.found.uncounted[name] += 1
        return out


def _counts(name: str, func: Any, args: Sequence[Any], out: Any) -> list[tuple[Kind, int]]:
    """The operations of one call, by kind; none if it is not counted."""
    if name in _CONVOLUTIONS:
        return _convolution(args, out)
    if name in _PRODUCTS:
        left = args[_PRODUCTS[name]]
        bias: list[tuple[Kind, int]] = [("elementwise", out.numel())] if _PRODUCTS[name] else []
        return [("matrix product", out.numel() * left.shape[-1]), *bias]
    if name == "deform_conv2d":
        x, weight, offset, _, bias = args[:5]
        samples = offset.shape[0] * x.shape[1] * weight.shape[2:].numel() * out.shape[2:].numel()
        return [
            ("convolution", out.numel() * weight[0].numel()),
            ("convolution bias", out.numel()),
            ("elementwise", samples),
        ]
    if name == "_trilinear" and args[3:6] == ([1, 3], [0], [1, 2]):  # of a bilinear layer
        return [
            ("matrix product", out.numel() * args[1][0].numel()),
            ("elementwise", args[0].numel() * args[2].shape[-1]),
        ]
    if name in _PRODUCTS_IN_ATTENTION:
        query, key, value = args[:3]  # (N, heads, tokens, size)
        return [("matrix product", query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1]))]
    if name in _BATCH_NORMS:
        kind: Kind = "other norm" if any(argument is True for argument in args[3:6]) else "batch norm"
        return [(kind, args[0].numel() * (1 if args[_BATCH_NORMS[name]] is None else 2))]
    if name in _OTHER_NORMS:
        return [("other norm", args[0].numel() * (1 if args[_OTHER_NORMS[name]] is None else 2))]
    if name in _RECTIFIERS:
        return [("rectifier", args[0].numel())]
    if name in _ACTIVATIONS:
        return [("other activation", args[0].numel())]
    between_two = len(args) > 1 and isinstance(args[1], Tensor)  # the larger of two tensors is no reduction
    if name in _POOLS or (name in _MEANS_AND_MAXIMA and not between_two and _over_planes(args)):
        return [("spatial pooling", args[0].numel())]
    if name in _REDUCTIONS or (name in _MEANS_AND_MAXIMA and not between_two):
        return [("other reduction", args[0].numel())]
    if name in _INTERPOLATIONS or (torch.Tag.pointwise in func.tags and name not in _COPIES):
        return [("elementwise", out.numel() if isinstance(out, Tensor) else 0)]
    return []


def _convolution(args: Sequence[Any], out: Tensor) -> list[tuple[Kind, int]]:
    x, weight, bias = args[:3]
    transposed = len(args) > 6 and args[6] is True
    places = x if transposed else out  # where the kernel is laid on
    kind: Kind = "1-d convolution" if weight.ndim == 3 and weight.shape[2] > 1 else "convolution"
    of_bias: list[tuple[Kind, int]] = [] if bias is None else [("convolution bias", out.numel())]
    return [(kind, places.numel() * weight[0].numel()), *of_bias]


def _over_planes(args: Sequence[Any]) -> bool:
    """Whether a reduction runs over axes of planes only: the last of (N, C, HW), the last two of (…, C, H, W)."""
    axes, ndim = args[1] if len(args) > 1 else None, args[0].ndim
    if axes is None or ndim < 3:
        return False
    reduced = {axis % ndim for axis in ([axes] if isinstance(axes, int) else axes)}
    return bool(reduced) and reduced <= {ndim - 1, max(ndim - 2, 2)}


def _computes(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operator makes new values from tensors: no view, and nothing that only makes room."""
    given = [value for argument in args for value in (argument if isinstance(argument, list | tuple) else [argument])]
    return any(isinstance(value, Tensor) for value in given) and not func.is_view and "view" not in str(func)
