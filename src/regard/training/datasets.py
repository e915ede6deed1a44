"""Data sets and loaders of recipes, and the preprocessing of images for a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import astuple, dataclass
from typing import Annotated, Any, Literal

from regard import data
from regard.errors import InputError, check_fields
from regard.training.distributed import Processes
from regard.training.recipe import DataRecipe, Recipe

Images = data.ImageDataset | data.WebDataset
Channels = tuple[float, float, float]

SIZE = 224
"""Default side of streamed images, in pixels."""

DETECTOR_SIZE = 800  # default shorter side of a detector's images
_FIXED_SIZES = {"clutter": 32, "cifar10": 32, "cifar100": 32, "stl10": 96}  # sides of images in memory


def load_data(recipe: DataRecipe) -> data.Splits:
    """Loads the data of a recipe, with their mean and standard deviation. Raises InputError if they cannot be read."""
    train, test = data.load(
        recipe.name,
        recipe.folder,
        download=recipe.download,
        size=recipe.size,
        unreadable=recipe.unreadable,
        **recipe.options,
    )
    if recipe.train_images is not None:
        train = train.subset(recipe.train_images)
    return data.Splits(_normalised(train, recipe), _normalised(test, recipe))


def default_size(name: str, *, detector: bool) -> int | None:
    """Default size of the images of a data set; None for data sets in memory, which keep the size of their images."""
    if detector:
        return DETECTOR_SIZE
    return SIZE if data.is_streamed(name) else None


def detector_size(recipe: DataRecipe) -> tuple[int, int]:
    """The shorter side of a detector's images, and the limit of the longer side, in the ratio of 800 to 1333."""
    short = recipe.size or DETECTOR_SIZE
    return short, short * 5 // 3


def _normalised(images: Images, recipe: DataRecipe) -> Images:
    mean, std = recipe.mean or images.mean, recipe.std or images.std
    assert mean is not None and std is not None
    normalised = copy(images)
    vars(normalised).update(mean=mean, std=std)  # a data set in memory is frozen
    return normalised


def make_loader(
    images: Images,
    recipe: DataRecipe,
    batch_size: int,
    *,
    augmentation: data.Augmentation | None = None,
    **options: Any,
) -> data.Loader:
    """Calls `data.create_loader` with the size, normalisation and workers of a recipe, and further `options`.

    `batch_size` is over all processes; `augmentation` is for training images.
    """
    return data.create_loader(
        images,
        batch_size,
        transform=make_transform(recipe, augmentation),
        mean=recipe.mean,
        std=recipe.std,
        workers=recipe.workers,
        unreadable=recipe.unreadable,
        **options,
    )


def make_transform(recipe: DataRecipe, augmentation: data.Augmentation | None = None) -> data.Transform:
    """The transform of a recipe's images; data sets in memory are not resized again."""
    if not data.is_streamed(recipe.name):
        return data.Transform(augmentation=augmentation)
    size = (recipe.size or SIZE,) * 2
    return data.Transform(size, recipe.crop_pct, interpolation=recipe.interpolation, augmentation=augmentation)


def make_loaders(
    recipe: Recipe, splits: data.Splits, processes: Processes, channels_last: bool
) -> tuple[data.Loader, data.Loader]:
    """The loaders of the training and test images."""
    train, test = splits
    batch_size, mixes = recipe.schedule.batch_size, recipe.augmentation.mixes
    if mixes and batch_size % (2 * processes.count):
        raise InputError(
            f"mixup and cutmix take images in pairs; give a batch size divisible by {2 * processes.count} "
            f"(schedule.batch_size is {batch_size}, over {processes.count} processes)"
        )
    full_batches = data.is_streamed(recipe.data.name) or mixes
    remainder = len(train) % batch_size if full_batches else dropped_images(len(train), batch_size, processes.count)
    if remainder and batch_size < len(train):
        processes.note(f"the last batch of an epoch, with {remainder} of {len(train)} images, is left out")

    guidance = recipe.guidance
    if guidance.used:
        if isinstance(train, data.WebDataset):
            raise InputError("guidance needs regions, which WebDataset shards do not have; leave guidance.weight out")
        train = data.annotated(train, share=guidance.share, box=guidance.box, dilate=guidance.dilate)

    common: dict[str, Any] = {
        "rank": processes.rank,
        "world_size": processes.count,
        "device": processes.device,
        "channels_last": channels_last,
    }
    train_loader = make_loader(
        train,
        recipe.data,
        batch_size,
        augmentation=recipe.augmentation,
        shuffle=True,
        seed=recipe.seed,
        masks=guidance.used,
        drop_last=full_batches or remainder > 0,
        **common,
    )
    return train_loader, make_loader(test, recipe.data, test_batch_size(test, recipe.data, processes.count), **common)


