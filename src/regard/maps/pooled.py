"""Finds the features that a network averages over all pixels and classifies linearly: those of class activation maps.

Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016, arXiv 1512.04150).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError, one_line
from regard.logits import logits_of
from regard.maps.layers import hookable
from regard.modes import eager_evaluation
from regard.with_attention import named_layers

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda features: features,
    "relu": torch.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
}


class Pooled(NamedTuple):
    """The features whose mean over the pixels a linear layer classifies.

    Attributes:
        layer: name of the layer whose output they are.
        activation: name of the activation between the layer and the pooling; "" for none.
        classifier: name of the linear layer or 1 x 1 convolution; "" if the mean is the logits, as in SqueezeNet.
    """

    layer: str
    activation: str
    classifier: str

    def features(self, output: Tensor) -> Tensor:
        """The features (N, C, h, w), from the output of the layer."""
        return _ACTIVATIONS[self.activation](output)


def pooled_features(model: nn.Module, size: tuple[int, int]) -> Pooled:
    """Finds the features that a network pools and classifies, by running it once on noise of size (H, W).

    Raises InputError if there is more than pooling and one linear layer between its last spatial features and the
    logits, or if these features have one pixel.
    """
    model = hookable(model)
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.empty(0))
    noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    means: list[tuple[str, str, Tensor]] = []  # layer, activation, mean of the activated output
    classifiers: list[tuple[str, Tensor, Tensor]] = []  # layer, input, output

    def record(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and output.shape[2:] == (1, 1)):
            classifiers.append((name, args[0].flatten(1), output.flatten(1)))
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            for activation, function in _ACTIVATIONS.items():
                means.append((name, activation, function(output).mean((2, 3))))

    with ExitStack() as hooks, eager_evaluation(model), torch.autocast(like.device.type, enabled=False):
        for name, module in named_layers(model):
            if name:
                hooks.callback(module.register_forward_hook(partial(record, name)).remove)
        logits = logits_on(model, noise.to(like.device, like.dtype))
    # The logits are the output of a linear layer (the last one first), or the mean of features.
    candidates = [(name, features) for name, features, output in reversed(classifiers) if _allclose(output, logits)]
    for classifier, pooled in [*candidates, ("", logits)]:
        for activation in _ACTIVATIONS:  # "" first: without an activation
            for layer, function, mean in reversed(means):
                if function == activation and _allclose(mean, pooled):
                    return Pooled(layer, activation, classifier)
    raise InputError(
        f"{type(model).__name__} does not classify the mean of its last features by one linear layer, so its class "
        "activation maps are not known; use Grad-CAM (maps gradcam), or larger images if its last features have one "
        "pixel"
    )


def logits_on(model: nn.Module, images: Tensor, network: str = "network", hint: str = "") -> Tensor:
    """The logits of a model; an InputError about the `network`, with the `hint`, if it does not run."""
    try:
        return logits_of(model(images))
    except InputError:
        raise
    except Exception as error:  # a network may raise anything on images of an unsupported size
        size = f"{images.shape[2]} x {images.shape[3]}"
        raise InputError(
            f"the {network} does not run on an image of {size} pixels ({one_line(error)[:200]}); give it images of a "
            f"size that it supports{hint}"
        ) from error


def _allclose(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-3 * b.abs().max())
