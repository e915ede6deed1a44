"""Images of a batch mixed with one another: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899)."""

from __future__ import annotations

from torch import Tensor

from regard.data.augmentation import Augmentation
from regard.data.random import check_seed, seeded
from regard.errors import InputError

_PURPOSE = 7  # of the stream, among those of a seed


class Mixing:
    """Mixes every image of a batch with its mirror image in the batch, the first with the last, by timm's Mixup.

    Weight and box are one for all images, and drawn from the seed and the step alone: so they are the same for all
    processes, and for all parts that a process takes its images in.

    Args:
        augmentation: says how (mixup, cutmix, mix_probability, mix_switch).
        classes: how many there are.
        seed: 0 to 2^64 - 1.
        label_smoothing: share of each label that is given to all classes alike, 0 or more and below 1.

    Raises:
        InputError: an augmentation that mixes nothing, fewer than one class, a value outside its range.
    """

    def __init__(self, augmentation: Augmentation, classes: int, seed: int, label_smoothing: float = 0.0) -> None:
        from timm.data import Mixup

        if not augmentation.mixes:
            raise InputError("augmentation: mixup and cutmix are 0; nothing to mix")
        if classes < 1:
            raise InputError(f"there are {classes} classes to mix labels of; give 1 or more")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing is {label_smoothing}; it has to be in [0, 1)")
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
        """Images and labels of a batch, mixed.

        Args:
            images: floating point (B, C, h, w); B even. Mixed in place.
            labels: int64 (B,).
            step: of the run, 0 or more.

        Returns:
            the images, and soft labels float32 (B, K), which add up to 1 in each row.

        Raises:
            InputError: an odd number of images.
        """
        if len(images) % 2:
            raise InputError(
                f"mixup and cutmix take images in pairs, and {len(images)} images came; give a batch size that "
                "is even for each process"
            )
        with seeded(self._seed, step, _PURPOSE):
            mixed, soft = self._mixup(images, labels)
        return mixed, soft
