"""Networks for inference: batch norms, and what is fixed in attention, folded into the weights before them."""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regard.attention.batch_norm import fold_norm, is_batch_norm, is_convolution, is_layer
from regard.attention.fold import fold_attention
from regard.attention.shapes import example_images
from regard.errors import InputError, unknown
from regard.models.decomposing import decomposed
from regard.modes import of_its_dtype
from regard.stages import unwrapped
from regard.with_attention import named_layers

Model = TypeVar("Model", bound=nn.Module)

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# With these, what a network does next may depend on values, which are others for the next image.
_VALUES_LEAVE = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__}


@torch.inference_mode(False)  # the copy can be used anywhere
def folded(model: Model, keep: Iterable[str] = (), *, images: Tensor | None = None) -> Model:
    """A copy of `model` for inference, with the same output up to rounding, that has less to compute.

    - Every batch norm that reads a convolution or linear layer which nothing else reads goes into that layer's weights,
      computed in float64 and rounded once. An identity, with the norm's name and hooks, is left of it or, of timm's
      norms with an activation, its dropout and activation. Names and stages stay, and so do the outputs of all layers
      but that convolution, which now gives what the norm gave.
    - Attention is folded as `attention.fold` does it, which may change the order of channels before it.

    Which norms these are is seen, not guessed: a copy without values (on the meta device) runs on made-up images, and
    who reads each tensor is written down. Weights that are shared, computed or read by others as well, norms of several
    layers, norms of the batch's own statistics, and what depends on the size of the images, all stay as they are. A
    network that does not run without values runs with zeros; if it then looks at values, which are others for the next
    image, its norms stay, but for those inside attention. So they do if it takes none of the images that were made up.

    The copy is in evaluation mode and not meant for training. Its weights have the dtype, device and memory format of
    those of `model`, which stays as it is.

    Args:
        model: images (N, C, H, W) -> anything. Fold before it is compiled or wrapped.
        keep: names of layers, as in `model.named_modules()`, whose output will be read and has to stay what it is.
            Layers that carry forward hooks already are kept too.
        images: some that `model` takes; None: they are made up, two, of the size that timm says and of 224 and 64
            pixels. Only their shape and dtype matter.

    Raises:
        InputError: `model` has no layer of a name in `keep`, or is compiled or wrapped.
    """
    if unwrapped(model) is not model:
        raise InputError(f"the model is wrapped in {type(model).__name__}; fold the model inside, and wrap it again")
    copied = copy.deepcopy(model).eval()
    modules = dict(named_layers(copied))
    keep = list(keep)
    for name in keep:
        if name not in modules:
            raise unknown("layer", name, modules)
    hooked = [module for module in copied.modules() if any(_hooks(module))]
    fold_attention(copied, {*hooked, *(modules[name] for name in keep)})
    for layer, norm in _pairs(copied, keep, images):
        fold_norm(copied.get_submodule(layer), copied.get_submodule(norm))
    return copied


def _pairs(model: nn.Module, kept: Collection[str], images: Tensor | None) -> list[tuple[str, str]]:
    """The names of layers and of the norms that can go into them."""
    if not any(is_batch_norm(module) for module in model.modules()):
        return []
    examples = list(_examples(model)) if images is None else [of_its_dtype(model, images).to("meta")]
    runs: list[list[tuple[str, str]]] = []
    for example in examples:
        with suppress(Exception):  # whatever a network raises that does not take these, or does not run on meta
            runs.append(_found(_without_values(model), kept, example))
    like = next(chain(model.parameters(), model.buffers()))
    for example in [] if runs else examples:
        with suppress(Exception):
            runs.append(_found(copy.deepcopy(model), kept, torch.zeros_like(example, device=like.device)))
            break
    return [
        (layer, norm)
        for layer, norm in (runs[0] if runs else [])
        if all((layer, norm) in run for run in runs) and _takes_norms(model.get_submodule(layer))
    ]


def _takes_norms(module: nn.Module) -> bool:
    return is_layer(module) or is_convolution(module)


def _examples(model: nn.Module) -> Iterator[Tensor]:
    yield from example_images(model)
    entry = next((part for part in model.modules() if isinstance(part, nn.Linear | _ConvNd)), None)
    if isinstance(entry, nn.Linear):
        yield torch.empty(2, entry.in_features, dtype=entry.weight.dtype, device="meta")


def _without_values(model: Model) -> Model:
    """A copy of `model` with its parameters and buffers on the meta device."""
    memo: dict[int, Any] = {id(value): nn.Parameter(value.to("meta"), False) for value in model.parameters()}
    memo |= {id(value): value.to("meta") for value in model.buffers()}
    return copy.deepcopy(model, memo)


def _hooks(module: nn.Module) -> Iterator[tuple[dict[int, Any], int]]:
    """The hooks of `module`, as the dict they are in and their key there."""
    for attribute in _HOOKS:
        hooks = getattr(module, attribute)
        yield from ((hooks, key) for key in hooks)


def _found(model: nn.Module, kept: Collection[str], images: Tensor) -> list[tuple[str, str]]:
    """What one run of `model`, which is not needed any more, shows."""
    run = _Run(model, kept)
    for module in model.modules():
        for hooks, key in list(_hooks(module)):
            del hooks[key]  # other people's, who have not asked for this run
    with run, torch.no_grad():
        output = model(images)
    pairs = run.pairs()
    del output  # what it holds is read by others
    return pairs


