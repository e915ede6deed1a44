"""A small network for the tests of studies."""

from support.small import model, x

__all__ = ["model", "x"]
