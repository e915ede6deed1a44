"""Class activation maps (CAMs)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.maps.features import Reshape
from regard.maps.layers import Layer
from regard.maps.method import Fuse, MapMethod


class GradCAM(MapMethod):
    """Grad-CAM: the sum of the channels, each weighted by the mean of its gradients; negative values become 0.

    Source: Selvaraju et al., "Grad-CAM" (ICCV 2017, arXiv 1610.02391), equations 1 and 2.

    Example::

        maps = GradCAM(model)(images)               # for the predicted classes
        maps = GradCAM(model, "layer3")(images, 7)  # for class 7
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return _weighted_sum(activations, gradients.mean((2, 3)))


class GradCAMPlusPlus(MapMethod):
    """Grad-CAM++: like Grad-CAM, but a channel's weight is a sum of its positive gradients, weighted pixel by pixel.

    With activations A and gradients G of a channel, and S the sum of A over all pixels, the channel's weight is the sum
    of `alpha relu(G)` over the pixels, where `alpha = G^2 / (2 G^2 + S G^3)`. This holds for a score that is the
    exponential of the output; the exponential, a constant factor of the map, is left out.

    Source: Chattopadhyay et al., "Grad-CAM++" (WACV 2018, arXiv 1710.11063), equations 7 and 19.

    `alpha relu(G)` is computed as `relu(G) / (2 + S G)`, which is exact for small gradients too. The grad-cam package
    adds 1e-6 to the unreduced denominator, which outweighs G^2 for gradients below 1e-3. The torchcam package (0.5)
    omits the division, so its channel weights are sums of `G^2 relu(G)`.

    Args:
        normalize_alpha: divide alpha by its sum over the pixels of the channel where G is positive. The authors' code
            does so, the paper does not.
        model, layer, fuse, reshape: see `MapMethod`.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        normalize_alpha: bool = False,
        fuse: Fuse = "mean",
        reshape: Reshape | None = None,
    ) -> None:
        super().__init__(model, layer, fuse=fuse, reshape=reshape)
        self.normalize_alpha = normalize_alpha

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        positive = gradients.clamp(min=0)
        # Negative activations can make the denominator 0, where alpha is undefined.
        alpha = (1 / (2 + activations.sum((2, 3), keepdim=True) * positive)).nan_to_num(0, 0, 0)
        weights = (alpha * positive).sum((2, 3))
        if self.normalize_alpha:
            sums = (alpha * (positive > 0)).sum((2, 3))
            weights = weights / sums.where(sums != 0, 1)
        return _weighted_sum(activations, weights)


class HiResCAM(MapMethod):
    """HiResCAM: activations times gradients, pixel by pixel, summed over the channels; negative values become 0.

    For a network that ends in one linear layer on the features, the values before the ReLU add up to the class score
    minus its bias, so the map highlights only pixels that the network used.

    `relu(sum_c(A G))`. Source: Draelos and Carin, "Use HiResCAM instead of Grad-CAM" (2020, arXiv 2011.08891).
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return (activations * gradients).sum(1)


class LayerCAM(MapMethod):
    """Layer-CAM: activations times positive gradients, pixel by pixel, summed over the channels.

    `relu(sum_c(relu(G) A))`, which suits early layers too, where gradients differ from pixel to pixel. Source: Jiang et
    al., "LayerCAM" (IEEE Transactions on Image Processing 30, 2021).
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return (gradients.clamp(min=0) * activations).sum(1)


class XGradCAM(MapMethod):
    """XGrad-CAM: like Grad-CAM, but the mean of a channel's gradients is weighted by its activations.

    The weight of a channel is `sum(G A) / sum(A)` over the pixels, and 0 if its activations add up to 0. No epsilon is
    added to the sum. (The authors' code adds 1e-6, the grad-cam package 1e-7, the torchcam package 1e-8, which changes
    maps where the sum nearly vanishes.)

    Source: Fu et al., "Axiom-based Grad-CAM" (BMVC 2020, arXiv 2008.02312).
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        sums = activations.sum((2, 3))
        weights = (gradients * activations).sum((2, 3)) / sums
        return _weighted_sum(activations, weights.masked_fill(sums == 0, 0))


def _weighted_sum(activations: Tensor, weights: Tensor) -> Tensor:
    """The sum of the channels (N, C, H, W), weighted by (N, C)."""
    return torch.einsum("nc,nchw->nhw", weights, activations)
