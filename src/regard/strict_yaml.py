"""YAML that people write: nothing in it gets lost, and what is wrong is said with its line."""

from __future__ import annotations

import reprlib
from typing import Any

import yaml

from regard.errors import InputError, one_line


def read_yaml(text: str) -> Any:
    """The content of a YAML file, read safely.

    A date is the text that it is. A key that stands twice in one place is an error, for one of the two would be lost.

    Raises:
        InputError: it is no YAML, a key stands twice, or a value cannot be read.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a safe one
    except InputError:
        raise
    except (yaml.YAMLError, OverflowError, ValueError) as error:  # a character that there is not is a ValueError
        raise InputError(f"this is no YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise InputError("lists or fields are nested too deep in it to be read") from error


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, and not where the dict is made: a key may stand beside the same one that `<<` brings in.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            name = str(self.construct_object(key))
            if name in seen:
                raise InputError(f"the key {name!r} stands there twice (line {key.start_mark.line + 1})")
            seen.add(name)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        try:
            found = super().construct_object(node, deep)
            str(found).encode()  # nothing that cannot be written again, such as a number of thousands of digits
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
            raise InputError(
                f"{reprlib.repr(node.value)} cannot be read (line {node.start_mark.line + 1}); if it is text, quote it"
            ) from error
        return found
