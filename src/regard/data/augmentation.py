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

_OF_STREAMED = ("ratio", "interpolation", "color_jitter", "policy", "erasing", "erasing_mode")
_PURPOSE = 7  # of the random stream of mixing, among those of a seed
_IN_MEMORY = ("padding", "padding_mode", "crop")
_OF_DETECTORS = ("short_side", "jitter", "photometric")
_OF_ALL = ("flip", "crop")


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images.

    Images in memory are padded, cropped at a random position and flipped at random; with `scale` they get random
    resized crops instead of padding and crop. Streamed images always get random resized crops. Fields marked (streamed)
    are for streamed images only.

    Attributes:
        padding: pixels to add on every side before the crop; 4 if not given, or 0 with scale and for streamed images.
        padding_mode: what the padding shows: "zero" for black, "reflect" for the image mirrored at its border pixels.
        crop: side in pixels of the square to cut out of the padded image, or with scale of what a crop is resized to;
            the size of the image itself if not given. Of streamed images data.size says it.
        flip: mirror every second image left to right, on average.
        scale: least and largest share of the image's area in a random resized crop, such as [0.08, 1]: of random size,
            aspect ratio (3/4 to 4/3) and position; bilinear, antialiased. No resizing if not given, or [0.08, 1] of
            streamed images.
        ratio: least and largest aspect ratio, width to height, of random resized crops (streamed).
        interpolation: interpolation to resize crops with: bilinear, bicubic, or random, one of the two for each image
            (streamed).
        color_jitter: largest change of the factors of brightness, contrast and saturation above and below 1; 0 for
            none (streamed).
        policy: random operations to apply to an image by timm's notation, such as rand-m7-mstd0.5-inc1 (RandAugment,
            arXiv 1909.13719), augmix-m3-w3 or 3a (streamed).
        erasing: probability that a box of the image is erased (arXiv 1708.04896), 0 to 1 (streamed).
        erasing_mode: what the box shows: const, the mean colour; rand, one random colour; pixel, noise (streamed).
        mixup: alpha of mixup (arXiv 1710.09412): two images are added, weighed by a draw from Beta(alpha, alpha); 0
            for none.
        cutmix: alpha of CutMix (arXiv 1905.04899): a box of one image is put into another; 0 for none.
        mix_probability: probability that a batch is mixed at all, 0 to 1.
        mix_switch: probability of CutMix in place of mixup, where both are used, 0 to 1.
        repeats: number of times in a row that each image comes, each time augmented anew (arXiv 1901.09335); a batch
            may end between two of them, as with timm's RepeatAugSampler. An epoch is as long as without, so that it
            shows one image of so many.
        short_side: side in pixels to resize the shorter side to, of several one drawn for each image; data.size if not
            given (detectors).
        jitter: least and largest factor of large-scale jitter (arXiv 2012.07177), such as [0.1, 2]: images are resized
            by a random factor from fitting a square, and cropped or padded to it; the square has the side crop, or
            data.size if not given (detectors).
        photometric: change brightness, contrast, saturation, hue and the order of channels at random, as SSD does
            (arXiv 1512.02325) (detectors).

    Raises:
        InputError: a value other than these.
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
                f"augmentation: ratio is {list(self.ratio)}; give the least and the largest aspect ratio, above 0, "
                "such as [0.75, 1.3333]"
            )
        if self.scale is not None:
            if not _is_range(self.scale) or self.scale[1] > 1:
                raise InputError(
                    f"augmentation: scale is {list(self.scale)}; give the least and the largest share of the image's "
                    "area, above 0 and at most 1, such as [0.08, 1]"
                )
            if self.padding:
                raise InputError(
                    f"augmentation: scale resizes crops of the image as it is, and padding is {self.padding}; give "
                    "padding 0 (--augmentation.padding 0), or leave scale out"
                )
        if self.policy is not None:
            self._check_policy(self.policy)

    def _check_policy(self, policy: str) -> None:
        from timm.data import create_transform

        if self.color_jitter and "3a" not in policy:
            raise InputError(
                f"augmentation: policy {policy!r} takes the place of color_jitter ({self.color_jitter}); leave one out"
            )
        try:
            create_transform(32, is_training=True, auto_augment=policy)
        except Exception as error:  # timm asserts, or fails on what it has parsed
            raise InputError(
                f"augmentation: timm knows no policy {policy!r} ({first_line(error)}); give one such as "
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
            crops = "streamed images get random resized crops (augmentation.scale) of the size of data.size"
            self._refuse(_IN_MEMORY, f"data sets in memory; {crops}")
        else:
            self._refuse(_OF_STREAMED, "streamed data sets (--data.name files, wds or hfds), and this one is in memory")

    def check_for(self, *, detector: bool) -> None:
        """Raises InputError for fields that do not apply to detectors, or that apply only to them."""
        if detector:
            others = {field.name for field in fields(self)} - {*_OF_DETECTORS, *_OF_ALL}
            self._refuse(sorted(others), "classifiers")
            if self.jitter is None and self.crop is not None:
                raise InputError("augmentation: crop is the square of jitter (detectors); give jitter, or leave it out")
            if self.jitter is not None and self.short_side:
                raise InputError("augmentation: jitter takes the place of short_side; leave one out")
        else:
            self._refuse(_OF_DETECTORS, "detectors (model.detector)")

    def _refuse(self, names: Sequence[str], kind: str) -> None:
        """Raises InputError if any of these fields, which are for this kind of data or network, is given."""
        default = {field.name: field.default for field in fields(self)}
        values = {name: getattr(self, name) for name in names if name != "padding" or self.padding}  # 0 is no padding
        given = [name for name, value in values.items() if _tuple(value) != default[name]]
        if given:
            raise InputError(f"augmentation: {', '.join(given)} is for {kind}; leave it out")


class Mixing:
    """Mixes every image of a batch with its mirror image in the batch, the first with the last, by timm's Mixup: mixup
    (arXiv 1710.09412) and CutMix (arXiv 1905.04899).

    All images share one weight and box, which depend only on the seed and the step: they are the same in all processes
    and for all parts of a batch. `label_smoothing`, 0 or more and below 1, is the fraction of each label that is
    spread evenly over all classes.

    Raises:
        InputError: an augmentation that mixes nothing, fewer than one class, a value outside its range.
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
        """Images (B, C, h, w), mixed in place, and labels int64 (B,) of a step of the run -> the images, and soft
        labels float32 (B, K), which add up to 1 in each row. Raises InputError: B is odd."""
        if len(images) % 2:
            raise InputError(
                f"mixup and cutmix take images in pairs, and {len(images)} images came; give a batch size that "
                "is even for each process"
            )
        with seeded(self._seed, step, _PURPOSE):
            mixed, soft = self._mixup(images, labels)
        return mixed, soft


def _is_range(values: Sequence[float]) -> bool:
    return len(values) == 2 and 0 < values[0] <= values[1] < float("inf")


def _tuple(value: object) -> object:
    """A list, as YAML has it, as a tuple."""
    return tuple(value) if isinstance(value, list) else value
