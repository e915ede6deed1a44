"""Trained networks from runs, files, timm and torchvision, with their classes and preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
from timm.data import ImageNetInfo
from torch import nn

from regard import models
from regard.errors import InputError, one_line
from regard.models.create import is_regard_name, suggest_names
from regard.models.hub import WEIGHTS
from regard.models.torchvision import describe_torchvision, is_torchvision_name
from regard.parser import Parser
from regard.training.datasets import Preprocessing
from regard.training.networks import build_network, load_network
from regard.training.recipe import ModelRecipe, Recipe
from regard.training.run import Run, Weights

# The published LSAS and SE ResNets were trained with ImageNet's usual preprocessing.
_IMAGENET_CONFIG = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
}


@dataclass(frozen=True)
class Pretrained:
    """A trained network, built on demand.

    Attributes:
        source: name that the user gave.
        network: recipe of the network.
        outputs: number of logits; 1 for a binary network, whose logit is that of class 1.
        classes: class names in the order of the logits; None if unknown.
        preprocessing: preprocessing of test images.
        model: function that builds the network in evaluation mode on the CPU; raises InputError if the weights are not
            available or do not fit.
        weights: "last", "best", "checkpoint" or "moving average".
        recipe: recipe of the run; None if the network is not from a run.
        bias_report: path of the bias results on the images of the run; None if there is no run.
    """

    source: str
    network: ModelRecipe
    outputs: int
    classes: tuple[str, ...] | None
    preprocessing: Preprocessing
    model: Callable[[], nn.Module] = field(repr=False, compare=False)
    weights: str = "last"
    recipe: Recipe | None = None
    bias_report: Path | None = None

    def check_classifier(self, instead: str = "give a classifier") -> None:
        """Raises InputError for a detector; its message ends with `instead`, which tells what to do."""
        if self.network.detector is not None:
            raise InputError(
                f"{self.source} is a detector ({self.network.detector}), but a classifier is needed; {instead}"
            )

    @property
    def class_count(self) -> int:
        """Number of classes; 2 for a binary network with one output."""
        return len(self.output_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Class names, or "class 17" and so on if unknown; two names for a network with one output."""
        if self.classes is not None:
            return self.classes if len(self.classes) > 1 else (*self.classes, f"not {self.classes[0]}")
        count = max(self.outputs, 2)
        if count == describe(self.network.name).get("num_classes") == len(imagenet_classes()):
            return imagenet_classes()
        return tuple(f"class {i}" for i in range(count))


def load_pretrained(
    source: str | Path, weights: Weights | None = "last", *, ema: bool = False, log: Callable[[str], None] | None = None
) -> Pretrained:
    """Finds a trained network.

    Args:
        source: a run folder, a checkpoint within one, a file that `regard import` wrote, a folder that
            `models.save_pretrained` wrote, a name of timm ("resnet50") or torchvision ("torchvision/resnet50") with
            published weights, or NAME=CHECKPOINT.
        weights: weights of a run: after the last epoch, or with the best test accuracy; None if the run need not have
            weights yet.
        ema: for NAME=CHECKPOINT, use the moving average of the weights if the file has both.
        log: called with notes on the selected state dict of such a file and on unused entries.

    Raises:
        InputError: an unknown source; a run without these weights; `best` or a moving average of a source that has one
            set of weights.
    """
    path = Path(source)
    name, separator, file = str(source).partition("=")
    weights_file = path / WEIGHTS if (path / WEIGHTS).is_file() else path
    if weights_file.suffix == ".safetensors" and weights_file.is_file():
        pretrained = _from_imported(weights_file)
    elif path.is_dir():
        run, which = Run.open(path), weights or "last"
        if weights is not None:
            run.weights(weights)  # raises InputError if there are none
        pretrained = _from_run(run, path, which, partial(run.model, which))
    elif path.is_file():
        pretrained = _from_run_checkpoint(path)
    elif separator or is_regard_name(name) or timm.is_model(name) or is_torchvision_name(name):
        pretrained = _from_checkpoint(name, Path(file), ema, log) if separator else _from_published(name)
    elif path.suffix == ".pt" and _enclosing_run(path):
        raise InputError(f"there is no checkpoint {source}; a run keeps only the newest ones")
    else:
        raise InputError(f"there is no run folder {source}, and timm has no network of that name{suggest_names(name)}")
    if weights == "best" and pretrained.weights != "best":
        raise InputError(f"{pretrained.source} has one set of weights; leave --weights best out")
    if ema and (path.exists() or not separator):
        raise InputError(f"--ema is for networks given as NAME=CHECKPOINT, not for {source}; leave it out")
    return pretrained


