"""Sizes derived from the options of several modules."""

from __future__ import annotations

from regard.errors import InputError


def hidden_units(channels: int, reduction: int, least: int = 1) -> int:
    """The width of a hidden layer: `channels // reduction`, at least `least`."""
    if reduction < 1:
        raise InputError(f"the reduction of an attention module is at least 1, not {reduction}")
    return max(channels // reduction, least)


def fitting_groups(channels: int, parts: int = 1) -> str:
    """Advice for an error message: the numbers of groups, each split into `parts`, that divide `channels`."""
    fitting = [groups for groups in range(1, channels // parts + 1) if channels % (parts * groups) == 0]
    if not fitting:
        return f"channels must be a multiple of {parts}"
    return (
        f"groups that fit: {', '.join(map(str, fitting))}; in a recipe, model.attention_options: "
        f"{{groups: {fitting[-1]}}}"
    )


def same_padding(kernel_size: int) -> int:
    """The padding with which the output of a convolution has the size of its input."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"the kernel size of an attention module is odd and at least 1, not {kernel_size}")
    return kernel_size // 2
