"""Maps of a network in training, through which a loss on them reaches its parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regard.errors import InputError, unknown
from regard.logits import checked_labels, class_logits
from regard.maps import MapTaps, Taps, last_features
from regard.maps.layers import find_layers, unwrapped
from regard.maps.method import wide
from regard.maps.pooled import pooled_features
from regard.modes import at_rest
from regard.stages import stages
from regard.with_attention import named_layers

GuidedMaps = Literal["cam", "gradcam", "input_gradient", "attention", "gate"]
"""Maps that guidance can act on, see `make_guide`."""


DERIVED_MAPS = ("gradcam", "input_gradient")
"""Maps that are gradients, so that a loss on them needs second derivatives."""


class Guide(ABC):
    """The maps of a network of a forward pass within the context, (N, h, w) by layer, in the graph of that pass::

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


class GateMaps(Guide):
    """The spatial gates of attention modules: the mean over the channels of `gate_values`, of those gated by pixel.

    Where a channel gate multiplies the spatial one, as in CBAM, the map is the spatial gate, scaled by a number for
    each image. The gate is computed a second time, without another update of the running statistics of its batch norms.

    Args:
        layers: attention modules, or layers that contain them; None for the last stage that has any.
        size: (H, W) of the images.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None, size: tuple[int, int]) -> None:
        self.model = unwrapped(model)
        self._gates: dict[str, Tensor] = {}
        self._hooks = ExitStack()
        self.layers = tuple(_gated(self.model))
        like = next(self.model.parameters())
        with at_rest(self.model), self:  # which of them have a gate for each pixel
            self.model(torch.zeros(1, 3, *size, device=like.device, dtype=like.dtype))
        self.layers = tuple(self._gates)
        self.clear()
        if not self.layers:
            raise InputError(
                f"{type(self.model).__name__} has no attention module with a spatial gate, such as cbam, bam, sge, "
                "shuffle or triplet; take one (model.attention), or other maps"
            )
        self.layers = self._inside(layers)

    def __enter__(self) -> Self:
        for name in self.layers:
            module = self.model.get_submodule(name)
            self._hooks.callback(module.register_forward_hook(partial(self._read, name)).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def by_layer(self, logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
        return dict(self._gates)

    def clear(self) -> None:
        self._gates.clear()

    def _read(self, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        (x,) = args
        try:
            with _kept_statistics(module):
                values = cast(Any, module).gate_values(x)
        except InputError:  # it has none after all
            return
        if values.ndim == 4 and values.shape[2:] == x.shape[2:] and x.shape[2] * x.shape[3] > 1:
            by_pixel = getattr(module, "by_pixel", None)
            self._gates[name] = wide(values if by_pixel is None else values[:, by_pixel]).mean(1)

    def _inside(self, layers: Sequence[str] | None) -> tuple[str, ...]:
        """The gates in these layers."""

        def gates(layer: str) -> list[str]:
            return [name for name in self.layers if f"{name}.".startswith(f"{layer}.")]

        if layers is None:
            with suppress(InputError):  # a network without known stages
                return next((tuple(inside) for stage in reversed(stages(self.model)) if (inside := gates(stage))), ())
            return self.layers
        for layer in layers:
            if not gates(layer):
                raise InputError(
                    f"layer {layer!r} is and contains no attention module with a spatial gate; there are: "
                    f"{', '.join(self.layers)}"
                )
        return tuple(dict.fromkeys(name for layer in layers for name in gates(layer)))


def _gated(model: nn.Module) -> Iterator[str]:
    """The names of the modules that have gate values, without their parts."""
    outer: list[str] = []
    for name, module in named_layers(model):
        if callable(getattr(module, "gate_values", None)) and not any(name.startswith(f"{one}.") for one in outer):
            outer.append(name)
            yield name


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Within the context, batch norms in training do not change their running statistics."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


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
        maps: 'cam', 'gradcam', 'input_gradient', 'attention' or 'gate'.
        layers: names of layers, for gradcam, attention and gate; None for the last spatial features (gate: the last
            stage that has one).
        detach: for cam and gradcam, without a gradient to the weights of the channels.
        size: (H, W) of the images.

    Raises:
        InputError: maps that there are not, layers or `detach` for maps that have none, a layer that does not exist, a
            network without spatial features, and for 'cam' one that does not pool and classify them linearly.
    """
    if maps not in get_args(GuidedMaps):
        raise unknown("kind of maps to guide", maps, get_args(GuidedMaps))
    if layers is not None and maps in ("cam", "input_gradient"):
        raise InputError(f"maps {maps} are taken at one place; leave layers out, or take gradcam, attention or gate")
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
    if maps == "gate":
        return GateMaps(model, layers, size)
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
