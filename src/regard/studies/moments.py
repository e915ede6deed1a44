"""Means and variances by class, added up batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.errors import InputError

# A relative standard deviation that float32 does not resolve: what varies less is taken for constant.
_CONSTANT = 2.0**-24


@dataclass(frozen=True)
class Moments:
    """Mean and variance of some columns, by class.

    Attributes:
        classes: the labels of the K classes, ascending.
        images: of each class.
        count: int64 (K, C), how many values are known.
        mean: float64 (K, C); NaN where none is.
        squares: float64 (K, C), the sum of the squared deviations from the mean.
    """

    classes: tuple[int, ...]
    images: tuple[int, ...]
    count: Tensor
    mean: Tensor
    squares: Tensor

    @cached_property
    def overall(self) -> Tensor:
        """The mean over all values of all classes (C,)."""
        return (self.count * self.mean.nan_to_num()).sum(0) / self.count.sum(0)

    @cached_property
    def between(self) -> Tensor:
        """The variance between classes (C,): of the class means, each weighed by the values it stands for.

        `between + within` is the variance of all values, with their number in the denominator.
        """
        return (self.count * (self.mean - self.overall).nan_to_num().square()).sum(0) / self.count.sum(0)

    @cached_property
    def within(self) -> Tensor:
        """The variance within classes (C,): the mean squared deviation of a value from the mean of its class."""
        return self.squares.sum(0) / self.count.sum(0)

    @cached_property
    def constant(self) -> Tensor:
        """Whether a column has one value throughout (C,), as far as float32 can tell."""
        return self.between + self.within <= (_CONSTANT * self.overall).square()

    @cached_property
    def eta_squared(self) -> Tensor:
        """The share of the variance that lies between classes (C,), 0 to 1.

        NaN where there is one class only, and for a constant column.
        """
        share = self.between / (self.between + self.within)
        return torch.where(self.constant if len(self.classes) > 1 else torch.ones_like(self.constant), torch.nan, share)

    @cached_property
    def standard_error(self) -> Tensor:
        """Of the mean (K, C); NaN where fewer than two values are known."""
        variance = self.squares / (self.count - 1)
        return torch.where(self.count > 1, (variance / self.count).sqrt(), torch.nan)

    def columns(self, order: Tensor) -> Moments:
        """The same with the columns in another order (C,)."""
        return replace(self, count=self.count[:, order], mean=self.mean[:, order], squares=self.squares[:, order])

    def row(self, label: int) -> Tensor:
        """The means of a class (C,).

        Raises:
            InputError: it is not among the classes.
        """
        if label not in self.classes:
            raise InputError(f"class {label} is not among those counted: {', '.join(map(str, self.classes))}")
        return self.mean[self.classes.index(label)]


class MomentsByClass:
    """Adds up values of labelled images, in float64; its memory does not grow with their number.

    Source of the update: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979): every batch brings its own means and squared deviations, which are merged with what was there.
    """

    def __init__(self) -> None:
        self._images = torch.zeros(0, dtype=torch.int64)  # a row a label, from 0 on
        self._count = torch.zeros(0, 0, dtype=torch.int64)
        self._mean = self._squares = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, labels: Tensor, values: Tensor) -> None:
        """Counts values (N, C), NaN standing for none, of images with these labels (N,), at least 0."""
        values = values.detach().cpu().double()
        rows, own = labels.unique(return_inverse=True)
        lacking = int(rows[-1]) + 1 - len(self._images)
        if lacking > 0:
            self._images = F.pad(self._images, (0, lacking))
            self._count, self._mean, self._squares = (
                torch.cat((old.reshape(-1, values.shape[1]), old.new_zeros(lacking, values.shape[1])))
                for old in (self._count, self._mean, self._squares)
            )
        self._images.index_add_(0, labels, torch.ones_like(labels))
        known = ~values.isnan()
        none = values.new_zeros(len(rows), values.shape[1])
        count = none.long().index_add_(0, own, known.long())
        mean = none.index_add(0, own, values.nan_to_num()) / count.clamp(min=1)
        squares = none.index_add(0, own, torch.where(known, values - mean[own], 0.0).square())

        before = self._count[rows]
        share = count.double() / (before + count).clamp(min=1)
        apart = mean - self._mean[rows]
        self._mean[rows] += apart * share
        self._squares[rows] += squares + apart.square() * before * share
        self._count[rows] += count

    def result(self) -> Moments:
        """What was counted so far."""
        rows = self._images.nonzero()[:, 0]
        count = self._count[rows]
        mean = self._mean[rows].where(count > 0, torch.nan)
        images = self._images[rows].tolist()
        return Moments(tuple(rows.tolist()), tuple(images), count, mean, self._squares[rows])
