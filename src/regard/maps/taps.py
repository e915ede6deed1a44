"""Hooks that read the features of layers, or their attention maps, during a forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from regard.errors import InputError, unknown
from regard.maps.features import Reshape, arrangement, describe
from regard.maps.layers import Layer, did_not_run, find_layers, hookable
from regard.stages import COMPILED

Reduce = Literal["mean", "sum", "max"]
"""The reduction of an attention map over the channels, see `activation_map`."""

T = TypeVar("T")

_CHUNK = 2**19  # elements that fit into the cache of a CPU


def activation_map(features: Tensor, power: float = 2, reduce: Reduce = "mean") -> Tensor:
    """The attention map of a layer: its activations to a power, reduced over the channels.

    `mean_c |A|^power`, or `sum_c`, or `max_c`. Source: "Paying More Attention to Attention" (Attention Transfer, arXiv
    1612.03928), section 3.1; its code takes the mean at power 2.

    Twice differentiable, and compatible with the transforms of `torch.func`. Of the tensors of this size, only the
    features themselves are saved for backward, which the network saves anyway.

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
        raise InputError(f"features are {describe(features)}; expected a floating-point tensor (N, C, H, W)")
    check_power(power, reduce)
    if torch.compiler.is_compiling():  # the compiler fuses the plain formula by itself
        return reference(features, power, reduce)
    if reduce == "max":  # the largest |A| is at the largest or the smallest A
        promoted = features.to(torch.promote_types(features.dtype, torch.float32))
        return torch.maximum(promoted.amax(1), -promoted.amin(1)) ** power
    in_graph = torch.is_grad_enabled() and features.requires_grad
    total: Tensor = _PowerSum.apply(features, power) if in_graph else _power_sum(features, power)
    return total / features.shape[1] if reduce == "mean" else total


def check_power(power: float, reduce: Reduce) -> None:
    """Raises InputError unless `activation_map` accepts the power and the reduction."""
    if not 1 <= power < torch.inf:  # not check_interval, which parses a string, for this runs in every step
        raise InputError(f"power is {power}; it has to be in [1, inf)")
    if reduce not in ("mean", "sum", "max"):
        raise unknown("reduce", reduce, ("mean", "sum", "max"))


def reference(features: Tensor, power: float, reduce: Reduce) -> Tensor:
    """The plain formula of `activation_map`."""
    powers = features.to(torch.promote_types(features.dtype, torch.float32)).abs() ** power  # (N, C, H, W)
    if reduce == "max":
        return powers.amax(1)
    return powers.mean(1) if reduce == "mean" else powers.sum(1)


class _PowerSum(torch.autograd.Function):
    """`sum_c |A|^p`, which saves only A for backward.

    Autograd through the norm `(sum_c |A|^p)^(1/p)` fails where all channels are 0, as is common after a ReLU: the norm
    has no derivatives there, the sum has.
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
        slope = _signed_power(features, ctx.power - 1)
        scaled = (ctx.power * gradient).to(slope.dtype).unsqueeze(1)  # (N, 1, H, W)
        return (scaled * slope).to(features.dtype), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (features,) = ctx.saved_tensors
        dtype = torch.promote_types(features.dtype, torch.float32)
        return (ctx.power * _signed_power(features, ctx.power - 1) * tangent).sum(1, dtype=dtype)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], features: Tensor, power: float) -> tuple[Tensor, int]:
        batch = features.movedim(in_dims[0], 0)  # (B, N, C, H, W)
        total: Tensor = _PowerSum.apply(batch.flatten(0, 1), power)
        return total.unflatten(0, batch.shape[:2]), 0


def _signed_power(features: Tensor, power: float) -> Tensor:
    """`sign(A) |A|^power`, without a copy for power 1; float32 for other powers of half precision, whose range they
    leave."""
    if power == 1:
        return features
    if power == 0:
        return features.sign()
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features**power if power % 2 == 1 else features.sign() * features.abs() ** power


def _power_sum(features: Tensor, power: float) -> Tensor:
    """`sum_c |A|^p`, (N, H, W)."""
    return (_in_parts if features.device.type in ("cpu", "meta") else _in_one_pass)(features, power)


def _in_one_pass(features: Tensor, power: float) -> Tensor:
    """With a kernel that reads the features once, but is slow on a CPU."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    with torch.autocast(features.device.type, enabled=False):  # autocast would copy half-precision features
        return torch.linalg.vector_norm(features, power, dim=1, dtype=dtype) ** power


