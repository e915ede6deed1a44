"""Which features a network pools over all pixels and classifies linearly, so that its class activation maps are known.

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
from regard.maps.layers import readable
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
    """The features whose mean over the pixels is what a linear layer classifies.

    Attributes:
        layer: name of the layer that gives them.
        activation: what the network does to its output before the pooling, by name; "" for nothing.
        classifier: name of the linear layer (or 1 x 1 convolution); "" if the mean itself is the logits, as in
            SqueezeNet.
    """

    layer: str
    activation: str
    classifier: str

    def features(self, output: Tensor) -> Tensor:
        """The features (N, C, h, w) from the output of the layer."""
        return _ACTIVATIONS[self.activation](output)


def pooled_features(model: nn.Module, size: tuple[int, int]) -> Pooled:
    """Finds the features that a network pools and classifies, by running it once on noise.

    Args:
        model: may be wrapped, not compiled.
        size: (H, W) of its images.

    Raises:
        InputError: the network does something else between its last spatial features and the logits, or they have one
            pixel; or it does not run on such an image.
    """
    model = readable(model)
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.empty(0))
    noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    means: list[tuple[str, str, Tensor]] = []
    inputs: list[tuple[str, Tensor, Tensor]] = []

    def read(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and output.shape[2:] == (1, 1)):
            inputs.append((name, args[0].flatten(1), output.flatten(1)))
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            for activation, function in _ACTIVATIONS.items():
                means.append((name, activation, function(output).mean((2, 3))))

    with ExitStack() as hooks, eager_evaluation(model), torch.autocast(like.device.type, enabled=False):
        for name, module in named_layers(model):
            if name:
                hooks.callback(module.register_forward_hook(partial(read, name)).remove)
        logits = logits_on(model, noise.to(like.device, like.dtype))
    # What the logits are a linear layer of, the last first; or they are the mean of features themselves.
    classified = [(name, features) for name, features, output in reversed(inputs) if _same(output, logits)]
    for classifier, pooled in [*classified, ("", logits)]:
        for activation in _ACTIVATIONS:  # the plain output first, of the last layer that gives it
            for layer, function, mean in reversed(means):
                if function == activation and _same(mean, pooled):
                    return Pooled(layer, activation, classifier)
    raise InputError(
        f"{type(model).__name__} does not classify the mean of its last features by one linear layer, so its class "
        "activation maps are not known; take Grad-CAM (maps gradcam), or larger images if its last features have one "
        "pixel"
    )


def logits_on(model: nn.Module, images: Tensor, network: str = "network", hint: str = "") -> Tensor:
    """The logits of a model for images of a size that it may not know.

    Args:
        model: images (N, 3, H, W) -> logits.
        images: (N, 3, H, W).
        network: what the error calls the model.
        hint: more that the error says to do.

    Raises:
        InputError: it does not run on them.
    """
    try:
        return logits_of(model(images))
    except InputError:
        raise
    except Exception as error:  # a network may raise anything on images of a size that it does not know
        size = f"{images.shape[2]} x {images.shape[3]}"
        raise InputError(
            f"the {network} does not run on an image of {size} pixels ({one_line(error)[:200]}); give it images of a "
            f"size that it knows{hint}"
        ) from error


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-3 * other.abs().max())
