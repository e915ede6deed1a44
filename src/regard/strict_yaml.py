"""Reads YAML strictly: no value is dropped or changed silently, and errors name the line."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import yaml

from regard.errors import InputError, one_line

_MAX_SIZE = 2**20  # values and characters, with aliases expanded
_FAST_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Without dates, which are read as text.
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str | bytes) -> Any:
    """The content of a YAML file that a person wrote. Dates are strings.

    Raises InputError if the text is no YAML, a mapping has a key twice, a value cannot be read, or a list contains
    itself or, by aliases, more than a million values.
    """
    return _read(text, _StrictLoader)


def read_written_yaml(text: str | bytes) -> Any:
    """The content of a YAML file that a program wrote; faster than `read_yaml`, but the last of equal keys counts."""
    content = text if isinstance(text, bytes) else text.encode(errors="replace")
    # The fast loader does not read escapes of paths that are not UTF-8.
    return _read(text, yaml.SafeLoader if b"\\uDC" in content else _FAST_LOADER)


def check_aliases(text: str) -> None:
    """Raises InputError for YAML in which a list or mapping contains itself, or more than a million values."""
    if "*" not in text:
        return
    try:
        node = _FAST_LOADER(text).get_single_node()
    except (yaml.YAMLError, ValueError):
        return
    if node is not None:
        _check_size(node)


def _read(text: str | bytes, loader_class: Any) -> Any:
    try:
        loader = loader_class(text)
        loader.yaml_implicit_resolvers = _RESOLVERS
        loader.construct_object = partial(_construct, loader.construct_object)
        node: yaml.Node | None = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except InputError:
        raise
    except (yaml.YAMLError, OverflowError, ValueError) as error:  # ValueError: an invalid character
        raise InputError(f"this is no YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise InputError("this YAML cannot be read: its lists or fields are nested too deep") from error


def _check_size(root: yaml.Node) -> None:
    sizes: dict[int, int] = {}  # by id of the node, with aliases expanded; 0 while its values are counted

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value)
        if id(node) not in sizes:
            sizes[id(node)] = 0
            values = node.value if isinstance(node, yaml.SequenceNode) else chain.from_iterable(node.value)
            sizes[id(node)] = 1 + sum(map(size, values))
        total = sizes[id(node)]
        if not 0 < total <= _MAX_SIZE:
            problem = "contains itself" if not total else f"has more than {_MAX_SIZE:,} values and characters"
            raise InputError(f"a list or group of fields {problem} (line {node.start_mark.line + 1})")
        return total

    size(root)


def _construct(construct: Callable[[yaml.Node, bool], Any], node: yaml.Node, deep: bool = False) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        return construct(node, deep)
    try:
        value = construct(node, deep)
        # Fails for values that cannot be written, such as integers of thousands of digits. Paths may have any bytes.
        str(value).encode(errors="surrogateescape")
    except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
        raise InputError(
            f"{reprlib.repr(node.value)} cannot be read (line {node.start_mark.line + 1}); if it is text, quote it"
        ) from error
    return value


class _StrictLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked before the dict is built, because `<<` may merge a key that the mapping also has.
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            name = str(self.construct_object(key))
            if name in names:
                raise InputError(f"the key {name!r} is given twice (line {key.start_mark.line + 1})")
            names.add(name)
        return node
