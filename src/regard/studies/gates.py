"""The gates of attention modules by class and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from regard import figures
from regard.attention import DIA, GatedAttention, GlobalContext, IdentityStart, ShuffleAttention
from regard.attention.registry import is_registered
from regard.errors import InputError, unknown
from regard.maps.layers import Layer, find_layers, hookable, names_within, uncompiled
from regard.modes import checked_images, eager_evaluation
from regard.notebook import Tabular
from regard.stats import without_nan
from regard.studies.labelled import class_name, labelled
from regard.studies.moments import Moments, MomentsByClass
from regard.with_attention import is_added, named_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Quantity = Literal["gate", "output"]

POINTS = 64
"""The maximum number of points of a line in a figure: SA-Net's number of groups."""


@dataclass(frozen=True)
class LayerGates:
    """The gates of one attention module.

    Channels are numbered as in the module's output, so that shuffle attention and its folded copy agree.

    Attributes:
        name: name of the module in the model.
        module: name of its class.
        order: int64 (C,), the input channel that each output channel comes from; 0 to C - 1 in order if the module does
            not shuffle.
        by_class: mean and variance of every channel's gate, by class.
        class_names: names of the labels.
    """

    name: str
    module: str
    order: Tensor
    by_class: Moments
    class_names: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """The number of channels, C."""
        return len(self.order)

    @property
    def shuffled(self) -> bool:
        """Whether the module reorders its channels."""
        return not torch.equal(self.order, torch.arange(self.channels))

    @property
    def before_shuffle(self) -> Moments:
        """`by_class` in the order of the input's channels, in which the channels of a group are neighbours."""
        return self.by_class.columns(self.order.argsort())

    @property
    def eta_squared(self) -> float:
        """Mean eta squared of the channels that vary: how well the gates tell classes apart.

        Eta squared is the variance between classes as a share of the variance over all images, in [0, 1]; its expected
        value without any difference between classes is `GateActivations.chance`. NaN for a single class, or if no
        channel varies.
        """
        return float(self.by_class.eta_squared.nanmean())

    @property
    def constant_channels(self) -> int:
        """The number of channels whose gate is the same for all images, up to the precision of float32."""
        return int(self.by_class.constant.sum())

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Quantiles of the channels' means over all images, one per level."""
        return torch.quantile(self.by_class.overall, torch.tensor(levels, dtype=torch.float64))

    def to_record(self) -> dict[str, Any]:
        """One record of the layer, with the median, the 5% and the 95% quantile of its channels' means."""
        low, median, high = self.quantiles((0.05, 0.5, 0.95)).tolist()
        record = {
            "layer": self.name,
            "module": self.module,
            "channels": self.channels,
            "constant_channels": self.constant_channels,
            "eta_squared": self.eta_squared,
            "median": median,
            "quantile_5": low,
            "quantile_95": high,
        }
        return without_nan(record)

    def channel_records(self, labels: Iterable[int] = ()) -> list[dict[str, Any]]:
        """One record per channel: mean, variance between and within classes and eta squared, with "mean of NAME" and
        "standard deviation of NAME" for each class in `labels`.
        """
        moments = self.by_class
        columns = {
            "mean": moments.overall,
            "variance_between": moments.between,
            "variance_within": moments.within,
            "eta_squared": moments.eta_squared,
        }
        for label in labels:
            name = class_name(label, self.class_names)
            columns[f"mean of {name}"] = moments.row(label)
            columns[f"standard deviation of {name}"] = moments.standard_deviation[moments.classes.index(label)]
        numbers = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [
            without_nan(
                {"layer": self.name, "channel": i, "input_channel": source, **dict(zip(columns, row, strict=True))}
            )
            for i, (source, row) in enumerate(zip(self.order.tolist(), numbers, strict=True))
        ]

    def lines(self, labels: Iterable[int] = ()) -> dict[str, list[float]]:
        """Name -> means by channel, for all classes and for each class in `labels`; neighbouring channels are averaged
        to at most `POINTS` values.
        """
        means = {"all classes": self.by_class.overall}
        means |= {class_name(label, self.class_names): self.by_class.row(label) for label in labels}
        points = min(POINTS, self.channels)
        return {name: [float(chunk.mean()) for chunk in line.tensor_split(points)] for name, line in means.items()}

    def plot(self, labels: Iterable[int] = (), *, reach: float | None = None, legend: bool = True) -> Figure:
        """A figure of the means by channel and their distribution, above the differences of some classes to all.

        Args:
            labels: the classes.
            reach: the limit of the differences' axis in either direction; None: fits the data.
            legend: whether a legend of the classes is below the figure.
        """
        xlabel = "channel" if self.channels <= POINTS else f"mean of {self.channels / POINTS:.3g} neighbouring channels"
        return figures.profiles(self.lines(labels), xlabel=xlabel, reach=reach, legend=legend)


