"""Folds batch norms and channel shuffles into the weights of the layers before them, for inference."""

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
_IDENTITIES = (nn.Identity, nn.modules.dropout._DropoutNd)  # in evaluation mode
# Exact classes, because derived classes may compute something else; by name, so that no package has to be imported.
_LAYERS = {
    *(f"torch.nn.modules.conv.Conv{transpose}{d}d" for transpose in ("", "Transpose") for d in (1, 2, 3)),
    *("torch.nn.modules.linear.Linear", "timm.layers.conv2d_same.Conv2dSame"),
}
_NORMS = {
    *(f"torch.nn.modules.batchnorm.BatchNorm{d}d" for d in (1, 2, 3)),
    *("torch.nn.modules.batchnorm.SyncBatchNorm", "torchvision.ops.misc.FrozenBatchNorm2d"),
}
_ACTIVATED_NORMS = {
    f"timm.layers.norm_act.{name}" for name in ("BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d")
}


@torch.inference_mode(False)  # otherwise the copy's tensors would be limited to inference mode
def fold(model: Model, keep: Iterable[str] = ()) -> Model:
    """Returns a copy of `model` for inference, with the same output up to rounding and fewer operations.

    - Every batch norm is folded into the convolution or linear layer before it, if no other layer reads that layer's
      output. Folded weights are computed in float64 and rounded once. The norm becomes an identity with the same name
      and hooks; timm's norms with an activation keep dropout and activation. Names and stages do not change, nor do
      the outputs of any layers except these convolutions, whose output is now the output of the norm.
    - The channel shuffle at the end of shuffle attention is folded into the convolution and norm before it: they
      return their channels in the shuffled order, in which the module gates them. `detach` raises an error for this
      copy, because without attention the channels of its branches would be in another order.

    The graph of `torch.fx` determines which layer reads which output. A forward pass that depends on values or on the
    image size has no graph; then only norms inside attention modules are folded. Norms after several layers, norms
    without running statistics, and norms after layers whose weights are shared, computed, or read elsewhere are not
    folded.

    The copy is in evaluation mode and not meant for training. Its weights have the dtype, device and memory format of
    the weights of `model`, which does not change.

    Args:
        model: images (N, C, H, W) -> anything, or an attention module. Fold before compiling or wrapping it.
        keep: names of layers, as in `model.named_modules()`, whose output must not change because it will be read.
            Inputs and outputs of layers with forward hooks do not change either.

    Raises:
        InputError: `model` lacks a layer in `keep`, or is compiled or wrapped.
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
    hooked_modules = [set(part.modules()) for part in copied.modules() if any(getattr(part, hooks) for hooks in _HOOKS)]
    roots = [part for part in copied.modules() if part is copied or _is_attention(part)]
    chains = [steps for root in roots for steps in _chains(root)]
    for steps in sorted(chains, key=lambda steps: _is_batch_norm(steps[-1])):
        layer, *between, end = steps
        changes_kept = any(end not in parts and not parts.isdisjoint(steps) for parts in kept_modules)
        changes_hooked = any(not parts.issuperset(steps) and not parts.isdisjoint(steps) for parts in hooked_modules)
        if changes_kept or changes_hooked:
            continue
        if isinstance(end, ShuffleAttention):
            _fold_shuffle(copied, [layer, *between], end)
        elif _is_batch_norm(end):  # and not folded yet
            _fold_norm(layer, end)
    return copied


class _Tracer(fx.Tracer):
    """A tracer whose leaves are layers, attention modules, and timm's functions and modules that depend on shapes."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        from timm.layers import get_notrace_functions, get_notrace_modules

        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.leaf_classes = (SubAttentionGate, *get_notrace_modules())

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = _is_layer(m) or _is_batch_norm(m) or _is_attention(m) or isinstance(m, self.leaf_classes)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def _graph(model: nn.Module) -> fx.Graph:
    """The modules and tensors that `model` uses, in order; empty if they depend on values or sizes."""
    tensors = chain(model.parameters(), model.buffers())
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # shares the tensors
    for part in copied.modules():
        for hooks in _HOOKS:
            getattr(part, hooks).clear()  # the user's hooks must not run here
    try:
        graph = _Tracer().trace(copied)
    except Exception:  # a forward that depends on values raises any exception
        return fx.Graph()
    keeps_state = any(isinstance(value, fx.Proxy) for part in copied.modules() for value in vars(part).values())
    return fx.Graph() if keeps_state else graph


