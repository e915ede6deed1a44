"""Sizes that several modules derive from their options."""

from __future__ import annotations

from regard.errors import InputError


def hidden_units(channels: int, reduction: int, least: int = 1) -> int:
    """The width of a hidden layer: `channels // reduction`, and no less than `least`.

    Raises:
        InputError: `reduction` is below 1.
    """
    if reduction < 1:
        raise InputError(f"the reduction of an attention module is at least 1, not {reduction}")
    return max(channels // reduction, least)


def same_padding(kernel_size: int) -> int:
    """The padding with which a convolution keeps the size of its input.

    Raises:
        InputError: `kernel_size` is even or below 1.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"the kernel size of an attention module is odd, 1 or more, not {kernel_size}")
    return kernel_size // 2
