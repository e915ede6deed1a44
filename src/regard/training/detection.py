"""Detection and instance segmentation as a task of the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from regard import data, detection
from regard.data import Batch, DetectionTransform, ImageDataset, Splits, Unreadable
from regard.data.codes import library
from regard.data.streamed_loader import with_objects
from regard.errors import InputError
from regard.training.datasets import Images, detector_size
from regard.training.distributed import Processes, seed_generators, step_seed
from regard.training.networks import build_network, has_attention, prepare_network
from regard.training.recipe import DataRecipe, Recipe
from regard.training.task import Task
from regard.transfer import Losses


class Detection(Task):
    """A detector that learns boxes, and masks if it has a mask branch."""

    fewest = 1

    @staticmethod
    def load_data(recipe: DataRecipe) -> Splits:
        """Loads the training images that have objects, and all test images. Raises InputError if that fails."""
        train, test = data.load(
            recipe.name, recipe.folder, download=recipe.download, size=None, objects=True, **recipe.options
        )
        return Splits(train if recipe.train_images is None else train.subset(recipe.train_images), test)

    @staticmethod
    def completed(recipe: Recipe, images: Images, log: Callable[[str], None]) -> Recipe:
        """Fills in the size and options of the data, and the attention_start that the weights of the backbone imply.

        mean and std stay as they are, because a detector normalises its images itself.
        """
        network, options = recipe.model, data.all_options(recipe.data.name, **recipe.data.options)
        if network.attention is not None and network.attention_start is None and network.pretrained is not False:
            trained = isinstance(network.pretrained, str) and has_attention(network)
            network = replace(network, attention_start="published" if trained else "identity")
        data_recipe = replace(recipe.data, size=detector_size(recipe.data)[0], options=options)
        return replace(recipe, data=data_recipe, model=network)

    @classmethod
    def create(cls, recipe: Recipe, splits: Splits, processes: Processes) -> Self:
        library()  # raises InputError if the library that tests detectors is not installed
        _check_objects(with_objects(splits.train))
        # One process first, because it may download.
        model = processes.first(lambda: build_network(recipe.model, len(splits.train.classes), data=recipe.data))
        masks = isinstance(model, detection.MaskRCNN)
        model, _ = prepare_network(model, recipe, len(splits.train), processes)
        if recipe.compile:
            model.get_submodule("backbone").compile()
        common: dict[str, Any] = {
            "rank": processes.rank,
            "world_size": processes.count,
            "device": processes.device,
            "workers": recipe.data.workers,
            "unreadable": recipe.data.unreadable,
            "objects": True,
        }
        batch_size = recipe.schedule.batch_size
        remainder = len(splits.train) % batch_size
        loader = data.create_loader(
            splits.train,
            batch_size,
            transform=make_detection_transform(recipe),
            shuffle=True,
            seed=recipe.seed,
            drop_last=0 < remainder < processes.count and batch_size < len(splits.train),
            masks=masks,
            **common,
        )
        test_loader = data.create_loader(splits.test, processes.count, **common)
        return cls(recipe, model, DetectionObjective(model), loader, test_loader)

    def inputs(self, batch: Batch, step: int, progress: float) -> tuple[Any, ...]:
        seed = step_seed(self.recipe.seed, step, 0)
        return batch.images, batch.targets, [step_seed(seed, index, 0) for index in batch.index.tolist()]

    def test(self, model: nn.Module, processes: Processes) -> tuple[dict[str, Any], Sequence[str]]:
        results = detection.evaluate(model, self.test_loader, unreadable=self.recipe.data.unreadable)
        row: dict[str, Any] = {}
        for kind, metrics in (("box", results.boxes), ("mask", results.masks or {})):
            for name, field in METRICS.items():
                value = metrics.get(name, math.nan)
                if not math.isnan(value):
                    row[f"test_{kind}_{field}"] = value
        return {"test_box_ap": 0.0, **row, "test_images": len(results)}, results.skipped


def _check_objects(images: ImageDataset) -> None:
    """Raises InputError if no training image has an object to learn from; stops at the first one that has."""
    unusable = 0
    for index in range(len(images)):
        with suppress(Unreadable):  # the loader raises it
            if (objects := images.objects(index, masks=False)) is not None:
                if (~objects.crowd & (objects.boxes[:, 2:] > objects.boxes[:, :2]).all(1)).any():
                    return
                unusable += len(objects.crowd)
    content = f"{unusable:,} objects, all crowds (iscrowd) or without area" if unusable else "no objects"
    raise InputError(f"the {len(images):,} training images of {images.name} have {content}; give images with objects")


METRICS = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large"}
"""Names of COCO's metrics in metrics.jsonl, after `test_box_` or `test_mask_`. Metrics that are NaN are left out."""


class DetectionObjective(nn.Module):
    """The loss of a detector: the sum of the losses that it returns.

    Two-stage detectors learn from a random sample of the boxes of each image. Its seed depends on the image, so that
    the sample does not depend on the rest of the batch or on the number of processes.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.student = detector
        detector.get_submodule("transform")._skip_resize = True  # type: ignore[assignment]  # the loader resizes training images
        self._samplers: list[SeededSampler] = []
        for module in detector.modules():
            if isinstance(sampler := getattr(module, "fg_bg_sampler", None), BalancedPositiveNegativeSampler):
                self._samplers.append(SeededSampler(sampler.batch_size_per_image, sampler.positive_fraction))
                module.fg_bg_sampler = self._samplers[-1]

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]], seeds: Sequence[int]) -> Losses:
        """Computes the losses of some images.

        Args:
            images: float32 (3, h, w) each, in [0, 1].
            targets: boxes, labels and masks of each image, see `data.Batch`.
            seeds: seed of each image.

        Returns:
            The terms are the losses of the detector, whose names lose the prefix `loss_`.
        """
        for number, sampler in enumerate(self._samplers):
            sampler.seeds = [step_seed(seed, number, 0) for seed in seeds]
        losses = self.student(images, targets)
        terms = {name.removeprefix("loss_"): loss for name, loss in losses.items()}
        total = torch.stack(list(terms.values())).sum()
        return Losses(total, total.new_empty(0), terms, {})


class SeededSampler(BalancedPositiveNegativeSampler):
    """Samples the boxes of each image with its seed in `seeds`; see `DetectionObjective`."""

    seeds: Sequence[int] = ()

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive: list[Tensor] = []
        negative: list[Tensor] = []
        for seed, matched in zip(self.seeds, matched_idxs, strict=True):
            seed_generators(matched.device, seed)
            for masks, sampled in zip((positive, negative), super().__call__([matched]), strict=True):
                masks += sampled
        self.seeds = [step_seed(seed, 0, 0) for seed in self.seeds]  # a cascade samples once per stage
        return positive, negative


def make_detection_transform(recipe: Recipe) -> DetectionTransform:
    """The transform of the training images. Raises InputError for values out of range."""
    augmentation, (short, long) = recipe.augmentation, detector_size(recipe.data)
    sides = tuple(augmentation.short_side or [short])
    return DetectionTransform(
        sides,
        max(long, *sides),
        flip=augmentation.flip,
        jitter=augmentation.jitter,
        crop=augmentation.crop or short,
        photometric=augmentation.photometric,
    )
