"""Class activation maps: what in an image speaks for a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.maps.layers import Layer, find_layers, last_stage, spatial, unwrapped
from regard.maps.resize import resized
from regard.modes import evaluation_mode


class ClassActivationMap(ABC):
    """The common path of all class activation maps that need activations and gradients of one layer.

    One forward, without a graph up to the tapped layer; one backward, from the class scores down to it. The model runs
    in evaluation mode, not compiled, and is afterwards as it was: mode of every module, hooks, gradients,
    `requires_grad`. The caller may be under `no_grad`, `inference_mode` or autocast; parameters may be frozen;
    operations after the tapped layer may work in place.

    A method is a subclass with its `combine`.

    Args:
        model: maps images to class scores (N, classes).
        layer: a name as in `model.named_modules()`, or the module itself; None: the last stage.

    Attributes:
        layer: the name of the tapped layer.
        logits: (N, classes), the scores of the last call; None before it.
        classes: (N,), the classes whose maps the last call gave; None before it.

    Raises:
        InputError: a layer the model does not have, or several.
    """

    def __init__(self, model: nn.Module, layer: Layer | None = None) -> None:
        names = list(find_layers(model, last_stage(model) if layer is None else layer))
        if len(names) != 1:
            raise InputError(f"{type(self).__name__} taps one layer; {len(names)} given: {', '.join(names)}")
        self.model = model
        self.layer = names[0]
        self.logits: Tensor | None = None
        self.classes: Tensor | None = None

    @abstractmethod
    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The map (N, H, W) from the layer's activations (N, C, H, W) and the gradients of the scores by them.

        What is negative in it is set to 0 by the caller.
        """

    def __call__(
        self, images: Tensor, classes: int | Sequence[int] | Tensor | None = None, *, upsample: bool = True
    ) -> Tensor:
        """The maps of one class an image.

        Args:
            images: (N, 3, H, W), floating point, normalised as the model wants them, on its device.
            classes: one class for all images, or one for each, (N,); None: the predicted ones.
            upsample: to the size of the images, bilinearly (`align_corners=False`); False: as large as the features.

        Returns:
            (N, H, W), at least 0, not normalised, without a graph, on the device of the images; float32, or float64 if
            the features are.

        Raises:
            InputError: images or classes of another shape, dtype, range or device; a layer that gives no features
                (N, C, H, W), does not run, or has no part in the class scores.
        """
        check_images(self.model, images)
        if any(tensor.is_inference() for tensor in chain(self.model.parameters(), self.model.buffers())):
            raise InputError("the model was made under inference_mode, so it has no gradients; make it outside")
        # inference_mode(False) would turn gradients on, hence the order.
        with torch.inference_mode(False), torch.no_grad(), evaluation_mode(self.model):
            if images.is_inference():
                images = images.clone()
            activations, logits = self._forward(images)
            chosen = check_classes(classes, logits)
            with torch.enable_grad():
                scores = logits.gather(1, chosen[:, None]).sum()
            if not scores.requires_grad:
                raise InputError(f"no gradient reaches layer {self.layer!r}; does the model run under no_grad inside?")
            (gradients,) = torch.autograd.grad(scores, activations, allow_unused=True)
            if gradients is None:
                raise InputError(f"the class scores do not depend on layer {self.layer!r}; tap another layer")
            self.logits, self.classes = logits.detach(), chosen
            dtype = torch.promote_types(activations.dtype, torch.float32)
            with torch.autocast(images.device.type, enabled=False):
                maps = self.combine(activations.detach().to(dtype), gradients.to(dtype)).clamp(min=0)
                if upsample:
                    maps = resized(maps, images.shape[-2:])
        return maps

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's activations, as the leaf of the graph that ends in the logits; and the logits."""
        tapped: list[Tensor] = []

        def start_graph(_module: nn.Module, _args: Any, output: Any) -> Tensor:
            activations = spatial(self.layer, output).detach().requires_grad_()
            tapped[:] = [activations]
            torch.set_grad_enabled(True)  # from here on; the caller's no_grad block ends it
            return activations.clone()  # what follows may work in place

        (module,) = find_layers(self.model, self.layer).values()
        handle = module.register_forward_hook(start_graph)
        try:
            with torch.compiler.set_stance("force_eager"):
                logits = unwrapped(self.model)(images)
        finally:
            handle.remove()
        if not tapped:
            raise InputError(f"layer {self.layer!r} did not run; tap a layer that runs")
        return tapped[0], check_logits(logits, images)


class GradCAM(ClassActivationMap):
    """Grad-CAM: the activations, each channel weighed by the mean of its gradients, summed; negative parts set to 0.

    Source: Selvaraju et al., "Grad-CAM" (ICCV 2017, arXiv 1610.02391), equations 1 and 2.

        maps = GradCAM(model)(images)               # of the predicted classes
        maps = GradCAM(model, "layer3")(images, 7)  # of class 7
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        weights = gradients.mean((2, 3))  # (N, C)
        return torch.einsum("nc,nchw->nhw", weights, activations)


def check_images(model: nn.Module, images: Tensor) -> None:
    """Raises InputError unless the images are floating point (N, C, H, W) on the model's device."""
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        what = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images are {what}; expected a floating-point tensor (N, C, H, W), normalised for the model")
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) == 1 and images.device not in devices:
        raise InputError(f"images are on {images.device}, the model on {devices.pop()}; move one of them")


def check_logits(logits: object, images: Tensor) -> Tensor:
    """`logits` if they are class scores (N, classes) of the images, otherwise raises InputError."""
    if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(images):
        return logits
    what = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    raise InputError(f"the model gives {what}; expected class scores ({len(images)}, classes)")


def check_classes(classes: int | Sequence[int] | Tensor | None, logits: Tensor) -> Tensor:
    """One class an image as int64 (N,), on the device of the logits; None: the predicted ones.

    Raises:
        InputError: another shape or dtype, or a class outside those of the logits.
    """
    n, count = logits.shape
    if classes is None:
        return logits.detach().argmax(1)
    given = torch.as_tensor(classes)
    if given.is_floating_point() or given.dtype == torch.bool or given.shape not in ((), (n,)):
        found = f"{str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}"
        raise InputError(f"classes are {found}; expected one whole number, or {n}, one for each image")
    if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < count:
        found = f"{int(given.min())} to {int(given.max())}" if given.ndim else f"{int(given)}"
        raise InputError(f"class {found} of a model with {count} outputs; expected 0 to {count - 1}")
    return given.to(logits.device, torch.int64).expand(n)
