"""The networks that a recipe names: the source of the initial weights (`model.pretrained`), and the teachers."""

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


def like_source(network: ModelRecipe, data: DataRecipe, log: Callable[[str], None]) -> ModelRecipe:
    """Fills in the name, options and attention that a recipe leaves open from the network in `model.pretrained`.

    Attention that this source does not have starts as the identity.
    """
    if not isinstance(network.pretrained, str):
        return network
    pretrained = _source(network.pretrained)
    source, preprocessing = pretrained.network, pretrained.preprocessing
    if source.detector is not None:
        raise InputError(f"model.pretrained {network.pretrained} is a detector; give a classifier, or model.detector")
    if network.name not in (source.name, ModelRecipe.name):
        raise InputError(
            f"model.pretrained {network.pretrained} is a {source.name}, but model.name is {network.name}; leave the "
            "name out"
        )
    if (preprocessing.mean, preprocessing.std) not in ((None, None), (data.mean, data.std)):
        log(
            f"note: {network.pretrained} was trained on images normalised with mean {preprocessing.mean} and deviation "
            f"{preprocessing.std}; set data.mean and data.std to these values to keep that"
        )
    if network.name != source.name:
        log(f"note: model.name is {source.name}, the network of {network.pretrained}")
    network = replace(network, name=source.name, options=network.options or source.options)
    if network.attention is None and source.attention is not None:
        network = replace(
            network,
            attention=source.attention,
            gate=source.gate,
            attention_stages=source.attention_stages,
            attention_options=source.attention_options,
        )
    if network.attention is not None and network.attention_start is None:
        start: Start = "identity"
        if network.attention == source.attention:
            start = source.attention_start or ("identity" if source.pretrained else "published")
        network = replace(network, attention_start=start)
    return network


def initial_network(network: ModelRecipe, classes: int, log: Callable[[str], None]) -> nn.Module:
    """The network of a recipe, completed by `like_source`, with the weights of its source.

    A classifier with another number of classes is newly initialised, and so is attention that the source does not have.
    """
    if not isinstance(network.pretrained, str):
        return build_network(network, classes)
    source = _source(network.pretrained)
    model = build_network(network, classes, pretrained=False)
    initial, trained = model.state_dict(), source.model().state_dict()
    classifier = [
        name
        for name, value in trained.items()
        if name in initial and _differ_in_classes(value, initial[name], source.outputs, classes)
    ]
    loaded = {name: value for name, value in trained.items() if name not in classifier}
    attention = {f"{layer}.{name}" for layer, module in attached(model).items() for name in module.state_dict()}
    if attention & loaded.keys():
        attention = set()  # the source has attention, which has to be the same
    untrained = {name: initial[name] for name in (*classifier, *attention)}
    models.load_weights(model, untrained | loaded, network.pretrained)
    if classifier:
        log(
            f"note: {network.pretrained} has {source.outputs} classes and the data {classes}; its classifier "
            f"({', '.join(classifier)}) is replaced by a new one"
        )
    if attention:
        log(f"note: {network.pretrained} has no attention; {network.attention} begins as {network.attention_start}")
    return model


def _source(name: str) -> Pretrained:
    try:
        return load_pretrained(local_run(name))
    except InputError as error:
        raise InputError(f"model.pretrained: {error}") from error


def _differ_in_classes(trained: Tensor, initial: Tensor, trained_classes: int, classes: int) -> bool:
    """Whether two tensors have one row per class, for different numbers of classes, and the same shape otherwise."""
    rows = trained.ndim > 0 and trained.shape[:1] == (trained_classes,) and initial.shape[:1] == (classes,)
    return rows and trained_classes != classes and trained.shape[1:] == initial.shape[1:]


def load_teachers(
    recipe: TransferRecipe,
    images: Images,
    size: tuple[int, int],
    device: torch.device,
    log: Callable[[str], None],
    *,
    compile: bool = False,
) -> list[Teacher]:
    """Loads the teachers of a recipe.

    A teacher with other classes than the data can only transfer its attention. A teacher with another normalisation, or
    a fixed image size, gets the images normalised and resized for it. `log` is called with a note in these cases.
    Raises InputError if a teacher does not exist, is not fully trained or has no weights, or a loss compares classes
    that differ.
    """
    teachers = []
    for source in recipe.teachers:
        location = local_run(source)
        _check_finished(source, Path(location))
        teacher = load_pretrained(location, recipe.weights, log=log)
        teacher.check_classifier()
        _check_classes(recipe, source, teacher, images.classes, log)
        network, preprocessing = teacher.model(), teacher.preprocessing
        mean, std = preprocessing.mean or images.mean, preprocessing.std or images.std
        if (mean, std) != (images.mean, images.std):
            log(f"note: images for teacher {source} are normalised with its own mean and standard deviation")
        side = recipe.teacher_size
        fixed = (getattr(network, "pretrained_cfg", None) or {}).get("fixed_input_size")  # of timm
        if side is None and preprocessing.size is not None and fixed:
            side = preprocessing.size
            if (side, side) != size:
                log(f"note: teacher {source} takes only images of {side} pixels; its images are resized")
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
    """Raises InputError if the source is a run with epochs left."""
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
    recipe: TransferRecipe, source: str, teacher: Pretrained, classes: tuple[str, ...], log: Callable[[str], None]
) -> None:
    """Raises InputError if a loss compares classes that differ; notes classes that are unknown or not used."""
    losses = [name for name in ("alpha", "gradient") if recipe.uses(name)]  # losses that compare classes
    if (count := teacher.class_count) != len(classes):
        if losses:
            raise InputError(
                f"teacher {source} has {count} classes and the data {len(classes)}: "
                f"{'distillation' if 'alpha' in losses else 'gradient transfer'} needs the same "
                f"(transfer.{losses[0]} 0 leaves it out)"
            )
        log(f"note: teacher {source} has {count} classes, the data {len(classes)}; only its attention is used")
    elif losses and teacher.classes is None:
        log(f"note: the classes of teacher {source} have no names; they are assumed to be those of the data, in order")
    elif losses and teacher.classes != classes:
        raise InputError(
            f"teacher {source} and the data have {len(classes)} classes, not the same ones in the same order; give "
            f"another teacher, or transfer.{losses[0]} 0"
        )
