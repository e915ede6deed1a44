"""Networks by name, with the published weights of timm or torchvision, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
from regard.training.run import Preprocessing, Weights, build_network


@dataclass(frozen=True)
class Named:
    """A network of timm ("resnet50") or torchvision ("torchvision/resnet50") with its published weights, or any network
    with a checkpoint ("resnet50=FILE").

    Attributes:
        name: of the network, as `models.create` knows it.
        checkpoint: see `models.load_official`; None: the published weights.
    """

    name: str
    checkpoint: Path | None = None

    @classmethod
    def open(cls, source: str) -> Named:
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
            return cls(name, Path(path))
        if not is_of_torchvision(name) and not timm.is_model_pretrained(name):
            raise InputError(
                f"timm has no pretrained weights for {name}; name one that has, or give a checkpoint ({name}=FILE)"
            )
        return cls(name)

    @property
    def source(self) -> str:
        """What a person calls it by."""
        return self.name if self.checkpoint is None else f"{self.name}={self.checkpoint}"

    @property
    def network(self) -> ModelRecipe:
        return ModelRecipe(self.name, pretrained=self.checkpoint is None)

    @cached_property
    def class_count(self) -> int:
        """Of the weights.

        Raises:
            InputError: the checkpoint does not say, and neither timm nor torchvision does.
        """
        found = None if self.checkpoint is None else models.count_classes(_content(self.checkpoint))
        found = found or described_classes(self.name)
        if found is None:
            raise InputError(
                f"the number of classes cannot be told from {self.checkpoint}; `regard import` takes it (--classes)"
            )
        return found

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the logits; None if they are not known."""
        return published_classes(self.name) if self.checkpoint is None else None

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """As timm or torchvision describe it."""
        said = published_preprocessing(self.name)
        return said or described_preprocessing(build_network(self.network, self.class_count, pretrained=False))

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
            return build_network(self.network, self.class_count).eval()
        except InputError:
            raise
        except Exception as error:  # the network, the cache and the hub's own libraries give almost any
            raise InputError(
                f"the pretrained weights of {self.name} cannot be had ({one_line(error)[:200]}); check the network, or "
                f"give a checkpoint ({self.name}=FILE)"
            ) from error

    def _loaded(self, checkpoint: Path) -> nn.Module:
        model = build_network(self.network, self.class_count)
        try:
            return models.load_official(model, _content(checkpoint)).eval()
        except InputError as error:
            raise InputError(str(error).replace("the checkpoint", str(checkpoint), 1)) from error


def _content(checkpoint: Path) -> Mapping[str, Any]:
    content = models.read_checkpoint(checkpoint)
    if not isinstance(content, Mapping):
        raise InputError(f"{checkpoint} holds no state dict")
    return content
