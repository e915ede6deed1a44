"""Training: recipes, the loop, run folders, weights from elsewhere."""

from regard.training.display import Display, Lines
from regard.training.evaluate import Score, evaluate
from regard.training.imported import (
    Imported,
    Trained,
    described_classes,
    described_preprocessing,
    import_weights,
    open_trained,
    sha256,
)
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
from regard.training.run import Preprocessing, Run, build_network, load_data, make_model, pick_device
from regard.training.schedule import learning_rate, make_optimizer

__all__ = [
    "DataRecipe",
    "Display",
    "Imported",
    "Lines",
    "ModelRecipe",
    "OptimizerRecipe",
    "Outcome",
    "Preprocessing",
    "Recipe",
    "RecipeParser",
    "Run",
    "ScheduleRecipe",
    "Score",
    "Trained",
    "TransferRecipe",
    "add_data",
    "add_recipe",
    "build_network",
    "data_arguments",
    "described_classes",
    "described_preprocessing",
    "evaluate",
    "file_arguments",
    "import_weights",
    "learning_rate",
    "load_data",
    "load_recipe",
    "make_model",
    "make_optimizer",
    "open_trained",
    "pick_device",
    "plain",
    "sha256",
    "to_data",
    "to_recipe",
    "train",
]
