"""A run is a folder: its recipe, its environment, a line of metrics an epoch, checkpoints and weights."""

from __future__ import annotations

import inspect
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import accelerate
import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from regard import attention, data, models
from regard.data.fileset import SIZE
from regard.data.sources import READ_WHILE_TRAINING
from regard.errors import InputError, first_line
from regard.files import (
    MOST_BYTES,
    RUN_FILES,
    check_replaceable,
    read_regular,
    remove_files,
    written_aside,
    written_files,
)
from regard.launcher import rank_and_size
from regard.metrics_file import read_metrics
from regard.terminal import command_line
from regard.training.commit import commit
from regard.training.frozen import freeze
from regard.training.parsing import load_recipe
from regard.training.recipe import DataRecipe, ModelRecipe, Recipe, write_recipe
from regard.version import __version__

Weights = Literal["last", "best"]
Channels = tuple[float, float, float]

_MOST_PIXELS = 16384  # of the side of an image
_PARAMETERS = 1000  # that a network may have whatever its weights, until they are compared

# The side of the images of the sets whose images have one size of their own.
_SIDES = {"clutter": 32, "cifar10": 32, "cifar100": 32, "stl10": 96}


@dataclass(frozen=True)
class Preprocessing:
    """How images come to a network.

    Attributes:
        mean: subtracted from the channels, in [0, 1]; None: that of the data.
        std: the channels are divided by it; None: that of the data.
        size: side of the images in pixels; None: not known.
        crop_pct: the share of the resized image's shorter side that is left by the crop, in (0, 1]; None: all of it.
        crop_mode: "center", "squash" or "border", as timm calls them; None: "center".
        interpolation: of the resizing, as timm calls it; None: "bilinear".
    """

    mean: Channels | None = None
    std: Channels | None = None
    size: int | None = None
    crop_pct: float | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    interpolation: str | None = None

    def check(self) -> None:
        """Raises InputError for values out of range."""
        if (self.mean is None) != (self.std is None):
            raise InputError("mean and std go together")
        if not all(map(math.isfinite, (*(self.mean or ()), *(self.std or ())))) or 0 in (self.std or ()):
            raise InputError(f"mean {self.mean}, std {self.std}; expected finite numbers, no std of 0")
        if self.size is not None and not 1 <= self.size <= _MOST_PIXELS:
            raise InputError(f"size {self.size}; expected 1 to {_MOST_PIXELS} pixels")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct {self.crop_pct}; expected above 0, at most 1")

    def over(self, other: Preprocessing) -> Preprocessing:
        """What is said here, and where nothing is, what is said there."""
        mine, theirs = astuple(self), astuple(other)
        return Preprocessing(*(a if a is not None else b for a, b in zip(mine, theirs, strict=True)))


def fit_of(preprocessing: Preprocessing) -> data.Fit:
    """How an image file is resized and cropped for a network; not at all if its size is not known."""
    if preprocessing.size is None:
        return data.Fit()
    red, green, blue = (round(255 * value) for value in preprocessing.mean or (0.0, 0.0, 0.0))
    return data.Fit(
        size=(preprocessing.size, preprocessing.size),
        crop_pct=preprocessing.crop_pct or 1.0,
        crop_mode=preprocessing.crop_mode or "center",
        interpolation=preprocessing.interpolation or "bilinear",
        fill=(red, green, blue),
    )


