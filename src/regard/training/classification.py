"""Classification, with or without a teacher, as a task of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from regard import data
from regard.data import Batch
from regard.logits import predicted_classes
from regard.modes import check_image_size
from regard.training.datasets import load_data, make_loaders
from regard.training.distributed import Processes
from regard.training.evaluate import MANY_CLASSES, evaluate
from regard.training.finetuning import initial_network, like_source
from regard.training.hooks import Guided, Hook, Mix
from regard.training.networks import placed
from regard.training.recipe import TRANSFERRED, Recipe
from regard.training.task import Task
from regard.training.teacher import load_teachers
from regard.transfer import Losses, Objective, Teacher


class Classification(Task):
    """A network that learns classes from labels and, if the recipe has one, from a teacher."""

    measures = ("accuracy",)
    guided: Guided
    load_data = staticmethod(load_data)

    @staticmethod
    def completed(recipe: Recipe, say: Callable[[str], None]) -> Recipe:
        return replace(recipe, model=like_source(recipe.model, recipe.data, say))

    @classmethod
    def create(cls, recipe: Recipe, splits: data.Splits, processes: Processes) -> Self:
        # One process first, because it may download.
        model = processes.first(lambda: initial_network(recipe.model, len(splits.train.classes), processes.note))
        model, channels_last = placed(model, recipe, len(splits.train), processes)
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
        many = len(self.loader.dataset.classes) > MANY_CLASSES
        row = {
            "test_loss": score.loss,
            "test_accuracy": score.accuracy,
            **({"test_top5": score.top5 / score.images} if many else {}),
            "test_images": score.images,
        }
        return row, score.skipped


def make_objective(
    recipe: Recipe, model: nn.Module, teachers: Sequence[nn.Module | Teacher], image_size: tuple[int, int]
) -> Objective:
    """The losses of a recipe for a student, its teachers and images of size (h, w).

    Raises:
        InputError: student and teachers do not match.
    """
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
        label_smoothing=0.0
        if recipe.augmentation.mixes
        else recipe.label_smoothing,  # mixed labels are smoothed already
        task=recipe.task,
        image_size=image_size,
        compile=recipe.compile,
        guidance=recipe.guidance.schedule,
        guidance_form=recipe.guidance.form,
        guidance_maps=recipe.guidance.maps,
        guidance_layers=recipe.guidance.layers,
        guidance_detach=recipe.guidance.detach,
        **{name: transfer.weight(name) for name in TRANSFERRED},
    )
