"""The cost of attention: networks without it and with each module, compared with SA-Net's table."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

import torch
import yaml
from torch import nn

from regard import attention as attention_modules
from regard.attention import Gate, Sigmoid, parse_gate
from regard.errors import InputError, check_interval, one_line, unknown
from regard.models.complexity import Complexity, complexity
from regard.models.create import create, is_for_small_images
from regard.models.loading import build_on_meta
from regard.models.measuring import MEASURED, Latency, PeakMemory, latency, peak_memory
from regard.modes import image_channels
from regard.notebook import Tabular


@dataclass(frozen=True)
class Published:
    """A row of SA-Net's table as printed: parameters in millions, GFLOPs, and why regard's count differs, if so."""

    parameters: str
    gflops: str
    note: str = ""


@dataclass
class Cost:
    """A network, with or without attention, and its cost.

    Attributes:
        network: name of the network, as in `models.create`.
        attention: name of the attention module; None for a network without attention.
        gate: gate of the module.
        stages: stages that have the module; None for all.
        image_size: side of the images in pixels, or (H, W).
        classes: length of the logits.
        options: options of the module.
        network_options: options of the network.
        base: cost of the same network without attention; None if this is that network.
        placement: where `attention.attach` put the module, if not at the end of residual branches.
        problem: why the network does not run with the module; nothing is counted or measured then.
        complexity: counts for one image.
        latency: for a batch; None until measured.
        peak_memory: for a batch; None until measured.
    """

    network: str
    attention: str | None
    gate: Gate
    stages: tuple[int, ...] | None
    image_size: int | tuple[int, int]
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
    def detector(self) -> str | None:
        """Name of the detector that has the network as its backbone; None for a classifier."""
        return None

    @property
    def published(self) -> Published | None:
        """The row of SA-Net's table for this network; None without one. The table has plain gates in all stages."""
        changed = self.stages is not None or not isinstance(self.gate, Sigmoid) or self.options
        if self.network_options or (self.attention is not None and changed):
            return None
        if (self.image_size, self.classes) != self.customary():
            return None
        return _published().get((self.detector, self.network, self.attention or "none"))

    @property
    def note(self) -> str:
        """The paper's values that differ from the count, and why; empty if all printed digits agree."""
        if self.published is None or self.complexity is None:
            return ""
        printed = self.published.parameters, self.published.gflops
        exact = self.complexity.parameters / 1e6, self.complexity.published_flops / 1e9
        counted = [f"{value:.{len(text.partition('.')[2])}f}" for value, text in zip(exact, printed, strict=True)]
        units = ("M parameters", "GFLOPs")
        differing = [f"{p} {unit}" for unit, p, c in zip(units, printed, counted, strict=True) if p != c]
        reason = f": {self.published.note}" if self.published.note else ""
        return f"SA-Net, arXiv 2102.00240 prints {' and '.join(differing)}{reason}" if differing else ""

    def build(self) -> nn.Module:
        """Creates the network, newly initialised."""
        return create(self.network, self.classes, **self._attention(), **self.network_options)

    def _attention(self) -> dict[str, Any]:
        """Arguments of `create` for the attention module."""
        if self.attention is None:
            return {}
        arguments = {"attention": self.attention, "gate": self.gate, "attention_stages": self.stages}
        return {**arguments, "attention_options": self.options}

    def customary(self) -> tuple[int | tuple[int, int], int]:
        """The default image size and number of classes."""
        return (32, 10) if is_for_small_images(self.network) else (224, 1000)

    def count(self, model: nn.Module) -> Complexity:
        """Counts the parameters and operations of a network from `build`, for one image."""
        return complexity(model, self.image_size)

    def to_record(self) -> dict[str, Any]:
        """The counts and measurements as a dict, with None for missing values; only `operations` is nested, by kind.

        Overheads are in percent of the network without attention, times in s with their quartiles, memory in bytes.
        """
        record: dict[str, Any] = {
            "detector": self.detector,
            "network": self.network,
            "attention": self.attention or "none",
            "gate": str(self.gate).removesuffix("()") if self.attention else None,
            "stages": ",".join(map(str, self.stages)) if self.attention and self.stages else None,
            "image_size": self.image_size if isinstance(self.image_size, int) else "{} x {}".format(*self.image_size),
            "classes": self.classes,
        }
        figures, base = self._figures(), self.base._figures() if self.base else {}
        for name, figure in figures.items():
            record[name] = figure
            if not name.endswith("_bytes"):
                has_both = figure is not None and base.get(name) is not None
                record[f"{name}_overhead"] = 100 * (figure / base[name] - 1) if has_both else None
        for name in ("inference", "training_step"):
            low, high = getattr(self.latency, name).quartiles if self.latency else (None, None)
            record |= {f"{name}_s_low": low, f"{name}_s_high": high}
        operations = self.complexity.operations if self.complexity else {}
        printed = self.published
        return record | {
            "operations": {kind: operations[kind] for kind in sorted(operations)},
            "uncounted": ", ".join(self.complexity.uncounted) if self.complexity else "",
            "attention_options": dict(self.options),
            "published_parameters_m": float(printed.parameters) if printed else None,
            "published_gflops": float(printed.gflops) if printed else None,
            **{"note": self.note, "placement": self.placement, "problem": self.problem},
        }

    def _figures(self) -> dict[str, Any]:
        cost, time, memory = self.complexity, self.latency, self.peak_memory
        return {
            "parameters": cost.parameters if cost else None,
            "multiply_adds": cost.multiply_adds if cost else None,
            "published_flops": cost.published_flops if cost else None,
            "inference_s": time.inference.median if time else None,
            "training_step_s": time.training_step.median if time else None,
            "inference_bytes": memory.inference if memory else None,
            "training_step_bytes": memory.training_step if memory else None,
        }


