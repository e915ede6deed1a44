"""Means and variances by class, accumulated batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.errors import InputError

# Columns with a smaller relative standard deviation count as constant, for float32 does not resolve it.
_CONSTANT = 2.0**-24


@dataclass(frozen=True)
class Moments:
    """Mean and variance of columns, such as channels, by class.

    Attributes:
        classes: labels of the K classes, ascending.
        images: number of images of each class, at least 1.
        mean: float64 (K, C).
        squares: float64 (K, C), the sum of the squared deviations from the mean.
    """

    classes: tuple[int, ...]
    images: tuple[int, ...]
    mean: Tensor
    squares: Tensor

    @property
    def _weights(self) -> Tensor:
        """Each class's share of the images (K, 1)."""
        images = torch.tensor(self.images, dtype=torch.float64)[:, None]
        return images / images.sum()

    @cached_property
    def overall(self) -> Tensor:
        """The mean over the images of all classes (C,)."""
        return (self._weights * self.mean).sum(0)

    @cached_property
    def between(self) -> Tensor:
        """The variance between classes (C,): that of the class means, weighted by the number of images.

        `between + within` is the variance over all images, with their number in the denominator.
        """
        return (self._weights * (self.mean - self.overall).square()).sum(0)

    @cached_property
    def within(self) -> Tensor:
        """The variance within classes (C,): the mean squared deviation from the class mean."""
        return self.squares.sum(0) / sum(self.images)

    @cached_property
    def constant(self) -> Tensor:
        """Whether a column has the same value for all images (C,), up to the precision of float32."""
        return self.between + self.within <= (_CONSTANT * self.overall).square()

    @cached_property
    def eta_squared(self) -> Tensor:
        """The share of the variance between classes (C,), in [0, 1]; NaN for a single class or a constant column."""
        share = self.between / (self.between + self.within)
        return share.where(~self.constant, torch.nan) if len(self.classes) > 1 else torch.full_like(share, torch.nan)

    @cached_property
    def standard_deviation(self) -> Tensor:
        """The sample standard deviation over the images of each class (K, C); NaN for a single image."""
        return (self.squares / (torch.tensor(self.images)[:, None] - 1)).sqrt()

    def columns(self, order: Tensor) -> Moments:
        """The moments with the columns reordered by `order` (C,)."""
        return replace(self, mean=self.mean[:, order], squares=self.squares[:, order])

    def row(self, label: int) -> Tensor:
        """The means of a class (C,); raises InputError for a class that was not counted."""
        if label not in self.classes:
            raise InputError(f"class {label} was not counted; counted are {', '.join(map(str, self.classes))}")
        return self.mean[self.classes.index(label)]


class MomentsByClass:
    """Accumulates means and variances by class, in float64; memory does not grow with the number of images.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """

    def __init__(self) -> None:
        self._images = torch.zeros(0, dtype=torch.float64)  # one row per label, from 0 on
        self._mean = self._squares = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, labels: Tensor, values: Tensor) -> None:
        """Adds the values (N, C) of images with labels (N,), at least 0."""
        values = values.detach().cpu().double()
        rows, row = labels.unique(return_inverse=True)
        missing = int(rows[-1]) + 1 - len(self._images)
        if missing > 0:
            self._images = F.pad(self._images, (0, missing))
            self._mean, self._squares = (
                torch.cat((sums.reshape(-1, values.shape[1]), values.new_zeros(missing, values.shape[1])))
                for sums in (self._mean, self._squares)
            )
        zeros = values.new_zeros(len(rows), values.shape[1])
        images = row.bincount().double()
        mean = zeros.index_add(0, row, values) / images[:, None]
        squares = zeros.index_add(0, row, (values - mean[row]).square())

        previous = self._images[rows]
        share = (images / (previous + images))[:, None]
        difference = mean - self._mean[rows]
        self._mean[rows] += difference * share
        self._squares[rows] += squares + difference.square() * previous[:, None] * share
        self._images[rows] += images

    def result(self) -> Moments:
        """The moments of the images added so far."""
        rows = self._images.nonzero()[:, 0]
        images = self._images[rows].long().tolist()
        return Moments(tuple(rows.tolist()), tuple(images), self._mean[rows], self._squares[rows])
