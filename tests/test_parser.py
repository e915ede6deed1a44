"""The parser of the commands: order, hyphens, lists, flags and wrong input."""

from __future__ import annotations

from typing import Any

import pytest

from regard.errors import InputError
from regard.parser import Parser, strings


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="regard try")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="the networks")
    parser.add_argument("--batch-size", type=int, default=8, interval="[1, 2^24]", help="number of images per batch")
    parser.add_argument("--data.train_images", type=int, interval="[1, 2^40]", help="number of images")
    parser.add_argument("--mean", type=tuple[float, float, float], help="means of the channels")
    parser.add_argument("--classes", type=strings, default=[], help="the classes")
    parser.add_argument("--stages", type=list[int], help="the stages")
    parser.add_argument("--options", type=dict[str, Any], default={}, help="options of the set")
    parser.add_argument("--pretrained", type=bool, default=False, help="whether to take weights")
    parser.add_argument("--no-latency", dest="latency", action="store_false", help="measure no time")
    return parser


@pytest.mark.parametrize(
    "order", ["--batch-size 4 a b", "a --batch-size 4 b", "a b --batch_size=4", "--batch-size=4 -- a b"]
)
def test_options_and_positionals_can_be_in_any_order(parser: Parser, order: str) -> None:
    options = parser.parse_args(order.split())
    assert (options.models, options.batch_size) == (["a", "b"], 4)


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--data.train_images", "3"], "data.train_images", 3),
        (["--data.train-images=3"], "data.train_images", 3),
        (["--mean", "0.5,0.25,-1"], "mean", (0.5, 0.25, -1.0)),
        (["--mean=[0.5, 0.25, -1]"], "mean", (0.5, 0.25, -1.0)),
        (["--mean=null"], "mean", None),
        ([], "mean", None),
        (["--stages", "3,4"], "stages", [3, 4]),
        (["--stages", "3"], "stages", [3]),
        (["--classes", "tabby, 285"], "classes", ["tabby", "285"]),
        (["--classes", "[red]x[/red],cat)"], "classes", ["[red]x[/red]", "cat)"]),
        (["--classes", '["a, b", c]'], "classes", ["a, b", "c"]),
        (["--classes="], "classes", []),
        (["--classes=\udce9t"], "classes", ["\udce9t"]),
        (["--options.cue", "0.3", "--options.train=5"], "options", {"cue": 0.3, "train": 5}),
        (["--pretrained"], "pretrained", True),
        (["--pretrained", "false"], "pretrained", False),
        (["--no-latency"], "latency", False),
        (["--no_latency"], "latency", False),
    ],
)
def test_values_are_converted(parser: Parser, arguments: list[str], name: str, value: object) -> None:
    assert parser.parse_args([*arguments, "a"])[name] == value
    assert parser.parse_args(["a", *arguments], defaults=False).as_flat().__dict__.keys() <= {"models", name}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sise", "4", "a"], "did you mean --batch-size?"),
        (["--data.train_image", "4", "a"], "did you mean --data.train_images?"),
        (["a", "--batch-size"], "--batch-size needs a value"),
        (["--batch-size", "--no-latency", "a"], "--batch-size needs a value"),
        (["--batch-size", "many", "a"], "batch"),
        (["--batch-size", "0", "a"], "--batch-size is 0; it has to be in [1, 2^24]"),
        (["--data.train-images=-1", "a"], "--data.train_images is -1"),
        ([], "MODEL is missing: the networks"),
        (["-x.jpg"], "no option -x.jpg"),
        (["a\0"], "zero byte"),
    ],
)
def test_wrong_input_fails_with_one_line(parser: Parser, arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parser.parse_args(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_help_lists_arguments_options_and_groups(parser: Parser) -> None:
    parser.add_argument_group("a group of options").add_argument("--name")
    lines = parser.format_help().splitlines()
    assert [line for line in lines if line.endswith(":")] == ["Arguments:", "Options:", "A group of options:"]
    assert lines[0] == "usage: regard try MODEL [MODEL ...] [OPTIONS]"
    options = [line.split("  ")[1] for line in lines if line.startswith("  ")]
    assert options[:4] == ["MODEL", "-h, --help", "--batch-size N", "--data.train_images N"]
    assert {"--mean A,B", "--stages A,B", "--no-latency"} <= set(options)
    assert any("(default: 8)" in line for line in lines)