class Costs(Tabular, list[Cost]):
    """A list of `Cost`, one per network without attention and with each module."""

    _columns = (
        *("detector", "network", "attention", "gate", "parameters", "parameters_overhead", "multiply_adds"),
        *("multiply_adds_overhead", "inference_s", "training_step_s", "problem"),
    )

    def to_records(self) -> list[dict[str, Any]]:
        """One record per `Cost`, see `Cost.to_record`."""
        return [cost.to_record() for cost in self]


@cache
def _published() -> dict[tuple[str | None, str, str], Published]:
    """Reads SA-Net's tables: (detector, network, attention) -> row."""
    table = yaml.safe_load((files("regard.models") / "sa_net.yaml").read_text(encoding="utf-8"))
    rows: dict[tuple[str | None, str, str], Published] = {}
    for row in table["rows"]:
        detector, attention, notes = row.get("detector"), row["attention"], [row.get("note")]
        if detector is not None:
            notes += [table["detection_notes"].get(part) for part in (detector, attention)]
        published = Published(row["parameters"], row["gflops"], "; ".join(filter(None, notes)))
        rows[detector, row["network"], attention] = published
    return rows


def count_costs(
    networks: Sequence[str],
    modules: Sequence[str] = (),
    *,
    gate: Gate | str = "sigmoid",
    stages: Iterable[int] | None = None,
    image_size: int | tuple[int, int] | None = None,
    classes: int | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    network_options: Mapping[str, Any] | None = None,
    kind: Callable[..., Cost] = Cost,
) -> Costs:
    """Counts the parameters and operations of each network, first without attention, then with each module.

    If a module cannot be attached to a network, or the network does not run with it, its row has a `problem`.

    Args:
        networks: names of networks, as in `models.create`.
        modules: names of attention modules, from `attention.names()`.
        gate: gate of all modules.
        stages: stages that get attention, counted from 1; None for all.
        image_size: side of the images in pixels, or (H, W); None for 32 with regard's networks for small images, and
            224 with all others.
        classes: length of the logits; None for 10 with regard's networks for small images, and 1000 with all others.
        options: options of the modules by name, for example `{"shuffle": {"groups": 16}}`.
        network_options: options of the networks, for example `{"block": "basic"}`.
        kind: class of the rows; `detection.DetectorCost` for detectors with these backbones.

    Raises:
        InputError: a network, module, gate or option is unknown, a network without attention does not take the image
            size, or no module can be attached to any of the networks.
    """
    gate, options = parse_gate(gate), options or {}
    chosen = None if stages is None else tuple(sorted(set(stages)))
    for name in modules:
        if name not in attention_modules.names():
            raise unknown("attention module", name, attention_modules.names())
    for name in options:
        if name not in modules:
            raise InputError(f"there are options of {name!r}, which is not among the modules: {', '.join(modules)}")
    for name in network_options or {}:
        if name in inspect.signature(create).parameters:
            raise InputError(f"{name!r} is no option of the networks; leave it out")
    for side in (image_size,) if isinstance(image_size, int) else image_size or ():
        check_interval("image_size", side, "[1, 2^16]")
    rows = Costs()
    for network in dict.fromkeys(networks):
        base = kind(network, None, gate, chosen, 0, classes or 10, network_options=network_options or {})
        size, count = base.customary()
        base.image_size, base.classes = image_size or size, count if classes is None else classes
        _count(base)
        if base.problem:
            raise InputError(f"{network}: {base.problem}")
        rows.append(base)
        for name in dict.fromkeys(modules):
            row = replace(base, attention=name, options=options.get(name, {}), base=base, complexity=None)
            _count(row)
            rows.append(row)
    problems = [row.problem for row in rows if row.attention is not None]
    if problems and all(problems):
        raise InputError(f"no module can be attached to any of the networks: {problems[0]}")
    return rows


def _count(row: Cost) -> None:
    """Sets the complexity and placement of a row, or its problem."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", attention_modules.PlacementWarning)
            model = build_on_meta(row.build)
        placements = [one_line(w.message) for w in caught if isinstance(w.message, attention_modules.PlacementWarning)]
        row.placement = "; ".join(placements)
        row.complexity = row.count(model)
    except InputError as error:
        row.problem = str(error)


def measure_costs(
    rows: Iterable[Cost],
    *,
    batch: int = 8,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    repeats: int = 5,
) -> None:
    """Measures latency and peak memory for a batch of random images, and stores them in the rows without a problem.

    The rows of one network take turns; see `latency` and `peak_memory`. Memory is measured on CPU and CUDA devices.

    Args:
        rows: rows from `count_costs`.
        batch: number of images.
        device, dtype: device and dtype of images and parameters.
        repeats: number of timed runs.

    Raises:
        InputError: `batch` is below 1, or a network fails on the images.
    """
    if batch < 1:
        raise InputError(f"a batch has at least 1 image, not {batch}")
    measurable = [row for row in rows if not row.problem]
    for network in dict.fromkeys(row.network for row in measurable):
        by_module = {row.attention or "none": row for row in measurable if row.network == network}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", attention_modules.PlacementWarning)  # `placement` has it
            models = {name: row.build().to(device, dtype) for name, row in by_module.items()}
        size = next(iter(by_module.values())).image_size
        height, width = (size, size) if isinstance(size, int) else size
        channels = image_channels(next(iter(models.values())), height, width)
        images = torch.randn(batch, channels, height, width, device=device, dtype=dtype)
        times = latency(models, images, repeats=repeats)
        for name, row in by_module.items():
            row.latency = times[name]
            if images.device.type in MEASURED:
                row.peak_memory = peak_memory(models[name], images)
