"""Networks for inference: batch norms, and what is fixed in attention, folded into the weights before them."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from regard.attention.gated import GatedAttention
from regard.attention.gates import SubAttentionGate
from regard.attention.modules.shuffle import ShuffleAttention
from regard.attention.registry import is_registered
from regard.errors import InputError, unknown
from regard.modes import output_shapes
from regard.stages import unwrapped
from regard.with_attention import exchange, named_layers

Model = TypeVar("Model", bound=nn.Module)

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_PASSING = (nn.Identity, nn.modules.dropout._DropoutNd)  # in evaluation mode
# A class derived from these may compute something else, and is left alone. By name: packages that are not there need no
# import.
_LAYERS = {
    *(f"torch.nn.modules.conv.Conv{transpose}{d}d" for transpose in ("", "Transpose") for d in (1, 2, 3)),
    *("torch.nn.modules.linear.Linear", "timm.layers.conv2d_same.Conv2dSame"),
}
_PLAIN = {
    *(f"torch.nn.modules.batchnorm.BatchNorm{d}d" for d in (1, 2, 3)),
    *("torch.nn.modules.batchnorm.SyncBatchNorm", "torchvision.ops.misc.FrozenBatchNorm2d"),
}
_WITH_ACTIVATION = {
    f"timm.layers.norm_act.{name}" for name in ("BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d")
}


@torch.inference_mode(False)  # the copy can be used anywhere
def fold(model: Model, keep: Iterable[str] = ()) -> Model:
    """A copy of `model` for inference, with the same output up to rounding, that has less to compute.

    - Every batch norm that reads a convolution or linear layer which nothing else reads goes into that layer's weights,
      computed in float64 and rounded once. An identity, with the norm's name and hooks, is left of it or, of timm's
      norms with an activation, its dropout and activation. Names and stages stay, and so do the outputs of all layers
      but that convolution, which now gives what the norm gave.
    - The channel shuffle at the end of shuffle attention goes into the convolution and the norm that the features come
      from: they give their channels in the shuffled order, and the module gates them where they are. `detach` refuses
      such a copy: without attention its branches would be in another order.

    The graph of `torch.fx` shows which layer reads which output. A forward that depends on values or on the image size
    has no graph; then only norms inside attention modules are folded. Norms of several
    layers, norms of the batch's own statistics, and those of weights that are shared, computed, or read by others stay.

    The copy is in evaluation mode and not meant for training. Its weights have the dtype, device and memory format of
    those of `model`, which stays as it is.

    Args:
        model: images (N, C, H, W) -> anything, or an attention module. Fold before it is compiled or wrapped.
        keep: names of layers, as in `model.named_modules()`, whose output will be read and has to stay what it is.
            What layers take and give that carry forward hooks already is kept too.

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
    kept_modules = [set(modules[name].modules()) for name in keep]
    hooked = [set(part.modules()) for part in copied.modules() if any(getattr(part, hooks) for hooks in _HOOKS)]
    roots = [part for part in copied.modules() if part is copied or _is_attention(part)]
    chains = [steps for root in roots for steps in _chains(root)]
    for steps in sorted(chains, key=lambda steps: _is_batch_norm(steps[-1])):
        layer, *between, end = steps
        overlaps = any(end not in inside and not inside.isdisjoint(steps) for inside in kept_modules)
        cut = any(not inside.issuperset(steps) and not inside.isdisjoint(steps) for inside in hooked)
        if overlaps or cut:
            continue
        if isinstance(end, ShuffleAttention):
            _fold_shuffle(copied, [layer, *between], end)
        elif _is_batch_norm(end):  # not folded yet
            _fold_norm(layer, end)
    return copied


class _Tracer(fx.Tracer):
    """Layers, attention inside a network, and what of timm looks at shapes, are one step each."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        from timm.layers import get_notrace_functions, get_notrace_modules

        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.steps = (SubAttentionGate, *get_notrace_modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = _is_layer(m) or _is_batch_norm(m) or _is_attention(m) or isinstance(m, self.steps)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def _graph(model: nn.Module) -> fx.Graph:
    """What `model` calls and reads, in order; empty if that depends on values, or on sizes."""
    tensors = chain(model.parameters(), model.buffers())
    bare = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # of the same tensors
    for part in bare.modules():
        for hooks in _HOOKS:
            getattr(part, hooks).clear()  # the user's hooks must not run here
    try:
        graph = _Tracer().trace(bare)
    except Exception:  # a forward that depends on values raises any exception
        return fx.Graph()
    remembered = any(isinstance(value, fx.Proxy) for part in bare.modules() for value in vars(part).values())
    return fx.Graph() if remembered else graph


def _chains(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Layers that one norm, or shuffle attention, alone reads, as [layer, what is in between, norm or attention]."""
    modules = dict(model.named_modules())
    calls: defaultdict[nn.Module, set[fx.Node]] = defaultdict(set)
    read: set[nn.Module] = set()
    for node in _graph(model).nodes:
        if node.op == "call_module":
            calls[modules[node.target]].add(node)
        elif node.op == "get_attr" and node.users:
            read.add(modules[node.target.rpartition(".")[0]])
    owners = Counter(id(tensor) for part in modules.values() for tensor in _tensors(part))
    for end, nodes in calls.items():
        shuffles = isinstance(end, ShuffleAttention) and end.can_be_ordered
        if not shuffles and not _is_batch_norm(end):
            continue
        met: defaultdict[nn.Module, set[fx.Node]] = defaultdict(set)
        for node in nodes:
            module = end
            while module is end or isinstance(module, _PASSING) or (shuffles and _is_batch_norm(module)):
                source = node.args[0] if node.args else None
                if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
                    break
                node, module = source, modules[str(source.target)]
                met[module].add(node)
        layers = [part for part in met if not isinstance(part, _PASSING) and not _is_batch_norm(part)]
        alone = all(
            met[part] == calls[part] and part not in read and all(owners[id(tensor)] == 1 for tensor in _tensors(part))
            for part in met
            if not isinstance(part, _PASSING)
        )
        if len(layers) != 1 or len(met[layers[0]]) != len(nodes) or not alone or end in read:
            continue
        if _takes_order(layers[0]) if shuffles else _takes_norm(model, layers[0]):
            yield [*layers, *(part for part in reversed(met) if part is not layers[0]), end]


