"""Where the branch of a block ends: read off the block's own forward, traced with every child as one step."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import fx, nn

from regard.stages import is_activation, is_added, is_norm, weighted_layers
from regard.with_attention import without_attention

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_TO_CHANNELS_FIRST = (0, 3, 1, 2)
# What leaves every value in its place, so that what comes out has the shape of what went in.
_IN_PLACE = {"relu", "relu_", "relu6", "silu", "gelu", "hardswish", "dropout", "contiguous", "clone", "to", "float"}


@dataclass(frozen=True)
class BranchEnd:
    """The layer at the end of a block's branch.

    Attributes:
        path: the layer's name in the block; '' is the block itself.
        layer: the layer. Attention acts on its output.
        join: how the branch comes together with the shortcut; None if there is none.
        channels_last: whether the layer's output is (N, H, W, C) rather than (N, C, H, W).
        producers: the convolution or linear layer, and the norm behind it, whose output channels arrive at the end of
            the branch in their order; empty if that is not known.
    """

    path: str
    layer: nn.Module
    join: Literal["sum", "concatenation"] | None
    channels_last: bool
    producers: tuple[nn.Module, ...]


def branch_end(block: nn.Module, shared: Collection[nn.Module] = ()) -> BranchEnd | None:
    """Where the branch of `block` ends, or None if its forward does not say.

    The branch is, of the operands of the last addition or concatenation, the one with more weighted layers behind it;
    without either, all of the block. A branch that is added ends at its last norm, or at its last convolution if no
    norm follows; layer scale, drop path and activation come after that. Any other branch ends behind its last
    activation, unless that is among the modules in `shared`, which are called at several places.
    """
    graph = _traced(block)
    return None if graph is None else _Walk(block, shared).end(graph)


def last_called(module: nn.Module) -> str | None:
    """The name of the child whose output is that of `module`; None if there is none, or its forward does not say."""
    graph = _traced(module)
    node = None if graph is None else next(node for node in graph.nodes if node.op == "output").args[0]
    return str(node.target) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _traced(block: nn.Module) -> fx.Graph | None:
    try:
        return _Outline().trace(block)
    except Exception:  # a forward that looks at values or types: whatever it raises, it cannot be traced
        return None


class _Outline(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class _Walk:
    """Goes back from the output of a block to the end of its branch."""

    def __init__(self, block: nn.Module, shared: Collection[nn.Module]) -> None:
        self.block = block
        self.shared = shared

    def end(self, graph: fx.Graph) -> BranchEnd | None:
        node: Any = next(node for node in graph.nodes if node.op == "output").args[0]
        join: Literal["sum", "concatenation"] | None = None
        channels_last = reshaped = False
        activation: fx.Node | None = None
        while isinstance(node, fx.Node) and node.op not in ("placeholder", "get_attr"):
            sources = [operand for operand in _operands(node) if _depends_on_input(operand)]
            if node.op == "call_module":
                module = self._module(node)
                if not is_added(module) and (weighted_layers(module) or is_norm(module)):
                    if reshaped:
                        return None
                    if activation is not None and join != "sum":
                        return self._at(activation, join, node, channels_last)
                    return self._at(node, join, node, channels_last)
                if is_activation(module) and activation is None and module not in self.shared and not reshaped:
                    activation = node
                channels_last |= tuple(getattr(module, "dims", ())) == _TO_CHANNELS_FIRST  # torchvision's Permute
                node = sources[0] if sources else None
            elif len(sources) > 1:
                if join is not None or node.target not in _ADDITIONS and node.target is not torch.cat:
                    return None
                join = "sum" if node.target in _ADDITIONS else "concatenation"
                channels_last = reshaped = False
                activation = None
                node = self._heaviest(sources)
            else:
                if node.target in ("permute", torch.permute):
                    channels_last |= _dimensions(node) == _TO_CHANNELS_FIRST
                    reshaped |= _dimensions(node) != _TO_CHANNELS_FIRST
                elif node.target not in _ADDITIONS | _PRODUCTS and _name(node) not in _IN_PLACE:
                    reshaped = True
                node = sources[0] if sources else None
        return None

    def _at(
        self,
        node: fx.Node,
        join: Literal["sum", "concatenation"] | None,
        last: fx.Node,
        channels_last: bool = False,
    ) -> BranchEnd | None:
        """The end at the module of `node`, or deeper in it; `last` is the last node with weights before that."""
        path, layer = str(node.target), self._module(node)
        producers = self._producers(last)
        if weighted_layers(layer) and not isinstance(layer, nn.Conv2d | nn.Linear):
            inner = branch_end(layer, self.shared)
            if inner is not None and inner.join is None and not (channels_last and inner.channels_last):
                if join == "sum" and is_activation(inner.layer):
                    return self._before_activation(layer, path, inner, channels_last)
                return replace(
                    inner, path=f"{path}.{inner.path}", join=join, channels_last=channels_last or inner.channels_last
                )
            producers = ()
        return BranchEnd(path, layer, join, channels_last, producers)

    def _before_activation(
        self, layer: nn.Module, path: str, inner: BranchEnd, channels_last: bool
    ) -> BranchEnd | None:
        # An added branch ends at its norm also where an activation follows that inside one of its modules.
        before = branch_end(layer, {*self.shared, *(part for part in layer.modules() if is_activation(part))})
        if before is None:
            return None
        return replace(
            before, path=f"{path}.{before.path}", join="sum", channels_last=channels_last or before.channels_last
        )

    def _heaviest(self, operands: list[fx.Node]) -> fx.Node | None:
        weights = [sum(self._weights(node) for node in _upstream(operand)) for operand in operands]
        return None if weights.count(max(weights)) > 1 else operands[weights.index(max(weights))]

    def _weights(self, node: fx.Node) -> int:
        return weighted_layers(self._module(node)) if node.op == "call_module" else 0

    def _module(self, node: fx.Node) -> nn.Module:
        return without_attention(self.block.get_submodule(str(node.target)))

    def _producers(self, node: fx.Node) -> tuple[nn.Module, ...]:
        layer = self._module(node)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            return (layer,)
        before = node.args[0] if node.args else None
        own_weights = any(
            next(child.parameters(), None) is not None for child in layer.children() if not is_added(child)
        )
        if is_norm(layer) and not own_weights and isinstance(before, fx.Node) and before.op == "call_module":
            source = self._module(before)
            if isinstance(source, nn.Conv2d | nn.Linear) and len(before.users) == 1:
                return source, layer
        return ()


def _operands(node: fx.Node) -> list[fx.Node]:
    """The nodes that `node` is computed from, those in a list one by one, with repetitions."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _upstream(node: fx.Node) -> set[fx.Node]:
    """What `node` is computed from, itself included; from sizes, nothing is computed."""
    found, waiting = {node}, [node]
    while waiting:
        node = waiting.pop()
        new = set() if node.target == "size" or "shape" in node.args else set(node.all_input_nodes) - found
        found |= new
        waiting += new
    return found


def _depends_on_input(node: fx.Node) -> bool:
    return any(source.op == "placeholder" for source in _upstream(node))


def _dimensions(node: fx.Node) -> tuple[Any, ...]:
    given = node.args[1:] or tuple(node.kwargs.values())
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else given


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
