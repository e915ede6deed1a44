"""Networks by name, with the published weights of timm or torchvision, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import timm
from torch import nn

from regard import models
from regard.errors import InputError, one_line
from regard.models.torchvision_networks import is_of_torchvision
from regard.training.described import (
    described_classes,
    described_preprocessing,
    published_classes,
    published_preprocessing,
)
from regard.training.recipe import ModelRecipe
from regard.training.run import Preprocessing, Weights, build_network, load_network


@dataclass(frozen=True)
class Named:
    """A network of timm ("resnet50") or torchvision ("torchvision/resnet50") with its published weights, or any network
    with a checkpoint ("resnet50=FILE").

    Attributes:
        name: of the network, as `models.create` knows it.
        checkpoint: see `models.load_official`; None: the published weights.
        ema: see `models.load_official`, like `say`.
    """

    name: str
    checkpoint: Path | None = None
    ema: bool = False
    say: Callable[[str], None] | None = field(default=None, compare=False)

    @classmethod
    def open(cls, source: str, *, ema: bool = False, say: Callable[[str], None] | None = None) -> Named:
        """The network of "NAME" or "NAME=CHECKPOINT".

        Raises:
            InputError: there are no published weights for that name; there is no such file.
        """
        name, given, path = source.partition("=")
        if is_of_torchvision(name):
            described_classes(name)  # there is one of that name, and all have weights
        if given:
            if not Path(path).is_file():
                raise InputError(f"there is no checkpoint {path!r} for the network {name}")
            return cls(name, Path(path), ema, say)
        if not is_of_torchvision(name) and not timm.is_model_pretrained(name):
            raise InputError(
                f"timm has no pretrained weights for {name}; name one that has, or give a checkpoint ({name}=FILE)"
            )
        return cls(name)

    @property
    def source(self) -> str:
        """What a person calls it by."""
        if self.checkpoint is None:
            return self.name
        return f"{self.name}={self.checkpoint}{' --ema' if self.ema else ''}"

    @cached_property
    def network(self) -> ModelRecipe:
        if self.checkpoint is None:
            return ModelRecipe(self.name, pretrained=True)
        content = models.read_checkpoint(self.checkpoint)
        return ModelRecipe(self.name, options=models.described_options(self.name, content, str(self.checkpoint)))

    @cached_property
    def outputs(self) -> int:
        """Length of the logits of the weights; 1 of a binary network, whose logit is that of class 1.

        Raises:
            InputError: the checkpoint does not say, and neither timm nor torchvision does.
        """
        count = None
        if self.checkpoint is not None:
            count = models.count_classes(models.read_checkpoint(self.checkpoint), str(self.checkpoint))
        count = count or described_classes(self.name)
        if count is None:
            raise InputError(
                f"the number of classes cannot be told from {self.checkpoint}; `regard import` takes it (--classes)"
            )
        return count

    @property
    def class_count(self) -> int:
        return max(self.outputs, 2)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the logits; None if they are not known."""
        return published_classes(self.name) if self.checkpoint is None else None

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """As timm or torchvision describe it."""
        said = published_preprocessing(self.name)
        return said or described_preprocessing(build_network(self.network, 2, pretrained=False))

    def bias_report(self, which: Weights = "last") -> None:
        """Where the report on where it looks goes: it has no place of its own."""
        return None

    def weights(self, which: Weights = "last") -> Path | None:
        """The file of weights; None for published ones.

        Raises:
            InputError: the best ones are asked for: there is one set of weights only.
        """
        if which != "last":
            raise InputError(f"{self.source} has one set of weights; leave --weights {which} out")
        return self.checkpoint

    def model(self, which: Weights = "last") -> nn.Module:
        """The network, in evaluation mode, on the CPU.

        Raises:
            InputError: the pretrained weights cannot be had; the checkpoint cannot be read or does not fit.
        """
        self.weights(which)
        return self._published() if self.checkpoint is None else self._loaded(self.checkpoint)

    def _published(self) -> nn.Module:
        try:
            return build_network(self.network, self.outputs).eval()
        except InputError:
            raise
        except Exception as error:  # the network, the cache and the hub's own libraries give almost any
            raise InputError(
                f"the pretrained weights of {self.name} cannot be had ({one_line(error)[:200]}); check the network, or "
                f"give a checkpoint ({self.name}=FILE)"
            ) from error

    def _loaded(self, checkpoint: Path) -> nn.Module:
        content = models.read_checkpoint(checkpoint)
        return load_network(self.network, self.outputs, content, str(checkpoint), ema=self.ema, say=self.say)
