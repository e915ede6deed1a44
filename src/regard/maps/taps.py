"""Layers that are read while a model runs: their features, or the attention maps of these."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from regard.errors import InputError, unknown
from regard.maps.features import Reshape, arrangement
from regard.maps.layers import Layer, find_layers, readable
from regard.stages import COMPILED

Reduce = Literal["mean", "sum", "max"]
"""How an attention map takes the channels together, see `activation_map`."""

T = TypeVar("T")

_CHUNK = 2**19  # elements that stay in a processor's cache


def activation_map(features: Tensor, power: float = 2, reduce: Reduce = "mean") -> Tensor:
    """The attention map of a layer: its activations to a power, reduced over the channels.

    `mean_c |A|^power`, or `sum_c`, or `max_c`. Source: "Paying More Attention to Attention" (Attention Transfer, arXiv
    1612.03928), section 3.1; its code takes the mean at power 2.

    Differentiable, twice as well, and under the transforms of `torch.func`. Besides the features themselves, which the
    network keeps for its backward, nothing of their size is kept between forward and backward.

    Args:
        features: (N, C, H, W), floating point, in any memory format.
        power: at least 1.
        reduce: "mean", "sum" or "max".

    Returns:
        (N, H, W), at least 0; float32 for half-precision features, otherwise of the features' dtype.

    Raises:
        InputError: features of another shape or dtype, a power below 1, an unknown `reduce`.
    """
    if not isinstance(features, Tensor) or features.ndim != 4 or not features.is_floating_point():
        what = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"features are {what}; expected a floating-point tensor (N, C, H, W)")
    check_power(power, reduce)
    if torch.compiler.is_compiling():  # the compiler fuses the plain formula by itself
        return reference(features, power, reduce)
    if reduce == "max":  # the largest |A| is that of the largest or of the smallest A
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        return torch.maximum(wide.amax(1), -wide.amin(1)) ** power
    in_graph = torch.is_grad_enabled() and features.requires_grad
    total: Tensor = _PowerSum.apply(features, power) if in_graph else _power_sum(features, power)
    return total / features.shape[1] if reduce == "mean" else total


def check_power(power: float, reduce: Reduce) -> None:
    """Raises InputError unless these are a power and a reduction of `activation_map`."""
    if not 1 <= power < torch.inf:  # in every step, so at once
        raise InputError(f"power is {power}; it has to be in [1, inf)")
    if reduce not in ("mean", "sum", "max"):
        raise unknown("reduce", reduce, ("mean", "sum", "max"))


def reference(features: Tensor, power: float, reduce: Reduce) -> Tensor:
    """The formula of `activation_map`, plainly."""
    powers = features.to(torch.promote_types(features.dtype, torch.float32)).abs() ** power  # (N, C, H, W)
    if reduce == "max":
        return powers.amax(1)
    return powers.mean(1) if reduce == "mean" else powers.sum(1)


class _PowerSum(torch.autograd.Function):
    """`sum_c |A|^p`; holds nothing but A for its backward.

    The norm `(sum_c |A|^p)^(1/p)` would do in the forward, but its derivatives do not exist where all channels are 0,
    which after a ReLU is common; those of the sum do.
    """

    @staticmethod
    def forward(features: Tensor, power: float) -> Tensor:
        return _power_sum(features, power)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        features, ctx.power = inputs
        ctx.save_for_backward(features)
        ctx.save_for_forward(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        scaled = (ctx.power * gradient).to(features.dtype).unsqueeze(1)  # (N, 1, H, W)
        return scaled * _signed_power(features, ctx.power - 1), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (features,) = ctx.saved_tensors
        dtype = torch.promote_types(features.dtype, torch.float32)
        return (ctx.power * _signed_power(features, ctx.power - 1) * tangent).sum(1, dtype=dtype)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], features: Tensor, power: float) -> tuple[Tensor, int]:
        batch = features.movedim(in_dims[0], 0)  # (B, N, C, H, W): the batch goes with the images
        total: Tensor = _PowerSum.apply(batch.flatten(0, 1), power)
        return total.unflatten(0, batch.shape[:2]), 0


def _signed_power(features: Tensor, power: float) -> Tensor:
    """`sign(A) |A|^power`, without a copy where it is A itself."""
    if power == 1:
        return features
    if power == 0:
        return features.sign()
    return features**power if power % 2 == 1 else features.sign() * features.abs() ** power


def _power_sum(features: Tensor, power: float) -> Tensor:
    """`sum_c |A|^p`, (N, H, W)."""
    with torch.autocast(features.device.type, enabled=False):  # it would copy half-precision features
        return (_in_parts if features.device.type == "cpu" else _in_one_pass)(features, power)


def _in_one_pass(features: Tensor, power: float) -> Tensor:
    """By a kernel that reads the features once, and on a processor is slow."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    return torch.linalg.vector_norm(features, power, dim=1, dtype=dtype) ** power