def _from_run_checkpoint(path: Path) -> Pretrained:
    run = _enclosing_run(path)
    if run is None:
        raise InputError(
            f"{path} is no run folder, no checkpoint within one and no imported .safetensors file; import it (`regard "
            f"import`), or name its network, NAME={path}"
        )
    averaged = run.recipe.ema > 0

    def model() -> nn.Module:
        content = models.read_checkpoint(path)
        state: Any = content if isinstance(content, Mapping) else {}
        state = (state.get("hooks") or {}).get("WeightAverage") if averaged else state.get("model")
        if not isinstance(state, Mapping):
            missing = "moving average of the weights, which its run keeps" if averaged else "network"
            raise InputError(f"{path} is no checkpoint of the run that contains it: it has no {missing}")
        return load_network(run.recipe.model, len(run.classes), path, state, data=run.recipe.data)

    return _from_run(run, path, "moving average" if averaged else "checkpoint", model)


def _from_run(run: Run, source: Path, weights: str, model: Callable[[], nn.Module]) -> Pretrained:
    recipe, classes, preprocessing = run.recipe, run.classes, Preprocessing.in_testing(run.recipe.data)
    suffix = {"last": "", "best": "-best"}.get(weights, f"-{source.stem}")
    report = run.folder / f"bias{suffix}.json"
    return Pretrained(str(source), recipe.model, len(classes), classes, preprocessing, model, weights, recipe, report)


def _enclosing_run(path: Path) -> Run | None:
    """The run folder that contains a file, directly or in `checkpoints`; None if there is none."""
    parent = path.absolute().parent
    for folder in (parent.parent, parent):
        if (folder / "recipe.yaml").is_file() and (folder / "environment.json").is_file():
            return Run(folder)
    return None


def _from_imported(path: Path) -> Pretrained:
    """The network in a file that `import_weights` wrote, from its metadata."""
    notes = models.read_notes(path)
    if "network" not in notes:
        if (path.parent / "recipe.yaml").is_file():
            raise InputError(f"{path} is part of a run; give the run folder, {path.parent}")
        raise InputError(
            f"{path} does not name the network of its weights; write a file that does: `regard import {path} "
            "--model NAME --out …`"
        )
    try:
        fields = {name: notes.get(name) for name in ("network", "classes", "class_names", "preprocessing")}
        values = _notes_parser().instantiate(_notes_parser().parse_object(fields))
        values.preprocessing.check()
        _check_outputs(path, values.classes, values.class_names, detector=values.network.detector is not None)
    except (InputError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} does not describe its network as `regard import` does ({one_line(error)[:200]}); import the "
            "checkpoint again"
        ) from error
    names = None if values.class_names is None else tuple(values.class_names)
    model, report = partial(load_network, values.network, values.classes, path), path.with_suffix(".bias.json")
    return Pretrained(str(path), values.network, values.classes, names, values.preprocessing, model, bias_report=report)


@cache
def _notes_parser() -> Parser:
    parser = Parser(prog="notes")
    parser.add_class_arguments(ModelRecipe, "network")
    parser.add_class_arguments(Preprocessing, "preprocessing")
    parser.add_argument("--classes", type=int)
    parser.add_argument("--class_names", type=list[str] | None)
    return parser


