"""Gather-excite."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import kernels
from regard.attention.gated import GatedAttention, check_features
from regard.attention.gates import Gate
from regard.attention.modules.sizes import hidden_units
from regard.attention.registry import register
from regard.errors import InputError, unknown

Variant = Literal["theta-minus", "theta", "theta-plus"]
_VARIANTS = ("theta-minus", "theta", "theta-plus")


@register("ge")
class GatherExcite(GatedAttention):
    """Gather-excite (GENet, arXiv 1810.12348, sections 3 and 4).

    `u = nearest(excite(gather(x)))`: one value per channel and region of `extent` x `extent` pixels, upsampled by
    nearest-neighbour interpolation.

    - theta-minus gathers with average pooling, kernel size `2 extent - 1`, stride `extent`, without parameters; the
      mean excludes padding.
    - theta gathers with 3 x 3 depth-wise convolutions with stride 2, one for every factor 2 of the extent, each
      followed by batch norm, with ReLU in between. For the global extent it is one convolution whose kernel has the
      size of the features.
    - theta-plus gathers like theta and excites with `W2 relu(W1 relu(g) + b1) + b2` over the channels.

    The depth-wise convolutions start normal with variance 2 / fan-in, `W1` and `W2` with standard deviation 0.01 and
    the biases at 0, as in the authors' models. In training, the batch norm after a global gather needs at least two
    images.

    Args:
        channels: C.
        extent: 0 for all pixels (global), or 2, 4, 8, …
        variant: 'theta-minus', 'theta' or 'theta-plus'.
        size: (H, W) of the features, or one number for both; only for the convolution with global extent, which has one
            weight per pixel. Larger features have several regions.
        reduction: the hidden layer of theta-plus has `max(C // reduction, 1)` units.
        gate: turns the logits into factors.

    Shape: (N, C, H, W) -> (N, C, H, W).

    Parameters: theta-minus none; theta 11 C log2(extent), or C (H W + 2) for the global extent; theta-plus
    2 C K + K + C more for K hidden units; plus the gate's parameters.

    Raises:
        InputError: an extent that is not a power of 2, an unknown variant, a missing or unused size, or features
            smaller than the size.
    """

    def __init__(
        self,
        channels: int,
        *,
        extent: int = 0,
        variant: Variant = "theta-minus",
        size: int | tuple[int, int] | None = None,
        reduction: int = 16,
        gate: Gate | str = "sigmoid",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if variant not in _VARIANTS:
            raise unknown("variant of gather-excite", variant, _VARIANTS)
        if extent != 0 and (extent < 2 or extent & (extent - 1)):
            raise InputError(f"the extent of gather-excite is 0 (all pixels) or a power of 2, not {extent}")
        needs_size = variant != "theta-minus" and extent == 0
        if needs_size and size is None:
            raise InputError(
                f"gather-excite {variant} with extent 0 has one weight per pixel; give size=(H, W), or an extent of 2, "
                "4 or 8"
            )
        if size is not None and not needs_size:
            raise InputError(f"gather-excite {variant} with extent {extent} has no use for size={size!r}; leave it out")
        super().__init__(channels, gate=gate, device=device, dtype=dtype)
        self.extent = extent
        self.variant = variant
        self.size = (size, size) if isinstance(size, int) else size
        self.gather = nn.Sequential()
        self.excite = nn.Sequential()

        factory: Any = {"device": device, "dtype": dtype}
        depthwise: Any = {"groups": channels, "bias": False, **factory}
        if self.size is not None:
            conv = nn.Conv2d(channels, channels, self.size, **depthwise)
            self.gather.extend((conv, nn.BatchNorm2d(channels, **factory)))
        elif variant != "theta-minus":
            for step in range(extent.bit_length() - 1):
                conv = nn.Conv2d(channels, channels, 3, 2, padding=1, **depthwise)
                self.gather.extend((*([nn.ReLU()] if step else []), conv, nn.BatchNorm2d(channels, **factory)))
        if variant == "theta-plus":
            hidden = hidden_units(channels, reduction)
            first, second = nn.Conv2d(channels, hidden, 1, **factory), nn.Conv2d(hidden, channels, 1, **factory)
            self.excite.extend((nn.ReLU(), first, nn.ReLU(), second))
        self._start()

    def _start(self) -> None:
        for layer in self.gather:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        for layer in self.excite:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    @property
    def _uses_channel_means(self) -> bool:
        return self.variant == "theta-minus" and self.extent == 0

    def _gather(self, x: Tensor) -> Tensor:
        """One value per channel and region, (N, C, h, w), from the features (N, C, H, W)."""
        if self.variant == "theta-minus":
            window, stride = 2 * self.extent - 1, self.extent
            return F.avg_pool2d(x, window, stride, padding=window // 2, count_include_pad=False)
        if self.size is not None and isinstance(x, Tensor):  # while torch.fx traces, x has no shape
            (height, width), (h, w) = self.size, x.shape[2:]
            if not (h >= height and w >= width):
                raise InputError(
                    f"gather-excite was created for features of {height} x {width} pixels, and got {h} x {w}; give it "
                    "that size"
                )
        return self.gather(x)

    def logits(self, x: Tensor) -> Tensor:
        if self._uses_channel_means:
            return kernels.channel_mean(x)[:, :, None, None]
        return F.interpolate(self.excite(self._gather(x)), size=x.shape[2:], mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        if not self._uses_channel_means:
            return super().forward(x)
        check_features(self, x)
        return kernels.scale(x, self.gate_values(x))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, extent={self.extent}, variant={self.variant!r}"