@dataclass(frozen=True)
class GateActivations(Tabular):
    """The gates of a model's attention modules over labelled images.

    Attributes:
        quantity: "gate" or "output", the values that were averaged over pixels.
        layers: the modules by name, in the order in which they ran.
    """

    quantity: Quantity
    layers: dict[str, LayerGates]

    @property
    def classes(self) -> tuple[int, ...]:
        """The labels of the images, ascending."""
        return next(iter(self.layers.values())).by_class.classes

    @property
    def images(self) -> tuple[int, ...]:
        """The number of images of each class."""
        return next(iter(self.layers.values())).by_class.images

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the labels."""
        return next(iter(self.layers.values())).class_names

    @property
    def chance(self) -> float:
        """The expected eta squared if K classes of N images do not differ, (K - 1) / (N - 1)."""
        total = sum(self.images)
        return (len(self.classes) - 1) / (total - 1) if total > 1 else math.nan

    def to_records(self) -> list[dict[str, Any]]:
        """One record per layer, in the order in which they ran, with its `depth` from 1."""
        return [
            without_nan({"depth": depth, **layer.to_record(), "chance": self.chance})
            for depth, layer in enumerate(self.layers.values(), 1)
        ]

    def plot(self) -> Figure:
        """A figure of eta squared by depth, with a dotted line at `chance`."""
        line = {depth: layer.eta_squared for depth, layer in enumerate(self.layers.values(), 1)}
        return figures.curves({"": [line]}, xlabel="depth", ylabel="eta squared", level=self.chance, markers=True)


def gate_activations(
    model: nn.Module,
    batches: Iterable[Sequence[Any]],
    *,
    layers: Layer | Sequence[Layer] | None = None,
    classes: Iterable[int] | None = None,
    quantity: Quantity = "gate",
    class_names: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> GateActivations:
    """The mean gate of every channel by class, at every depth.

    For every attention module, the factors of each channel (`gate_values`) are averaged over pixels, then their mean
    and variance over the images of each class are computed. SENet (arXiv 1709.01507, on the role of excitation) and
    SA-Net (arXiv 2102.00240, on how effective its module is) examine some classes in this way.

    The model runs in evaluation mode, without gradients, and is unchanged afterwards. Sums are in float64, and their
    memory depends on the number of classes, not of images. For a module that runs several times in a forward, the last
    run counts.

    Args:
        model: any network with modules of `regard.attention` in it, or of another class with a method `gate_values(x)`.
            Other modules that multiply features, such as timm's squeeze-and-excitation, are not counted.
        batches: (images, labels, …): floating point (B, 3, H, W), normalised for the model, on its device; whole
            numbers (B,). Images with a negative label are left out.
        layers: names of modules or of layers that contain them, such as "layer4"; or the modules. None: all.
        classes: labels to count; images with other labels do not go through the model. None: all.
        quantity: "gate", or "output" for the mean of the module's output by channel.
        class_names: names of the labels, for records and figures.
        progress: called after each batch with the number of images read so far.

    Raises:
        InputError: the model has no attention module, or none with a gate; a layer it does not have or does not run;
            images or labels that do not fit, or no image of a class in `classes`.
    """
    if quantity not in get_args(Quantity):
        raise unknown("quantity", quantity, get_args(Quantity))
    modules = attention_layers(model, layers, quantity=quantity)
    starts = [start for start in model.modules() if isinstance(start, IdentityStart)]
    wrappers = {start.module: start for start in starts if start.by_channel}  # run instead of their module
    values: dict[str, Tensor] = {}  # of a batch, in the order in which the modules ran
    cell_outputs: dict[nn.Module, Any] = {}
    sums: dict[str, MomentsByClass] = {}

    def read_cell(cell: nn.Module, _args: Any, output: Any) -> None:
        cell_outputs[cell] = output

    def read(name: str, module: nn.Module, _: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        if quantity == "output":
            values[name] = _pixel_mean(output)
            return
        if isinstance(module, DIA):
            h, _ = cell_outputs.pop(module.cell)
            factors = h[:, :, None, None]
        else:
            factors = cast(Any, module).gate_values(x)
            factors = factors if factors.ndim == x.ndim else factors.expand_as(x)
        if name not in sums:
            _check_product(module, x, factors, output)
        by_channel = _pixel_mean(factors).expand(x.shape[:2])
        values[name] = by_channel[:, _order(module, x.shape[1]).to(x.device)]

    with eager_evaluation(model), ExitStack() as hooks:
        for name, module in modules.items():
            hook = partial(read, name, module)
            hooks.callback(wrappers.get(module, module).register_forward_hook(hook, with_kwargs=True).remove)
            if isinstance(module, DIA):
                hooks.callback(module.cell.register_forward_hook(read_cell).remove)
        for images, labels in labelled(batches, classes, progress):
            values.clear()
            model(checked_images(model, images))
            for name, channel_means in values.items():
                sums.setdefault(name, MomentsByClass()).add(labels, channel_means)
    idle = [name for name in modules if name not in sums]
    if idle and (layers is not None or not sums):
        raise InputError(f"attention module {idle[0]!r} did not run; name one that runs")
    gates = {}
    for name, moments in sums.items():
        module, by_class = modules[name], moments.result()
        order = _order(module, by_class.mean.shape[1]).cpu()
        gates[name] = LayerGates(name, type(module).__name__, order, by_class, tuple(class_names))
    return GateActivations(quantity, gates)


def attention_layers(
    model: nn.Module, layers: Layer | Sequence[Layer] | None = None, *, quantity: Quantity = "gate"
) -> dict[str, nn.Module]:
    """The attention modules of a model by name, in the order of its modules.

    Args:
        model: any network.
        layers: names of modules or of layers that contain them; or the modules. None: all.
        quantity: "gate" leaves out modules without a gate.

    Raises:
        InputError: the model, or one of the layers, has no such module.
    """
    network = hookable(model)
    modules: dict[str, nn.Module] = {}
    for name, module in named_layers(network):
        inside = any(name.startswith(f"{outer}.") or not outer for outer in modules)
        if inside or isinstance(module, IdentityStart):  # its inner module counts
            continue
        if is_registered(module) or isinstance(module, GatedAttention) or is_added(module):
            modules[name] = module
    if not modules:
        raise InputError(
            f"{type(network).__name__} has no attention module of regard; train a model with one (--model.attention "
            "se), create one (models.create(name, attention='se')) or attach one (attention.attach(model, 'se'))"
        )
    gated = {uncompiled(name): module for name, module in modules.items() if quantity == "output" or has_gate(module)}
    if not gated:
        kinds = ", ".join(sorted({type(module).__name__ for module in modules.values()}))
        raise InputError(
            f"the attention modules of {type(network).__name__} ({kinds}) have no gate, or no method gate_values that "
            "returns it; quantity='output' averages their outputs instead"
        )
    if layers is None:
        return gated
    what = "attention module with a gate" if quantity == "gate" else "attention module"
    return {name: gated[name] for name in names_within(find_layers(model, layers), list(gated), what)}


def has_gate(module: nn.Module) -> bool:
    """Whether the module multiplies its input with `gate_values`, which additive global context does not."""
    if isinstance(module, GlobalContext):
        return module.fusion == "scale"
    return callable(getattr(module, "gate_values", None))


def _pixel_mean(values: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, C), in float64 if the device supports it."""
    return values.mean((2, 3), dtype=torch.float32 if values.device.type == "mps" else torch.float64)


def _order(module: nn.Module, channels: int) -> Tensor:
    """The input channel that each output channel comes from."""
    return module.order if isinstance(module, ShuffleAttention) else torch.arange(channels)


def _check_product(module: nn.Module, x: Tensor, factors: Tensor, output: Tensor) -> None:
    """Checks that a module from outside regard multiplies its input with its `gate_values`."""
    if type(module).__module__.startswith("regard."):
        return
    product = (x * factors).float()
    if output.shape != x.shape or not torch.allclose(
        product, output.float(), rtol=0.02, atol=1e-3 * float(product.abs().max())
    ):
        raise InputError(
            f"the output of {type(module).__name__} is not its input times its gate_values; give it a method "
            "gate_values(x) such that the output is x * gate_values(x)"
        )