def _check_outputs(path: Path, outputs: int, names: Sequence[str] | None, *, detector: bool) -> None:
    """Raises InputError unless a tensor has one row per output (not for detectors) and there is one name per class."""
    rows = {shape[0] for shape in models.read_shapes(path).values() if shape and 0 not in shape}
    if not 1 <= outputs <= models.MOST_CLASSES or not (detector or outputs in rows):
        raise InputError(f"it has {outputs} classes, but no tensor with as many rows")
    if names is not None and len(names) not in (outputs, max(outputs, 2)):
        raise InputError(f"it has {outputs} outputs, but {len(names)} class names")


def _from_published(name: str) -> Pretrained:
    config = describe(name)
    if not is_torchvision_name(name) and not timm.is_model_pretrained(name):
        raise InputError(
            f"there are no published weights of {name}; give a run of it, its checkpoint ({name}=FILE), or the name of "
            "a network that has some"
        )
    network, outputs = ModelRecipe(name, pretrained=True), int(config["num_classes"])

    def model() -> nn.Module:
        try:
            return build_network(network, outputs).eval()
        except InputError:
            raise
        except Exception as error:  # downloads may raise any error
            raise InputError(
                f"the pretrained weights of {name} cannot be loaded ({one_line(error)[:200]}); check the network, or "
                f"give a checkpoint ({name}=FILE)"
            ) from error

    return Pretrained(name, network, outputs, class_names(name), Preprocessing.of(config), model)


def _from_checkpoint(name: str, path: Path, ema: bool, log: Callable[[str], None] | None) -> Pretrained:
    """The network `name` with the weights of a file; see `models.load_official`."""
    config = describe(name)
    if not path.is_file():
        raise InputError(f"there is no checkpoint {str(path)!r} for the network {name}")
    content = models.read_checkpoint(path)
    network = ModelRecipe(name, options=models.described_options(name, content, str(path)))
    outputs = models.count_classes(content, str(path)) or config.get("num_classes")
    if outputs is None:
        raise InputError(f"{path} does not show the number of classes; give it to `regard import` (--num-classes)")
    source, weights = (f"{name}={path} --ema", "moving average") if ema else (f"{name}={path}", "last")
    model = partial(load_network, network, outputs, path, ema=ema, log=log)  # the file is read again
    return Pretrained(source, network, outputs, None, Preprocessing.of(config), model, weights)


def describe(name: str) -> Mapping[str, Any]:
    """Describes the published weights of a network as timm's `pretrained_cfg` does; empty if there are none.

    The keys are `num_classes`, `input_size` (3, H, W), `mean`, `std`, `crop_pct`, `crop_mode`, `interpolation`, and for
    torchvision `label_names`. Raises InputError if torchvision has no network of this name.
    """
    if is_torchvision_name(name):
        return describe_torchvision(name)
    if name.startswith("preact-resnet"):
        return _IMAGENET_CONFIG
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # an unknown tag after the name
        config = None
    return config.to_dict() if config else {}


def class_names(name: str) -> tuple[str, ...] | None:
    """Class names of published weights; None if they are not published, as for most weights of timm.

    The classes of ImageNet have the same names for every network: see `imagenet_classes`.
    """
    names: tuple[str, ...] | None = describe(name).get("label_names") if is_torchvision_name(name) else None
    imagenet = imagenet_classes()
    if names is None or len(names) != len(imagenet):
        return names
    # torchvision's "crane bird" is "crane (134)" in imagenet_classes, because ImageNet has two cranes.
    equal = all(a.startswith(b.split(" (")[0]) for a, b in zip(names, imagenet, strict=True))
    return imagenet if equal else names


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet identifiers ("n01440764") of ImageNet's 1,000 classes, in the order of the outputs."""
    return tuple(ImageNetInfo().label_names())


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Names of ImageNet's 1,000 classes ("tench"), followed by the class number if two classes have the same name."""
    names = [description.split(",")[0] for description in ImageNetInfo().label_descriptions()]
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))
