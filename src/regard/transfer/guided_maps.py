"""Maps of a network in training, differentiable by its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regard.errors import InputError, unknown
from regard.logits import checked_labels, class_logits
from regard.maps import MapTaps, Taps, last_features
from regard.maps.layers import find_layers, hookable, names_within
from regard.maps.method import promote
from regard.maps.pooled import Pooled, logits_on, pooled_features
from regard.modes import eager_evaluation
from regard.stages import stages
from regard.with_attention import named_layers

GuidedMaps = Literal["cam", "gradcam", "input_gradient", "attention", "gate"]
"""The maps that guidance can act on, see `make_guide`."""


DERIVED_MAPS = ("gradcam", "input_gradient")
"""Maps that are gradients, so that a loss on them needs second derivatives."""


class Guide:
    """Computes the maps (N, h, w) of a network, by layer, in the graph of a forward pass inside the context::

        with guide:
            logits = model(images)
        maps = guide.maps(logits, labels, images)

    Args:
        by_layer: computes the maps from logits, labels and images.
        taps: read the features or maps of layers.
        of_images: whether the maps are gradients by the images, which then have to require a gradient.
    """

    def __init__(
        self,
        by_layer: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]],
        taps: Taps | None = None,
        *,
        of_images: bool = False,
    ) -> None:
        self._by_layer, self.taps, self.of_images = by_layer, taps, of_images

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
            labels: (N,), the classes of the maps; or (N, K), the share of each class in the map.
            images: (N, 3, H, W).
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._by_layer(logits, labels, images)

    def clear(self) -> None:
        """Releases the features and with them the graph of the step."""
        if self.taps is not None:
            self.taps.clear()


def make_guide(
    model: nn.Module,
    maps: GuidedMaps = "cam",
    layers: Sequence[str] | None = None,
    *,
    detach: bool = False,
    size: tuple[int, int],
) -> Guide:
    """Creates the guide of a network for one kind of maps.

    - 'cam': class activation maps of the label (Zhou et al., arXiv 1512.04150), the contribution of each pixel to the
      class score: `relu(sum_c W[y, c] F_c) / (h w)`, with the features F (N, C, h, w) that the network pools and the
      weights W of its classifier. This is Grad-CAM at these features, without a second derivative.
    - 'gradcam': Grad-CAM (arXiv 1610.02391) of the label at any layer; a loss on it needs second derivatives.
    - 'input_gradient': the length of the gradient of the sum of all log-probabilities by each pixel (Ross et al., arXiv
      1703.03717), `sqrt(sum_c (d sum_k log p_k / d x_c)^2)`; with the 'rrr' loss this is their method. It does not
      depend on the label.
    - 'attention': the attention maps of layers, `mean_c |A|^2` (Attention Transfer, arXiv 1612.03928).
    - 'gate': the spatial gates of attention modules: the mean of `gate_values` over the channels that are gated by
      pixel. If a channel gate multiplies the spatial gate, as in CBAM, the map is the spatial gate times a constant per
      image. The gate is computed a second time, without updating the running statistics of batch norms again.

    Args:
        model: the network to train.
        maps: 'cam', 'gradcam', 'input_gradient', 'attention' or 'gate'.
        layers: names of layers, for gradcam, attention and gate; None: the last spatial features (gate: the last stage
            that has a spatial gate).
        detach: for cam and gradcam, whether the weights of the channels get no gradient, so that guidance changes the
            features but not how they are combined.
        size: (H, W) of the images.

    Raises:
        InputError: unknown maps, layers or `detach` for maps that have none, a layer that does not exist, a network
            without spatial features, and for 'cam' one that does not pool and classify them linearly.
    """
    if maps not in get_args(GuidedMaps):
        raise unknown("kind of maps to guide", maps, get_args(GuidedMaps))
    if layers is not None and maps in ("cam", "input_gradient"):
        raise InputError(f"maps {maps} have a fixed layer; leave layers out, or use gradcam, attention or gate")
    if detach and maps not in ("cam", "gradcam"):
        raise InputError(f"maps {maps} have no channel weights to detach; leave detach out")
    if isinstance(layers, str) or (layers is not None and not layers):
        raise InputError(f"layers to guide are {layers!r}; give a list of names, such as [layer4]")
    if layers is not None:
        find_layers(model, layers)
    if maps == "input_gradient":
        return Guide(_input_gradients, of_images=True)
    if maps == "cam":
        pooled = pooled_features(model, size)
        taps = Taps(model, pooled.layer)
        return Guide(partial(_class_activation_maps, taps, pooled, detach), taps)
    if maps == "gate":
        gates = GateTaps(model, spatial_gate_modules(model, layers, size))
        return Guide(partial(_tapped_maps, gates), gates)
    names = last_features(hookable(model)) if layers is None else layers
    if maps == "gradcam":
        taps = Taps(model, names)
        return Guide(partial(_grad_cams, taps, detach), taps)
    attention = MapTaps(model, names)
    return Guide(partial(_tapped_maps, attention), attention)


def _class_activation_maps(
    taps: Taps, pooled: Pooled, detach: bool, logits: Tensor, labels: Tensor, images: Tensor
) -> dict[str, Tensor]:
    (layer, output), *_ = taps.features.items()
    features = pooled.features(promote(output))
    weights = class_shares(labels, logits).to(features.dtype)
    if pooled.classifier:
        classifier = cast(nn.Linear, hookable(taps.model).get_submodule(pooled.classifier)).weight
        weights = weights @ (classifier.detach() if detach else classifier).flatten(1).to(features.dtype)
    maps = torch.einsum("nc,nchw->nhw", weights, features) / features[0, 0].numel()
    return {layer: maps.relu()}


def _grad_cams(taps: Taps, detach: bool, logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
    features = taps.features
    score = (class_shares(labels, logits) * logits).sum()
    gradients = torch.autograd.grad(score, list(features.values()), create_graph=not detach, retain_graph=True)
    return {
        name: torch.einsum("nc,nchw->nhw", promote(gradient).mean((2, 3)), promote(activations)).relu()
        for (name, activations), gradient in zip(features.items(), gradients, strict=True)
    }


def _input_gradients(logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
    score = promote(class_logits(logits)).log_softmax(1).sum()
    (gradients,) = torch.autograd.grad(score, images, create_graph=True)
    return {"input": torch.linalg.vector_norm(promote(gradients), dim=1)}


def _tapped_maps(taps: MapTaps, logits: Tensor, labels: Tensor, images: Tensor) -> dict[str, Tensor]:
    return taps.maps


class GateTaps(MapTaps):
    """Reads the spatial gates of attention modules instead of attention maps."""

    def _read(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        gate = _spatial_gate(module, *args)
        if gate is not None:
            self._record(name, gate, gate, None)


def spatial_gate_modules(model: nn.Module, layers: Sequence[str] | None, size: tuple[int, int]) -> list[str]:
    """The names of attention modules with a spatial gate, in the order in which they run on an image of size (H, W).

    Only those in `layers`, by default in the last stage that has any; raises InputError if there are none.
    """
    network = hookable(model)
    gated: list[str] = []

    def check(name: str, module: nn.Module, args: Any, _output: Any) -> None:
        if _spatial_gate(module, *args) is not None:
            gated.append(name)

    like = next(network.parameters())
    with eager_evaluation(network), ExitStack() as hooks:
        for name, module in _modules_with_gate_values(network):
            hooks.callback(module.register_forward_hook(partial(check, name)).remove)
        logits_on(network, torch.zeros(1, 3, *size, device=like.device, dtype=like.dtype))
    if not gated:
        raise InputError(
            f"{type(network).__name__} has no attention module with a spatial gate, such as cbam, bam, sge, shuffle or "
            "triplet; use one (model.attention), or other maps"
        )
    if layers is None:
        with suppress(InputError):  # the network has no known stages
            for stage in reversed(stages(network)):
                if any(f"{name}.".startswith(f"{stage}.") for name in gated):
                    layers = [stage]
                    break
    return gated if layers is None else names_within(layers, gated, "attention module with a spatial gate")


def _modules_with_gate_values(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules with a method `gate_values`."""
    names: list[str] = []
    for name, module in named_layers(model):
        if callable(getattr(module, "gate_values", None)) and not any(name.startswith(f"{outer}.") for outer in names):
            names.append(name)
            yield name, module


def _spatial_gate(module: nn.Module, x: Tensor) -> Tensor | None:
    """The mean of a module's gate values over the channels (N, H, W); None if it has no gate by pixel."""
    try:
        with _frozen_statistics(module):
            values: Tensor = cast(Any, module).gate_values(x)
    except InputError:  # it has no gate, such as additive global context
        return None
    if values.ndim != 4 or values.shape[2:] != x.shape[2:] or x.shape[2] * x.shape[3] == 1:
        return None
    by_pixel = getattr(module, "by_pixel", None)
    return promote(values if by_pixel is None else values[:, by_pixel]).mean(1)


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Inside the context, batch norms in training mode do not update their running statistics."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def class_shares(labels: Tensor, logits: Tensor) -> Tensor:
    """The weight of each logit in the explained score (N, K): one-hot labels (N,), or the labels (N, K) themselves.

    For the single output of a binary network (N, 1): 1 for class 1 and -1 for class 0.
    """
    labels = checked_labels(labels, logits)
    if not labels.is_floating_point():
        labels = nn.functional.one_hot(labels, class_logits(logits).shape[1])
    shares = labels.to(logits.dtype)
    return shares[:, 1:] - shares[:, :1] if logits.shape[1] == 1 else shares
