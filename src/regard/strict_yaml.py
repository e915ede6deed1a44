"""Reads YAML safely: no value is dropped or changed silently, and errors name the line."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from functools import partial
from typing import Any

import yaml

from regard.errors import InputError, one_line

_MOST = 2**20  # values and characters, with what aliases repeat
_QUICK: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# A date is text.
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str | bytes) -> Any:
    """The content of a YAML file that a person wrote. Dates are strings.

    Raises:
        InputError: it is no YAML, a mapping has a key twice, a value cannot be read, or a list contains itself or, by
            aliases, more than a million values.
    """
    return _read(text, _StrictLoader)


def read_written_yaml(text: str | bytes) -> Any:
    """The content of a YAML file that a program wrote: faster than `read_yaml`; of a key given twice the last counts.

    Raises:
        InputError: as `read_yaml`, except for keys.
    """
    names = text if isinstance(text, bytes) else text.encode(errors="replace")
    return _read(text, yaml.SafeLoader if b"\\uDC" in names else _QUICK)  # a path that is not UTF-8


def check_aliases(text: str) -> None:
    """Raises InputError if a text is YAML in which a list or mapping contains itself, or more than a million values."""
    if "*" not in text:
        return
    try:
        node = _QUICK(text).get_single_node()
    except (yaml.YAMLError, ValueError):
        return
    if node is not None:
        _check_extent(node)


def _read(text: str | bytes, kind: Any) -> Any:
    try:
        loader = kind(text)
        loader.yaml_implicit_resolvers = _RESOLVERS
        loader.construct_object = partial(_constructed, loader.construct_object)
        node: yaml.Node | None = loader.get_single_node()
        if node is None:
            return None
        _check_extent(node)
        return loader.construct_document(node)
    except InputError:
        raise
    except (yaml.YAMLError, OverflowError, ValueError) as error:  # ValueError: a character that does not exist
        raise InputError(f"this is no YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise InputError("this is no YAML that can be read: lists or fields are nested too deep in it") from error


def _check_extent(root: yaml.Node) -> None:
    known: dict[int, int] = {}  # by node, with all that it repeats; 0 while its values are counted

    def extent(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value)
        if id(node) not in known:
            known[id(node)] = 0
            values = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
            known[id(node)] = 1 + sum(map(extent, values))
        total = known[id(node)]
        if not 0 < total <= _MOST:
            problem = "holds itself" if not total else f"holds more than {_MOST:,} values and characters"
            raise InputError(f"a list or group of fields {problem} (line {node.start_mark.line + 1})")
        return total

    extent(root)


def _constructed(construct: Callable[[yaml.Node, bool], Any], node: yaml.Node, deep: bool = False) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        return construct(node, deep)
    try:
        value = construct(node, deep)
        # Nothing that cannot be written again, such as a number of thousands of digits. A path may hold any bytes.
        str(value).encode(errors="surrogateescape")
    except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
        raise InputError(
            f"{reprlib.repr(node.value)} cannot be read (line {node.start_mark.line + 1}); if it is text, quote it"
        ) from error
    return value


class _StrictLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not when the dict is made, because `<<` may merge a key that the mapping has, too.
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            name = str(self.construct_object(key))
            if name in names:
                raise InputError(f"the key {name!r} stands there twice (line {key.start_mark.line + 1})")
            names.add(name)
        return node
