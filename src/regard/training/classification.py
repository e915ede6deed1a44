"""Classification as a task of the training loop, with or without a teacher, and the test score of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard import data
from regard.data import Batch, Loader
from regard.errors import InputError
from regard.logits import checked_labels, class_logits, logits_of, predicted_classes
from regard.modes import check_image_size, evaluation_mode, match_dtype
from regard.notebook import records_html
from regard.stats import interval_record, proportion, without_nan
from regard.training.datasets import Images, default_size, load_data, make_loaders
from regard.training.distributed import Processes
from regard.training.hooks import Guided, Hook, Mix
from regard.training.networks import prepare_network
from regard.training.recipe import TRANSFER_WEIGHTS, Recipe
from regard.training.sources import initial_network, like_source, load_teachers
from regard.training.task import Task
from regard.transfer import Losses, Objective, Teacher

MANY_CLASSES = 10
"""Top-5 accuracy is reported with more classes than this."""


class Classification(Task):
    """A classifier that learns from labels and, if the recipe has one, from a teacher."""

    measures = ("accuracy",)
    guided: Guided
    load_data = staticmethod(load_data)

    @staticmethod
    def completed(recipe: Recipe, images: Images, log: Callable[[str], None]) -> Recipe:
        """Fills in the size, mean, std and options of the data, and the network of `model.pretrained`."""
        size = recipe.data.size or default_size(recipe.data.name, detector=False)
        options = data.all_options(recipe.data.name, **recipe.data.options)
        data_recipe = replace(recipe.data, size=size, mean=images.mean, std=images.std, options=options)
        return replace(recipe, data=data_recipe, model=like_source(recipe.model, data_recipe, log))

    @classmethod
    def create(cls, recipe: Recipe, splits: data.Splits, processes: Processes) -> Self:
        # One process first, because it may download.
        model = processes.first(lambda: initial_network(recipe.model, len(splits.train.classes), processes.note))
        model, channels_last = prepare_network(model, recipe, len(splits.train), processes)
        loaders = make_loaders(recipe, splits, processes, channels_last)
        size = loaders[0].image_size
        assert size is not None
        check_image_size(model, torch.empty(1, 3, *size, device="meta"))
        teachers = processes.first(
            lambda: load_teachers(
                recipe.transfer, splits.train, size, processes.device, processes.note, compile=recipe.compile
            )
        )
        objective = make_objective(recipe, model, teachers, size)
        return cls(recipe, model, objective, *loaders, objective.regressors)

    def hooks(self) -> list[Hook]:
        recipe = self.recipe
        hooks: list[Hook] = []
        if recipe.augmentation.mixes:
            classes = len(self.loader.dataset.classes)
            hooks.append(Mix(data.Mixing(recipe.augmentation, classes, recipe.seed, recipe.label_smoothing)))
        if recipe.guidance.used:
            self.guided = Guided()
            hooks.append(self.guided)
        return hooks

    def inputs(self, batch: Batch, step: int, progress: float) -> tuple[Any, ...]:
        if batch.masks is None:
            return batch.images, batch.labels, progress
        return batch.images, batch.labels, progress, batch.masks, self.guided.share

    def measured(self, losses: Losses, batch: Batch) -> Sequence[Tensor]:
        labels = batch.labels
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        dtype = torch.promote_types(losses.total.dtype, torch.float32)
        return [(predicted_classes(losses.logits) == classes).to(dtype).mean()]

    def test(self, model: nn.Module, processes: Processes) -> tuple[dict[str, Any], Sequence[str]]:
        score = evaluate(model, self.test_loader, summed=processes.summed)
        many_classes = len(self.loader.dataset.classes) > MANY_CLASSES
        row = {
            "test_loss": score.loss,
            "test_accuracy": score.accuracy,
            **({"test_top5": score.top5 / score.images} if many_classes else {}),
            "test_images": score.images,
        }
        return row, score.skipped


def make_objective(
    recipe: Recipe, model: nn.Module, teachers: Sequence[nn.Module | Teacher], image_size: tuple[int, int]
) -> Objective:
    """Builds the losses of a recipe for images of size (h, w). Raises InputError if the teachers do not match."""
    transfer = recipe.transfer
    return Objective(
        model,
        teachers or None,
        temperature=transfer.temperature,
        layers=transfer.layers,
        power=transfer.power,
        reduce=transfer.reduce,
        form=transfer.form,
        full_activation_form=transfer.full_activation_form,
        label_smoothing=0.0 if recipe.augmentation.mixes else recipe.label_smoothing,  # mixed labels are smooth
        task=recipe.task,
        image_size=image_size,
        compile=recipe.compile,
        guidance=recipe.guidance.schedule,
        guidance_form=recipe.guidance.form,
        guidance_maps=recipe.guidance.maps,
        guidance_layers=recipe.guidance.layers,
        guidance_detach=recipe.guidance.detach,
        **{name: transfer.weight(name) for name in TRANSFER_WEIGHTS},
    )


class Score(NamedTuple):
    """The test result of a network on `images` images.

    `loss` is the mean cross entropy, NaN without images; `correct` and `top5` are numbers of images; `skipped` lists
    the images that this process could not read, each with the reason.
    """

    loss: float
    correct: int
    top5: int
    images: int
    skipped: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, in [0, 1]."""
        return self.correct / self.images

    def to_records(self) -> list[dict[str, Any]]:
        """One dict for JSON: `images`, `loss`, and `accuracy` and `top5` with their 95% intervals."""
        record: dict[str, Any] = {"images": self.images, "loss": self.loss}
        for measure, count in (("accuracy", self.correct), ("top5", self.top5)):
            record |= interval_record(measure, proportion(count, self.images))
        return [without_nan(record)]

    def _repr_html_(self) -> str:
        return records_html(self.to_records())


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    outputs: Tensor | None = None,
    summed: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Score:
    """Tests `model` on every image of `loader`, in evaluation mode; restores the mode afterwards.

    Args:
        model: model on the device of the batches.
        loader: loader of the images; with several processes, of the rank's slice.
        outputs: index of the model's output for each label, int64 (classes,); images with label -1 are left out. None
            if labels are output indices.
        summed: function that sums a tensor over the processes.

    Raises:
        InputError: a label without an output of the model; without `outputs`, no image can be read.
    """
    # Sums stay on the device, because reading them would wait for it. MPS has no float64.
    sums = torch.zeros(4, dtype=torch.float64, device="cpu" if loader.device.type == "mps" else loader.device)
    skipped: list[str] = []
    with evaluation_mode(model):
        for batch in loader.epoch(0):
            skipped += batch.skipped
            if not len(batch.images):
                continue
            output, labels = logits_of(model(match_dtype(model, batch.images))), batch.labels
            if outputs is not None:
                labelled = labels >= 0
                output, labels = output[labelled], outputs[labels[labelled]]
            logits = class_logits(output)
            loss = F.cross_entropy(logits, checked_labels(labels, logits), reduction="sum")
            correct = (predicted_classes(output) == labels).sum()
            top5 = (logits.topk(min(5, logits.shape[1])).indices == labels[:, None]).sum()
            sums += torch.stack([value.to(sums) for value in (loss, correct, top5, torch.full_like(top5, len(labels)))])
    total_loss, *counts = summed(sums).tolist()
    correct_images, top5_images, images = map(int, counts)
    if not images and outputs is None:
        raise InputError(
            f"none of the {len(loader.dataset)} test images can be read"
            f"{f' (the first: {skipped[0]})' if skipped else ''}; give readable ones"
        )
    mean_loss = total_loss / images if images else float("nan")
    return Score(mean_loss, correct_images, top5_images, images, tuple(skipped))
