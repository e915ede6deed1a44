"""An operation of torch's dispatcher: a formula, which defines it, and kernels for the devices that have them.

The dispatcher knows `torch.ops.regard.NAME` as opaque: `torch.compile`, `torch.export` and `torch.fx` keep it as one
node. Which of formula and kernel runs is decided where it runs, so that nothing traced depends on it.
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
# Whether a function transform (torch.func) is active: the dispatcher knows.
LIBRARY.define("transformed() -> bool")
LIBRARY.impl("transformed", lambda: False, "CompositeImplicitAutograd")
LIBRARY.impl("transformed", lambda: True, "FuncTorchDynamicLayerFrontMode")
_log = logging.getLogger("regard")
_reference: ContextVar[bool] = ContextVar("reference", default=False)


@contextmanager
def reference() -> Iterator[None]:
    """Inside, in this thread, operations are their formulas, in which torch sees each step."""
    before = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(before)


def backend(device: torch.device | str) -> str:
    """What runs operations on `device`: 'native', 'triton' or, by the formulas, 'torch'."""
    kind = torch.device(device).type
    return BACKENDS[kind] if kind in BACKENDS and _kernels(BACKENDS[kind]) is not None else "torch"


@cache
def _kernels(name: str) -> ModuleType | None:
    """The module with a function for each operation that has a kernel; None, said once, where it does not work."""
    if name == "native" and os.environ.get("REGARD_NATIVE") == "0":
        return None
    try:
        return import_module(f"regard.attention.kernels.{name}")
    except Exception as error:  # whatever a compiler, a driver or an old GPU may raise
        message = "attention runs on torch's operations, several times slower: its %s kernels do not work here (%s)"
        _log.warning(message, name, first_line(error))
        return None


class Operation:
    """The operation that `formula` defines, under its name.

    Args:
        formula: takes features, by the names x and g, and small tensors.
        shapes: those of its tensors that kernels trust, as "NAME AXES, …": a letter an axis, which is as long wherever
            it is named; 1 an axis of one element, and a capital letter an axis of one or of all. Other shapes, and what
            a kernel answers with NotImplemented, go by the formula.
        fused: whether a compiler for GPUs cannot do as well: it is kept in what is compiled.
        like: of the formula's arguments, tensors of the shapes of the results, where it does not run without values.
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
        self.features_at = {at for at, name in enumerate(parameters) if name in ("x", "g")}
        self.x_at = parameters.index("x")
        self.broken: set[str] = set()
        # Features may come in any layout: compilers that change it need not change it back.
        schema = self.name + torch.library.infer_schema(formula, mutates_args=())
        LIBRARY.define(schema, tags=(torch.Tag.flexible_layout,))
        LIBRARY.impl(self.name, self.run_formula, "CompositeExplicitAutograd")
        for device, of_device in BACKENDS.items():
            LIBRARY.impl(self.name, partial(self.run_kernel, of_device), device.upper())
        # Function transforms (torch.func) see through the formula.
        LIBRARY.impl(self.name, formula, "FuncTorchDynamicLayerFrontMode")
        torch.library.register_fake(
            f"regard::{self.name}", partial(self.run_without_values, like) if like else self.run_formula
        )
        self.operator = getattr(torch.ops.regard, self.name).default

    def __call__(self, *args: Any) -> Any:
        compiling = torch.compiler.is_compiling()
        by_formula = not self.fused and args[self.x_at].is_cuda if compiling else _has_tangent(args)
        return self.formula(*args) if by_formula or in_reference() else self.operator(*args)

    def carry(self, *args: Any) -> tuple[Any, Any]:
        """The features, and the results for them; of operations with several.

        Where a gradient is computed step by step, and what follows takes the features from here, the gradient that
        reaches them by their results is added in the pass in which it is made.
        """
        x = args[self.x_at]
        if (
            isinstance(x, Tensor)  # not a proxy of torch.fx
            and x.requires_grad
            and torch.is_grad_enabled()
            and not (torch.compiler.is_compiling() or torch.jit.is_tracing() or in_reference())
            and not (torch.ops.regard.transformed() or _has_tangent(args))
        ):
            x, *results = _Carried.apply(self, *args)
            return x, results
        return x, self(*args)

    def run_formula(self, *args: Any) -> Any:
        """The results by the formula, in the layout and dtypes that all versions have in common."""
        x, result = args[self.x_at], self.formula(*args)
        return tuple(_laid_out(part, x) for part in result) if isinstance(result, tuple) else _laid_out(result, x)

    def run_without_values(self, like: Callable[..., Sequence[Tensor]], *args: Any) -> tuple[Tensor, ...]:
        """Results of the right shapes, layout and dtypes, for the devices and modes that compute nothing."""
        return tuple(_laid_out(torch.empty_like(value), args[self.x_at]) for value in like(*args))

    def run_kernel(self, backend: str, *args: Any, **room: Tensor) -> Any:
        """The results by the kernel of a backend; by the formula where there is none, or features are small.

        A kernel writes to `room`, if it is given.
        """
        x = args[self.x_at]
        tensors = [a for a in args if isinstance(a, Tensor)]
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
        given = [
            a if not isinstance(a, Tensor) else _features(a, x) if at in self.features_at else _small(a, x)
            for at, a in enumerate(args)
        ]
        try:
            result = getattr(kernels, self.name)(*given, **room)
        except torch.OutOfMemoryError:  # the formula needs more
            raise
        except Exception as error:
            self.broken.add(backend)
            message = "the %s kernel of %s does not work here, its formula runs instead (%s)"
            _log.warning(message, backend, self.name, first_line(error))
            result = NotImplemented
        return self.run_formula(*args) if result is NotImplemented else result

    def fits(self, args: Sequence[Any]) -> bool:
        """Whether the tensors have the shapes that kernels trust."""
        sizes = {"1": 1}
        for at, axes in self.axes.items():
            value = args[at]
            if value is None:
                continue
            if value.dim() != len(axes):
                return False
            for axis, size in zip(axes, value.shape, strict=True):
                if sizes.setdefault(axis.lower(), size) != size and not (axis.isupper() and size == 1):
                    return False
        return True

    def differentiate(
        self, backward: Callable[..., Any] | None = None, *, kept: slice = slice(0), outputs: int = 1
    ) -> None:
        """Gives the operation its gradient.

        Args:
            backward: of the inputs, the outputs `kept` and the gradients of the first `outputs` outputs, makes those of
                the inputs, in any dtype, None for what has none. Without it, the formula is differentiated. Of an
                operation that carries the features, it also takes `g`, to be added to the gradient of the features.
            kept: which outputs are saved.
            outputs: how many outputs have gradients.
        """

        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            every = output if isinstance(output, tuple) else (output,)
            ctx.mark_non_differentiable(*every[outputs:])
            ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]
            ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs), *every[kept])

        def gradient(ctx: Any, *gradients: Tensor, **carried: Tensor) -> Any:
            saved = ctx.saved_tensors  # which checkpointing allows once
            inputs = [other if value is None else value for value, other in zip(saved, ctx.others, strict=False)]
            if backward is None:
                return formula_gradients(self.formula, inputs, gradients[:outputs])
            computed = backward(inputs, saved[len(inputs) :], *gradients[:outputs], **carried)
            return tuple(d if d is None else d.to(value.dtype) for d, value in zip(computed, inputs, strict=True))

        self.setup, self.gradient = setup, gradient
        torch.library.register_autograd(f"regard::{self.name}", gradient, setup_context=setup)


