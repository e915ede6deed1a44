"""The networks that a recipe names: the one that it begins with (`model.pretrained`), and its teachers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from regard import models
from regard.attention import attached
from regard.attention.start import Start
from regard.errors import InputError
from regard.store import local_run
from regard.training.datasets import Images
from regard.training.networks import build_network
from regard.training.pretrained import Pretrained, load_pretrained
from regard.training.recipe import DataRecipe, ModelRecipe, TransferRecipe
from regard.training.run import Run
from regard.transfer import Teacher
from regard.transfer.teacher import Precision

_PRECISIONS: dict[str, Precision] = {"auto": "auto", "float32": None, "bfloat16": torch.bfloat16}


def like_source(network: ModelRecipe, data: DataRecipe, say: Callable[[str], None]) -> ModelRecipe:
    """The recipe of a network whose weights come from a source, with what it leaves open as the source has it.

    That is the name, the options, and the attention; other attention than that of the source begins as the identity.
    Without a source the recipe is returned as it is.

    Args:
        network: recipe of the network.
        data: the data, with their mean and standard deviation.
        say: called with notes.

    Raises:
        InputError: there is no such source, or it is another network.
    """
    if not isinstance(network.pretrained, str):
        return network
    source = _source(network.pretrained)
    theirs, about = source.network, source.preprocessing
    if theirs.detector is not None:
        raise InputError(f"model.pretrained {network.pretrained} is a detector; give a classifier, or model.detector")
    if network.name not in (theirs.name, ModelRecipe.name):
        raise InputError(
            f"model.pretrained {network.pretrained} is a {theirs.name}, and model.name is {network.name}; leave the "
            "name out"
        )
    if (about.mean, about.std) not in ((None, None), (data.mean, data.std)):
        say(
            f"note: {network.pretrained} was trained on images normalised with mean {about.mean} and deviation "
            f"{about.std}; data.mean and data.std give it the same"
        )
    if network.name != theirs.name:
        say(f"note: model.name is {theirs.name}, as of {network.pretrained}")
    network = replace(network, name=theirs.name, options=network.options or theirs.options)
    if network.attention is None and theirs.attention is not None:
        network = replace(
            network,
            attention=theirs.attention,
            gate=theirs.gate,
            attention_stages=theirs.attention_stages,
            attention_options=theirs.attention_options,
        )
    if network.attention is not None and network.attention_start is None:
        start: Start = "identity"
        if network.attention == theirs.attention:
            start = theirs.attention_start or ("identity" if theirs.pretrained else "published")
        network = replace(network, attention_start=start)
    return network


def initial_network(network: ModelRecipe, classes: int, say: Callable[[str], None]) -> nn.Module:
    """The network of a recipe before training, with the weights of its source.

    A classifier of another number of classes is newly initialised, and so is attention that the source does not have.

    Args:
        network: as `like_source` gives it.
        classes: number of logits.
        say: called with notes.

    Raises:
        InputError: there is no such source, or its weights do not fit.
    """
    if not isinstance(network.pretrained, str):
        return build_network(network, classes)
    source = _source(network.pretrained)
    model = build_network(network, classes, pretrained=False)
    initial, trained = model.state_dict(), source.model().state_dict()
    replaced = [
        name
        for name, value in trained.items()
        if name in initial and _differ_in_classes(value, initial[name], source.outputs, classes)
    ]
    loaded = {name: value for name, value in trained.items() if name not in replaced}
    new = {f"{place}.{name}" for place, module in attached(model).items() for name in module.state_dict()}
    if new & loaded.keys():
        new = set()  # the source has attention, and it has to be the same
    models.load_weights(model, {name: initial[name] for name in (*replaced, *new)} | loaded, network.pretrained)
    if replaced:
        say(
            f"note: {network.pretrained} has {source.outputs} classes and the data {classes}; its classifier "
            f"({', '.join(replaced)}) is replaced by a new one"
        )
    if new:
        say(f"note: {network.pretrained} has no attention; {network.attention} begins as {network.attention_start}")
    return model


def _source(name: str) -> Pretrained:
    try:
        return load_pretrained(local_run(name))
    except InputError as error:
        raise InputError(f"model.pretrained: {error}") from error


def _differ_in_classes(trained: Tensor, initial: Tensor, trained_classes: int, classes: int) -> bool:
    """Whether two tensors of different shapes have a row for each class and are otherwise alike."""
    rows = trained.ndim > 0 and trained.shape[:1] == (trained_classes,) and initial.shape[:1] == (classes,)
    return rows and trained_classes != classes and trained.shape[1:] == initial.shape[1:]


def load_teachers(
    recipe: TransferRecipe,
    images: Images,
    size: tuple[int, int],
    device: torch.device,
    say: Callable[[str], None],
    *,
    compile: bool = False,
) -> list[Teacher]:
    """Loads the teachers of a recipe; empty if there are none.

    Only the attention of a teacher with other classes than the data can be transferred; losses that compare classes
    then raise an error. A teacher with another normalisation, or a fixed image size, gets the images normalised and
    resized for it. Notes report these cases.

    Args:
        recipe: transfer recipe. Of all processes of a machine, one downloads a teacher from a bucket.
        images: training images of the student.
        size: (h, w) of the student's images.
        device: device of the teachers.
        say: called with each note.
        compile: compile the teachers.

    Raises:
        InputError: a run, file or network does not exist, a run is not finished, weights are not available, or the
            losses cannot be used with the teacher's classes.
    """
    teachers = []
    for source in recipe.teachers:
        location = local_run(source)
        _check_finished(source, Path(location))
        teacher = load_pretrained(location, recipe.weights, say=say)
        teacher.check_classifier()
        _check_classes(recipe, source, teacher, images.classes, say)
        network, about = teacher.model(), teacher.preprocessing
        mean, std = about.mean or images.mean, about.std or images.std
        if (mean, std) != (images.mean, images.std):
            say(f"note: teacher {source} gets the images normalised with its own mean and standard deviation")
        side = recipe.teacher_size
        fixed = (getattr(network, "pretrained_cfg", None) or {}).get("fixed_input_size")  # of timm
        if side is None and about.size is not None and fixed:
            side = about.size
            if (side, side) != size:
                say(f"note: teacher {source} takes images of {side} pixels only, and gets them resized")
        teachers.append(
            Teacher(
                network.to(device).to(memory_format=torch.channels_last),
                mean=mean,
                std=std,
                images_mean=images.mean,
                images_std=images.std,
                size=None if side is None or (side, side) == size else (side, side),
                precision=_PRECISIONS[recipe.precision],
                fold=recipe.fold,
                compile=compile,
            )
        )
    return teachers


def _check_finished(source: str, folder: Path) -> None:
    """Raises InputError for a run with epochs left."""
    if not (folder / "recipe.yaml").is_file():
        return
    run = Run(folder)
    rows, epochs = run.metrics(), run.recipe.schedule.epochs
    if rows and rows[-1]["epoch"] < epochs:
        raise InputError(
            f"teacher {source} has {rows[-1]['epoch']} of {epochs} epochs; finish it first, or name one of its "
            "checkpoints"
        )


def _check_classes(
    recipe: TransferRecipe, source: str, teacher: Pretrained, classes: tuple[str, ...], say: Callable[[str], None]
) -> None:
    """Raises InputError if a loss compares the classes of the teacher with others; notes if classes are unknown."""
    compared = [name for name in ("alpha", "gradient") if recipe.uses(name)]
    if (count := teacher.class_count) != len(classes):
        if compared:
            raise InputError(
                f"teacher {source} has {count} classes and the data {len(classes)}: "
                f"{'distillation' if 'alpha' in compared else 'gradient transfer'} needs the same "
                f"(transfer.{compared[0]} 0 leaves it out)"
            )
        say(f"note: teacher {source} has {count} classes, the data {len(classes)}; only its attention is used")
    elif compared and teacher.classes is None:
        say(f"note: the classes of teacher {source} have no names; they are assumed to be those of the data, in order")
    elif compared and teacher.classes != classes:
        raise InputError(
            f"teacher {source} and the data have {len(classes)} classes, not the same ones in the same order"
        )