def _in_parts(features: Tensor, power: float) -> Tensor:
    """A few images at a time, so that what is made of them stays in the cache."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    step = max(1, _CHUNK // max(1, math.prod(features.shape[1:])))
    return torch.cat([_powers(part.to(dtype), power).sum(1) for part in features.split(step)])


def _powers(part: Tensor, power: float) -> Tensor:
    """`|A|^power`; squares of squares are several times as fast as powers."""
    if power == 4:
        return part.square().square()
    return part**power if power % 2 == 0 else part.abs() ** power


class Taps:
    """Reads the outputs of layers while a model runs.

    Example::

        with Taps(model, ["layer3", "layer4"]) as taps:
            logits = model(images)
            features = taps.features  # {"layer3": (N, C, H, W), "layer4": …}

    Inside the block the layers carry forward hooks; at its end, also after an error, they are removed. The block can
    be entered again, also inside itself. Nothing is copied: the features are the very tensors the model works with, or
    views of them, part of its graph if it has one, and are kept until the next forward, `clear()`, or the end of the
    Taps' life.

    Tokens (N, T, C) of vision transformers become a grid, without prefix tokens, and (N, H, W, C) is turned; which it
    is, is read off the images, the first argument of the model.

    It works in training, under `no_grad`, `inference_mode` and autocast, and with any memory format. Compiled code
    ignores hooks added later: if the model or a part of it is compiled, nothing runs compiled inside the block.

    Args:
        model: any module; it may be compiled or wrapped in `DistributedDataParallel`, or in a `DataParallel` of one
            device.
        layers: names as in `model.named_modules()`, or the modules themselves; one or several. None: the stages.
        reshape: makes features (N, C, H, W) of what a layer gives, where that is none of the above.

    Raises:
        InputError: a layer the model does not have; when the model runs, a layer that gives no features.
    """

    def __init__(
        self, model: nn.Module, layers: Layer | Sequence[Layer] | None = None, *, reshape: Reshape | None = None
    ) -> None:
        self.model = model
        self.reshape = reshape
        self.layers = tuple(find_layers(model, layers))
        self._network = readable(model)
        self._images: Tensor | None = None
        # By layer what is kept, the tensor that has to stay as it is, and its version then; None before a forward.
        self._kept: dict[str, tuple[Tensor, Tensor, int | None]] | None = None
        self._arrangements: dict[tuple[object, ...], Reshape] = {}  # by layer and shapes
        self._undo = ExitStack()
        self._depth = 0

    def __enter__(self) -> Taps:
        if self._depth == 0:
            self.clear()
            if _is_compiled(self.model):
                self._undo.enter_context(torch.compiler.set_stance("force_eager"))
            self._undo.callback(self._network.register_forward_pre_hook(self._begin).remove)
            for name in self.layers:  # by name: a module may have been replaced since
                module = self._network.get_submodule(name)
                self._undo.callback(module.register_forward_hook(partial(self._read, name)).remove)
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._undo.close()

    @property
    def features(self) -> dict[str, Tensor]:
        """Name -> features (N, C, H, W) of the last forward, in the order of `layers`.

        A layer that ran several times in it gives its last output.

        Raises:
            InputError: the model has not run, did not run one of the layers, or changed a layer's output in place
                afterwards, so that it can no longer be read. (A change under `inference_mode` goes unseen: PyTorch
                keeps no record there.)
        """
        return self._values()

    def _values(self) -> dict[str, Tensor]:
        if self._kept is None:
            raise InputError(
                "no features yet; run the model inside the 'with' block (if it is compiled, give Taps the compiled one)"
            )
        for name in self.layers:
            if name not in self._kept:
                raise InputError(f"layer {name!r} did not run in the last forward; tap a layer that runs")
            _, needed, version = self._kept[name]
            if version is not None and needed._version != version:
                raise InputError(
                    f"the output of layer {name!r} was changed in place after it was read, as by a "
                    "ReLU(inplace=True); tap the layer that changes it, or make that one not in-place"
                )
        return {name: self._kept[name][0] for name in self.layers}

    def run(self, call: Callable[..., T], *arguments: Any) -> tuple[T, dict[str, Tensor]]:
        """What a call gives that runs the model, and by layer what was read in it, of which nothing is kept here."""
        with self:
            output = call(*arguments)
        values = self._values()
        self.clear()
        return output, values

    def clear(self) -> None:
        """Forgets the features, so that their memory can be used again."""
        self._kept = self._images = None

    def _begin(self, _module: nn.Module, args: Any) -> None:
        images = args[0] if args else None
        self._images = images if isinstance(images, Tensor) and images.ndim == 4 else None
        self._kept = {}

    def _read(self, name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        features = self._arranged(name, output)
        value = self._value(features)
        needed = features if value.requires_grad else value  # unchanged, until the gradients are computed
        known = not torch.compiler.is_compiling() and not needed.is_inference()
        self._keep(name, value, needed, needed._version if known else None)

    def _keep(self, name: str, value: Tensor, needed: Tensor, version: int | None) -> None:
        if self._kept is None:  # a part of the model runs alone
            self._kept = {}
        self._kept[name] = (value, needed, version)

    def _arranged(self, name: str, output: Any) -> Tensor:
        """The features in a layer's output; where they are is found out once for each shape."""
        if torch.compiler.is_compiling() or not isinstance(output, Tensor):
            return arrangement(self._network, name, output, self._images, self.reshape)(output)
        key = name, output.shape, None if self._images is None else self._images.shape
        if key not in self._arrangements:
            self._arrangements[key] = arrangement(self._network, name, output, self._images, self.reshape)
        return self._arrangements[key](output)

    def _value(self, features: Tensor) -> Tensor:
        """What is kept of a layer's features."""
        # Within a compiled function a tensor is given as it is at the function's end, later changes in it unseen.
        return features.clone() if torch.compiler.is_compiling() else features


