"""Training: recipes, the loop, run folders."""

from regard.training.display import Display, Lines
from regard.training.evaluate import Score, evaluate
from regard.training.loop import Outcome, train
from regard.training.parsing import (
    RecipeParser,
    add_data,
    add_recipe,
    data_arguments,
    file_arguments,
    load_recipe,
    to_data,
    to_recipe,
)
from regard.training.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    TransferRecipe,
    plain,
)
from regard.training.run import Run, load_data, make_model, pick_device
from regard.training.schedule import learning_rate, make_optimizer

__all__ = [
    "DataRecipe",
    "Display",
    "Lines",
    "ModelRecipe",
    "OptimizerRecipe",
    "Outcome",
    "Recipe",
    "RecipeParser",
    "Run",
    "ScheduleRecipe",
    "Score",
    "TransferRecipe",
    "add_data",
    "add_recipe",
    "data_arguments",
    "evaluate",
    "file_arguments",
    "learning_rate",
    "load_data",
    "load_recipe",
    "make_model",
    "make_optimizer",
    "pick_device",
    "plain",
    "to_data",
    "to_recipe",
    "train",
]
