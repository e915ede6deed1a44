"""What attention costs: networks without it and with each module, side by side."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from regard import attention as attention_modules
from regard.attention import Gate, Sigmoid, parse_gate
from regard.errors import InputError, check_interval, one_line, unknown
from regard.models.cifar_resnet import CifarResNet
from regard.models.cost.complexity import Complexity, complexity
from regard.models.cost.latency import Latency, latency
from regard.models.cost.memory import MEASURED, PeakMemory, peak_memory
from regard.models.cost.published import Published, published
from regard.models.create import create
from regard.models.wide_resnet import WideResNet


@dataclass
class Cost:
    """A network, with or without attention, and what it costs.

    Attributes:
        network: its name, as in `models.create`.
        attention: the module; None for none.
        gate: the gate of the module.
        stages: the stages that have it; None for all.
        image_size: side of the images.
        classes: length of the logits.
        options: of the module.
        network_options: of the network itself.
        base: the same network without attention; None for that network itself.
        placement: what `attention.attach` says of where the module went, where that is not behind residual branches.
        problem: why the module cannot be in this network; then nothing is counted or measured.
        complexity: counted for one image.
        latency: of a batch; None until measured.
        peak_memory: of a batch; None until measured.
    """

    network: str
    attention: str | None
    gate: Gate
    stages: tuple[int, ...] | None
    image_size: int
    classes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    network_options: Mapping[str, Any] = field(default_factory=dict)
    base: Cost | None = None
    placement: str = ""
    problem: str = ""
    complexity: Complexity | None = None
    latency: Latency | None = None
    peak_memory: PeakMemory | None = None

    @property
    def published(self) -> Published | None:
        """What SA-Net's table says of it, if it has this row."""
        unlike = self.stages is not None or not isinstance(self.gate, Sigmoid) or self.options
        if self.network_options or (self.attention is not None and unlike):
            return None
        return published(self.network, self.attention, self.image_size, self.classes)

    @property
    def note(self) -> str:
        """Where the published row has other digits: what it says, and why."""
        row = self.published
        return row.difference(self.complexity) if row and self.complexity else ""

    def build(self) -> nn.Module:
        """The network, its weights drawn anew."""
        model = create(self.network, self.classes, **self.network_options)
        if self.attention is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", attention_modules.PlacementWarning)  # `placement` has it
                attention_modules.attach(model, self.attention, stages=self.stages, gate=self.gate, **self.options)
        return model


def count_costs(
    networks: Sequence[str],
    modules: Sequence[str] = (),
    *,
    gate: Gate | str = "sigmoid",
    stages: Iterable[int] | None = None,
    image_size: int | None = None,
    classes: int | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    network_options: Mapping[str, Any] | None = None,
) -> list[Cost]:
    """The counted cost of each network without attention and with each of the modules, in this order.

    Args:
        networks: names as in `models.create`.
        modules: names of `attention.names()`.
        gate: of all modules.
        stages: that get attention, counted from 1; None for all.
        image_size: side of the images; None for 32 with regard's networks for small images, 224 with all others.
        classes: length of the logits; None for 10 and 1000 in the same way.
        options: of modules, by their names, for example `{"shuffle": {"groups": 16}}`.
        network_options: of the networks themselves, for example `{"block": "basic"}`.

    A network that does not take a module, or does not run with it, gets a row with its `problem`.

    Raises:
        InputError: an unknown network, module or gate, a size that a network does not take without attention, or no
            module that goes into any of the networks.
    """
    gate = parse_gate(gate)
    chosen = None if stages is None else tuple(sorted(set(stages)))
    for name in modules:
        if name not in attention_modules.names():
            raise unknown("attention module", name, attention_modules.names())
    options, own = options or {}, network_options or {}
    for name in options:
        if name not in modules:
            raise InputError(f"there are options of {name!r}, which is not among the modules: {', '.join(modules)}")
    if image_size is not None:
        check_interval("image_size", image_size, "[1, 2^16]")
    rows: list[Cost] = []
    for network in dict.fromkeys(networks):
        small = isinstance(_without_values(network, classes or 10, own), CifarResNet | WideResNet)
        size = image_size or (32 if small else 224)
        base = Cost(network, None, gate, chosen, size, (10 if small else 1000) if classes is None else classes)
        base.network_options = own
        try:
            base.complexity = complexity(_without_values(network, base.classes, own), size)
        except InputError as error:
            raise InputError(f"{network}: {error}") from error
        rows.append(base)
        rows += [_with_attention(base, name, options.get(name, {})) for name in dict.fromkeys(modules)]
    problems = [row.problem for row in rows if row.attention is not None]
    if problems and all(problems):
        raise InputError(f"no module goes into any of the networks: {problems[0]}")
    return rows


def _with_attention(base: Cost, name: str, options: Mapping[str, Any]) -> Cost:
    row = Cost(base.network, name, base.gate, base.stages, base.image_size, base.classes, options)
    row.base, row.network_options = base, base.network_options
    model = _without_values(row.network, row.classes, row.network_options)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", attention_modules.PlacementWarning)
            attention_modules.attach(model, name, stages=row.stages, gate=row.gate, **options)
        row.placement = "; ".join(one_line(warning.message) for warning in said if isinstance(warning.message, Warning))
        row.complexity = complexity(model, row.image_size)
    except InputError as error:
        row.problem = str(error)
    return row


def _without_values(network: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The network with tensors that have shapes and no values, where it can be made so."""
    try:
        with torch.device("meta"):
            return create(network, classes, **options)
    except InputError:
        raise
    except (RuntimeError, NotImplementedError):  # some look at values while they are built
        return create(network, classes, **options)


def measure_costs(
    rows: Iterable[Cost],
    *,
    batch: int = 8,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    repeats: int = 5,
) -> None:
    """Measures latency and peak memory of the rows that have no problem, for a batch of random images.

    The rows of one network take turns; see `latency` and `peak_memory`. Memory is measured on cpu and cuda.

    Args:
        rows: as `count_costs` gives them; what is measured is entered there.
        batch: N.
        device: where.
        dtype: of images and parameters.
        repeats: how often each thing is timed.

    Raises:
        InputError: no images, or a network does not run so.
    """
    if batch < 1:
        raise InputError(f"a batch has at least 1 image, not {batch}")
    works = [row for row in rows if not row.problem]
    for network in dict.fromkeys(row.network for row in works):
        own = {row.attention or "none": row for row in works if row.network == network}
        models = {name: row.build().to(device, dtype) for name, row in own.items()}
        size = next(iter(own.values())).image_size
        images = torch.randn(batch, 3, size, size, device=device, dtype=dtype)
        times = latency(models, images, repeats=repeats)
        for name, row in own.items():
            row.latency = times[name]
            if images.device.type in MEASURED:
                row.peak_memory = peak_memory(models[name], images)
