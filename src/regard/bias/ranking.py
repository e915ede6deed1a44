"""Ranks of pixels, with ties, many images at once."""

from __future__ import annotations

import torch
from torch import Tensor


class Ranking:
    """The pixels of each image from the highest value to the lowest, and which of them are inside its region.

    Args:
        values: (N, P), without NaN.
        inside: (N, P), bool.
    """

    def __init__(self, values: Tensor, inside: Tensor) -> None:
        self.values = values
        self.inside = inside
        self.sorted, order = values.sort(1, descending=True)
        self.sorted_inside = inside.gather(1, order)

    def auc(self) -> Tensor:
        """The share of pairs (pixel inside, pixel outside) in which the one inside is higher; equal pairs count half.

        In whole numbers up to the last division. NaN where there is no pair. (N,)
        """
        n, pixels = self.values.shape
        inside = self.sorted_inside
        place = torch.arange(pixels, device=inside.device).expand(n, pixels)
        first_of_tie = torch.ones_like(inside)
        first_of_tie[:, 1:] = self.sorted[:, 1:] != self.sorted[:, :-1]
        higher = (place * first_of_tie).cummax(1).values  # how many pixels are higher than this one
        higher_inside = (inside.cumsum(1) - inside.long()).gather(1, higher)
        wins = (higher_inside * ~inside).sum(1)
        losses = ((higher - higher_inside) * inside).sum(1)
        count = inside.sum(1)
        pairs = count * (pixels - count)
        return (pairs + wins - losses).to(self.values.dtype) / (2 * pairs)

    def precision(self, k: Tensor) -> Tensor:
        """The share of the `k` highest pixels that are inside; NaN for k = 0.

        Pixels that tie for the last of the k places share them: the expected value over all orders of theirs.

        Args:
            k: (N,), whole numbers from 0 to P.
        """
        last = self.sorted.gather(1, (k - 1).clamp(min=0)[:, None])  # (N, 1), the value of the last place
        above, level = self.values > last, self.values == last
        places = k - above.sum(1)  # left for those on a level with the last
        dtype = self.values.dtype
        of_level = (places * (level & self.inside).sum(1)).to(dtype) / level.sum(1)
        return ((above & self.inside).sum(1) + of_level) / k