@dataclass(eq=False)
class _Watched:
    """A tensor, or what is left to know of it.

    Attributes:
        tensor: the tensor, while it lives.
        layer: the layer that gave it; None for a parameter or buffer.
        readers: how often an operation took it while which layer or norm ran, the innermost; None stands for no such.
        kept: whether it is the output of a layer that is to keep it.
    """

    tensor: weakref.ref[Tensor]
    layer: nn.Module | None = None
    readers: Counter[nn.Module | None] = field(default_factory=Counter)
    kept: bool = False

    @property
    def free(self) -> bool:
        """Whether nobody holds it any more, or was to have it."""
        return not self.kept and self.tensor() is None


class _Run(TorchDispatchMode):
    """Sees, while a network runs inside the block, which norms read which layers, and who else does."""

    def __init__(self, model: nn.Module, kept: Collection[str]) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.kept = [model.get_submodule(name) for name in kept]
        self.hooked = [module for module in self.names if any(_hooks(module))]
        self.layers = [module for module in self.names if _takes_norms(module) and module not in self.hooked]
        self.norms = [module for module in self.names if is_batch_norm(module) and module not in self.hooked]
        self.watched: dict[int, _Watched] = {}
        self.outputs: dict[nn.Module, list[_Watched | None]] = {layer: [] for layer in self.layers}
        self.inputs: dict[nn.Module, list[_Watched | None]] = {norm: [] for norm in self.norms}
        self.running: list[nn.Module] = []
        self.looked_at_values = False
        self._undo = ExitStack()

    def pairs(self) -> list[tuple[str, str]]:
        """Names of layers and norms, after the run, while its output is still there."""
        if self.looked_at_values:
            return []
        return [
            (self.names[source.layer], self.names[norm])
            for norm, inputs in self.inputs.items()
            if (source := next(iter(inputs), None)) is not None
            and source.layer is not None
            and all(other is not None and other.layer is source.layer for other in inputs)
            and all(output and output.free and set(output.readers) == {norm} for output in self.outputs[source.layer])
            and all(set(self._readers(value)) <= {norm} for value in _own_tensors(norm))
            # A layer takes its weights once for each output. What takes them again computes something else besides.
            and all(
                self._readers(value) == {source.layer: len(self.outputs[source.layer])}
                for value in _own_tensors(source.layer)
            )
        ]

    def __enter__(self) -> _Run:
        for layer in self.layers:
            if layer.bias is None:  # it will get one, and has to make use of it
                channels: Any = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
                layer.bias = nn.Parameter(layer.get_parameter("weight").new_zeros(channels), False)
        for module in (*self.layers, *self.norms):
            for value in _own_tensors(module):
                self._watch(value)
            self._undo.callback(module.register_forward_pre_hook(self._begin).remove)
            self._undo.callback(module.register_forward_hook(self._end, prepend=True).remove)
        for module in self.kept:
            self._undo.callback(module.register_forward_hook(lambda _m, _args, output: self._keep(output)).remove)
        for module in self.hooked:  # hooks see what goes in and what comes out, before attention acts on it or after
            self._undo.callback(
                module.register_forward_pre_hook(lambda _m, args: self._keep(args), prepend=True).remove
            )
            for first in (True, False):
                hook = module.register_forward_hook(lambda _m, *seen: self._keep(seen), prepend=first)
                self._undo.callback(hook.remove)
        self._undo.enter_context(_Conversions(self))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._undo.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        parts = decomposed(self, func, args, kwargs)
        if parts is not NotImplemented:
            return parts
        self.looked_at_values |= _looks_at_values(func, args)
        for value in tree_leaves((args, kwargs)):
            found = self._known(value)
            if found is not None:
                found.readers[self.running[-1] if self.running else None] += 1
        output = func(*args, **(kwargs or {}))
        layer = self.running[-1] if self.running else None
        if layer in self.outputs and func is torch.ops.aten.convolution.default:
            _, weight, bias, _, _, _, transposed, *_ = args
            own = weight is layer.weight and bias is layer.bias
            self.outputs[layer].append(
                self._watch(output, layer) if own and transposed == isinstance(layer, _ConvTransposeNd) else None
            )
        return output

    def _watch(self, tensor: Tensor, layer: nn.Module | None = None) -> _Watched:
        found = self._known(tensor) or _Watched(weakref.ref(tensor), layer)
        self.watched[id(tensor)] = found
        return found

    def _known(self, value: Any) -> _Watched | None:
        found = self.watched.get(id(value))
        return found if found is not None and found.tensor() is value else None

    def _readers(self, value: Tensor) -> Counter[nn.Module | None]:
        return self.watched[id(value)].readers

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.running.append(module)
        if module in self.inputs:
            self.inputs[module].append(self._known(args[0]) if args else None)

    def _end(self, module: nn.Module, _args: Any, output: Any) -> None:
        self.running.pop()
        if module in self.outputs:
            outputs = self.outputs[module]
            if isinstance(module, nn.Linear):
                outputs.append(self._watch(output, module))
            # A norm of tokens (N, T, C), or of one image (C, T), has its channels elsewhere.
            if self._known(output) is not outputs[-1] or output.ndim != module.get_parameter("weight").ndim:
                outputs.append(None)

    def _keep(self, values: Any) -> None:
        for value in tree_leaves(values):
            found = self._known(value)
            if found is not None:
                found.kept = True


class _Conversions(TorchFunctionMode):
    """Sees, for a run, when values leave the tensors by other ways than operators."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.run.looked_at_values |= func in _VALUES_LEAVE
        return func(*args, **(kwargs or {}))


def _looks_at_values(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator gives a number, or a tensor whose shape depends on values."""
    if func is torch.ops.aten.index.Tensor:  # by masks, not by positions
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}.isdisjoint(func.tags)


def _own_tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
