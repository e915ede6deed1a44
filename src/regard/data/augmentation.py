"""Augmentation of training images, mixup and CutMix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from torch import Tensor

from regard.data.random import check_seed, seeded
from regard.errors import InputError, check_fields, check_number, first_line

PaddingMode = Literal["zero", "reflect"]
CropInterpolation = Literal["bilinear", "bicubic", "random"]
ErasingMode = Literal["const", "rand", "pixel"]

_PURPOSE = 7  # part of the key of the random stream

_STREAMED_FIELDS = ("ratio", "interpolation", "color_jitter", "policy", "erasing", "erasing_mode")
_MEMORY_FIELDS = ("padding", "padding_mode", "crop")
_DETECTOR_FIELDS = ("short_side", "jitter", "photometric")
_SHARED_FIELDS = ("flip", "crop")  # by classifiers and detectors


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images.

    Images in memory are padded, cropped at a random position and flipped at random; with `scale` they get random
    resized crops instead of padding and crop. Streamed images always get random resized crops. Fields marked (streamed)
    are only for streamed images, fields marked (detectors) only for detectors.

    Attributes:
        padding: pixels to add on every side before the crop; 4 if not given, or 0 with scale and for streamed images.
        padding_mode: fill of the padding: "zero" for black, "reflect" for the image mirrored at its border pixels.
        crop: side in pixels of the square crop of the padded image, or of the resized crop with scale; the image size
            if not given. Crops of streamed images have the side data.size instead.
        flip: mirror images left to right with probability 1/2.
        scale: smallest and largest area of random resized crops as a fraction of the image, such as [0.08, 1]. Crops
            have a random size, aspect ratio (3/4 to 4/3) and position; they are resized bilinearly with antialiasing.
            If not given, no resizing, but [0.08, 1] for streamed images.
        ratio: smallest and largest aspect ratio, width / height, of random resized crops (streamed).
        interpolation: interpolation of resized crops: bilinear, bicubic, or random for one of the two per image
            (streamed).
        color_jitter: largest change of the brightness, contrast and saturation factors from 1; 0 for none (streamed).
        policy: random image operations in timm's notation, such as rand-m7-mstd0.5-inc1 (RandAugment, arXiv
            1909.13719), augmix-m3-w3 or 3a (streamed).
        erasing: probability that a box of the image is erased (arXiv 1708.04896), 0 to 1 (streamed).
        erasing_mode: fill of the box: const, the mean colour; rand, one random colour; pixel, noise (streamed).
        mixup: alpha of mixup (arXiv 1710.09412): a weighted sum of two images, with a weight from Beta(alpha, alpha);
            0 for none.
        cutmix: alpha of CutMix (arXiv 1905.04899): a box of one image is pasted into another; 0 for none.
        mix_probability: probability that a batch is mixed, 0 to 1.
        mix_switch: probability of CutMix instead of mixup if both are used, 0 to 1.
        repeats: number of times that each image is repeated in a row, with different augmentation (arXiv 1901.09335).
            A batch may end between two repeats, as with timm's RepeatAugSampler. The number of images in an epoch
            stays, so with 3 an epoch has a third of the different images.
        short_side: length in pixels to resize the shorter side to, or several, one of which is drawn for each image;
            data.size if not given (detectors).
        jitter: smallest and largest factor of large-scale jitter (arXiv 2012.07177), such as [0.1, 2]. Images are
            scaled by a random factor, where 1 fits them into a square, and cropped or padded to the square; its side
            is crop, or data.size if not given (detectors).
        photometric: change brightness, contrast, saturation, hue and the channel order at random, as in SSD (arXiv
            1512.02325) (detectors).

    Raises:
        InputError: a value is outside its range.
    """

    padding: Annotated[int | None, "[0, 1024]"] = None
    padding_mode: PaddingMode = "reflect"
    crop: Annotated[int | None, "[1, 16384]"] = None
    flip: bool = True
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: CropInterpolation = "bilinear"
    color_jitter: Annotated[float, "[0, inf)"] = 0.0
    policy: str | None = None
    erasing: Annotated[float, "[0, 1]"] = 0.0
    erasing_mode: ErasingMode = "const"
    mixup: Annotated[float, "[0, inf)"] = 0.0
    cutmix: Annotated[float, "[0, inf)"] = 0.0
    mix_probability: Annotated[float, "[0, 1]"] = 1.0
    mix_switch: Annotated[float, "[0, 1]"] = 0.5
    repeats: Annotated[int, "[1, 1024]"] = 1
    short_side: list[int] | None = None
    jitter: tuple[float, float] | None = None
    photometric: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "augmentation.")
        if not _is_range(self.ratio):
            raise InputError(
                f"augmentation: ratio is {list(self.ratio)}; give the smallest and the largest aspect ratio, above 0, "
                "such as [0.75, 1.3333]"
            )
        if self.scale is not None:
            if not _is_range(self.scale) or self.scale[1] > 1:
                raise InputError(
                    f"augmentation: scale is {list(self.scale)}; give the smallest and the largest fraction of the "
                    "image's area, above 0 and at most 1, such as [0.08, 1]"
                )
            if self.padding:
                raise InputError(
                    f"augmentation: scale crops images without padding, and padding is {self.padding}; give padding 0 "
                    "(--augmentation.padding 0), or leave scale out"
                )
        if self.policy is not None:
            self._check_policy(self.policy)

    def _check_policy(self, policy: str) -> None:
        from timm.data import create_transform

        if self.color_jitter and "3a" not in policy:
            raise InputError(
                f"augmentation: policy {policy!r} replaces color_jitter ({self.color_jitter}); leave one out"
            )
        try:
            create_transform(32, is_training=True, auto_augment=policy)
        except Exception as error:  # timm does not validate its input
            raise InputError(
                f"augmentation: timm does not accept policy {policy!r} ({first_line(error)}); give one such as "
                "'rand-m7-mstd0.5-inc1', 'augmix-m3-w3' or '3a'"
            ) from error

    @property
    def border(self) -> int:
        """Pixels added on every side of images in memory."""
        if self.padding is not None:
            return self.padding
        return 4 if self.scale is None else 0

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with one another."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0

    def check(self, *, streamed: bool) -> None:
        """Raises InputError for fields that do not apply to streamed images, or to images in memory."""
        if streamed:
            crops = "streamed images get random resized crops (augmentation.scale) of the size data.size"
            self._refuse(_MEMORY_FIELDS, f"data sets in memory; {crops}")
        else:
            streamed_sets = "streamed data sets (--data.name files, wds or hfds), and this one is in memory"
            self._refuse(_STREAMED_FIELDS, streamed_sets)

    def check_for(self, *, detector: bool) -> None:
        """Raises InputError for fields that do not apply to detectors, or that apply only to them."""
        if detector:
            classifier_fields = {field.name for field in fields(self)} - {*_DETECTOR_FIELDS, *_SHARED_FIELDS}
            self._refuse(sorted(classifier_fields), "classifiers")
            if self.jitter is None and self.crop is not None:
                raise InputError("augmentation: crop is the square of jitter (detectors); give jitter, or leave it out")
            if self.jitter is not None and self.short_side:
                raise InputError("augmentation: jitter replaces short_side; leave one out")
        else:
            self._refuse(_DETECTOR_FIELDS, "detectors (model.detector)")

    def _refuse(self, names: Sequence[str], kind: str) -> None:
        """Raises InputError if one of these fields, which are only for `kind`, is not at its default."""
        defaults = {field.name: field.default for field in fields(self)}
        values = {name: getattr(self, name) for name in names if name != "padding" or self.padding}  # 0 is no padding
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        changed = [name for name, value in values.items() if value != defaults[name]]
        if changed:
            raise InputError(f"augmentation: {', '.join(changed)} is for {kind}; leave it out")


