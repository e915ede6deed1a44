"""One forward whose graph starts at the tapped layers, and gradients down to them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.maps.checks import check_logits
from regard.maps.features import Reshape, arrangement
from regard.maps.layers import find_layers, unwrapped
from regard.modes import evaluation_mode


class Tapped(NamedTuple):
    """What a layer gave, as part of the graph that ends in the logits, and what makes features (N, C, H, W) of it."""

    output: Tensor
    arrange: Reshape


class Graph:
    """A graph that starts at some layers and ends in the logits.

    Attributes:
        logits: (N, classes).
        features: name of a layer -> its features (N, C, H, W), without a graph; those of its last run.
    """

    def __init__(self, tapped: Mapping[str, Tapped], logits: Tensor) -> None:
        if not logits.requires_grad:
            names = ", ".join(repr(name) for name in tapped)
            raise InputError(f"no gradient reaches layer {names}; does the model run under no_grad inside?")
        self._tapped = tapped
        self._logits = logits
        self.logits = logits.detach()
        self.features = {name: tap.arrange(tap.output.detach()) for name, tap in tapped.items()}

    def gradients(self, weights: Tensor, *, last: bool) -> dict[str, Tensor]:
        """The gradients of `(weights * logits).sum()` by the features of every layer, by one backward.

        Args:
            weights: (N, classes).
            last: whether the graph is needed no more.

        Raises:
            InputError: the logits do not depend on a layer.
        """
        outputs = [tap.output for tap in self._tapped.values()]
        found = torch.autograd.grad(self._logits, outputs, weights, retain_graph=not last, allow_unused=True)
        for name, gradient in zip(self._tapped, found, strict=True):
            if gradient is None:
                raise InputError(f"the class scores do not depend on layer {name!r}; tap another layer")
        return {name: tap.arrange(gradient) for (name, tap), gradient in zip(self._tapped.items(), found, strict=True)}


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, not compiled, without gradients; as it was afterwards."""
    # inference_mode(False) turns gradients on, hence the order.
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model), _uncompiled():
        yield


def graph_from_layers(model: nn.Module, layers: Sequence[str], images: Tensor, reshape: Reshape | None = None) -> Graph:
    """Runs the model, without a graph up to the first of the layers to run."""
    tapped: dict[str, Tapped] = {}

    def tap(name: str, output: Any) -> Tensor:
        arrange = arrangement(unwrapped(model), name, output, images, reshape)
        # A layer behind another stays in the graph, so that gradients get past it to the other. A layer alone need
        # not: if it runs several times, the graph starts at the last.
        if len(layers) == 1 or not output.requires_grad:
            output = output.detach().requires_grad_()
        tapped[name] = Tapped(output, arrange)
        torch.set_grad_enabled(True)  # from here on; the no_grad block around the forward ends it
        return output.clone()  # what follows may work in place

    with torch.no_grad(), hooked(model, layers, tap):
        logits = run(model, images)
    return Graph({name: tapped[name] for name in check_ran(layers, tapped)}, logits)


def graph_from_images(model: nn.Module, name: str, images: Tensor) -> Graph:
    """Runs the model with a graph from the images on; they go by this name."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = run(model, leaf.clone())
    return Graph({name: Tapped(leaf, lambda features: features)}, logits)


@contextmanager
def hooked(model: nn.Module, layers: Sequence[str], look: Callable[[str, Any], Tensor | None]) -> Iterator[None]:
    """Inside the block, `look` is called with the name and the output of every layer that has run.

    What it gives, unless it is None, takes the place of the output.
    """
    with ExitStack() as undo:
        for name, module in find_layers(model, layers).items():

            def hook(_module: nn.Module, _args: Any, output: Any, name: str = name) -> Tensor | None:
                return look(name, output)

            undo.callback(module.register_forward_hook(hook).remove)
        yield


def run(model: nn.Module, images: Tensor) -> Tensor:
    """The class scores (N, classes) of the images."""
    with _without_autocast_cache(images):
        return check_logits(unwrapped(model)(images), images)


def check_ran(layers: Sequence[str], seen: Mapping[str, object]) -> Sequence[str]:
    """The layers, if all of them are among those seen, otherwise raises InputError."""
    for name in layers:
        if name not in seen:
            raise InputError(f"layer {name!r} did not run; tap a layer that runs")
    return layers


def _uncompiled() -> AbstractContextManager[Any]:
    """Nothing runs compiled inside, since compiled code takes no notice of hooks that come and go."""
    # What was never imported compiled nothing, and its import takes a second.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _without_autocast_cache(images: Tensor) -> AbstractContextManager[Any]:
    """Autocast keeps no weights that were cast here, without a graph, for the caller's next training step."""
    device = images.device.type
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, dtype=torch.get_autocast_dtype(device), cache_enabled=False)
