"""Networks for inference: batch norms, and what is fixed in attention, folded into the weights before them."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeVar

import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn

from regard.attention.batch_norm import fold_norm, is_batch_norm, is_layer
from regard.attention.fold import fold_attention
from regard.attention.gated import GatedAttention
from regard.attention.registry import is_registered
from regard.attention.shapes import output_shapes
from regard.errors import InputError, unknown
from regard.stages import unwrapped
from regard.with_attention import named_layers

Model = TypeVar("Model", bound=nn.Module)

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@torch.inference_mode(False)  # the copy can be used anywhere
def folded(model: Model, keep: Iterable[str] = ()) -> Model:
    """A copy of `model` for inference, with the same output up to rounding, that has less to compute.

    - Every batch norm that reads a convolution or linear layer which nothing else reads goes into that layer's weights,
      computed in float64 and rounded once. An identity, with the norm's name and hooks, is left of it or, of timm's
      norms with an activation, its dropout and activation. Names and stages stay, and so do the outputs of all layers
      but that convolution, which now gives what the norm gave.
    - Attention is folded as `attention.fold` does it, which may change the order of channels before it.

    Which norms these are is read off the network's graph (`torch.fx`). What a forward does that depends on values or on
    the size of the images has none, and all norms of such a network stay but those inside attention. So do norms of
    several layers, norms of the batch's own statistics, and those of weights that are shared, computed, or read by
    others as well.

    The copy is in evaluation mode and not meant for training. Its weights have the dtype, device and memory format of
    those of `model`, which stays as it is.

    Args:
        model: images (N, C, H, W) -> anything. Fold before it is compiled or wrapped.
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
    kept = [set(modules[name].modules()) for name in keep]
    hooked = [set(part.modules()) for part in copied.modules() if any(getattr(part, hooks) for hooks in _HOOKS)]
    fold_attention(copied, [*kept, *hooked])
    for steps in list(_chains(copied)):
        layer, *_, norm = steps
        seen = any(norm not in inside and not inside.isdisjoint(steps) for inside in kept)
        cut = any(not inside.issuperset(steps) and not inside.isdisjoint(steps) for inside in hooked)
        if not seen and not cut:
            fold_norm(layer, norm)
    return copied


class _Tracer(fx.Tracer):
    """Layers, attention, and what of timm looks at shapes, are one step each."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        steps = (GatedAttention, *get_notrace_modules())
        leaf = is_layer(m) or is_batch_norm(m) or is_registered(m) or isinstance(m, steps)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def _graph(model: nn.Module) -> fx.Graph | None:
    """What `model` calls and reads, in order; None if that depends on values, or on sizes."""
    tensors = chain(model.parameters(), model.buffers())
    bare = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # of the same tensors
    for part in bare.modules():
        for hooks in _HOOKS:
            getattr(part, hooks).clear()  # other people's, who have not asked for this
    try:
        graph = _Tracer().trace(bare)
    except Exception:  # whatever a forward raises that looks at values
        return None
    kept = (value for part in bare.modules() for value in vars(part).values())
    return None if any(isinstance(value, fx.Proxy) for value in kept) else graph


def _chains(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Layers with the norms that can go into them, as [layer, what passes its values on, norm]."""
    graph = _graph(model)
    if graph is None:
        return
    modules = dict(model.named_modules())
    calls: defaultdict[nn.Module, list[fx.Node]] = defaultdict(list)
    read = {""}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[modules[node.target]].append(node)
        elif node.op == "get_attr":
            read.add(node.target.rpartition(".")[0])
    owners = Counter(id(tensor) for part in modules.values() for tensor in _tensors(part))
    for norm, nodes in calls.items():
        if not is_batch_norm(norm):
            continue
        found = [_behind(node, modules) for node in nodes]
        layer = found[0][0]
        sources = {node for _, _, node in found}
        if layer is None or any(other is not layer for other, _, _ in found) or sources != set(calls[layer]):
            continue
        own = all(owners[id(tensor)] == 1 for part in (layer, norm) for tensor in _tensors(part))
        names = {str(node.target) for node in (*nodes, *calls[layer])}
        if own and names.isdisjoint(read) and _has_channels_second(model, layer):
            yield [layer, *(part for _, passed, _ in found for part in passed), norm]


def _behind(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[nn.Module | None, list[nn.Module], fx.Node]:
    """The layer that alone the norm called at `node` reads, what passes its values on in between, and its own node."""
    passed: list[nn.Module] = []
    while True:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            return None, passed, node
        node, module = source, modules[str(source.target)]
        if not isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd):
            return (module if is_layer(module) else None), passed, node
        passed.append(module)


def _has_channels_second(model: nn.Module, layer: nn.Module) -> bool:
    """Whether the channels of what `layer` gives are those that a norm takes: of tokens (N, T, C) they are the last."""
    return not isinstance(layer, nn.Linear) or len(output_shapes(model, [layer]).get(layer, ())) == 2


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]
