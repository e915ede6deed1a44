"""Class activation maps (CAMs)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.maps.features import Reshape
from regard.maps.layers import Layer
from regard.maps.method import Fuse, MapMethod


class GradCAM(MapMethod):
    """Grad-CAM: the activations, each channel weighted by the mean of its gradients, summed; negative parts set to 0.

    Source: Selvaraju et al., "Grad-CAM" (ICCV 2017, arXiv 1610.02391), equations 1 and 2.

    Example::

        maps = GradCAM(model)(images)               # of the predicted classes
        maps = GradCAM(model, "layer3")(images, 7)  # of class 7
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return _weighted(activations, gradients.mean((2, 3)))


class GradCAMPlusPlus(MapMethod):
    """Grad-CAM++: as Grad-CAM, but with positive gradients only, each weighted by how isolated it is.

    With activations A and gradients G of a channel, and S the sum of A over all pixels, the channel's weight is the sum
    of `alpha relu(G)` over the pixels, where `alpha = G^2 / (2 G^2 + S G^3)`. This holds for a score that is the
    exponential of the output; the exponential itself, one factor for the whole map, is left out.

    Source: Chattopadhyay et al., "Grad-CAM++" (WACV 2018, arXiv 1710.11063), equations 7 and 19.

    Here `alpha relu(G)` is reduced to `relu(G) / (2 + S G)`, exact for small gradients too. The grad-cam package adds
    1e-6 to the denominator before that, which outweighs G^2 where gradients are below 1e-3. The torchcam package (0.5)
    loses the division, so that a channel's weight there is the sum of `G^2 relu(G)`.

    Args:
        normalize_alpha: divide alpha by its sum over the pixels of the channel where G is positive. The authors' code
            does so, the paper does not. The others are those of `MapMethod`.
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
        # Activations below 0 can bring the denominator to 0; alpha has no value there.
        alpha = (1 / (2 + activations.sum((2, 3), keepdim=True) * positive)).nan_to_num(0, 0, 0)
        weights = (alpha * positive).sum((2, 3))
        if self.normalize_alpha:
            sums = (alpha * (positive > 0)).sum((2, 3))
            weights = weights / sums.where(sums != 0, 1)
        return _weighted(activations, weights)


class HiResCAM(MapMethod):
    """HiResCAM: activations times gradients, pixel by pixel, summed over the channels; negative parts set to 0.

    For a network that ends in one linear layer on the features, the map before negative parts are set to 0 adds up to
    the class score less its bias, so it shows no pixel that the network did not use.

    `relu(sum_c(A G))`. Source: Draelos and Carin, "Use HiResCAM instead of Grad-CAM" (2020, arXiv 2011.08891).
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return (activations * gradients).sum(1)


class LayerCAM(MapMethod):
    """Layer-CAM: activations times positive gradients, pixel by pixel, summed over the channels.

    `relu(sum_c(relu(G) A))`: made for early layers too, whose pixels differ in their gradients. Source: Jiang et al.,
    "LayerCAM" (IEEE Transactions on Image Processing 30, 2021).
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return (gradients.clamp(min=0) * activations).sum(1)


class XGradCAM(MapMethod):
    """XGrad-CAM: as Grad-CAM, with the mean of a channel's gradients weighted by its activations.

    The weight of a channel is `sum(G A) / sum(A)` over the pixels, and 0 if its activations add up to 0. No epsilon is
    added. (The authors' code adds 1e-6 to the sum, the grad-cam and torchcam packages 1e-7 and 1e-8, which shows where
    it nearly vanishes.)

    Source: Fu et al., "Axiom-based Grad-CAM" (BMVC 2020, arXiv 2008.02312).
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        sums = activations.sum((2, 3))
        weights = (gradients * activations).sum((2, 3)) / sums
        return _weighted(activations, weights.masked_fill(sums == 0, 0))


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """The channels (N, C, H, W) added up with weights (N, C)."""
    return torch.einsum("nc,nchw->nhw", weights, activations)
