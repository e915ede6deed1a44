"""Maps of a network in training, through which a loss on them reaches its parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from regard.errors import InputError, unknown
from regard.logits import checked_labels, class_logits
from regard.maps import MapTaps, Taps, last_features
from regard.maps.layers import find_layers, unwrapped
from regard.maps.method import wide
from regard.maps.pooled import pooled_features

GuidedMaps = Literal["cam", "gradcam", "input_gradient", "attention"]


DERIVED_MAPS = ("gradcam", "input_gradient")
"""Maps that are gradients, so that a loss on them needs second derivatives."""


class Guide(ABC):
    """The maps of a network of a forward pass within the context, (N, h, w) by layer, in the graph of that pass.

        with guide:
            logits = model(images)
        maps = guide.maps(logits, labels, images)

    Attributes:
        of_images: whether the maps are gradients by the images, which have to require one.
    """

    of_images = False
    taps: Taps | None = None

    def __enter__(self) -> Self:
        if self.taps is not None:
            self.taps.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.taps is not None:
            self.taps.__exit__(*error)

    def maps(self, logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
        """The maps by layer.

        Args:
            logits: (N, K), or (N, 1) of a binary network.
            labels: (N,), whose classes' maps are taken; or (N, K), the share of each class in the map.
            images: (N, 3, H, W).
        """
        with torch.autocast(images.device.type, enabled=False):
            return self.by_layer(logits, labels, images)

    def clear(self) -> None:
        """Forgets the features, or the graph of a step would be held until the next."""
        if self.taps is not None:
            self.taps.clear()

    @abstractmethod
    def by_layer(self, logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
        """See `maps`; called without autocast."""


class ClassActivationMaps(Guide):
    """Class activation maps of the label (Zhou et al., arXiv 1512.04150): what every pixel adds to its class score.

    `relu(sum_c W[y, c] F_c) / (h w)`, of the features F (N, C, h, w) that the network pools and the weights W of its
    classifier. This is Grad-CAM at these features, without a second derivative.

    Args:
        detach: no gradient to the classifier's weights: the features have to change, not how they are read.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int], *, detach: bool = False) -> None:
        self.model, self.detach = model, detach
        self.pooled = pooled_features(model, size)
        self.taps: Taps = Taps(model, self.pooled.layer)

    def by_layer(self, logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
        (layer, output), *_ = self.taps.features.items()
        features = self.pooled.features(wide(output))
        weights = class_shares(labels, logits).to(features.dtype)
        if self.pooled.classifier:
            classifier = cast(nn.Linear, unwrapped(self.model).get_submodule(self.pooled.classifier))
            rows = classifier.weight.detach() if self.detach else classifier.weight
            weights = weights @ rows.flatten(1).to(features.dtype)
        maps = torch.einsum("nc,nchw->nhw", weights, features) / features[0, 0].numel()
        return {layer: maps.relu()}


class GradientActivationMaps(Guide):
    """Grad-CAM (arXiv 1610.02391) of the label at any layer, in the graph: a loss on it needs second derivatives.

    Args:
        layers: where; None for the last features.
        detach: no gradient to the weights of the channels, which depend on the layers behind.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None, *, detach: bool = False) -> None:
        self.detach = detach
        self.taps: Taps = Taps(model, last_features(unwrapped(model)) if layers is None else layers)

    def by_layer(self, logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
        features = self.taps.features
        score = (class_shares(labels, logits) * logits).sum()
        gradients = torch.autograd.grad(score, list(features.values()), create_graph=not self.detach, retain_graph=True)
        return {
            name: torch.einsum("nc,nchw->nhw", wide(gradient).mean((2, 3)), wide(activations)).relu()
            for (name, activations), gradient in zip(features.items(), gradients, strict=True)
        }


class InputGradientMaps(Guide):
    """The length of the gradient of the sum of all log-probabilities by each pixel (Ross et al., arXiv 1703.03717).

    `sqrt(sum_c (d sum_k log p_k / d x_c)^2)`: the 'rrr' loss of it is theirs. It does not depend on the label.
    """

    of_images = True

    def by_layer(self, logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
        score = wide(class_logits(logits)).log_softmax(1).sum()
        (gradients,) = torch.autograd.grad(score, images, create_graph=True)
        return {"input": torch.linalg.vector_norm(wide(gradients), dim=1)}


class AttentionMaps(Guide):
    """The activation-based attention maps of layers (Attention Transfer, arXiv 1612.03928): `mean_c |A|^2`.

    Args:
        layers: where; None for the last features.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None) -> None:
        self.taps: MapTaps = MapTaps(model, last_features(unwrapped(model)) if layers is None else layers)

    def by_layer(self, logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
        return self.taps.maps


def make_guide(
    model: nn.Module,
    maps: GuidedMaps = "cam",
    layers: Sequence[str] | None = None,
    *,
    detach: bool = False,
    size: tuple[int, int],
) -> Guide:
    """The maps of a network by name.

    Args:
        model: the network that is trained.
        maps: 'cam', 'gradcam', 'input_gradient' or 'attention'.
        layers: names of layers, for gradcam and attention; None for the last spatial features.
        detach: for cam and gradcam, without a gradient to the weights of the channels.
        size: (H, W) of the images.

    Raises:
        InputError: maps that there are not, layers or `detach` for maps that have none, a layer that does not exist, a
            network without spatial features, and for 'cam' one that does not pool and classify them linearly.
    """
    if maps not in get_args(GuidedMaps):
        raise unknown("kind of maps to guide", maps, get_args(GuidedMaps))
    if layers is not None and maps in ("cam", "input_gradient"):
        raise InputError(f"maps {maps} are taken at one place; leave layers out, or take gradcam or attention")
    if detach and maps not in ("cam", "gradcam"):
        raise InputError(f"maps {maps} have no weights of channels to detach; leave detach out")
    if isinstance(layers, str) or (layers is not None and not layers):
        raise InputError(f"layers to guide are {layers!r}; give a list of names, such as [layer4]")
    if layers is not None:
        find_layers(model, list(layers))
    if maps == "cam":
        return ClassActivationMaps(model, size, detach=detach)
    if maps == "gradcam":
        return GradientActivationMaps(model, layers, detach=detach)
    return InputGradientMaps() if maps == "input_gradient" else AttentionMaps(model, layers)


def class_shares(labels: Tensor, logits: Tensor) -> Tensor:
    """The factor of each logit in the score whose maps are taken, (N, K): 1 for the label; for (N, K), the labels.

    Of a binary network's one output it is 1 for class 1 and -1 for class 0.
    """
    labels = checked_labels(labels, logits)
    if not labels.is_floating_point():
        labels = nn.functional.one_hot(labels, class_logits(logits).shape[1])
    shares = labels.to(logits.dtype)
    return shares[:, 1:] - shares[:, :1] if logits.shape[1] == 1 else shares
