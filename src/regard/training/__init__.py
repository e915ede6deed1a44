"""Training: recipes, the training loop, run folders and pretrained weights."""

from regard.training.classification import MANY_CLASSES, Classification, Score, evaluate, make_objective
from regard.training.datasets import (
    SIZE,
    Preprocessing,
    default_size,
    detector_size,
    load_data,
    make_loader,
    make_transform,
)
from regard.training.detection import Detection, DetectionObjective
from regard.training.distributed import Processes, pick_device
from regard.training.hooks import Hook, Progress, Upload
from regard.training.imported import import_weights, sha256
from regard.training.loop import interruptible
from regard.training.networks import build_network, make_model
from regard.training.optimizers import learning_rate, make_optimizer
from regard.training.parsing import (
    add_data,
    add_recipe,
    field_arguments,
    file_arguments,
    load_recipe,
    option_text,
    to_data,
    to_recipe,
)
from regard.training.pretrained import Pretrained, describe, imagenet_classes, imagenet_synsets, load_pretrained
from regard.training.recipe import (
    WHERE,
    DataRecipe,
    GuidanceRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    TransferRecipe,
    flat,
    plain,
    with_fields,
)
from regard.training.run import Run
from regard.training.task import Task
from regard.training.trainer import Outcome, check, task_of, train

__all__ = [
    "SIZE",
    "Classification",
    "DataRecipe",
    "Detection",
    "DetectionObjective",
    "GuidanceRecipe",
    "Hook",
    "MANY_CLASSES",
    "ModelRecipe",
    "OptimizerRecipe",
    "Outcome",
    "Preprocessing",
    "Pretrained",
    "Processes",
    "Progress",
    "Recipe",
    "Run",
    "ScheduleRecipe",
    "Task",
    "Score",
    "TransferRecipe",
    "Upload",
    "WHERE",
    "add_data",
    "add_recipe",
    "build_network",
    "check",
    "default_size",
    "describe",
    "detector_size",
    "evaluate",
    "field_arguments",
    "file_arguments",
    "flat",
    "imagenet_classes",
    "imagenet_synsets",
    "import_weights",
    "interruptible",
    "learning_rate",
    "load_data",
    "load_pretrained",
    "load_recipe",
    "make_loader",
    "make_transform",
    "make_model",
    "make_objective",
    "make_optimizer",
    "option_text",
    "pick_device",
    "plain",
    "sha256",
    "task_of",
    "to_data",
    "to_recipe",
    "train",
    "with_fields",
]