class _Carried(torch.autograd.Function):
    """An operation that hands its features on; see `Operation.carry`."""

    @staticmethod
    def forward(operation: Operation, *inputs: Any) -> tuple[Tensor, ...]:
        x = inputs[operation.x_at]
        return x.view_as(x), *operation.operator(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.operation = inputs[0]
        ctx.operation.setup(ctx, inputs[1:], output[1:])

    @staticmethod
    def backward(ctx: Any, g: Tensor, *gradients: Tensor) -> Any:
        return None, *ctx.operation.gradient(ctx, *gradients, g=g)


def is_carried(x: Tensor) -> bool:
    """Whether features come from an operation that handed them on, to which alone their gradient goes."""
    return x.grad_fn is not None and x.grad_fn.name() == "_CarriedBackward"


def formula_gradients(
    formula: Callable[..., Any], inputs: Sequence[Any], gradients: Sequence[Tensor]
) -> tuple[Any, ...]:
    """The gradients of the inputs of a formula, for those of its outputs; they may be differentiated again.

    None for inputs that are no floating-point tensors.
    """
    which = [at for at, value in enumerate(inputs) if isinstance(value, Tensor) and value.is_floating_point()]

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        given = list(inputs)
        for at, value in zip(which, values, strict=True):
            given[at] = value
        result = formula(*given)
        return result[: len(gradients)] if isinstance(result, tuple) else (result,)

    made, pull = torch.func.vjp(outputs, *(inputs[at] for at in which))[:2]
    pulled = iter(pull(tuple(g.to(y.dtype) for g, y in zip(gradients, made, strict=True))))
    return tuple(next(pulled) if at in which else None for at in range(len(inputs)))


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels last or contiguous: what features like x are made in."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def in_reference() -> bool:
    """Whether formulas are asked for, by `reference`; not while torch.compile traces."""
    return not torch.compiler.is_dynamo_compiling() and _reference.get()


def _has_tangent(args: Sequence[Any]) -> bool:
    """Whether forward-mode differentiation is at work, of which the gradients that are registered know nothing."""
    return any(isinstance(a, Tensor) and unpack_dual(a).tangent is not None for a in args)


def _laid_out(value: Tensor, x: Tensor) -> Tensor:
    if value.shape == x.shape:
        return value.contiguous(memory_format=memory_format(x))
    return _small(value, x)


def _features(value: Tensor, x: Tensor) -> Tensor:
    return value.to(x.dtype).contiguous(memory_format=memory_format(x))


def _small(value: Tensor, x: Tensor) -> Tensor:
    return (value.to(torch.promote_types(x.dtype, torch.float32)) if value.is_floating_point() else value).contiguous()
