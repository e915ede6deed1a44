"""The teacher: its images, its precision, and that it never changes. And how teachers and student run in a step."""

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
    """A network whose attention a student learns, in evaluation mode and never changed.

    By default it gets the images that the student gets. They may be normalised anew, with its own mean and standard
    deviation, and resized to its own size; and it may run in a faster form:

    - in half precision (`precision`), under autocast, its weights cast once; its logits and attention maps are float32
      again. A network in float64 or half precision stays as it is.
    - with its norms folded into its convolutions (`fold`);
    - compiled (`compile`), together with its attention maps.

    For the first two a copy is made; the network itself stays as it was, but for being put in evaluation mode.

    Args:
        model: images (N, 3, H, W) -> logits (N, K).
        mean, std: three numbers each, with which the network knows images to be normalised; None: as they come.
        images_mean, images_std: those with which the images that come are normalised; needed with `mean` and `std`.
        size: side of the images in pixels, or (h, w), to which they are resized (bilinear, antialiased); None: none.
        precision: None: as it is; a dtype; or 'auto': bfloat16 on devices that compute in it, else as it is.
        fold: whether norms are folded.
        compile: whether it is compiled.

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
        given = [value is not None for value in (mean, std, images_mean, images_std)]
        if any(given) and not all(given):
            raise InputError(
                "a teacher normalises images anew with four values: its own mean and std, and images_mean and "
                "images_std of the images as they come; give all of them or none"
            )
        self.model = model.eval()
        self.size = (size, size) if isinstance(size, int) else size
        self.precision = precision
        self.fold = fold
        self.compile = compile
        self._scale: Tensor | None = None
        self._shift: Tensor | None = None
        if mean is not None and std is not None and images_mean is not None and images_std is not None:
            here, there = torch.tensor((tuple(images_mean), tuple(images_std))), torch.tensor((tuple(mean), tuple(std)))
            if not torch.equal(here, there):
                self._scale, self._shift = here[1] / there[1], (here[0] - there[0]) / there[1]  # (3,)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return _parameter(self.model).device

    def images(self, images: Tensor) -> Tensor:
        """The images as the teacher takes them, differentiable: (N, 3, H, W) -> (N, 3, h, w)."""
        if self._scale is not None and self._shift is not None:
            if self._scale.device != images.device:
                self._scale, self._shift = self._scale.to(images.device), self._shift.to(images.device)
            scale, shift = self._scale.to(images.dtype), self._shift.to(images.dtype)
            images = torch.addcmul(shift[:, None, None], images, scale[:, None, None])
        if self.size is not None and self.size != images.shape[2:]:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        return images

    def network(self, layers: Sequence[str], *, exact: bool = False) -> nn.Module:
        """The network that runs, with the outputs of `layers` as they are in the teacher itself.

        Args:
            layers: names, which it has as well.
            exact: full precision, for gradients through it.
        """
        dtype = None if exact else self.dtype()
        network = attention.fold(self.model, layers) if self.fold else self.model
        if dtype is None:
            return network
        return _cast(network if self.fold else copy.deepcopy(network), dtype)

    def dtype(self) -> torch.dtype | None:
        """The dtype it runs in, if that is another than that of its weights."""
        weight = _parameter(self.model)
        wanted = _fastest(weight.device) if self.precision == "auto" else self.precision
        lowered = weight.dtype == torch.float32 and wanted in (torch.bfloat16, torch.float16)
        return wanted if lowered else None


class TappedNetwork:
    """A network as it runs in a step, with taps on the layers that are compared.

    Args:
        model: images (N, 3, H, W) -> logits.
        layers: those that are compared.
        attention: power and reduction of their attention maps; None: no maps.
        features: whether their features are compared.
        dtype: of autocast; None: none.
        compiles: whether the model is compiled, with its taps.
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
        """What it gives for images (N, 3, H, W)."""
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
    """A teacher as it runs in a step, and the layers of the student that it is compared with."""

    teacher: Teacher
    network: TappedNetwork
    pairs: list[Pair]
    regressors: list[nn.Module]

    def outputs(self, images: Tensor, labels: Tensor, *, gradients: bool) -> Outputs:
        """The teacher's outputs, without a graph; with `gradients`, those by the images among them."""
        by_images = None
        with torch.set_grad_enabled(gradients), frozen(self.network.model) if gradients else nullcontext():
            images = images.detach().requires_grad_(gradients)
            logits, maps, features, *_ = self.network.outputs(self.teacher.images(images))
            if gradients:
                by_images = input_gradients(logits, labels, images, create_graph=False)
        maps, features = ({name: value.detach() for name, value in part.items()} for part in (maps, features))
        return Outputs(logits.detach(), maps, features, by_images, self.pairs, self.regressors)


def _compiled(model: nn.Module) -> Callable[[Tensor], Any]:
    """The model compiled, with the taps that come and go around it."""

    def forward(images: Tensor) -> Any:
        return model(images)

    # torch.compile caches by the code of the function, whatever its taps. So each function has a separate code object,
    # whose taps are always the same.
    code = forward.__code__.replace(co_name=f"forward_{next(_COUNTER)}")
    return torch.compile(FunctionType(code, forward.__globals__, code.co_name, None, forward.__closure__))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no parameter needs a gradient; each as it was afterwards."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluation_mode(model):
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts the weights that autocast would cast in every forward; norms stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return network


def _fastest(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if device.type == "cpu":
        asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public question for it
        if any(getattr(torch.cpu, ask, lambda: False)() for ask in asks):
            return torch.bfloat16
    return None


def _parameter(model: nn.Module) -> Tensor:
    return next(model.parameters(), torch.empty(0))