def _takes_order(layer: nn.Module) -> bool:
    """Whether `layer` can give its channels in another order."""
    return isinstance(layer, nn.Conv2d) and _is_layer(layer) and layer.groups == 1


def _takes_norm(model: nn.Module, layer: nn.Module) -> bool:
    """Whether a norm can go into `layer`; the channels of tokens (N, T, C) are not those that it takes."""
    linear = isinstance(layer, nn.Linear)
    return _is_layer(layer) and (not linear or len(output_shapes(model, [layer]).get(layer, ())) == 2)


class FoldedNorm(nn.Identity):
    """What is left of a batch norm that went into the layer before it. By its name it is a norm where stages end: see
    `stages.is_norm`.
    """


class FoldedNormAct(nn.Module):
    """What is left of one with dropout and activation, as timm has them: these, called `drop` and `act`."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


def _is_layer(module: nn.Module) -> bool:
    """Whether `module` is a convolution or linear layer that a norm behind it can go into."""
    grouped = isinstance(module, _ConvTransposeNd) and module.groups > 1  # whose weights are (inputs, C / groups, …)
    return _is_one_of(module, _LAYERS) and isinstance(module._parameters["weight"], nn.Parameter) and not grouped


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether `module` is a batch norm that can go into the layer before it: it has statistics of its own."""
    return _is_one_of(module, _PLAIN | _WITH_ACTIVATION) and isinstance(module._buffers.get("running_mean"), Tensor)


@torch.no_grad()
def _fold_norm(layer: nn.Module, norm: nn.Module) -> None:
    """Puts `norm` into `layer`, in place; a `FoldedNorm` or `FoldedNormAct` is left of it.

    `layer` then gives what `norm` made of its output. It is computed in float64 (float32 on MPS, which has no more) and
    rounded to the dtype of the layer once.

    Args:
        layer: see `_is_layer`; in evaluation mode nothing but `norm` reads its output.
        norm: see `_is_batch_norm`; it is the same object afterwards, of another class, so that whoever holds it, in a
            list of its own, say, has what is left of it.
    """
    weight: Tensor = layer.get_parameter("weight")
    dtype = torch.float32 if weight.device.type == "mps" else torch.float64
    source: Any = norm
    tensors: list[Any] = [layer.bias, source.running_mean, source.running_var, source.weight, source.bias]
    tensors = [value if value is None else value.to(dtype) for value in tensors]
    bias, mean, variance, factor, shift = tensors
    transposed = isinstance(layer, _ConvTransposeNd)
    folded = fuse_conv_bn_weights(weight.to(dtype), bias, mean, variance, source.eps, factor, shift, transposed)
    for name, value in zip(("weight", "bias"), folded, strict=True):
        setattr(layer, name, nn.Parameter(value.to(weight.dtype), weight.requires_grad))
    left = FoldedNormAct if _is_one_of(norm, _WITH_ACTIVATION) else FoldedNorm
    norm._parameters.clear()
    norm._buffers.clear()
    norm.__class__ = left


def _is_one_of(module: nn.Module, classes: set[str]) -> bool:
    """Whether `module` computes what the class of one of these names does."""
    kind = type(module)
    changed = "forward" in vars(module) or is_parametrized(module)
    return f"{kind.__module__}.{kind.__qualname__}" in classes and not changed


@torch.no_grad()
def _fold_shuffle(model: nn.Module, layers: list[nn.Module], module: ShuffleAttention) -> None:
    for layer in layers:
        for tensor in _tensors(layer):
            if tensor.dim():  # all but the batches counted
                tensor.copy_(tensor[module.order])
    exchange(model, module, module.ordered())


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, GatedAttention) or is_registered(module)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
