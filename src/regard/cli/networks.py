"""What the commands that take a network by name share."""

from __future__ import annotations

from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from regard.training import ModelRecipe


def add_attention(parser: ArgumentParser) -> None:
    """Adds what else there is to say of a network, besides its name."""
    parser.add_argument("--attention", type=str | None, default=None, help="the attention module in it")
    parser.add_argument("--gate", type=str, default="sigmoid", help="its gate: sigmoid, sub-attention-K")
    parser.add_argument(
        "--attention_stages", type=list[int] | None, default=None, help="the stages that have it, counted from 1"
    )
    parser.add_argument("--attention_options", type=dict[str, Any], default={}, help="options of the module")
    parser.add_argument(
        "--attention_start",
        type=Literal["published", "identity"] | None,
        default=None,
        help="how it began: published, or identity (with pretrained weights, if not given)",
    )
    parser.add_argument("--options", type=dict[str, Any], default={}, help="options of the network itself")


def to_network(name: str, options: Namespace, *, pretrained: bool = False) -> ModelRecipe:
    """The network among parsed options."""
    return ModelRecipe(
        name,
        options.attention,
        options.gate,
        options.attention_stages,
        dict(options.attention_options),
        options.attention_start,
        pretrained,
        dict(options.options),
    )