def _in_parts(features: Tensor, power: float) -> Tensor:
    """A few images at a time, so that temporary tensors stay in the cache."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    step = max(1, _CHUNK // max(1, math.prod(features.shape[1:])))
    return torch.cat([_powers(part.to(dtype), power).sum(1) for part in features.split(step)])


def _powers(part: Tensor, power: float) -> Tensor:
    """`|A|^power`; squaring twice is several times as fast as power 4."""
    if power == 4:
        return part.square().square()
    return part**power if power % 2 == 0 else part.abs() ** power


class Taps:
    """Reads the outputs of layers during a forward.

    Example::

        with Taps(model, ["layer3", "layer4"]) as taps:
            logits = model(images)
            features = taps.features  # {"layer3": (N, C, H, W), "layer4": …}

    Forward hooks are registered inside the block and removed at its end, also after an error. The block can be entered
    repeatedly, also nested. Nothing is copied: features are the model's own tensors or views of them, with their graph,
    and are kept until the next forward, `clear()`, or the end of the Taps' life.

    Tokens (N, T, C) of vision transformers become a grid, without prefix tokens, and (N, H, W, C) is permuted; the
    shape of the images, the model's first argument, tells the layouts apart.

    It works in training, under `no_grad`, `inference_mode` and autocast, and with any memory format. Compiled code
    ignores hooks that are added later, so a model that is compiled, fully or in part, runs uncompiled inside the block.

    Args:
        model: any module; it may be compiled or wrapped in `DistributedDataParallel`, or in a `DataParallel` of one
            device.
        layers: names as in `model.named_modules()`, or modules; one or several. None: the stages.
        reshape: arranges other outputs of layers as features (N, C, H, W).

    Raises:
        InputError: a layer the model does not have; when the model runs, a layer that gives no features.
    """

    def __init__(
        self, model: nn.Module, layers: Layer | Sequence[Layer] | None = None, *, reshape: Reshape | None = None
    ) -> None:
        self.model = model
        self.reshape = reshape
        self.layers = tuple(find_layers(model, layers))
        self._network = hookable(model)
        self._images: Tensor | None = None
        # Layer -> its value, the tensor that must not change in place, and its version; None before a forward.
        self._records: dict[str, tuple[Tensor, Tensor, int | None]] | None = None
        self._arrangements: dict[tuple[object, ...], Reshape] = {}  # by layer and shapes
        self._hooks = ExitStack()
        self._depth = 0

    def __enter__(self) -> Taps:
        if self._depth == 0:
            self.clear()
            if _is_compiled(self.model):
                self._hooks.enter_context(torch.compiler.set_stance("force_eager"))
            self._hooks.callback(self._network.register_forward_pre_hook(self._begin).remove)
            for name in self.layers:  # by name, because a module may have been replaced
                module = self._network.get_submodule(name)
                self._hooks.callback(module.register_forward_hook(partial(self._read, name)).remove)
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._hooks.close()

    @property
    def features(self) -> dict[str, Tensor]:
        """Name -> features (N, C, H, W) of the last forward, in the order of `layers`.

        For a layer that ran several times, its last output.

        Raises:
            InputError: the model has not run, did not run one of the layers, or later changed a layer's output in
                place, which is detected except under `inference_mode`.
        """
        return self._values()

    def _values(self) -> dict[str, Tensor]:
        if self._records is None:
            raise InputError(
                "no features yet; run the model inside the 'with' block (for a compiled model, create Taps of it)"
            )
        for name in self.layers:
            if name not in self._records:
                raise did_not_run(name)
            _, source, version = self._records[name]
            if version is not None and source._version != version:
                raise InputError(
                    f"the output of layer {name!r} was changed in place after it was read, for example by a "
                    "ReLU(inplace=True); tap the layer that changes it, or make that layer not in-place"
                )
        return {name: self._records[name][0] for name in self.layers}

    def run(self, call: Callable[..., T], *arguments: Any) -> tuple[T, dict[str, Tensor]]:
        """The output of a call that runs the model, and the layers' values, which are not kept."""
        with self:
            output = call(*arguments)
        values = self._values()
        self.clear()
        return output, values

    def clear(self) -> None:
        """Releases the features."""
        self._records = self._images = None

    def _begin(self, _module: nn.Module, args: Any) -> None:
        images = args[0] if args else None
        self._images = images if isinstance(images, Tensor) and images.ndim == 4 else None
        self._records = {}

    def _read(self, name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        features = self._arranged(name, output)
        value = self._value(features)
        source = features if value.requires_grad else value  # the backward of maps needs the features
        has_version = not torch.compiler.is_compiling() and not source.is_inference()
        self._record(name, value, source, source._version if has_version else None)

    def _record(self, name: str, value: Tensor, source: Tensor, version: int | None) -> None:
        if self._records is None:  # only a part of the model runs
            self._records = {}
        self._records[name] = (value, source, version)

    def _arranged(self, name: str, output: Any) -> Tensor:
        """The features in a layer's output, with one `arrangement` per shape."""
        if torch.compiler.is_compiling() or not isinstance(output, Tensor):
            return arrangement(self._network, name, output, self._images, self.reshape)(output)
        key = name, output.shape, None if self._images is None else self._images.shape
        if key not in self._arrangements:
            self._arrangements[key] = arrangement(self._network, name, output, self._images, self.reshape)
        return self._arrangements[key](output)

    def _value(self, features: Tensor) -> Tensor:
        """The value to record for a layer's features."""
        # A compiled function returns tensors as they are at its end, after in-place changes that cannot be detected.
        return features.clone() if torch.compiler.is_compiling() else features


class MapTaps(Taps):
    """Reads the attention maps of layers during a forward: `Taps` that record maps instead of features.

    Example::

        with MapTaps(model, ["layer3", "layer4"]) as taps:
            logits = model(images)
            maps = taps.maps  # {"layer3": (N, H, W), "layer4": …}

    A map is computed right after its layer, while the features are in the cache; features are not kept for it.

    Unlike `Taps` it works inside a compiled function, which then compiles the maps with the model.

    Args:
        power: at least 1; see `activation_map`.
        reduce: "mean", "sum" or "max".
        model, layers, reshape: see `Taps`.
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
        raise InputError("MapTaps record maps, not features; use .maps, or Taps")

    def _value(self, features: Tensor) -> Tensor:
        return activation_map(features, self.power, self.reduce)


def _is_compiled(model: nn.Module) -> bool:
    """Whether the model, or a module inside it, is compiled."""
    return any(
        isinstance(getattr(module, COMPILED, None), nn.Module) or module._compiled_call_impl is not None
        for module in model.modules()
    )