class Mixing:
    """Mixes image i of a batch with image B - 1 - i by timm's Mixup: mixup (arXiv 1710.09412) and CutMix (arXiv
    1905.04899).

    All images share one weight and box, which depend only on the seed and the step, so that they are the same in all
    processes. `label_smoothing` in [0, 1) is the fraction of each label that is spread evenly over all classes.

    Raises:
        InputError: the augmentation has neither mixup nor CutMix, or a value is outside its range.
    """

    def __init__(self, augmentation: Augmentation, classes: int, seed: int, label_smoothing: float = 0.0) -> None:
        from timm.data import Mixup

        if not augmentation.mixes:
            raise InputError("augmentation: mixup and cutmix are 0; nothing to mix")
        check_number("classes", classes, "[1, inf)", whole=True)
        check_number("label_smoothing", label_smoothing, "[0, 1)", whole=False)
        self._seed = check_seed(seed)
        self._mixup = Mixup(
            mixup_alpha=augmentation.mixup,
            cutmix_alpha=augmentation.cutmix,
            prob=augmentation.mix_probability,
            switch_prob=augmentation.mix_switch,
            label_smoothing=label_smoothing,
            num_classes=classes,
        )

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mixes images (B, C, h, w) in place, with labels int64 (B,) and the step of the run. Returns the images and
        soft labels float32 (B, K), whose rows add up to 1. Raises InputError if B is odd."""
        if len(images) % 2:
            raise InputError(
                f"mixup and cutmix mix pairs of images, and the batch has {len(images)} images; give a batch size "
                "that is even for each process"
            )
        with seeded(self._seed, step, _PURPOSE):
            mixed, soft = self._mixup(images, labels)
        return mixed, soft


def _is_range(values: Sequence[float]) -> bool:
    return len(values) == 2 and 0 < values[0] <= values[1] < float("inf")
