"""A trained network, the images that a command evaluates it on, and how they are loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jsonargparse import Namespace
from torch import nn

from regard import data, training
from regard.data import Batch, Channels, ImageDataset, Transform, WebDataset
from regard.data.loader import default_batch_size
from regard.errors import DataWarning, InputError
from regard.training import Pretrained


@dataclass(eq=False)
class Evaluation:
    """A trained network and the images that it is evaluated on.

    Attributes:
        pretrained: the network; its `source` is unique within a command.
        images: the data set.
        label_outputs: the index of the output for each class of the data set, -1 if there is none.
        options: the options of the command, with the data of this network.
    """

    pretrained: Pretrained
    images: ImageDataset | WebDataset
    label_outputs: tuple[int, ...]
    options: Namespace

    @property
    def name(self) -> str:
        """The network as it was typed."""
        return self.pretrained.source

    @property
    def dataset(self) -> ImageDataset:
        """The images, if they can be read in any order. Raises InputError if they are a stream."""
        if isinstance(self.images, ImageDataset):
            return self.images
        raise InputError(
            f"the images of {self.images.name} are a stream, and this command reads some of them again; name a set of "
            "files (--data folder:FOLDER, imagenet:FOLDER, …)"
        )

    @cached_property
    def device(self) -> torch.device:
        """The device that the network runs on."""
        return training.pick_device(self.options.device)

    @cached_property
    def model(self) -> nn.Module:
        """The network, in evaluation mode, on its device."""
        return self.pretrained.model().to(self.device)

    @property
    def layers(self) -> list[str] | str | None:
        """The value of --layer, if the command has this option."""
        layers = self.options.get("layer")
        return layers[0] if layers and len(layers) == 1 else layers or None

    def release(self) -> None:
        """Frees the model. It is built again when it is next used."""
        self.__dict__.pop("model", None)


@dataclass(eq=False)
class ClassifierEvaluation(Evaluation):
    """A classifier and the preprocessing of its images.

    Attributes:
        mean: mean of each channel, in [0, 1], which is subtracted.
        std: value that each channel is divided by.
        transform: how images are resized and cropped; images of one size are not.
    """

    mean: Channels
    std: Channels
    transform: Transform

    @property
    def batch_size(self) -> int:
        """Number of images per batch."""
        size: int | None = self.options.batch_size
        return size or default_batch_size(self.images)

    @property
    def loading(self) -> dict[str, Any]:
        """How the images are loaded, as arguments of `data.create_loader` and `bias.evaluate`."""
        return {
            "batch_size": self.batch_size,
            "transform": self.transform,
            "mean": self.mean,
            "std": self.std,
            "workers": self.options.workers,
            "unreadable": self.options.unreadable or "error",
            "device": self.device,
        }

    def loader(self, which: Sequence[int] | None = None, **options: Any) -> data.Loader:
        """The loader of the images with these indices (None: all), with batches on the network's device."""
        images = self.images if which is None else self.images.subset(which)
        return data.create_loader(images, **self.loading, **options)

    def batches(self, which: Sequence[int] | None = None, *, masks: bool = False) -> Iterator[Batch]:
        """The batches of `loader` that are not empty. A warning counts unreadable images; all is an InputError."""
        if which is not None and not len(which):
            return
        unreadable: list[str] = []
        count = 0
        for batch in self.loader(which, masks=masks).epoch(0):
            unreadable += batch.skipped
            count += len(batch.images)
            if len(batch.images):
                yield batch
        if unreadable and not count:
            raise InputError(
                f"not one of the {len(unreadable)} images can be read (the first: {unreadable[0]}); give readable ones"
            )
        if unreadable:
            message = f"unreadable images: {len(unreadable)} (the first: {unreadable[0]})"
            warnings.warn(message, DataWarning, stacklevel=2)