def dropped_images(images: int, batch_size: int, processes: int) -> int:
    """Number of images in the last batch of an epoch if that batch is dropped; else 0.

    It is dropped if a process would get fewer than two images of it, as batch norms over feature maps of one pixel need
    two; if a full batch has less than two per process, one is enough. The only batch of an epoch is never dropped.
    """
    remainder = images % batch_size
    fewest = 2 if 2 * processes <= batch_size else 1
    return remainder if remainder < fewest * processes and batch_size <= images else 0


def test_batch_size(images: Images, recipe: DataRecipe, processes: int) -> int:
    """Batch size of testing: per process 500 images, or fewer if they have more pixels than 500 images of 96 x 96."""
    width, height = images.image(0).size if isinstance(images, data.InMemoryDataset) else (recipe.size or SIZE,) * 2
    return processes * max(1, min(500, 500 * 96 * 96 // (height * width)))


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images for a network, as in timm's data config.

    Attributes:
        mean: mean of each channel, in [0, 1]; None for the mean of the data.
        std: standard deviation of each channel; None for that of the data.
        size: side of the images in pixels; None if unknown.
        crop_pct: side of the centre crop as a fraction of the shorter side of the resized image, in (0, 1]; None for 1.
        crop_mode: timm's "center", "squash" or "border"; None for "center".
        interpolation: timm's name of the interpolation; None for "bilinear".
    """

    mean: Channels | None = None
    std: Channels | None = None
    size: Annotated[int | None, "[1, 16384]"] = None
    crop_pct: Annotated[float | None, "(0, 1]"] = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    interpolation: str | None = None

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing in timm's `pretrained_cfg`, which may lack entries.

        Raises TypeError or ValueError if mean or std are not three numbers.
        """

        def channels(values: Any) -> Channels | None:
            if values is None:
                return None
            red, green, blue = map(float, values)
            return red, green, blue

        size, *crop = (about.get(name) for name in ("input_size", "crop_pct", "crop_mode", "interpolation"))
        return cls(channels(about.get("mean")), channels(about.get("std")), size[-1] if size else None, *crop)

    @classmethod
    def in_testing(cls, recipe: DataRecipe) -> Preprocessing:
        """The preprocessing of the test images of a run."""
        if not data.is_streamed(recipe.name):
            return cls(recipe.mean, recipe.std, recipe.size or _FIXED_SIZES.get(recipe.name))
        size = recipe.size or SIZE
        return cls(recipe.mean, recipe.std, size, recipe.crop_pct, interpolation=recipe.interpolation)

    def check(self) -> None:
        """Raises InputError for values out of range."""
        if (self.mean is None) != (self.std is None):
            raise InputError("mean and std go together; give both or neither")
        if not all(map(math.isfinite, (*(self.mean or ()), *(self.std or ())))) or 0 in (self.std or ()):
            raise InputError(f"mean {self.mean}, std {self.std}; expected finite numbers, no std of 0")
        check_fields(self)

    def over(self, other: Preprocessing) -> Preprocessing:
        """This preprocessing, with the values of `other` where it has None."""
        values, fallback = astuple(self), astuple(other)
        return Preprocessing(*(a if a is not None else b for a, b in zip(values, fallback, strict=True)))

    def transform(self) -> data.Transform:
        """The transform that resizes and crops images for the network; the identity if `size` is None."""
        if self.size is None:
            return data.Transform()
        red, green, blue = (round(255 * value) for value in self.mean or (0.0, 0.0, 0.0))
        return data.Transform(
            size=(self.size, self.size),
            crop_pct=self.crop_pct or 1.0,
            crop_mode=self.crop_mode or "center",
            interpolation=self.interpolation or "bilinear",
            fill=(red, green, blue),
        )
