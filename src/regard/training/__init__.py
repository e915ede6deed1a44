"""Training: recipes, the loop, run folders, weights from elsewhere."""

from regard.training.described import (
    described_classes,
    described_preprocessing,
    imagenet_classes,
    imagenet_synsets,
)
from regard.training.display import Display, Lines
from regard.training.evaluate import MANY_CLASSES, Score, evaluate
from regard.training.fields import WHERE, flat, with_fields
from regard.training.imported import Imported, import_weights, sha256
from regard.training.interrupt import Interrupt, interruptible
from regard.training.named import Named
from regard.training.objective import make_objective
from regard.training.optimizers import make_optimizer
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
from regard.training.processes import Processes, others_there
from regard.training.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    TransferRecipe,
    plain,
)
from regard.training.run import Preprocessing, Run, build_network, fit_of, load_data, make_model, pick_device
from regard.training.schedule import learning_rate
from regard.training.trained import Trained, open_trained
from regard.training.trainer import Outcome, check, train

__all__ = [
    "DataRecipe",
    "Display",
    "Imported",
    "Interrupt",
    "Lines",
    "MANY_CLASSES",
    "ModelRecipe",
    "Named",
    "OptimizerRecipe",
    "Outcome",
    "Preprocessing",
    "Processes",
    "Recipe",
    "RecipeParser",
    "Run",
    "ScheduleRecipe",
    "Score",
    "Trained",
    "TransferRecipe",
    "WHERE",
    "add_data",
    "add_recipe",
    "build_network",
    "check",
    "data_arguments",
    "described_classes",
    "described_preprocessing",
    "evaluate",
    "file_arguments",
    "fit_of",
    "flat",
    "imagenet_classes",
    "imagenet_synsets",
    "import_weights",
    "interruptible",
    "learning_rate",
    "load_data",
    "load_recipe",
    "make_model",
    "make_objective",
    "make_optimizer",
    "open_trained",
    "others_there",
    "pick_device",
    "plain",
    "sha256",
    "to_data",
    "to_recipe",
    "train",
    "with_fields",
]
