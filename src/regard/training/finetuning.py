"""Networks that begin with the weights of a run, a file or a published network (`model.pretrained`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from regard import models
from regard.attention import attached
from regard.attention.start import Start
from regard.errors import InputError
from regard.store import local_run
from regard.training.networks import build_network
from regard.training.pretrained import Pretrained, load_pretrained
from regard.training.recipe import DataRecipe, ModelRecipe


def like_source(network: ModelRecipe, data: DataRecipe, say: Callable[[str], None]) -> ModelRecipe:
    """The recipe of a network whose weights come from a source, with what it does not say as the source has it.

    The name, if it is not given, the options, and the attention, unless other attention is asked for: that begins as
    the identity.

    Args:
        network: may have any `pretrained`; without a source it is returned as it is.
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
        published = network.attention == theirs.attention and not theirs.pretrained
        start: Start = "published" if published else "identity"
        if network.attention == theirs.attention and theirs.attention_start is not None:
            start = theirs.attention_start
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
    own, state = model.state_dict(), source.model().state_dict()
    head = [name for name, value in state.items() if name in own and _of_classes(value, own[name], source, classes)]
    entries = {name: value for name, value in state.items() if name not in head}
    new = {f"{place}.{name}" for place, module in attached(model).items() for name in module.state_dict()}
    if new & entries.keys():
        new = set()  # the source has attention, and it has to be the same
    models.load_weights(model, {**{name: own[name] for name in (*head, *new)}, **entries}, network.pretrained)
    if head:
        say(
            f"note: {network.pretrained} has {source.outputs} classes and the data {classes}; a new classifier "
            f"({', '.join(head)}) takes the place of its own"
        )
    if new:
        say(f"note: {network.pretrained} has no attention; {network.attention} begins as {network.attention_start}")
    return model


def _source(name: str) -> Pretrained:
    try:
        return load_pretrained(local_run(name))
    except InputError as error:
        raise InputError(f"model.pretrained: {error}") from error


def _of_classes(theirs: Tensor, ours: Tensor, source: Pretrained, classes: int) -> bool:
    """Whether the tensors have a row for each class, and not as many."""
    rows = theirs.ndim > 0 and theirs.shape[:1] == (source.outputs,) and ours.shape[:1] == (classes,)
    return rows and theirs.shape != ours.shape and theirs.shape[1:] == ours.shape[1:]
