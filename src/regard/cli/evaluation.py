"""A trained network, the images that a command evaluates it on, and how they are read."""

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
        pretrained: the network; no two of a command have the same `source`.
        images: the data set.
        label_outputs: for each class of the data set the output that stands for it, -1 where none does.
        options: those of the command, with the data of this network.
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
        """The images, if they can be read in any order.

        Raises:
            InputError: they can be read in their order only.
        """
        if isinstance(self.images, ImageDataset):
            return self.images
        raise InputError(
            f"the images of {self.images.name} are read in their order, and this command goes back to some; name a set "
            "of files (--data folder:FOLDER, imagenet:FOLDER, …)"
        )

    @cached_property
    def device(self) -> torch.device:
        """Where the network runs."""
        return training.pick_device(self.options.device)

    @cached_property
    def model(self) -> nn.Module:
        """The network, in evaluation mode, on its device."""
        return self.pretrained.model().to(self.device)

    @property
    def layers(self) -> list[str] | str | None:
        """What --layer says, if the command has it."""
        given = self.options.get("layer")
        return given[0] if given and len(given) == 1 else given or None

    def release(self) -> None:
        """Forgets the model; it is built again when it is needed."""
        self.__dict__.pop("model", None)


@dataclass(eq=False)
class ClassifierEvaluation(Evaluation):
    """A classifier, and how the images come to it.

    Attributes:
        mean: of the channels, in [0, 1], subtracted from the images.
        std: the channels are divided by it.
        transform: how images are resized and cropped; not at all where they come in one size of their own.
    """

    mean: Channels
    std: Channels
    transform: Transform

    @property
    def batch_size(self) -> int:
        """Images per batch."""
        size: int | None = self.options.batch_size
        return size or default_batch_size(self.images)

    @property
    def reading(self) -> dict[str, Any]:
        """How the images are read, as arguments of `data.create_loader` and `bias.evaluate`."""
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
        """The batches of the images, on the device of the network.

        Args:
            which: the indices of some images; None: all.
            options: others of `data.create_loader`.
        """
        images = self.images if which is None else self.images.subset(which)
        return data.create_loader(images, **self.reading, **options)

    def batches(self, which: Sequence[int] | None = None, *, masks: bool = False) -> Iterator[Batch]:
        """The batches of `loader` that have images; a warning counts those that cannot be read.

        Raises:
            InputError: not one of them can be read.
        """
        if which is not None and not len(which):
            return
        unread: list[str] = []
        count = 0
        for batch in self.loader(which, masks=masks).epoch(0):
            unread += batch.skipped
            count += len(batch.images)
            if len(batch.images):
                yield batch
        if unread and not count:
            raise InputError(
                f"not one of the {len(unread)} images can be read (the first: {unread[0]}); give readable ones"
            )
        if unread:
            warnings.warn(f"unreadable images: {len(unread)} (the first: {unread[0]})", DataWarning, stacklevel=2)