class MapTaps(Taps):
    """Reads the attention maps of layers while a model runs: `Taps` that keep maps instead of features.

    Example::

        with MapTaps(model, ["layer3", "layer4"]) as taps:
            logits = model(images)
            maps = taps.maps  # {"layer3": (N, H, W), "layer4": …}

    A map is computed as soon as the layer has run, while its features are in the cache; features that the model does
    not need are not kept.

    Unlike `Taps` it can run within a compiled function, which then compiles the maps with the model.

    Args:
        power: at least 1; see `activation_map`.
        reduce: "mean", "sum" or "max". The others are those of `Taps`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        *,
        power: float = 2,
        reduce: Reduce = "mean",
        reshape: Reshape | None = None,
    ) -> None:
        check_power(power, reduce)
        super().__init__(model, layers, reshape=reshape)
        self.power = power
        self.reduce: Reduce = reduce

    @property
    def maps(self) -> dict[str, Tensor]:
        """Name -> map (N, H, W) of the last forward, in the order of `layers`; see `Taps.features` for the errors."""
        return self._values()

    @property
    def features(self) -> dict[str, Tensor]:
        raise InputError("MapTaps keep maps, no features; ask for .maps, or use Taps")

    def _value(self, features: Tensor) -> Tensor:
        return activation_map(features, self.power, self.reduce)


def _is_compiled(model: nn.Module) -> bool:
    """Whether the model, or a module in it, is compiled."""
    return any(
        isinstance(getattr(module, COMPILED, None), nn.Module) or module._compiled_call_impl is not None
        for module in model.modules()
    )
