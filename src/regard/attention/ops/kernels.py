"""What a set of kernels offers: the passes over whole feature maps that the operations are made of.

Features (x, y, g, dx) are (N, C, H, W) of one dtype and one memory format, contiguous or channels last. `g` is the
gradient of the output. Everything else is small, contiguous and of the sum's dtype: float64 for float64, else float32.
Places are counted p = h W + w, P = H W. Positions (`where`) are int64.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Kernels(Protocol):
    """A set of kernels for the features of one kind of device."""

    name: str
    dtypes: frozenset[torch.dtype]

    def plane_gate_forward(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        local: Tensor,
        w: Tensor,
        b: Tensor,
        eps: float,
        shuffle: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`y`, and mean and reciprocal standard deviation (N, C) of each plane (0 where the plane is not `local`).

        `y = x * gate(u)` with `u = scale * t + shift`, `t` the normalised x where `local`, else the mean of the plane;
        `gate` the product of `sigmoid(u[k])`, `u[k + 1] = w[k] u[k] + b[k]`. With `shuffle`, channel j C/2 + i of the
        product is channel 2 i + j of y. scale, shift: (C,); local: (C,) bool; w, b: (K, C).
        """

    def plane_gate_backward(
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        rstd: Tensor,
        scale: Tensor,
        shift: Tensor,
        local: Tensor,
        w: Tensor,
        b: Tensor,
        shuffle: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """dx, and image by image dscale, dshift (N, C), dw, db (N, K, C)."""

    def plane_statistics(
        self, x: Tensor, variance: bool, largest: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Mean, variance (with P - 1), largest value and the place where it comes first, (N, C) each."""

    def plane_scale(self, x: Tensor, f: Tensor) -> Tensor:
        """`x * f`, f: (N, C)."""

    def plane_dot(self, g: Tensor, x: Tensor) -> Tensor:
        """The sum of `g * x` over each plane, (N, C)."""

    def plane_combine(
        self,
        g: Tensor,
        f: Tensor,
        rest: Tensor,
        x: Tensor | None,
        slope: Tensor | None,
        peak: Tensor | None,
        where: Tensor | None,
    ) -> Tensor:
        """`g * f + rest + slope * x`, and `peak` more at the place `where`; all (N, C), the last two pairs optional."""

    def cross_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The means of the rows (N, C, H) and of the columns (N, C, W) of each plane."""

    def cross_scale(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """`x * rows * columns`, rows (N, C, H), columns (N, C, W)."""

    def cross_dot(self, g: Tensor, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of `g * x * columns` over each row (N, C, H), and of `g * x * rows` over each column (N, C, W)."""

    def cross_combine(self, g: Tensor, rows: Tensor, columns: Tensor, row_rest: Tensor, column_rest: Tensor) -> Tensor:
        """`g * rows * columns + row_rest + column_rest`."""

    def group_gate_forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, w: Tensor, b: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y, the means of the planes (N, C), and mean and standard deviation (with P - 1) of the maps (N, G).

        The map of a group of C/G channels is `s[p] = sum_c mean[c] x[c, p]`; `t = (s - mean(s)) / (std(s) + eps)`;
        `y = x * gate(weight t + bias)`. weight, bias: (G,); w, b: (K, G), as in `plane_gate_forward`.
        """

    def group_gate_backward(
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        centre: Tensor,
        spread: Tensor,
        weight: Tensor,
        bias: Tensor,
        w: Tensor,
        b: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """dx, and image by image dweight, dbias (N, G), dw, db (N, K, G)."""

    def place_statistics(self, x: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, largest value and first channel that has it, of `x * f` over the channels, (N, P); f: (N, C)."""

    def place_scale(self, x: Tensor, f: Tensor, m: Tensor) -> Tensor:
        """`x * f * m`, f: (N, C), m: (N, P)."""

    def place_dot(self, g: Tensor, x: Tensor, f: Tensor) -> Tensor:
        """The sum of `g * x * f` over the channels, (N, P)."""

    def place_plane_dot(self, g: Tensor, x: Tensor, m: Tensor, rest: Tensor, peak: Tensor, where: Tensor) -> Tensor:
        """The sum of `x * r` over each plane, (N, C), with `r = g * m + rest`, and `peak` more at channel `where`."""

    def place_combine(
        self,
        g: Tensor,
        f: Tensor,
        m: Tensor,
        rest: Tensor,
        peak: Tensor,
        where: Tensor,
        plane_rest: Tensor,
        plane_peak: Tensor,
        plane_where: Tensor,
    ) -> Tensor:
        """`f * r + plane_rest` with r as in `place_plane_dot`, and `plane_peak` more at the place `plane_where`."""

    def over_channels(self, x: Tensor, k: Tensor) -> Tensor:
        """The sum of `k * x` over the channels, (N, P); k: (N, C)."""

    def over_places(self, x: Tensor, a: Tensor) -> Tensor:
        """The sum of `a * x` over the places, (N, C); a: (N, P)."""

    def context_combine(self, g: Tensor, f: Tensor, u: Tensor, a: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`g * f + u * a + k * v`; f, u, k: (N, C), a, v: (N, P)."""


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which features of `dtype` are summed, and their statistics kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32