@dataclass(frozen=True)
class Run:
    """A run folder.

    `recipe.yaml` (whole), `environment.json`, `metrics.jsonl` (a line an epoch), `checkpoints/`, `last.safetensors`
    (weights after the last finished epoch) and `best.safetensors` (weights with the best test accuracy so far).
    """

    folder: Path

    @classmethod
    def create(cls, folder: str | Path, recipe: Recipe, classes: tuple[str, ...], *, overwrite: bool = False) -> Run:
        """A new run folder. Of a run that is there its files are removed; files that a person put there stay.

        Raises:
            InputError: the folder exists and `overwrite` is not set, it holds something other than a run, or it cannot
                be written.
        """
        cls.check_free(folder, overwrite=overwrite)
        return cls(Path(folder)).begin(recipe, classes, cls(Path(folder)).files())

    def files(self) -> list[Path]:
        """The files of the run, but for its recipe and environment, which make the folder a run."""
        return written_files(self.folder, RUN_FILES)

    def begin(
        self,
        recipe: Recipe,
        classes: tuple[str, ...],
        replaced: Sequence[Path] = (),
        images: dict[str, Any] | None = None,
    ) -> Run:
        """Makes the folder of a run that starts.

        Args:
            recipe: of the run.
            classes: the names of the classes, in the order of the logits.
            replaced: files of the run before, which are removed.
            images: what is recorded of the data; see `data_record`.

        Raises:
            InputError: the folder cannot be written.
        """
        place = Path(os.path.realpath(self.folder))
        aside = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            if place.exists():
                remove_files(self.folder, replaced)
                _write_about(place, recipe, classes, images)  # one file after the other: at any time it is a run
            else:
                aside.mkdir(parents=True)
                _write_about(aside, recipe, classes, images)
                os.rename(aside, place)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise InputError(
                f"the run folder {self.folder} cannot be made ({first_line(error)}); make room, or give another"
            ) from error
        return self

    def update(self, epochs: int, unreadable: Literal["error", "skip"]) -> None:
        """Changes what a run that goes on may change in its recipe: the epochs, and what is done with broken images.

        Raises:
            InputError: the recipe cannot be written.
        """
        recipe = self.recipe
        if (recipe.schedule.epochs, recipe.data.unreadable) == (epochs, unreadable):
            return
        schedule = replace(recipe.schedule, epochs=epochs)
        changed = replace(recipe, schedule=schedule, data=replace(recipe.data, unreadable=unreadable))
        try:
            with written_aside(self.folder / "recipe.yaml") as aside:
                write_recipe(changed, aside)
        except OSError as error:
            raise InputError(f"the recipe of {self.folder} cannot be written ({first_line(error)})") from error

    @staticmethod
    def check_free(folder: str | Path, *, overwrite: bool = False) -> None:
        """Whether a new run may be made there.

        Raises:
            InputError: the folder is not empty and `overwrite` is not set; it holds something other than a run, or the
                working folder or the home folder; or it cannot be written.
        """
        folder = Path(folder)
        try:
            place = Path(os.path.realpath(folder))
            there = next(path for path in (place, *place.parents) if os.path.lexists(path))  # a link to itself is
            empty = place != there or (place.is_dir() and not any(place.iterdir()))
            writable = there.is_dir() and os.access(there, os.W_OK)
        except OSError as error:
            raise InputError(f"the run folder {folder} cannot be made ({first_line(error)}); give another") from error
        if not empty:
            if not overwrite:
                raise InputError(
                    f"{folder} exists already; go on with it (--resume), replace it (--overwrite) or choose another "
                    "(--run)"
                )
            try:
                _ = Run.open(folder).classes
            except InputError as error:
                raise InputError(f"{folder} is not overwritten: it exists and is no run ({error})") from error
            check_replaceable(folder)
        if not writable:
            raise InputError(f"the run folder {folder} cannot be made: {there} cannot be written; give another (--run)")

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run folder.

        Raises:
            InputError: there is no such folder, or it is no run.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"there is no run folder {folder}")
        if not (folder / "recipe.yaml").is_file():
            raise InputError(f"{folder} is no run: it has no recipe.yaml")
        return cls(folder)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.folder / "recipe.yaml")

    @property
    def environment(self) -> dict[str, Any]:
        """What the run depended on besides its recipe; empty where the file is missing.

        Raises:
            InputError: the file cannot be read, or the classes in it are no names.
        """
        path = self.folder / "environment.json"
        try:
            found = json.loads(read_regular(path, MOST_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read ({first_line(error)}); put the run's own back") from error
        names: Any = found.get("classes", []) if isinstance(found, dict) else None
        listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not listed or len(names) > models.MOST_CLASSES:
            raise InputError(f"{path} does not name the classes of the run; put the run's own back")
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        names = self.environment.get("classes")
        if not names:
            raise InputError(f"{self.folder / 'environment.json'} does not name the classes of the run")
        return tuple(names)

    @property
    def source(self) -> str:
        """What a person calls it by."""
        return str(self.folder)

    @property
    def network(self) -> ModelRecipe:
        return self.recipe.model

    @property
    def class_count(self) -> int:
        return len(self.classes)

    @property
    def outputs(self) -> int:
        """Length of the logits."""
        return self.class_count

    @property
    def preprocessing(self) -> Preprocessing:
        """How it meets images in testing."""
        about = self.recipe.data
        if about.name in READ_WHILE_TRAINING:
            size = about.size or SIZE
            return Preprocessing(about.mean, about.std, size, about.crop_pct, interpolation=about.interpolation)
        return Preprocessing(about.mean, about.std, about.size or _SIDES.get(about.name))

    def bias_report(self, which: Weights = "last") -> Path:
        """Where the report on where it looks goes."""
        return self.folder / ("bias.json" if which == "last" else f"bias-{which}.json")

    def metrics(self) -> list[dict[str, Any]]:
        """The epochs so far, one dict each; a last line cut short is left out.

        Raises:
            InputError: the file cannot be read, or another line is not that of an epoch.
        """
        path = self.folder / "metrics.jsonl"
        try:
            return read_metrics(read_regular(path, MOST_BYTES))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror or error})") from error

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        with written_aside(self.folder / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def weights(self, which: Weights = "last") -> Path:
        """The file of weights.

        Raises:
            InputError: the run has none yet.
        """
        path = self.folder / f"{which}.safetensors"
        if not path.is_file():
            raise InputError(f"{self.folder} has no {path.name}: no epoch of it is finished")
        return path

    def save_weights(self, model: nn.Module, which: Weights, epoch: int, test_accuracy: float) -> None:
        notes = {"regard": __version__, "epoch": epoch, "test_accuracy": test_accuracy}
        models.write_weights(model, self.folder / f"{which}.safetensors", notes)

    def model(self, which: Weights = "last") -> nn.Module:
        """The trained network, in evaluation mode, on the CPU.

        Raises:
            InputError: the run has no such weights, or they are cut short or do not fit its recipe.
        """
        path = self.weights(which)
        return load_network(self.network, self.class_count, models.read_checkpoint(path), str(path))


def _write_about(folder: Path, recipe: Recipe, classes: tuple[str, ...], images: dict[str, Any] | None) -> None:
    with written_aside(folder / "environment.json") as aside:
        aside.write_text(json.dumps(environment(classes) | ({"data": images} if images else {}), indent=1))
    with written_aside(folder / "recipe.yaml") as aside:
        write_recipe(recipe, aside)


def make_model(recipe: Recipe, classes: int, *, pretrained: bool | None = None) -> nn.Module:
    """The network of a recipe as its training begins: untrained unless it asks for pretrained weights, and what it
    wants frozen is.
    """
    model = build_network(recipe.model, classes, pretrained=pretrained)
    freeze(model, recipe.model.frozen, fixed_norms=recipe.model.fixed_norms)
    return model


def build_network(network: ModelRecipe, classes: int, *, pretrained: bool | None = None) -> nn.Module:
    """The network that a part of a recipe describes, untrained unless it asks for pretrained weights; none of it is
    frozen.

    Raises:
        InputError: as `models.create`.
    """
    for option in network.options:
        if option in inspect.signature(models.create).parameters:
            raise InputError(
                f"model.options has {option}, which is no option of a network; leave it out, or give model.{option}"
            )
    return models.create(
        network.name,
        classes,
        attention=network.attention,
        gate=network.gate,
        attention_stages=network.attention_stages,
        attention_options=network.attention_options,
        pretrained=network.pretrained if pretrained is None else pretrained,
        **network.options,
    )


def load_network(
    network: ModelRecipe,
    outputs: int,
    checkpoint: Any,
    source: str,
    *,
    ema: bool = False,
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """The network that a part of a recipe describes, with the weights of a checkpoint, in evaluation mode, on the CPU.

    It is first made without memory for its values, and made in earnest only if the weights fit.

    Args:
        network: what to make.
        outputs: length of its logits.
        checkpoint: what `models.read_checkpoint` gives.
        source: what to call it in messages.
        ema: see `models.load_official`, like `say`.

    Raises:
        InputError: the weights do not fit the network, or it cannot be made.
    """
    most = _PARAMETERS + 4 * models.count_entries(checkpoint)
    model = _shaped(network, outputs, most)
    entries = models.entries_for(model, checkpoint, source, ema=ema, say=say)
    models.check_fit(model, entries, source)
    model = build_network(network, outputs, pretrained=False)
    models.load_weights(model, entries, source)
    return model.eval()


def _shaped(network: ModelRecipe, outputs: int, most: int) -> nn.Module:
    """The network that a part of a recipe describes, with shapes and no values, where it can be made so.

    Args:
        network: what to make.
        outputs: length of its logits.
        most: parameters (tensors) that it may have.

    Raises:
        InputError: it has more parameters, or it cannot be made.
    """
    count = 0

    def register(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise InputError(f"the network {network.name} has far more parameters than there are weights for it")

    registered = register_module_parameter_registration_hook(register)
    try:
        with torch.device("meta"):
            return build_network(network, outputs, pretrained=False)
    except (RuntimeError, InputError):  # it computes with values as it is made, or says what is wrong again
        return build_network(network, outputs, pretrained=False)
    finally:
        registered.remove()


def load_data(recipe: DataRecipe) -> data.Splits:
    """The data of a recipe, with its mean and standard deviation.

    Raises:
        InputError: the data are not there or cannot be read.
    """
    data.all_options(recipe.name, **recipe.options)  # fields are no options
    how: dict[str, Any] = {}
    if recipe.name in READ_WHILE_TRAINING:
        how = {name: getattr(recipe, name) for name in ("crop_pct", "interpolation", "workers")}
    train, test = data.load(
        recipe.name,
        recipe.folder,
        download=recipe.download,
        size=recipe.size,
        unreadable=recipe.unreadable,
        **how,
        **recipe.options,
    )
    if recipe.train_images is not None:
        train = train.subset(recipe.train_images)
    return data.Splits(_normalised(train, recipe), _normalised(test, recipe))


def resolved(recipe: DataRecipe, images: data.InMemoryDataset | data.FileSet) -> DataRecipe:
    """The recipe with everything said that `images` took from defaults, which may change."""
    options = data.all_options(recipe.name, **recipe.options)
    size = images.size if isinstance(images, data.FileSet) else recipe.size
    return replace(recipe, size=size, mean=images.mean, std=images.std, options=options)


def _normalised(images: data.InMemoryDataset | data.FileSet, recipe: DataRecipe) -> data.InMemoryDataset | data.FileSet:
    return replace(images, mean=recipe.mean or images.mean, std=recipe.std or images.std)


def pick_device(name: str) -> torch.device:
    """The device of a name; 'auto' is a GPU if there is one.

    Raises:
        InputError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which the device called meta cannot
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not to be had here: {first_line(error)}") from error
    return device


def environment(classes: tuple[str, ...]) -> dict[str, Any]:
    """What a run depends on besides its recipe."""
    return {
        "regard": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "accelerate": accelerate.__version__,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": rank_and_size()[1],
        "attention_kernels": attention.ops.backend("cuda" if torch.cuda.is_available() else "cpu"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": command_line(sys.argv),
        "classes": list(classes),
    }
