"""`Operation`, a custom operator of torch that is defined by a formula and has kernels for some devices.

`torch.compile`, `torch.export` and `torch.fx` keep the operator `torch.ops.regard.NAME` as one node. Whether the
formula or a kernel runs is decided when it runs, so traces do not depend on it.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from regard.errors import first_line

BACKENDS = {"cpu": "native", "cuda": "triton"}
LIBRARY = torch.library.Library("regard", "DEF")
# Whether a transform of torch.func is active, which selects the implementation.
LIBRARY.define("transformed() -> bool")
LIBRARY.impl("transformed", lambda: False, "CompositeImplicitAutograd")
LIBRARY.impl("transformed", lambda: True, "FuncTorchDynamicLayerFrontMode")
_log = logging.getLogger("regard")
_reference: ContextVar[bool] = ContextVar("reference", default=False)


@contextmanager
def reference() -> Iterator[None]:
    """A context in which operations run as their formulas, in this thread, so that torch sees each step."""
    token = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(token)


def backend(device: torch.device | str) -> str:
    """The backend that runs operations on `device`: 'native', 'triton' or, for the formulas, 'torch'."""
    kind = torch.device(device).type
    return BACKENDS[kind] if kind in BACKENDS and _kernels(BACKENDS[kind]) is not None else "torch"


@cache
def _kernels(name: str) -> ModuleType | None:
    """The module with the kernels of a backend, or None, with one warning, if it does not work on this machine."""
    if name == "native" and os.environ.get("REGARD_NATIVE") == "0":
        return None
    try:
        return import_module(f"regard.attention.kernels.{name}")
    except Exception as error:  # a compiler, a driver or an old GPU may raise any exception
        message = "attention runs on torch's operations, several times slower: its %s kernels do not work here (%s)"
        _log.warning(message, name, first_line(error))
        return None


class Operation:
    """The operator that `formula` defines, with the name of the formula.

    Args:
        formula: a function of features, named x and g, and small tensors.
        shapes: the shapes that kernels require, as "NAME AXES, …" with one letter per axis. Axes with the same letter
            have the same length, "1" is an axis of length 1, and an axis with a capital letter may have length 1 too.
            For other shapes, and if a kernel returns NotImplemented, the formula runs.
        fused: whether torch.compile keeps the operator on GPUs, because it would generate slower code from the formula.
        like: a function from the arguments to tensors with the shapes of the results, for formulas that cannot run on
            tensors without values.
    """

    def __init__(
        self,
        formula: Callable[..., Any],
        shapes: str,
        *,
        fused: bool = False,
        like: Callable[..., Sequence[Tensor]] | None = None,
    ) -> None:
        self.name, self.formula, self.fused = formula.__name__, formula, fused
        parameters = list(inspect.signature(formula).parameters)
        self.axes = {parameters.index(name): axes for name, axes in (part.split() for part in shapes.split(","))}
        self.feature_indices = {index for index, name in enumerate(parameters) if name in ("x", "g")}
        self.x_index = parameters.index("x")
        self.broken: set[str] = set()  # backends whose kernel failed
        # Features may have any memory format, so compilers do not have to restore one that they changed.
        schema = self.name + torch.library.infer_schema(formula, mutates_args=())
        LIBRARY.define(schema, tags=(torch.Tag.flexible_layout,))
        LIBRARY.impl(self.name, self.run_formula, "CompositeExplicitAutograd")
        for device, backend in BACKENDS.items():
            LIBRARY.impl(self.name, partial(self.run_kernel, backend), device.upper())
        LIBRARY.impl(self.name, formula, "FuncTorchDynamicLayerFrontMode")  # torch.func transforms the formula
        fake = partial(self.run_fake, like) if like else self.run_formula
        torch.library.register_fake(f"regard::{self.name}", fake)
        self.operator = getattr(torch.ops.regard, self.name).default

    def __call__(self, *args: Any) -> Any:
        compiling = torch.compiler.is_compiling()
        use_formula = not self.fused and args[self.x_index].is_cuda if compiling else _has_tangent(args)
        return self.formula(*args) if use_formula or in_reference() else self.operator(*args)

    def pass_through(self, *args: Any) -> tuple[Any, Any]:
        """The features, and the results of the operation, which has several.

        If later operations use the returned features, the pass that computes the gradient of the operation adds the
        gradient from later operations.
        """
        x = args[self.x_index]
        if (
            isinstance(x, Tensor)  # not a proxy of torch.fx
            and x.requires_grad
            and torch.is_grad_enabled()
            and not (torch.compiler.is_exporting() or torch.jit.is_tracing() or in_reference() or _is_transformed())
            and not (x.is_cuda if torch.compiler.is_compiling() else _has_tangent(args))
        ):
            x, *results = _PassThrough.apply(self, *args)
            return x, results
        return x, self(*args)

    def run_formula(self, *args: Any) -> Any:
        """The results of the formula, in the same memory formats and dtypes as the results of kernels."""
        x, result = args[self.x_index], self.formula(*args)
        return tuple(_as_result(part, x) for part in result) if isinstance(result, tuple) else _as_result(result, x)

    def run_fake(self, like: Callable[..., Sequence[Tensor]], *args: Any) -> tuple[Tensor, ...]:
        """Results with the right shapes, memory formats and dtypes, without values."""
        return tuple(_as_result(torch.empty_like(value), args[self.x_index]) for value in like(*args))

    def run_kernel(self, backend: str, *args: Any, **out: Tensor) -> Any:
        """The results of the kernel of a backend, or of the formula if there is no kernel or the features are small.

        Args:
            out: the tensor to which the kernel writes, by the name of its parameter.
        """
        x = args[self.x_index]
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if (
            not x.numel()
            or backend in self.broken
            or (kernels := _kernels(backend)) is None
            or x.dtype not in kernels.DTYPES
            or (x.numel() < kernels.SMALL and not self.fused)
            or not hasattr(kernels, self.name)
            or any(tensor.device != x.device for tensor in tensors)
            or not self.fits(args)
        ):
            return self.run_formula(*args)
        arguments = list(args)
        for i, arg in enumerate(args):
            if isinstance(arg, Tensor):
                arguments[i] = _as_features(arg, x) if i in self.feature_indices else _as_small(arg, x)
        try:
            result = getattr(kernels, self.name)(*arguments, **out)
        except torch.OutOfMemoryError:  # the formula needs more memory
            raise
        except Exception as error:
            self.broken.add(backend)
            message = "the %s kernel of %s does not work here, its formula runs instead (%s)"
            _log.warning(message, backend, self.name, first_line(error))
            result = NotImplemented
        return self.run_formula(*args) if result is NotImplemented else result

    def fits(self, args: Sequence[Any]) -> bool:
        """Whether the tensors have the shapes that kernels require."""
        sizes = {"1": 1}
        for index, axes in self.axes.items():
            value = args[index]
            if value is None:
                continue
            if value.dim() != len(axes):
                return False
            for axis, size in zip(axes, value.shape, strict=True):
                if sizes.setdefault(axis.lower(), size) != size and not (axis.isupper() and size == 1):
                    return False
        return True

    def differentiate(
        self, backward: Callable[..., Any] | None = None, *, saved: slice = slice(0), outputs: int = 1
    ) -> None:
        """Registers the gradient of the operation.

        Args:
            backward: a function of the inputs, the saved outputs and the gradients of the first `outputs` outputs. It
                returns the gradients of the inputs, in any dtype, or None. If the operation passes its features
                through, it also takes `g`, to be added to the gradient of the features. By default, the formula is
                differentiated.
            saved: the outputs to save.
            outputs: the number of outputs with gradients.
        """

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            results = output if isinstance(output, tuple) else (output,)
            ctx.mark_non_differentiable(*results[outputs:])
            ctx.constants = [None if isinstance(value, Tensor) else value for value in inputs]
            ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs), *results[saved])

        def gradient(ctx: Any, *gradients: Tensor, **passed_through: Tensor) -> Any:
            tensors = ctx.saved_tensors  # checkpointing allows a single access
            inputs = [c if tensor is None else tensor for tensor, c in zip(tensors, ctx.constants, strict=False)]
            if backward is None:
                return formula_gradients(self.formula, inputs, gradients[:outputs])
            computed = backward(inputs, tensors[len(inputs) :], *gradients[:outputs], **passed_through)
            return tuple(d if d is None else d.to(value.dtype) for d, value in zip(computed, inputs, strict=True))

        self.setup, self.gradient = setup, gradient
        torch.library.register_autograd(f"regard::{self.name}", gradient, setup_context=setup)


class _PassThrough(torch.autograd.Function):
    """An operation that also returns its features; see `Operation.pass_through`."""

    @staticmethod
    def forward(operation: Operation, *inputs: Any) -> tuple[Tensor, ...]:
        x = inputs[operation.x_index]
        return x.view_as(x), *operation.operator(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.operation = inputs[0]
        ctx.operation.setup(ctx, inputs[1:], output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *gradients: Tensor) -> Any:
        return None, *ctx.operation.gradient(ctx, *gradients, g=g)


def is_passed_through(x: Tensor) -> bool:
    """Whether features were returned by `Operation.pass_through`, which then receives their gradient."""
    return x.grad_fn is not None and x.grad_fn.name() == "_PassThroughBackward"


def formula_gradients(
    formula: Callable[..., Any], inputs: Sequence[Any], gradients: Sequence[Tensor]
) -> tuple[Any, ...]:
    """The gradients of the inputs of a formula, from the gradients of its outputs; they are differentiable.

    None for inputs that are not floating-point tensors.
    """
    indices = [i for i, value in enumerate(inputs) if isinstance(value, Tensor) and value.is_floating_point()]

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        arguments = list(inputs)
        for i, value in zip(indices, values, strict=True):
            arguments[i] = value
        result = formula(*arguments)
        return result[: len(gradients)] if isinstance(result, tuple) else (result,)

    results, vjp = torch.func.vjp(outputs, *(inputs[i] for i in indices))[:2]
    input_gradients = iter(vjp(tuple(g.to(y.dtype) for g, y in zip(gradients, results, strict=True))))
    return tuple(next(input_gradients) if i in indices else None for i in range(len(inputs)))


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format for features like x: channels last or contiguous."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def in_reference() -> bool:
    """Whether the context `reference` is active; False while torch.compile traces."""
    return not torch.compiler.is_dynamo_compiling() and _reference.get()


@torch.compiler.assume_constant_result
def _is_transformed() -> bool:
    """Whether a transform of torch.func is active, also while torch.compile traces."""
    return torch.ops.regard.transformed()


def _has_tangent(args: Sequence[Any]) -> bool:
    """Whether an argument is differentiated in forward mode, which the registered gradients do not support."""
    return any(isinstance(arg, Tensor) and unpack_dual(arg).tangent is not None for arg in args)


def _as_result(value: Tensor, x: Tensor) -> Tensor:
    if value.shape == x.shape:
        return value.contiguous(memory_format=memory_format(x))
    return _as_small(value, x)


def _as_features(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x.dtype).contiguous(memory_format=memory_format(x))


def _as_small(value: Tensor, x: Tensor) -> Tensor:
    return (value.to(torch.promote_types(x.dtype, torch.float32)) if value.is_floating_point() else value).contiguous()