def _chains(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Yields [layer, modules in between, end], where only the end, a norm or shuffle attention, reads the layer."""
    modules = dict(model.named_modules())
    calls: defaultdict[nn.Module, set[fx.Node]] = defaultdict(set)
    read: set[nn.Module] = set()  # modules whose tensors the graph reads directly
    for node in _graph(model).nodes:
        if node.op == "call_module":
            calls[modules[node.target]].add(node)
        elif node.op == "get_attr" and node.users:
            read.add(modules[node.target.rpartition(".")[0]])
    owners = Counter(id(tensor) for part in modules.values() for tensor in _tensors(part))
    for end, end_calls in calls.items():
        shuffles = isinstance(end, ShuffleAttention) and end.can_be_ordered
        if not shuffles and not _is_batch_norm(end):
            continue
        sources: defaultdict[nn.Module, set[fx.Node]] = defaultdict(set)
        for node in end_calls:
            module = end
            while module is end or isinstance(module, _IDENTITIES) or (shuffles and _is_batch_norm(module)):
                source = node.args[0] if node.args else None
                if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
                    break
                node, module = source, modules[str(source.target)]
                sources[module].add(node)
        layers = [part for part in sources if not isinstance(part, _IDENTITIES) and not _is_batch_norm(part)]
        exclusive = all(
            sources[part] == calls[part]
            and part not in read
            and all(owners[id(tensor)] == 1 for tensor in _tensors(part))
            for part in sources
            if not isinstance(part, _IDENTITIES)
        )
        if len(layers) != 1 or len(sources[layers[0]]) != len(end_calls) or not exclusive or end in read:
            continue
        if _can_reorder(layers[0]) if shuffles else _can_absorb_norm(model, layers[0]):
            yield [*layers, *(part for part in reversed(sources) if part is not layers[0]), end]


def _can_reorder(layer: nn.Module) -> bool:
    """Whether `layer` can return its channels in another order."""
    return isinstance(layer, nn.Conv2d) and _is_layer(layer) and layer.groups == 1


def _can_absorb_norm(model: nn.Module, layer: nn.Module) -> bool:
    """Whether a norm can be folded into `layer`; a norm of tokens (N, T, C) has the channels on another axis."""
    linear = isinstance(layer, nn.Linear)
    return _is_layer(layer) and (not linear or len(output_shapes(model, [layer]).get(layer, ())) == 2)


class FoldedNorm(nn.Identity):
    """Replaces a batch norm that was folded into the layer before it. Its class name makes it a norm for
    `stages.is_norm`, so stages end at the same layer.
    """


class FoldedNormAct(nn.Module):
    """Replaces one of timm's batch norms with dropout and activation; it applies both."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


def _is_layer(module: nn.Module) -> bool:
    """Whether `module` is a convolution or linear layer into which a norm can be folded."""
    grouped = isinstance(module, _ConvTransposeNd) and module.groups > 1  # weights are (inputs, C / groups, …)
    return _is_one_of(module, _LAYERS) and isinstance(module._parameters["weight"], nn.Parameter) and not grouped


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether `module` is a batch norm with running statistics."""
    return _is_one_of(module, _NORMS | _ACTIVATED_NORMS) and isinstance(module._buffers.get("running_mean"), Tensor)


@torch.no_grad()
def _fold_norm(layer: nn.Module, norm: nn.Module) -> None:
    """Folds `norm` into `layer`, in place.

    The weights are computed in float64 (float32 on MPS, which lacks float64) and rounded to the dtype of the layer
    once. `norm` remains the same object, for models that hold it in a list of their own, but its class becomes
    `FoldedNorm` or `FoldedNormAct`.
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
    folded_class = FoldedNormAct if _is_one_of(norm, _ACTIVATED_NORMS) else FoldedNorm
    norm._parameters.clear()
    norm._buffers.clear()
    norm.__class__ = folded_class


def _is_one_of(module: nn.Module, classes: set[str]) -> bool:
    """Whether `module` has one of these classes, without an own `forward` or parametrizations."""
    kind = type(module)
    changed = "forward" in vars(module) or is_parametrized(module)
    return f"{kind.__module__}.{kind.__qualname__}" in classes and not changed


@torch.no_grad()
def _fold_shuffle(model: nn.Module, layers: list[nn.Module], module: ShuffleAttention) -> None:
    for layer in layers:
        for tensor in _tensors(layer):
            if tensor.dim():  # all except num_batches_tracked
                tensor.copy_(tensor[module.order])
    exchange(model, module, module.ordered())


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, GatedAttention) or is_registered(module)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
