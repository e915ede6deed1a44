"""`Task`: what a network learns. It gives the training loop its batches, losses and tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from regard.data import Batch, Loader, Splits
from regard.training.datasets import Images
from regard.training.distributed import Processes
from regard.training.hooks import Hook
from regard.training.recipe import DataRecipe, Recipe
from regard.transfer import Losses


class Task(ABC):
    """What the network of a recipe learns.

    Attributes:
        measures: names of the training metrics besides the losses; see `measured`.
        fewest: smallest number of images in a micro-batch; batch norms over feature maps of one pixel need two.
        recipe: recipe of the run.
        student: network in training, on its device.
        objective: module that contains the network; its forward pass takes `inputs` and returns `transfer.Losses`.
        regressors: modules of the objective that are trained with the network but are no part of it.
        loader, test_loader: loaders of the training and test images.
    """

    measures: ClassVar[tuple[str, ...]] = ()
    fewest: ClassVar[int] = 2

    def __init__(
        self,
        recipe: Recipe,
        student: nn.Module,
        objective: nn.Module,
        loader: Loader,
        test_loader: Loader,
        regressors: nn.ModuleList | None = None,
    ) -> None:
        self.recipe, self.student, self.objective = recipe, student, objective
        self.loader, self.test_loader = loader, test_loader
        self.regressors = nn.ModuleList() if regressors is None else regressors

    @staticmethod
    @abstractmethod
    def load_data(recipe: DataRecipe) -> Splits:
        """Loads the data of a recipe. Raises InputError."""

    @staticmethod
    @abstractmethod
    def completed(recipe: Recipe, images: Images, log: Callable[[str], None]) -> Recipe:
        """The recipe to record: defaults that depend on the training images or on other fields are filled in.

        `log` is called with notes. Raises InputError if the source in `model.pretrained` does not exist or does not
        fit.
        """

    @classmethod
    @abstractmethod
    def create(cls, recipe: Recipe, splits: Splits, processes: Processes) -> Self:
        """Builds the network, the objective and the loaders, after random numbers were seeded. Raises InputError."""

    def hooks(self) -> list[Hook]:
        """Hooks of the task, in every process."""
        return []

    @abstractmethod
    def inputs(self, batch: Batch, step: int, progress: float) -> tuple[Any, ...]:
        """The arguments of the objective for a rank's slice of a batch, or a micro-batch of it.

        `step` counts the steps of the run from 0; `progress` is the completed fraction of the run, in [0, 1].
        """

    def measured(self, losses: Losses, batch: Batch) -> Sequence[Tensor]:
        """The mean of each of `measures` over the images of a batch."""
        return ()

    @abstractmethod
    def test(self, model: nn.Module, processes: Processes) -> tuple[dict[str, Any], Sequence[str]]:
        """Tests a network. Every process has to call it.

        Returns the fields of the epoch's line in metrics.jsonl, equal in all processes, and the images that this
        process could not read, each with the reason.
        """
