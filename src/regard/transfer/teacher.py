"""Teachers, with their own images and precision, and the networks that run in a training step."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FunctionType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard import attention
from regard.errors import InputError
from regard.logits import logits_of
from regard.maps import MapTaps, Taps, activation_map
from regard.maps.taps import Reduce
from regard.modes import evaluation_mode, match_dtype
from regard.transfer.pairing import Pair
from regard.transfer.terms import Outputs, input_gradients

Precision = Literal["auto"] | torch.dtype | None
Channels = Sequence[float]

_COUNTER = itertools.count()


class Teacher:
    """A network in evaluation mode whose attention a student learns, and which is never changed.

    By default it gets the student's images. They can be renormalised with its own mean and standard deviation and
    resized to its own size, and it can run faster:

    - in half precision (`precision`), under autocast, with weights that are cast once; its logits and attention maps
      are float32. A network in float64 or half precision keeps its precision.
    - with its norms folded into its convolutions (`fold`);
    - compiled (`compile`), together with its attention maps.

    The first two work on a copy; the network itself is only set to evaluation mode.

    Args:
        model: images (N, 3, H, W) -> logits (N, K).
        mean, std: three numbers each, the normalisation that the network expects; None: that of the student's images.
        images_mean, images_std: the normalisation of the student's images; needed with `mean` and `std`.
        size: side of the network's images in pixels, or (h, w), to which images are resized (bilinear, antialiased);
            None: not resized.
        precision: a dtype; 'auto' for bfloat16 on devices that compute in it; None: unchanged.
        fold: whether to fold norms.
        compile: whether to compile.

    Raises:
        InputError: a mean or standard deviation without its counterpart.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Channels | None = None,
        std: Channels | None = None,
        images_mean: Channels | None = None,
        images_std: Channels | None = None,
        size: int | tuple[int, int] | None = None,
        precision: Precision = None,
        fold: bool = False,
        compile: bool = False,
    ) -> None:
        defined = [value is not None for value in (mean, std, images_mean, images_std)]
        if any(defined) and not all(defined):
            raise InputError(
                "a teacher renormalises images with four values: its own mean and std, and images_mean and images_std "
                "of the student's images; give all of them or none"
            )
        self.model = model.eval()
        self.size = (size, size) if isinstance(size, int) else size
        self.precision = precision
        self.fold = fold
        self.compile = compile
        self._scale: Tensor | None = None
        self._shift: Tensor | None = None
        if mean is not None and std is not None and images_mean is not None and images_std is not None:
            source = torch.tensor((tuple(images_mean), tuple(images_std)))
            target = torch.tensor((tuple(mean), tuple(std)))
            if not torch.equal(source, target):
                self._scale, self._shift = source[1] / target[1], (source[0] - target[0]) / target[1]  # (3,)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return _parameter(self.model).device

    def images(self, images: Tensor) -> Tensor:
        """Renormalises and resizes images, differentiably: (N, 3, H, W) -> (N, 3, h, w)."""
        if self._scale is not None and self._shift is not None:
            if self._scale.device != images.device:
                self._scale, self._shift = self._scale.to(images.device), self._shift.to(images.device)
            scale, shift = self._scale.to(images.dtype), self._shift.to(images.dtype)
            images = torch.addcmul(shift[:, None, None], images, scale[:, None, None])
        if self.size is not None and self.size != images.shape[2:]:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        return images

    def network(self, layers: Sequence[str], *, exact: bool = False) -> nn.Module:
        """The network to run, folded and cast, with all `layers` and their outputs unchanged.

        Args:
            layers: names of layers.
            exact: whether to keep full precision, for gradients through the network.
        """
        dtype = None if exact else self.dtype()
        network = attention.fold(self.model, layers) if self.fold else self.model
        if dtype is None:
            return network
        return _cast(network if self.fold else copy.deepcopy(network), dtype)

    def dtype(self) -> torch.dtype | None:
        """The dtype that the network runs in under autocast; None for that of its weights."""
        weight = _parameter(self.model)
        dtype = _fastest(weight.device) if self.precision == "auto" else self.precision
        lowers = weight.dtype == torch.float32 and dtype in (torch.bfloat16, torch.float16)
        return dtype if lowers else None


class TappedNetwork:
    """A network with taps on the layers to compare, under autocast with `dtype`, unless this is None.

    `attention` is the power and reduction of attention maps, None if they are not compared.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        attention: tuple[float, Reduce] | None,
        *,
        features: bool,
        dtype: torch.dtype | None = None,
        compiles: bool = False,
    ) -> None:
        self.model, self.dtype, self.attention = model, dtype, attention
        self.taps: Taps | None = None
        if layers and features:
            self.taps = Taps(model, layers)
        elif layers and attention is not None:
            self.taps = MapTaps(model, layers, power=attention[0], reduce=attention[1])
        self._run = _compiled(model) if compiles else model

    def outputs(self, images: Tensor) -> Outputs:
        """The outputs for images (N, 3, H, W)."""
        inputs = match_dtype(self.model, images) if self.dtype is None else images
        values: dict[str, Tensor] = {}
        with nullcontext() if self.dtype is None else torch.autocast(images.device.type, self.dtype):
            if self.taps is None:
                output = self._run(inputs)
            else:
                output, values = self.taps.run(self._run, inputs)
        logits = logits_of(output)
        if self.dtype is not None:
            logits = logits.float()
        elif inputs is not images:
            logits = logits.to(images.dtype)
        if isinstance(self.taps, MapTaps):
            return Outputs(logits, values, {})
        maps = {name: activation_map(f, *self.attention) for name, f in values.items()} if self.attention else {}
        return Outputs(logits, maps, values)


class PairedTeacher(NamedTuple):
    """A teacher, its network in a step, and the pairs of layers that are compared."""

    teacher: Teacher
    network: TappedNetwork
    pairs: list[Pair]
    regressors: list[nn.Module]

    def outputs(self, images: Tensor, labels: Tensor, *, gradients: bool) -> Outputs:
        """The teacher's outputs without a graph; with `gradients`, they include the gradients by the images."""
        image_gradients = None
        with torch.set_grad_enabled(gradients), frozen(self.network.model) if gradients else nullcontext():
            images = images.detach().requires_grad_() if gradients else images
            logits, maps, features, *_ = self.network.outputs(self.teacher.images(images))
            if gradients:
                image_gradients = input_gradients(logits, labels, images, create_graph=False)
        maps, features = ({name: value.detach() for name, value in values.items()} for values in (maps, features))
        return Outputs(logits.detach(), maps, features, image_gradients, self.pairs, self.regressors)


def _compiled(model: nn.Module) -> Callable[[Tensor], Any]:
    """The model, compiled together with the hooks of its taps."""

    def forward(images: Tensor) -> Any:
        return model(images)

    # torch.compile caches by the code object of the function and ignores hooks, so each model with its own taps gets a
    # code object of its own.
    code = forward.__code__.replace(co_name=f"forward_{next(_COUNTER)}")
    return torch.compile(FunctionType(code, forward.__globals__, code.co_name, None, forward.__closure__))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients of parameters, inside the context."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluation_mode(model):
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts, in place, the weights that autocast would cast in every forward."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return network


def _fastest(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public functions for this
        if any(getattr(torch.cpu, check, lambda: False)() for check in checks):
            return torch.bfloat16
    return None


def _parameter(model: nn.Module) -> Tensor:
    return next(model.parameters(), torch.empty(0))
