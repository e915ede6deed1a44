"""The transform of images with objects for training detectors, with torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from regard.data.objects import Objects, mask_areas, mask_boxes
from regard.data.random import seeded
from regard.errors import InputError, check_fields, first_line

_PURPOSE = 10  # part of the key of the random stream
_FILL = (124, 116, 104)  # ImageNet's mean as bytes, about 0 after a detector's normalisation


@dataclass(frozen=True)
class DetectionTransform:
    """Resizing and augmentation of images and their objects for training.

    Random changes depend only on the seed, the epoch and the position. Boxes and masks are transformed with the image.
    Crowds and objects smaller than a pixel in the result are dropped.

    Attributes:
        short_side: length in pixels to resize the shorter side to; one of several is drawn for each image.
        long_side: upper limit of the longer side in pixels; the shorter side may become smaller than `short_side`.
        flip: mirror images left to right with probability 1/2.
        jitter: smallest and largest factor of large-scale jitter (arXiv 2012.07177), such as (0.1, 2), instead of
            `short_side` and `long_side`: images are scaled by a random factor, where 1 fits them into a square, and
            cropped or padded to the square. None for none.
        crop: side in pixels of the square of large-scale jitter.
        photometric: change brightness, contrast, saturation, hue and the channel order at random, as in SSD (arXiv
            1512.02325, section 2.2).

    Raises:
        InputError: a value is outside its range.
    """

    short_side: tuple[int, ...] = (800,)
    long_side: Annotated[int, "[1, 16384]"] = 1333
    flip: bool = True
    jitter: tuple[float, float] | None = None
    crop: Annotated[int, "[1, 16384]"] = 1024
    photometric: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        sides = self.short_side
        if not sides or not all(isinstance(side, int) and 1 <= side <= self.long_side for side in sides):
            raise InputError(
                f"short_side is {list(sides)}; give one side or more in pixels, from 1 to long_side ({self.long_side})"
            )
        if self.jitter is not None and not (len(self.jitter) == 2 and 0 < self.jitter[0] <= self.jitter[1] <= 16):
            raise InputError(
                f"jitter is {list(self.jitter)}; give the smallest and the largest factor, above 0 and at most 16, "
                "such as [0.1, 2]"
            )

    def __call__(
        self, image: Image.Image, objects: Objects, seed: int, epoch: int, position: int
    ) -> tuple[Tensor, Objects]:
        """Transforms an upright RGB image to uint8 (3, h, w) and its objects, at a position of an epoch's order.

        Raises InputError if the image is so narrow that a resized side would be 0.
        """
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        objects = objects.where(~objects.crowd)
        masks = objects.masks
        sample: dict[str, Any] = {
            "image": tv_tensors.Image(v2.functional.pil_to_tensor(image)),
            "boxes": tv_tensors.BoundingBoxes(objects.boxes, format="XYXY", canvas_size=image.size[::-1]),
            # Masks are resized like images and thresholded, because the nearest pixels of tv_tensors.Mask are shifted.
            "masks": None if masks is None else tv_tensors.Video(masks[:, None].view(torch.uint8) * 255),
        }
        with seeded(seed, epoch, _PURPOSE, position):
            try:
                sample = self._pipeline(sample)
                if self.photometric:
                    sample["image"] = v2.RandomPhotometricDistort()(sample["image"])
            except RuntimeError as error:
                raise InputError(
                    f"an image of {image.width} x {image.height} pixels is too long and narrow ({first_line(error)})"
                ) from error
        pixels, boxes = (sample[name].as_subclass(Tensor) for name in ("image", "boxes"))
        masks = None if masks is None else sample["masks"].as_subclass(Tensor)[:, 0] > 127
        if masks is not None and self.jitter is not None:
            boxes = torch.from_numpy(mask_boxes(masks.numpy()).astype(np.float32))
        sides = boxes[:, 2:] - boxes[:, :2]
        area = sides.prod(1) if masks is None else mask_areas(masks)
        objects = objects._replace(boxes=boxes, masks=masks, area=area)
        return pixels, objects.where((sides >= 1).all(1) & (area > 0))

    @cached_property
    def _pipeline(self) -> Any:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        steps: list[Any] = [v2.RandomHorizontalFlip(0.5)] if self.flip else []
        if self.jitter is None:
            steps.append(v2.RandomShortestSize(self.short_side, self.long_side))
        else:
            fill = {tv_tensors.Image: _FILL, "others": 0}
            steps.append(v2.ScaleJitter((self.crop, self.crop), self.jitter))
            steps.append(v2.RandomCrop(self.crop, pad_if_needed=True, fill=fill))
        steps.append(v2.ClampBoundingBoxes())
        return v2.Compose(steps)
